"""Follow the iterations that an engine writes into its log, and read nothing else of it.

A log may hold prompts. So a line that is no iteration is dropped by the pattern that finds those
that are; no line is kept, not even half of one: where a line is not complete, its begin is
remembered as a place in the file and it is read again.
"""

import contextlib
import math
import os
import re
import stat
import time
from pathlib import Path

from collectors.discovery import PROC, EngineProcess
from collectors.engines.described import FeedText
from collectors.feeds.base import FeedEnded, FeedUnavailable, Said
from schemas.records import Workload

POLL_SECONDS = 0.01
LOOK_AGAIN_SECONDS = 1.0

# One read; a log that grows faster than this every POLL_SECONDS falls behind.
CHUNK_BYTES = 256 * 1024
# Further behind than this the rest is skipped; the engine's numbers tell what was lost.
BACKLOG_BYTES = 4 * 1024 * 1024
# A longer line is no iteration.
LINE_BYTES = 1024

STDOUT, STDERR = 1, 2
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
# More digits than these fit into no field, and converting them costs.
_DIGITS = 18
_LONGEST_MS = 3_600_000.0


class LogFile:
    """A file that grows, read by whole lines.

    Args:
        path: The file; a link of ``/proc/<pid>/fd`` leads to it whatever it is called by now.

        from_begin: Read what it holds already.

    Raises:
        OSError: It may not be read.
        FeedUnavailable: It is no regular file; opening a pipe would take lines from its reader.
    """

    def __init__(self, path: Path, *, from_begin: bool) -> None:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FeedUnavailable(f"{path} is no regular file: send the log into one")
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise FeedUnavailable(f"{path} is no regular file: send the log into one")
        self.identity = (status.st_dev, status.st_ino)
        self._size = -1
        from_begin = from_begin and status.st_size <= CHUNK_BYTES
        self._offset = 0 if from_begin else status.st_size
        # Begun in the middle of a line: what is left of it is none.
        self._skips_line = self._offset > 0 and self._byte_before() != b"\n"

    def read(self) -> bytes:
        """Give the whole lines that came since the last call, or as many as one read brings."""
        size = os.fstat(self._descriptor).st_size
        if size < self._offset:
            # Truncated, as logrotate's copytruncate does: all that is there is new.
            self._offset, self._skips_line = 0, False
        elif size == self._size:
            return b""
        if size - self._offset > BACKLOG_BYTES:
            self._offset, self._skips_line = size - CHUNK_BYTES, True
        data = os.pread(self._descriptor, CHUNK_BYTES, self._offset)
        lines = self._whole_lines(data)
        # More is waiting where the read was full.
        self._size = -1 if len(data) == CHUNK_BYTES else size
        return lines

    def _whole_lines(self, data: bytes) -> bytes:
        begin = 0
        if self._skips_line:
            begin = data.find(b"\n") + 1
            if begin == 0:
                self._offset += len(data)
                return b""
            self._skips_line = False
        end = data.rfind(b"\n") + 1
        if end <= begin:
            self._skips_line = len(data) - begin > LINE_BYTES
            self._offset += len(data) if self._skips_line else begin
            return b""
        self._offset += end
        return data[begin:end]

    def _byte_before(self) -> bytes:
        return os.pread(self._descriptor, 1, self._offset - 1)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class LogFeed:
    """The log of one engine: where its processes write what they print.

    Args:
        described: How an iteration looks in it.

        engine: Whose log it is; of a log that several engines share, only its lines count.

        proc: Where ``/proc`` is.

    Raises:
        FeedUnavailable: None of its processes writes into a file that may be read.
    """

    name = "its iteration log"

    def __init__(self, described: FeedText, engine: EngineProcess, proc: Path = PROC) -> None:
        self._pattern = re.compile(described.line.encode(), re.MULTILINE)
        self._proc = proc
        processes = (engine.core, engine.api_server, *engine.others)
        self._pids = [process.pid for process in processes if process is not None]
        self._inner_pids = {inner_pid(pid, proc) for pid in self._pids}
        self._data_rank = data_rank(engine)
        self._files: dict[tuple[int, int], LogFile] = {}
        self._looked = time.monotonic()
        self._problem = "none of its processes writes into a regular file: send its log into one"
        self._look(from_begin=False)
        if not self._files:
            raise FeedUnavailable(self._problem)
        self._read_ns = time.monotonic_ns()

    def poll(self, timeout_seconds: float) -> list[Said]:
        """Give the iterations written since the last call, waiting at most so long.

        Raises:
            FeedEnded: No process writes into the file any more.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self._read()
            left_seconds = deadline - time.monotonic()
            if found or left_seconds <= 0:
                return found
            time.sleep(min(POLL_SECONDS, left_seconds))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _read(self) -> list[Said]:
        gone: set[tuple[int, int]] = set()
        if time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
            self._looked = time.monotonic()
            gone = self._look(from_begin=True)
        after_ns = self._read_ns
        texts = [file.read() for file in self._files.values()]
        self._read_ns = time.monotonic_ns()
        found = [said for text in texts if text for said in self._parse(text, after_ns)]
        if len(self._files) > 1:
            # Several servers of one engine write the iterations in turn.
            found.sort(key=lambda said: said.index)
        for identity in gone:
            self._files.pop(identity).close()
        if not self._files and not found:
            raise FeedEnded("no process of the engine writes into its log any more")
        return found

    def _look(self, *, from_begin: bool) -> set[tuple[int, int]]:
        """Open the files that are written now; give those that are not any more."""
        written: set[tuple[int, int]] = set()
        for pid in self._pids:
            for number in (STDOUT, STDERR):
                path = self._proc / str(pid) / "fd" / str(number)
                try:
                    status = path.stat()
                    identity = (status.st_dev, status.st_ino)
                    if stat.S_ISREG(status.st_mode) and identity not in self._files:
                        file = LogFile(path, from_begin=from_begin)
                        self._files[file.identity] = file
                except (OSError, FeedUnavailable) as err:
                    if isinstance(err, PermissionError):
                        self._problem = (
                            f"its log may not be read ({err.strerror}): "
                            "run the agent as the engine's user"
                        )
                    continue
                written.add(identity)
        return set(self._files) - written

    def _parse(self, text: bytes, after_ns: int) -> list[Said]:
        if b"\x1b[" in text:
            text = _COLOURS.sub(b"", text)
        said = (self._said(match, after_ns) for match in self._pattern.finditer(text))
        return [one for one in said if one is not None]

    def _said(self, match: re.Match[bytes], after_ns: int) -> Said | None:
        named = {name: text for name, text in match.groupdict().items() if text is not None}
        is_dummy = named.pop("dummy", None) is not None
        elapsed_ms = _milliseconds(named.pop("elapsed_ms"))
        numbers = {
            name: int(text)
            for name, text in named.items()
            if text.isdigit() and len(text) <= _DIGITS
        }
        if elapsed_ms is None or len(numbers) < len(named):
            return None
        if numbers.get("data", self._data_rank) != self._data_rank:
            return None
        if "pid" in numbers and numbers["pid"] not in self._inner_pids:
            return None
        return Said(
            index=numbers["iteration"],
            duration_ns=round(elapsed_ms * 1e6),
            after_ns=after_ns,
            at_ns=self._read_ns,
            workload=Workload() if is_dummy else workload(numbers),
            is_dummy=is_dummy,
        )


def workload(numbers: dict[str, int]) -> Workload:
    """Give the workload that a line tells; nothing where its numbers contradict each other."""
    names = ("prefill_requests", "prefill_tokens", "decode_requests", "decode_tokens")
    known = [numbers.get(name) for name in names]
    if any(number is None for number in known):
        return Workload()
    prefill_requests, prefill_tokens, decode_requests, decode_tokens = (one or 0 for one in known)
    if prefill_requests > prefill_tokens or decode_requests > decode_tokens:
        return Workload()
    # With drafts a request decodes several tokens: then nobody knows who has how many.
    is_plain = decode_requests == decode_tokens
    return Workload(
        requests=prefill_requests + decode_requests,
        scheduled_tokens=prefill_tokens + decode_tokens,
        prefill_tokens=prefill_tokens if is_plain else None,
        decode_requests=decode_requests if is_plain else None,
    )


def data_rank(engine: EngineProcess) -> int:
    """Give the engine's rank of data parallelism, which is in its name."""
    rank = engine.name.rpartition("/dp")[2]
    return int(rank) if rank.isdigit() and "/dp" in engine.name else 0


def inner_pid(pid: int, proc: Path = PROC) -> int:
    """Give the pid that a process has to itself: another one in a container."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / str(pid) / "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return pid


def _milliseconds(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= _LONGEST_MS else None
