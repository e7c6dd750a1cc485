"""Accelerator clock: the device may not run faster than a share of its highest clock."""

from __future__ import annotations

from simulator.faults.accelerators import Clocks, Tool, obstacles_of, tool_of
from simulator.faults.accelerators.vendors import VENDORS
from simulator.fleet.effect import Effect, times
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Step, StepError

# 3.59 times the kernel time at 210 of 1410 MHz gives the share that scales with the clock.
MEASURED_TIMES = 3.59
MEASURED_CLOCK_RATIO = 210 / 1410
COMPUTE_SHARE = (MEASURED_TIMES - 1) / (1 / MEASURED_CLOCK_RATIO - 1)


class AcceleratorClockLock(Injector):
    """Lower the highest clock: ``nvidia-smi -lgc``, or performance determinism on AMD.

    AMD offers that from MI200 on; an older device refuses the command, and nothing is changed.
    """

    summary = "a lower clock of the accelerator, as after a wrong lock or with heat"
    touches = (
        "slows all who compute on the device; undone by unlocking, so a lock of yours that does "
        "not hold the clock down when this begins cannot be seen, and is gone afterwards"
    )
    causes = ("accelerator_clock", "slow_rank")
    unit = "share of the highest clock"
    levels = Levels(light=0.7, medium=0.4, heavy=0.15)
    limits = (0.05, 0.95)
    needs = Needs(root=True, vendors=VENDORS)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say what is missing, and which device would not come back as it was."""
        found = super().obstacles(target, machine)
        if machine.vendor(VENDORS) is None:
            return found
        tool = tool_of(machine)
        return found + obstacles_of(target.devices, lambda device: _clocks(tool, device))

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Hold each device at the clock next to the share."""
        tool = tool_of(machine)
        steps: list[Step] = []
        for device in target.devices:
            clocks = _clocks(tool, device)
            steps.append(tool.hold_clock(device, clocks, clocks.nearest_mhz(intensity)))
        return steps

    def effect(self, intensity: float) -> Effect:
        """Follow the public captures: 3.59 times the kernel time at 15 % of the clock.

        Measured at that one clock, on decoding 32B at batch 1. In between, what computes scales
        with the clock and what waits for memory does not. The power is estimated.
        """
        return Effect(
            device_ratio=1 + COMPUTE_SHARE * (1 / intensity - 1),
            one_rank=True,
            device={
                "core_clock_hz": times(intensity),
                "power_watts": times(0.3 + 0.7 * intensity),
            },
            throttle_reasons=("user_clock",),
        )


def _clocks(tool: Tool, device: int) -> Clocks:
    clocks = tool.clocks(device)
    if clocks.held is not None:
        raise StepError(clocks.held)
    return clocks
