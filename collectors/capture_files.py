"""The folder of the captures: whose it is, what is in it, and what goes when it is full."""

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from schemas.codec import DecodeError, decode
from schemas.records import Capture

WHERE_INSTEAD = (
    "set [collect] capture_folder to one that this user may write to, or name one with --folder"
)
RECORD = "capture.json"
# A capture of a minute and many processes takes some ten.
LEAST_FREE_BYTES = 100_000_000


class CaptureError(Exception):
    """A capture could not be taken; the text ends with what to do."""


def engine_is_gone(engine_id: str) -> CaptureError:
    """Make the error that says that there is nothing to look at any more."""
    return CaptureError(
        f"the engine {engine_id} does not run any more: look for it with 'latencyprism doctor'"
    )


def make_base(folder: Path) -> None:
    """Make the folder that captures go to; refuse one that somebody else has laid there.

    Raises:
        CaptureError: It is a link, belongs to another user, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, mode=0o750, exist_ok=True)
        found = folder.lstat()
    except OSError as err:
        raise CaptureError(
            f"the folder {folder} cannot be made: {err.strerror}; {WHERE_INSTEAD}"
        ) from err
    if stat.S_ISLNK(found.st_mode):
        raise CaptureError(
            f"the folder {folder} is a link, which another user may turn: set [collect] "
            "capture_folder to the folder itself"
        )
    if found.st_uid not in (0, os.geteuid()):
        raise CaptureError(
            f"the folder {folder} belongs to user {found.st_uid}, not to root or to user "
            f"{os.geteuid()}: set [collect] capture_folder to one that does"
        )


@contextlib.contextmanager
def alone(base: Path) -> Iterator[None]:
    """Keep other processes from capturing into this folder for the length of the block.

    Raises:
        CaptureError: One does already.
    """
    try:
        lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as err:
        raise CaptureError(
            f"the folder {base} cannot be locked: {err.strerror}; {WHERE_INSTEAD}"
        ) from err
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise CaptureError(
                f"another capture is being taken into {base}: ask again when it is done"
            ) from err
        yield
    finally:
        os.close(lock)


def make_folder(base: Path, asked: Capture) -> Path:
    """Make the folder of one capture.

    Raises:
        CaptureError: It cannot be made, or there is too little room for its files.
    """
    engine = "".join(letter if letter.isalnum() else "-" for letter in asked.engine_id)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    folder = base / f"{moment}-{engine}-{asked.capture_id[:8]}"
    try:
        folder.mkdir(parents=True, mode=0o750)
        free_bytes = shutil.disk_usage(folder).free
    except OSError as err:
        raise CaptureError(
            f"the folder {folder} cannot be made: {err.strerror}; {WHERE_INSTEAD}"
        ) from err
    if free_bytes < LEAST_FREE_BYTES:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise CaptureError(
            f"only {free_bytes / 1e6:.0f} MB are free for a capture in {base}: make room there or "
            "set [collect] capture_folder to another disk"
        )
    return folder


def find_capture(base: Path, capture_id: str) -> tuple[Path, Capture] | None:
    """Give folder and record of a capture that was taken into ``base``, by its id's beginning.

    Args:
        base: The folder of the captures.

        capture_id: At least 8 hex digits.
    """
    for path in sorted(base.glob(f"*-{capture_id[:8]}/{RECORD}"), reverse=True):
        with contextlib.suppress(OSError, DecodeError):
            capture = decode(Capture, path.read_bytes())
            if capture.state == "done" and capture.capture_id.startswith(capture_id):
                return path.parent, capture
    return None


def prune(folder: Path, keep_bytes: int) -> int:
    """Delete the oldest captures until the rest is small enough; the newest one stays.

    Only folders that hold a ``capture.json`` are touched. What goes meanwhile, because another
    process prunes too, counts as nothing. Gives how many were deleted.
    """
    captures = sorted((path.parent for path in folder.glob(f"*/{RECORD}")), key=_modified_seconds)
    sizes = [_size_bytes(path) for path in captures]
    deleted = 0
    while len(captures) - deleted > 1 and sum(sizes[deleted:]) > keep_bytes:
        shutil.rmtree(captures[deleted], ignore_errors=True)
        deleted += 1
    return deleted


def _modified_seconds(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def _size_bytes(folder: Path) -> int:
    size_bytes = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError):
                size_bytes += file.lstat().st_size
    return size_bytes
