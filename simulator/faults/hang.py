"""Hang: the engine's process is stopped, and its batch does not end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from simulator.faults.processes import Victim
from simulator.fleet.effect import Effect
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Resume, Step, Work

# How often the process is stopped anew, should somebody have let it run.
_PERIOD_SECONDS = 0.05


class Hang(Injector):
    """Stop the process that iterates, for as long as the fault lasts."""

    summary = "SIGSTOP on the process that iterates, until the end"
    touches = "stops one process of the engine; its clients wait, and may give up"
    causes = ("stall",)
    unit = "processes"
    levels = Levels(light=1.0, medium=1.0, heavy=1.0)
    limits = (1.0, 1.0)
    needs = Needs(target=True)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Make sure that it runs in the end, then stop it."""
        del intensity, machine
        victim = Victim.of(target)
        return [Resume(pid=victim.pid), Work(fault="hang", options=victim.options())]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Keep it stopped until all is over, or until it has ended."""
        victim = Victim.from_options(options)
        try:
            # Before the first question, which says that the fault is there.
            victim.stop()
            while running():
                time.sleep(_PERIOD_SECONDS)
                victim.stop()
        finally:
            victim.let_run()

    def effect(self, intensity: float) -> Effect:
        """Let the batch stand still until the process is continued."""
        del intensity
        return Effect(stops=True, phase="forward")
