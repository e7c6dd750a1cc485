"""GIL hog: a thread of the engine core does not let go of the interpreter."""

from __future__ import annotations

from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Post, Step


class GilHog(Injector):
    """Hold the GIL for a share of the time, every 30 ms or so in one long call of a builtin."""

    summary = "a thread of the engine core holds the GIL (replica only)"
    touches = "slows the replica, and takes a share of one CPU"
    causes = ("engine_pause",)
    unit = "share of the time that the GIL is held"
    levels = Levels(light=0.2, medium=0.45, heavy=0.85)
    limits = (0.01, 1.0)
    needs = Needs(replica=True)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Turn the knob of the replica."""
        del machine
        return [Post(url=f"{target.url}/replica/disturbances", body={"gil_hog_ratio": intensity})]

    def effect(self, intensity: float) -> Effect:
        """Measured on the replica: the core waits for the GIL when the worker has answered.

        The CPU time is by construction: who holds the GIL computes.
        """
        return Effect(
            added_ms=20.0 * intensity**1.5,
            phase="forward",
            process={"cpu_seconds": add(intensity)},
            process_role="engine_core",
        )
