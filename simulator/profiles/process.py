"""A running profile, as tests and benchmarks hold it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from simulator.profiles import available
from simulator.replica.truth import TruthIteration, read_truth

__all__ = ["ProfileProcess", "ProfileStartError", "available", "interpreters"]

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_OLDEST_MINOR = 8


class ProfileStartError(Exception):
    """A profile ended, or stayed silent, before it ran."""


class ProfileProcess:
    """Start a profile on entering the block and end it, with its children, on leaving.

    It also ends when the process that started it does.

    Args:
        python: The command that starts the interpreter; ours unless given.

        environment: Variables beside those of this process.

        truth: Where the iterations go; nowhere unless given.

        port: Of the metrics page; a free one unless given.

        busy: Whether a batch computes instead of sleeping.

        seconds: After this time the profile ends by itself.
    """

    def __init__(
        self,
        name: str,
        *,
        python: Sequence[str] = (sys.executable,),
        environment: Mapping[str, str] | None = None,
        truth: Path | None = None,
        port: int = 0,
        period_ms: float = 20.0,
        busy: bool = False,
        seed: int = 1,
        seconds: float | None = None,
        start_timeout_seconds: float = 30.0,
    ) -> None:
        if name not in available():
            raise ValueError(f"unknown profile {name!r}: take one of {', '.join(available())}")
        self._command = [
            *(*python, "-m", "simulator.profiles", name),
            *("--period-ms", str(period_ms), "--seed", str(seed), "--port", str(port)),
            *(() if truth is None else ("--truth", str(truth.resolve()))),
            *(("--busy",) if busy else ()),
            *(() if seconds is None else ("--seconds", str(seconds))),
        ]
        self._environment = {**os.environ, **(environment or {})}
        self._truth = truth
        self._start_timeout_seconds = start_timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.port = 0
        self.pids: dict[str, int] = {}

    @property
    def core_pid(self) -> int:
        """Give the process that iterates and writes the truth."""
        return self.pids["core"]

    @property
    def rank_pids(self) -> list[int]:
        """Give the other processes that iterate, in the order of their ranks."""
        return [pid for label, pid in sorted(self.pids.items()) if label != "core"]

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
        """Start the profile and wait until its processes are about to iterate."""
        if self._process is not None:
            raise RuntimeError("this profile was started already: create another one")
        self._process = subprocess.Popen(
            self._command,
            cwd=_REPOSITORY,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            ready = json.loads(self._read_first_line())
        except BaseException:
            self.stop()
            raise
        self.pid, self.port, self.pids = ready["pid"], ready["port"], ready["processes"]

    def _read_first_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        line = b""
        deadline_seconds = time.monotonic() + self._start_timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline_seconds - time.monotonic(), 0)):
                    raise ProfileStartError(
                        f"the profile was not ready within {self._start_timeout_seconds:.0f} s: "
                        "see its messages above, or give it more time"
                    )
                part = os.read(self._process.stdout.fileno(), 4096)
                if not part:
                    raise ProfileStartError(
                        "the profile ended before it ran: see its message above"
                    )
                line += part
        return line

    def read_truth(self) -> list[TruthIteration]:
        """Read the iterations written so far; all of them once the profile has ended."""
        return [] if self._truth is None else read_truth(self._truth)

    def stop(self, timeout_seconds: float = 10.0) -> int:
        """End the profile kindly, else by force, and give its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return status


def interpreters(folder: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Give the commands of the interpreters at hand by version ("3.12"); ours is among them.

    They are looked for among pyenv's, and before that in a folder, where ``python3.N`` is a program
    or a script that starts one.
    """
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    found: dict[str, tuple[str, ...]] = {ours: (sys.executable,)}
    candidates = sorted(folder.glob("python3.*")) if folder else []
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += sorted(pyenv.glob("versions/3.*/bin/python3.*"))
    for path in candidates:
        version = path.name.removeprefix("python")
        minor = version.partition(".")[2]
        if minor.isdigit() and int(minor) >= _OLDEST_MINOR and os.access(path, os.X_OK):
            found.setdefault(version, (str(path),))
    return {
        version: found[version]
        for version in sorted(found, key=lambda text: int(text.partition(".")[2]))
    }
