"""What waits for delivery, on disk: it outlives the process and the receiver's bad hour.

A folder of append-only segments, one line for each thing that happened::

    CRC32 + NUMBER VALUE     this waits
    CRC32 - NUMBER           it waits no more
    CRC32 = NOTE             something that the owner wants to know again after a restart

Each run writes a segment of its own, which begins with the owner's memory, so that the oldest
segment can always go: what still waits in it is written again, under its old number. Of a line
that a crash cut short nobody was told that it is kept: it is left out.
"""

import errno
import fcntl
import logging
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("latencyprism.notify")

SEGMENT_BYTES = 4 * 1024 * 1024
# A worker that is being replaced holds the folder until it has stopped.
PATIENCE_SECONDS = 10.0
UNREADABLE_BYTES = 1024 * 1024


class SpoolFull(OSError):
    """The spool takes nothing now, so the notification has to stay where it came from.

    Whoever calls `put` must not count the message as done: wait and put the same one again until
    that returns.
    """


@dataclass(frozen=True, slots=True)
class _Place:
    segment: int
    offset: int
    length: int


class Spool:
    """Values that wait, by number; numbers grow and are never used again.

    Not for two threads at once.

    Args:
        folder: Its own; made where it is missing.

        most_bytes: Of values that wait; `append` refuses more.

        memory: Gives one note that stands for all before it, for the beginning of a segment.

        segment_bytes: After so many a new segment is begun.

    Raises:
        ValueError: The folder cannot be used; the text says what to do.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        memory: Callable[[], bytes] = lambda: b"",
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self.live_bytes = 0
        self.unreadable = 0
        """Lines that were found damaged, and are kept in the file ``unreadable``."""
        self.notes: list[bytes] = []
        """Those of earlier runs, oldest first."""
        self._memory = memory
        self._segment_bytes = segment_bytes
        self._places: dict[int, _Place] = {}
        self._waiting: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._readers: dict[int, int] = {}
        self._writer = -1
        self._next_number = 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = self._hold()
            for segment in sorted(int(path.stem) for path in folder.glob("[0-9]*.log")):
                self._load(segment)
        except OSError as err:
            raise ValueError(
                f"the spool {folder} cannot be used ({err.strerror or err}): set [notify] "
                "spool_folder to a folder that is this worker's alone and that it may write to"
            ) from err

    @property
    def numbers(self) -> list[int]:
        """What waits, oldest first."""
        return sorted(self._places)

    def read(self, number: int) -> bytes:
        """Give a value that waits."""
        place = self._places[number]
        return os.pread(self._readers[place.segment], place.length, place.offset)

    def append(self, value: bytes) -> int:
        """Keep a value and give its number; it outlives this process, and once synced the system.

        Raises:
            SpoolFull: There is no room, in the bound or on the disk; nothing was kept.
        """
        if self._lock < 0:
            raise SpoolFull(f"the spool {self.folder} is closed: the worker is stopping")
        if self.live_bytes + len(value) > self.most_bytes:
            raise SpoolFull(
                f"the spool {self.folder} has reached its bound of {self.most_bytes >> 20} MiB: "
                "mend its receiver, or raise spool_mib"
            )
        number = self._next_number
        try:
            self._place(number, value)
        except OSError as err:
            self._drop()
            raise self._full(err) from err
        return number

    def duplicate(self) -> int:
        """Give a descriptor of the segment that is written to, for `sync` of another thread.

        Raises:
            SpoolFull: There is none: a write has failed meanwhile.
        """
        try:
            return os.dup(self._writer)
        except OSError as err:
            raise self._full(err) from err

    def sync(self, descriptor: int) -> None:
        """Let everything so far survive a power cut, and close the descriptor.

        Raises:
            SpoolFull: The disk did not take it.
        """
        try:
            os.fsync(descriptor)
        except OSError as err:
            raise self._full(err) from err
        finally:
            os.close(descriptor)

    def _full(self, err: OSError) -> SpoolFull:
        return SpoolFull(
            f"the spool {self.folder} cannot be written ({err.strerror}): make room on its disk, "
            "or set [notify] spool_folder to another one"
        )

    def remove(self, number: int, note: bytes = b"") -> None:
        """Forget a value, and remember a note; after a crash it may wait again."""
        if not self._leave(number):
            return
        lines = _line(b"- %d" % number) + (_line(b"= " + note) if note else b"")
        try:
            try:
                self._write(lines)
            finally:
                self._compact()
        except OSError as err:
            # It is delivered all the same; at worst it is delivered again, under its old key.
            log.debug("The spool %s was not brought up to date: %s", self.folder, err)

    def close(self) -> None:
        """Let go of the folder; may be called twice."""
        for reader in self._readers.values():
            os.close(reader)
        if self._lock >= 0:
            os.close(self._lock)
        self._readers, self._lock, self._writer = {}, -1, -1

    def _hold(self) -> int:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError as err:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise OSError(err.errno, "another worker uses it") from err
                time.sleep(0.1)

    def _load(self, segment: int) -> None:
        """Take in a segment of an earlier run."""
        path = self._path(segment)
        self._readers[segment] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        offset = 0
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._take(line, segment, offset)
                elif line:
                    log.warning("The spool %s ends in half a line: it is left out.", path)
                offset += len(line)
        self._sizes[segment] = offset

    def _take(self, line: bytes, segment: int, offset: int) -> None:
        body = line[9:-1]
        kind, _, rest = body.partition(b" ")
        number, _, value = rest.partition(b" ")
        if line[:9] != b"%08x " % zlib.crc32(body) or not (kind == b"=" or number.isdigit()):
            self.set_aside(line, "damaged")
        elif kind == b"=":
            self.notes.append(rest)
        elif kind == b"+":
            begin = offset + len(line) - 1 - len(value)
            self._enter(int(number), _Place(segment, begin, len(value)))
        elif kind == b"-":
            self._leave(int(number))
        else:
            self.set_aside(line, "of an unknown kind")

    def set_aside(self, line: bytes, what: str) -> None:
        """Keep what nobody can read in a file of its own, and say so."""
        self.unreadable += 1
        path = self.folder / "unreadable"
        log.error("A line of the spool %s is %s: it is kept in %s.", self.folder, what, path)
        try:
            if not path.exists() or path.stat().st_size < UNREADABLE_BYTES:
                with path.open("ab") as file:
                    file.write(line.rstrip(b"\n") + b"\n")
        except OSError as err:
            log.error("It could not be kept there: %s.", err.strerror)

    def _enter(self, number: int, place: _Place) -> None:
        self._leave(number)
        self._places[number] = place
        self._waiting[place.segment] += 1
        self.live_bytes += place.length
        self._next_number = max(self._next_number, number + 1)

    def _leave(self, number: int) -> bool:
        place = self._places.pop(number, None)
        if place is None:
            return False
        self._waiting[place.segment] -= 1
        self.live_bytes -= place.length
        return True

    def _place(self, number: int, value: bytes) -> None:
        head = b"+ %d " % number
        segment, offset = self._write(_line(head + value))
        self._enter(number, _Place(segment, offset + 9 + len(head), len(value)))

    def _write(self, lines: bytes) -> tuple[int, int]:
        """Append whole lines, or nothing; give segment and offset."""
        segment = self._current()
        offset = self._sizes[segment]
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._writer, lines[written:])
        except OSError:
            # Half a line would make a damaged one of the next: that goes into another segment.
            writer, self._writer = self._writer, -1
            os.ftruncate(writer, offset)
            raise
        self._sizes[segment] = offset + len(lines)
        return segment, offset

    def _current(self) -> int:
        """Give the segment to write to; begin a new one where there is none or it is full."""
        segment = max(self._sizes, default=-1)
        if self._writer >= 0 and self._sizes[segment] < self._segment_bytes:
            return segment
        if self._writer >= 0:
            os.fsync(self._writer)
        segment += 1
        path = self._path(segment)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        first = _line(b"= " + self._memory())
        try:
            if os.write(descriptor, first) != len(first):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _sync_folder(self.folder)
        except OSError:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self._readers[segment] = self._writer = descriptor
        self._sizes[segment] = len(first)
        return segment

    def _compact(self) -> None:
        """Let the oldest segments go where little in them still waits."""
        self._drop()
        while self._writer >= 0 and len(self._sizes) > 1:
            wasted_bytes = sum(self._sizes.values()) - self.live_bytes
            if wasted_bytes < self.live_bytes + 2 * self._segment_bytes:
                return
            self._move(min(self._sizes))
            self._drop()

    def _drop(self) -> None:
        """Remove the oldest segments, up to the first in which something waits.

        Without a segment to write to, as on a full disk, all may go: the next one will begin with
        the owner's memory, and has room then.
        """
        for segment in sorted(self._sizes):
            if self._waiting[segment] or self._readers[segment] == self._writer:
                return
            del self._sizes[segment], self._waiting[segment]
            os.close(self._readers.pop(segment))
            self._path(segment).unlink(missing_ok=True)

    def _move(self, segment: int) -> None:
        """Write again what waits in a segment."""
        for number in [n for n, place in self._places.items() if place.segment == segment]:
            self._place(number, self.read(number))
        os.fsync(self._writer)

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:09d}.log"


def _line(body: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
