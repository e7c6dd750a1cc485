"""GIL hog: a thread of the engine core does not let go of the interpreter."""

from __future__ import annotations

from simulator.faults.base import Injector, Levels, Machine, Needs, Target
from simulator.faults.steps import Post, Step
from simulator.fleet.effect import Effect, times


class GilHog(Injector):
    """Hold the GIL for a share of each 30 ms, in one long call of a builtin."""

    summary = "a thread of the engine core holds the GIL (replica only)"
    touches = "slows the replica, and takes a share of one CPU"
    causes = ("engine_pause",)
    unit = "share of the time that the GIL is held"
    levels = Levels(light=0.1, medium=0.5, heavy=0.8)
    limits = (0.01, 1.0)
    needs = Needs(replica=True)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Turn the knob of the replica."""
        del machine
        return [
            Post(
                url=f"{target.url}/replica/disturbances",
                body={"gil_hog_ratio": intensity},
                undo_body={"gil_hog_ratio": 0.0},
            )
        ]

    def effect(self, intensity: float) -> Effect:
        """Measured on the replica: the core waits for the GIL when the worker has answered."""
        return Effect(
            added_ms=25.0 * intensity,
            phase="forward",
            process={"cpu_seconds": times(1 + 20 * intensity)},
        )
