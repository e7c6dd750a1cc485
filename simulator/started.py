"""A process that is started, says in its first line that it is ready, and is ended again."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

_REPOSITORY = Path(__file__).resolve().parent.parent


class StartedProcess(ABC):
    """Start a process on entering the block and end it on leaving.

    It gets a standard input that closes when we end, and is expected to end then.

    Args:
        environment: Variables beside those of this process.
    """

    what: ClassVar[str]
    """The noun for messages."""

    start_error: ClassVar[type[Exception]]
    """Raised where it ended, or stayed silent, before it was ready."""

    stop_timeout_seconds: ClassVar[float]
    """How long it may take to end kindly."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        start_timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._start_timeout_seconds = start_timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    @abstractmethod
    def _take_ready(self, line: str) -> None:
        """Take what the first line says."""

    @property
    def is_running(self) -> bool:
        """Say whether the first process lives."""
        return self._process is not None and self._process.poll() is None

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
        """Start it and wait until it is ready."""
        if self._process is not None:
            raise RuntimeError(f"this {self.what} was started already: create another one")
        self._process = subprocess.Popen(
            self._command,
            cwd=_REPOSITORY,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._take_ready(self._read_first_line(self._process))
        except BaseException:
            self.kill()
            raise

    def _read_first_line(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        line = b""
        deadline_seconds = time.monotonic() + self._start_timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline_seconds - time.monotonic(), 0)):
                    raise self.start_error(
                        f"the {self.what} was not ready within {self._start_timeout_seconds:.0f} "
                        "s: see its messages above, or give it more time"
                    )
                part = os.read(process.stdout.fileno(), 4096)
                if not part:
                    raise self.start_error(
                        f"the {self.what} ended with status "
                        f"{process.wait(self._start_timeout_seconds)} before it was ready: "
                        "see its message above"
                    )
                line += part
        return line.decode()

    def stop(self, timeout_seconds: float | None = None) -> int:
        """End it kindly, else by force, and give its exit status; harmless when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds or self.stop_timeout_seconds)
        return self.kill()

    def kill(self) -> int:
        """End it with SIGKILL; its children end with it, a moment later."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return status
