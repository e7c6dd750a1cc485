"""Slow worker: the worker sleeps before each forward pass."""

from __future__ import annotations

from simulator.fleet.effect import Effect
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Post, Step


class SlowWorker(Injector):
    """Add the same time to each forward pass, whatever its work: a launch that waits.

    No CPU is used for it, and the replica has one worker: no peer tells that the rank is slow.
    """

    summary = "the worker sleeps before each forward pass (replica only)"
    touches = "slows the replica"
    causes = ("forward_slower", "slow_rank")
    unit = "ms per batch"
    levels = Levels(light=1.5, medium=6.0, heavy=20.0)
    limits = (0.1, 5_000.0)
    needs = Needs(replica=True)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Turn the knob of the replica."""
        del machine
        return [Post(url=f"{target.url}/replica/disturbances", body={"worker_delay_ms": intensity})]

    def effect(self, intensity: float) -> Effect:
        """By construction of the replica: so many milliseconds more."""
        return Effect(added_ms=intensity, phase="forward", one_rank=True)
