"""Micro-stalls: the engine's process is stopped for some milliseconds, twice a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from simulator.faults.processes import Victim
from simulator.fleet.effect import Effect
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Resume, Step, Work

PULSES_PER_SECOND = 2.0


class MicroStalls(Injector):
    """Stop and continue the process that iterates.

    To those who look on, it does not run, does not wait for a CPU (a stopped task is in no run
    queue), and stands wherever it was: a pause of the process, not a stall, for its batch ends.
    """

    summary = "SIGSTOP for milliseconds, twice a second, on the process that iterates"
    touches = "stops one process of the engine for moments; its clients wait as long"
    causes = ("engine_pause",)
    unit = "ms per stop"
    levels = Levels(light=5.0, medium=20.0, heavy=80.0)
    limits = (0.1, 400.0)
    needs = Needs(target=True)
    intermittent = True

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Make sure that it runs in the end, then begin."""
        del machine
        victim = Victim.of(target)
        return [
            Resume(pid=victim.pid),
            Work(fault="micro_stalls", options={**victim.options(), "stop_ms": intensity}),
        ]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Stop it and let it run until all is over, or until it has ended."""
        victim = Victim.from_options(options)
        stop_seconds = options["stop_ms"] / 1_000
        try:
            while running():
                victim.stop()
                time.sleep(stop_seconds)
                victim.let_run()
                time.sleep(1 / PULSES_PER_SECOND - stop_seconds)
        finally:
            victim.let_run()

    def effect(self, intensity: float) -> Effect:
        """Estimated: pauses of that length, of which the wait for the worker hides a part."""
        return Effect(pauses_per_second=PULSES_PER_SECOND, pause_ms=intensity)
