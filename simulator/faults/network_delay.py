"""Network delay: loopback packets of the engine's namespace arrive late."""

from __future__ import annotations

from simulator.faults.loopback import LoopbackFault
from simulator.fleet.effect import Effect
from simulator.injection.base import Levels, Machine, Target
from simulator.injection.steps import Step


class NetworkDelay(LoopbackFault):
    """Hold each packet back (``tc netem delay``), with a fifth of it as jitter."""

    summary = "packets on the loopback device of the engine's namespace arrive late"
    unit = "ms of delay one way"
    levels = Levels(light=1, medium=5, heavy=25)
    limits = (0.01, 1000)
    probe = ("netem", "delay", "1ms")

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Put netem on the device."""
        delay = ("netem", "delay", f"{intensity:g}ms", f"{intensity / 5:g}ms")
        return self.qdisc(delay, target, machine)

    def effect(self, intensity: float) -> Effect:
        """Suppose that the engine's processes talk once an iteration over sockets; not measured."""
        return Effect(added_ms=2 * intensity, phase="dispatch")
