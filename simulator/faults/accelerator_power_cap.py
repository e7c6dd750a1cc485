"""Accelerator power: the device may take only a share of its usual power."""

from __future__ import annotations

from simulator.faults.accelerator_clock_lock import COMPUTE_SHARE
from simulator.faults.accelerators import obstacles_of, tool_of
from simulator.faults.accelerators.vendors import VENDORS
from simulator.fleet.effect import Effect, times
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Step

# An engine under load, and a device that only waits, as shares of the default limit.
LOADED_RATIO = 0.75
IDLE_RATIO = 0.15


class AcceleratorPowerCap(Injector):
    """Lower the power limit; the device then lowers its clock by itself."""

    summary = "a lower power limit of the accelerator, as on an overloaded rack"
    touches = (
        "slows all who compute on the device; undone by setting the limit that it had, on AMD in "
        "whole watts"
    )
    causes = ("accelerator_clock", "slow_rank")
    unit = "share of the default power limit"
    levels = Levels(light=0.6, medium=0.45, heavy=0.3)
    limits = (0.05, 0.95)
    needs = Needs(root=True, vendors=VENDORS)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say what is missing, and which device does not tell its limit."""
        found = super().obstacles(target, machine)
        if machine.vendor(VENDORS) is None:
            return found
        return found + obstacles_of(target.devices, tool_of(machine).power)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Cap each device at the share, or at the lowest limit that it takes."""
        tool = tool_of(machine)
        steps: list[Step] = []
        for device in target.devices:
            power = tool.power(device)
            steps.append(tool.cap_power(device, power, power.share_watts(intensity)))
        return steps

    def effect(self, intensity: float) -> Effect:
        """Estimate it: nothing was measured.

        An engine is taken to draw 75 % of the limit, and power above idle to grow with the square
        of the clock, between the line of a fixed voltage and the cube of a scaled one.
        """
        room = max(intensity - IDLE_RATIO, 0.02) / (LOADED_RATIO - IDLE_RATIO)
        clock_ratio = min(1.0, room**0.5)
        return Effect(
            device_ratio=1 + COMPUTE_SHARE * (1 / clock_ratio - 1),
            one_rank=True,
            device={
                "core_clock_hz": times(clock_ratio),
                "power_limit_watts": times(intensity),
                "power_watts": times(min(1.0, intensity / LOADED_RATIO)),
            },
            throttle_reasons=("sw_power_cap",),
        )
