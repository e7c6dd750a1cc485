"""What is being done to this machine, on disk before it is done, so that anybody can undo it.

One file per injection in a folder that only its owner can write to. A file says which process
keeps the injection; while that one lives, nobody else touches the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from schemas.records import Fault
from simulator.injection.steps import Step, StepError, state_of

ROOT_FOLDER = Path("/run/latencyprism")
SUFFIX = ".journal"
ENDED = ".ended"
DRAFT = ".draft"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Journal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One injection, as far as it has come.

    Attributes:
        name: Of the fault.

        keeper_pid: Process that will undo it; with ``keeper_start_ticks`` and ``boot_id`` it is
            named for good.

        claims: Settings that it overwrites; nobody else may do so meanwhile.

        steps: Those that were done, and last the one that was about to be done.

        truth: What is told of it, from its begin on.

        front_pid: Process that tells the truth, with ``front_start_ticks``.
    """

    fault_id: str
    name: str
    keeper_pid: int
    keeper_start_ticks: int
    boot_id: str
    claims: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    truth: Fault | None = None
    front_pid: int = 0
    front_start_ticks: int | None = None

    def is_kept(self) -> bool:
        """Say whether the process that keeps it still lives."""
        return self._lives(self.keeper_pid, self.keeper_start_ticks)

    def is_told(self) -> bool:
        """Say whether the process that tells the truth still lives."""
        return self._lives(self.front_pid, self.front_start_ticks)

    def _lives(self, pid: int, start_ticks: int | None) -> bool:
        found = state_of(pid)
        return (
            self.boot_id == boot_id()
            and found is not None
            # A zombie does nothing any more, and is there until its parent asks after it.
            and found.state not in "ZX"
            and found.start_ticks == start_ticks
        )


def usual_folder() -> Path:
    """Give the folder for this user's journals."""
    if os.geteuid() == 0:
        return ROOT_FOLDER
    return Path(tempfile.gettempdir(), f"latencyprism-{os.geteuid()}")


def boot_id() -> str:
    """Name this run of the kernel: a pid means nothing after it."""
    return BOOT_ID.read_text(encoding="ascii").strip()


class Journals:
    """The journals in one folder.

    Raises:
        StepError: The folder cannot be made, or others could write into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError as err:
            raise StepError(
                f"cannot make the folder {folder} for journals ({err.strerror}): make it, owned by "
                "you and with mode 700"
            ) from err
        if not _only_ours(found, stat.S_ISDIR(found.st_mode)):
            raise StepError(
                f"{folder} is not a folder that only you can write to: remove it, or give it to "
                "yourself with mode 700"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else claim settings or recover inside the block."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write(self, journal: Journal, suffix: str = SUFFIX) -> None:
        """Put it on disk, whole or not at all, before this returns."""
        path = self.path(journal.fault_id, suffix)
        draft = path.with_suffix(DRAFT)
        with open(draft, "wb", opener=_private) as file:
            file.write(msgspec.json.encode(journal))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        self._sync_folder()

    def remove(self, fault_id: str, suffix: str = SUFFIX) -> None:
        """Forget an injection that was undone, or whose end was told."""
        path = self.path(fault_id, suffix)
        path.unlink(missing_ok=True)
        path.with_suffix(DRAFT).unlink(missing_ok=True)
        self._sync_folder()

    def read(self, fault_id: str, suffix: str = SUFFIX) -> Journal | None:
        """Give one; None if there is none, or if it is not ours to act on."""
        try:
            descriptor = os.open(self.path(fault_id, suffix), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not _only_ours(found, stat.S_ISREG(found.st_mode) and found.st_nlink == 1):
                return None
            try:
                return msgspec.json.decode(file.read(), type=Journal)
            except (msgspec.DecodeError, msgspec.ValidationError):
                return None

    def all(self, suffix: str = SUFFIX) -> list[Journal]:
        """Give all that are ours, oldest first."""
        with_time = []
        for path in self.folder.glob(f"*{suffix}"):
            journal = self.read(path.name.removesuffix(suffix), suffix)
            if journal is not None:
                with contextlib.suppress(FileNotFoundError):
                    with_time.append((path.stat().st_mtime_ns, journal.fault_id, journal))
        return [journal for _, _, journal in sorted(with_time, key=lambda one: one[:2])]

    def strange(self) -> list[Path]:
        """Give the files that are not ours, or that this version cannot read."""
        paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        unread = [path for path in paths if self.read(path.name.removesuffix(SUFFIX)) is None]
        # One that was read when it was just undone is not strange.
        return [path for path in unread if os.path.lexists(path)]

    def path(self, fault_id: str, suffix: str = SUFFIX) -> Path:
        """Give the file of an injection, or with `ENDED` that of an end that is to be told."""
        return self.folder / f"{fault_id}{suffix}"

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _only_ours(found: os.stat_result, right_kind: bool) -> bool:
    return right_kind and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
