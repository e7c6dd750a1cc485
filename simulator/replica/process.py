"""A running replica, as tests and the demo hold it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from simulator.replica.truth import TruthIteration, parse_truth, read_truth
from simulator.started import StartedProcess

__all__ = ["ReplicaProcess", "ReplicaStartError", "TruthIteration", "parse_truth", "read_truth"]

_READY = re.compile(
    r"serving on (?P<base_url>http://\S+) "
    r"\(pid (?P<pid>\d+), engine core (?P<core_pid>\d+), worker (?P<worker_pid>\d+)\)"
)


class ReplicaStartError(Exception):
    """A replica ended, or stayed silent, before it could serve."""


class ReplicaProcess(StartedProcess):
    """Start a replica on entering the block and end it on leaving.

    `options` are those of `python -m simulator.replica`; the port is a free one
    unless given. The replica also ends when the process that started it does.
    """

    what = "replica"
    start_error = ReplicaStartError
    stop_timeout_seconds = 5.0

    def __init__(
        self,
        *,
        port: int = 0,
        truth: Path | None = None,
        work_ratio: float = 1.0,
        options: Sequence[str] = (),
        start_timeout_seconds: float = 90.0,
    ) -> None:
        command = [
            *(sys.executable, "-m", "simulator.replica", "--until-stdin-closes"),
            *("--port", str(port), "--work-ratio", str(work_ratio)),
            *(() if truth is None else ("--truth", str(truth.resolve()))),
            *options,
        ]
        super().__init__(command, start_timeout_seconds=start_timeout_seconds)
        self.base_url = ""
        self.core_pid = 0
        self.worker_pid = 0

    def _take_ready(self, line: str) -> None:
        ready = _READY.search(line)
        if ready is None:
            raise ReplicaStartError(
                f"the replica said {line.strip()!r} instead of where it serves: "
                "start it with this version of it"
            )
        self.base_url = ready["base_url"]
        self.pid = int(ready["pid"])
        self.core_pid = int(ready["core_pid"])
        self.worker_pid = int(ready["worker_pid"])
