"""The processes of an engine, as faults stop them and let them run."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Any

from simulator.injection.base import Target
from simulator.injection.steps import start_ticks_of


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that is stopped now and then; another one with its pid is left alone."""

    pid: int
    start_ticks: int | None

    @classmethod
    def of(cls, target: Target) -> Victim:
        """Take the process that iterates first."""
        return cls(target.pids[0], start_ticks_of(target.pids[0]))

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Victim:
        """Read what `options` gave to a worker."""
        return cls(int(options["pid"]), int(options["start_ticks"]))

    def options(self) -> dict[str, float | str | list[int]]:
        """Give what a worker needs to know; one that has ended already has no start."""
        return {
            "pid": self.pid,
            "start_ticks": -1 if self.start_ticks is None else self.start_ticks,
        }

    def stop(self) -> None:
        """Stop all its threads.

        Raises:
            RuntimeError: It has ended.
        """
        if not self._signal(signal.SIGSTOP):
            raise RuntimeError(f"process {self.pid} has ended")

    def let_run(self) -> None:
        """Let all its threads run, if it is still there."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> bool:
        if start_ticks_of(self.pid) != self.start_ticks:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True
