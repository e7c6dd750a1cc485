"""The agent's side of a vendor's worker: starts, reads and kills it, without ever waiting."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from collectors.xpu.worker import Look

log = logging.getLogger("latencyprism.devices")

State = Literal["starting", "working", "failing", "paused", "stopped"]

# Python and the vendor's library have to be loaded before the first look.
START_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
# So many children in a row that had to be killed or died, and each way hangs or crashes: from
# then on only one try per longest pause.
MOST_FAILURES = 5
# A way that hung is tried again after so long: the driver may have been put right.
AVOID_SECONDS = 3600.0
# A worker that gave so many looks in a row was no failure.
ENOUGH_LOOKS = 10
# Children that were killed and do not die (state D) hold memory and a place in the process table.
MOST_UNDEAD = 3
# A look at 16 devices with their processes is some 40 kB.
MOST_LINE_BYTES = 4 * 1024**2
READ_BYTES = 65536
# Looks that are kept for a caller that is late.
MOST_WAITING = 64
# How much of a child that never stops writing is read in one turn.
MOST_TURN_BYTES = 8 * 1024**2

Command = Callable[[str, float, Sequence[str]], list[str]]


def worker_command(vendor: str, period_seconds: float, avoid: Sequence[str]) -> list[str]:
    """Give the command line of a vendor's worker."""
    avoided = [word for name in avoid for word in ("--avoid", name)]
    return [
        sys.executable,
        "-m",
        "collectors.xpu.worker",
        vendor,
        "--period",
        f"{period_seconds:g}",
        *avoided,
    ]


