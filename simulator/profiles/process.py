"""A running profile, as tests and benchmarks hold it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from simulator.profiles import available
from simulator.replica.truth import TruthIteration, read_truth
from simulator.started import StartedProcess

__all__ = ["ProfileProcess", "ProfileStartError", "available", "interpreters"]

_OLDEST_MINOR = 8


class ProfileStartError(Exception):
    """A profile ended, or stayed silent, before it ran."""


class ProfileProcess(StartedProcess):
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

    what = "profile"
    start_error = ProfileStartError
    stop_timeout_seconds = 10.0

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
        command = [
            *(*python, "-m", "simulator.profiles", name),
            *("--period-ms", str(period_ms), "--seed", str(seed), "--port", str(port)),
            *(() if truth is None else ("--truth", str(truth.resolve()))),
            *(("--busy",) if busy else ()),
            *(() if seconds is None else ("--seconds", str(seconds))),
        ]
        super().__init__(
            command, start_timeout_seconds=start_timeout_seconds, environment=environment
        )
        self._truth = truth
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

    def _take_ready(self, line: str) -> None:
        ready = json.loads(line)
        self.pid, self.port, self.pids = ready["pid"], ready["port"], ready["processes"]

    def read_truth(self) -> list[TruthIteration]:
        """Read the iterations written so far; all of them once the profile has ended."""
        return [] if self._truth is None else read_truth(self._truth)


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
