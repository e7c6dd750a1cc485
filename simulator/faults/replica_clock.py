"""Replica clock: the replica's model needs more arithmetic for each batch."""

from __future__ import annotations

from simulator.fleet.effect import Effect
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Post, Step


class ReplicaClock(Injector):
    """Lower the clock of the accelerator that the replica has not.

    No counter shows it, so that 'the forward pass is slower' is as right an answer as can be had.
    """

    summary = "the model computes as if the accelerator's clock were lower (replica only)"
    touches = "slows the replica"
    causes = ("accelerator_clock", "forward_slower")
    unit = "share of the clock that is lost"
    levels = Levels(light=0.1, medium=0.3, heavy=0.6)
    limits = (0.01, 0.95)
    needs = Needs(replica=True)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Set the clock of the replica."""
        del machine
        return [Post(url=f"{target.url}/replica/clock", body={"ratio": round(1 - intensity, 6)})]

    def effect(self, intensity: float) -> Effect:
        """By construction of the replica: work over clock, in the forward pass alone."""
        return Effect(device_ratio=1 / (1 - intensity))
