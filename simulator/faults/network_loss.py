"""Network loss: loopback packets of the engine's namespace get lost."""

from __future__ import annotations

from simulator.faults.loopback import LoopbackFault
from simulator.fleet.effect import Effect
from simulator.injection.base import Levels, Machine, Target
from simulator.injection.steps import Step

# TCP waits at least this long before it sends again.
RETRANSMISSION_MS = 200
PACKETS_PER_SECOND = 200


class NetworkLoss(LoopbackFault):
    """Drop packets at random (``tc netem loss``); TCP sends them again, 200 ms later or more."""

    summary = "packets on the loopback device of the engine's namespace get lost"
    unit = "% of the packets"
    levels = Levels(light=0.5, medium=2, heavy=8)
    limits = (0.01, 50)
    intermittent = True
    probe = ("netem", "loss", "1%")

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Put netem on the device."""
        return self.qdisc(("netem", "loss", f"{intensity:g}%"), target, machine)

    def effect(self, intensity: float) -> Effect:
        """Suppose 200 packets a second between the engine's processes; not measured."""
        return Effect(
            pauses_per_second=intensity / 100 * PACKETS_PER_SECOND / 10,
            pause_ms=RETRANSMISSION_MS,
            phase="dispatch",
        )