class Child:
    """One vendor's worker process.

    `poll` never blocks: it reads what is there, kills what is overdue, and starts it again after
    a pause that doubles.

    Args:
        vendor: The vendor's name.

        period_seconds: Pause between two looks.

        timeout_seconds: How long a look may take.

        command: Gives the worker's command line.

        clock: Seconds that only grow.
    """

    def __init__(
        self,
        vendor: str,
        period_seconds: float,
        timeout_seconds: float,
        command: Command = worker_command,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.vendor = vendor
        self.state: State = "starting"
        self.newest: Look | None = None
        self._waiting: deque[Look] = deque(maxlen=MOST_WAITING)
        self.error: str | None = None
        self.tool = ""
        self.looks = 0
        self.timeouts = 0
        self.deaths = 0
        self.closed: dict[str, str] = {}
        # Ways that hung; left out for a while, or until all did.
        self.avoided: dict[str, str] = {}
        self._avoided_at: dict[str, float] = {}
        self._period_seconds = period_seconds
        self._timeout_seconds = timeout_seconds
        self._command = command
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._undead: list[subprocess.Popen[bytes]] = []
        self._buffer = bytearray()
        self._deadline = 0.0
        self._start_at = 0.0
        self._failures = 0
        self._looks_of_worker = 0

    @property
    def pid(self) -> int | None:
        """The worker's process, where one runs."""
        return self._process.pid if self._process is not None else None

    @property
    def undead(self) -> int:
        """Killed workers that have not died yet."""
        return len(self._undead)

    def poll(self) -> None:
        """Take in what the worker wrote; see that it is neither dead nor late."""
        self._undead = [process for process in self._undead if process.poll() is None]
        if self._process is None:
            if self._clock() >= self._start_at and self.state != "stopped":
                self._forgive()
                self._start()
            return
        trouble = self._read()
        if trouble is None and (status := self._process.poll()) is not None:
            self.deaths += 1
            trouble = (
                f"its worker ended with status {status} while it asked {self.tool or 'nothing'}: "
                "see whether the vendor's tool crashes by hand, too"
            )
            self._avoid(f"ended the worker with status {status}")
        elif trouble is None and self._clock() > self._deadline:
            self.timeouts += 1
            self._avoid(f"gave no answer within {self._timeout_seconds:g} s")
            trouble = (
                f"{self.tool or 'its worker'} gave no answer within {self._timeout_seconds:g} s "
                "and was killed; look for driver errors with 'dmesg'"
            )
        if trouble is not None:
            self._end(trouble)
        elif self._forgive():
            self._kill()
            self._start()

    def take(self) -> list[Look]:
        """Give the looks since the last call, each once."""
        looks = list(self._waiting)
        self._waiting.clear()
        return looks

    def stop(self) -> None:
        """Kill the worker for good; returns at once, or within a second where it dies slowly."""
        self.state = "stopped"
        if self._process is not None:
            self._kill()
        deadline = time.monotonic() + 1.0
        for process in self._undead:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.0))
        self._undead = [process for process in self._undead if process.poll() is None]

    def _start(self) -> None:
        if len(self._undead) >= MOST_UNDEAD:
            self._start_at = self._clock() + LONGEST_PAUSE_SECONDS
            self.state = "paused"
            self.error = (
                f"{len(self._undead)} killed workers do not die, so the driver hangs: restart the "
                "host when it can be spared"
            )
            return
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._buffer.clear()
        try:
            self._process = subprocess.Popen(
                self._command(self.vendor, self._period_seconds, sorted(self.avoided)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        except OSError as err:
            self._failed(f"its worker cannot be started: {err.strerror}; check the installation")
            return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self.state = "starting" if self._failures == 0 else "failing"
        self.tool = ""
        self._looks_of_worker = 0
        self._deadline = self._clock() + START_SECONDS + self._timeout_seconds

    def _read(self) -> str | None:
        """Read what is there; give what is wrong with it."""
        assert self._process is not None
        assert self._process.stdout is not None
        for _ in range(MOST_TURN_BYTES // READ_BYTES):
            try:
                data = os.read(self._process.stdout.fileno(), READ_BYTES)
            except BlockingIOError:
                return None
            if not data:
                return None
            self._buffer += data
            *lines, rest = self._buffer.split(b"\n")
            for line in lines:
                if (trouble := self._take(line)) is not None:
                    return trouble
            self._buffer = bytearray(rest)
            if len(self._buffer) > MOST_LINE_BYTES:
                return f"its worker wrote a line of more than {MOST_LINE_BYTES} bytes"
        return f"its worker wrote more than {MOST_TURN_BYTES} bytes at once"

    def _take(self, line: bytes | bytearray) -> str | None:
        try:
            look = msgspec.json.decode(line, type=Look)
        except msgspec.MsgspecError as err:
            return f"its worker wrote what is no look: {err}"
        self.tool, self.closed = look.tool, look.closed
        if look.state == "asking":
            self._deadline = self._clock() + START_SECONDS + self._timeout_seconds
            return None
        self._deadline = self._clock() + look.next_seconds + self._timeout_seconds
        if look.error is not None:
            self.state, self.error = "failing", look.error
            return None
        self.looks += 1
        self._looks_of_worker += 1
        if self._looks_of_worker >= ENOUGH_LOOKS:
            self._failures = 0
        self.state, self.error, self.newest = "working", None, look
        self._waiting.append(look)
        return None

    def _avoid(self, why: str) -> None:
        # A way that hangs would hang again; the next one may not go through the same lock.
        if self.tool:
            self.avoided[self.tool] = why
            self._avoided_at[self.tool] = self._clock()

    def _forgive(self) -> bool:
        """Let ways be tried again that were left out for long enough; tell whether there are any.

        Not while a killed worker does not die: the driver still hangs, and each try may leave one
        more.
        """
        latest = self._clock() - AVOID_SECONDS
        forgiven = [name for name in self.avoided if self._avoided_at[name] <= latest]
        if self._undead or not forgiven:
            return False
        for name in forgiven:
            del self.avoided[name]
        return True

    def _end(self, trouble: str) -> None:
        self._kill()
        self._failed(trouble)

    def _failed(self, trouble: str) -> None:
        if self._failures == 0:
            log.warning("Accelerators of %s: %s.", self.vendor, trouble)
        self._failures += 1
        self.error, self.newest = trouble, None
        pause_seconds = FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 16)
        self.state = "failing"
        if self._failures >= MOST_FAILURES:
            self.state = "paused"
            pause_seconds = LONGEST_PAUSE_SECONDS
            self.avoided.clear()
        self._start_at = self._clock() + min(pause_seconds, LONGEST_PAUSE_SECONDS)

    def _kill(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        # Its group, too: a tool that it started may be what hangs.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._undead.append(process)
