"""A running replica, as tests and the demo hold it."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from simulator.replica.truth import TruthIteration, parse_truth, read_truth

__all__ = ["ReplicaProcess", "ReplicaStartError", "TruthIteration", "parse_truth", "read_truth"]

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_READY = re.compile(
    r"serving on (?P<base_url>http://\S+) "
    r"\(pid (?P<pid>\d+), engine core (?P<core_pid>\d+), worker (?P<worker_pid>\d+)\)"
)


class ReplicaStartError(Exception):
    """A replica ended, or stayed silent, before it could serve."""


class ReplicaProcess:
    """Start a replica on entering the block and end it on leaving.

    `options` are those of `python -m simulator.replica`; the port is a free one
    unless given. The replica also ends when the process that started it does.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        truth: Path | None = None,
        work_ratio: float = 1.0,
        options: Sequence[str] = (),
        start_timeout_seconds: float = 90.0,
    ) -> None:
        self._command = [
            *(sys.executable, "-m", "simulator.replica", "--until-stdin-closes"),
            *("--port", str(port), "--work-ratio", str(work_ratio)),
            *(() if truth is None else ("--truth", str(truth.resolve()))),
            *options,
        ]
        self._start_timeout_seconds = start_timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.base_url = ""
        self.pid = 0
        self.core_pid = 0
        self.worker_pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the replica and wait until it serves."""
        if self._process is not None:
            raise RuntimeError("this replica was started already: create another one")
        self._process = subprocess.Popen(
            self._command, cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            ready = _READY.search(self._read_first_line())
            if ready is None:
                self._process.wait(self._start_timeout_seconds)
                raise ReplicaStartError(
                    f"the replica ended with status {self._process.returncode} before it "
                    "could serve: see its message above"
                )
        except BaseException:
            self.kill()
            raise
        self.base_url = ready["base_url"]
        self.pid = int(ready["pid"])
        self.core_pid = int(ready["core_pid"])
        self.worker_pid = int(ready["worker_pid"])

    def _read_first_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = b""
        deadline_seconds = time.monotonic() + self._start_timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                remaining_seconds = deadline_seconds - time.monotonic()
                if remaining_seconds <= 0 or not selector.select(remaining_seconds):
                    raise ReplicaStartError(
                        f"the replica was not ready within {self._start_timeout_seconds:.0f} s: "
                        "see its messages above, or give it more time"
                    )
                part = os.read(self._process.stdout.fileno(), 4096)
                if not part:
                    break
                line += part
        return line.decode()

    @property
    def is_running(self) -> bool:
        """Say whether the API server process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_seconds: float = 5.0) -> int:
        """End the replica kindly and return its exit status; harmless when it has ended."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        return self.kill()

    def kill(self) -> int:
        """End the API server with SIGKILL; its children end with it, a moment later."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return status
