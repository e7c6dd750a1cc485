"""Network squeeze: the loopback device of the engine's namespace carries less."""

from __future__ import annotations

from simulator.faults.loopback import LoopbackFault
from simulator.fleet.effect import Effect
from simulator.injection.base import Levels, Machine, Target
from simulator.injection.steps import Step

# Loopback packets have 64 KiB; a bucket that holds none would drop them all.
BURST = "192kb"
QUEUE = "200ms"


class NetworkSqueeze(LoopbackFault):
    """Limit the rate of the device (``tc tbf``)."""

    summary = "the loopback device of the engine's namespace carries so much and no more"
    unit = "Mbit/s that are left"
    levels = Levels(light=50, medium=5, heavy=0.5)
    limits = (0.05, 10_000)
    probe = ("tbf", "rate", "1mbit", "burst", BURST, "latency", QUEUE)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Put a token bucket on the device."""
        rate = f"{round(intensity * 1e6)}bit"
        bucket = ("tbf", "rate", rate, "burst", BURST, "latency", QUEUE)
        return self.qdisc(bucket, target, machine)

    def effect(self, intensity: float) -> Effect:
        """Let fewer requests in: streamed answers of the replica want about 1 Mbit/s."""
        return Effect(arrivals_ratio=min(1.0, 0.1 + 0.9 * intensity))
