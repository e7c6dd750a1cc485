"""Requests come in bursts."""

from simulator.controls.base import Control, phase, with_load
from simulator.fleet.setting import Setting
from simulator.workloads import Phase

RATIO = 6.0
CYCLES = 5
# Share of each cycle that is the burst; it comes last.
SHARE = 0.15


class Burst(Control):
    """Let six times as many requests come in short bursts."""

    summary = "short bursts of six times as many requests"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Burst at the end of each cycle."""
        bursting = 0 <= progress < 1 and (progress * CYCLES) % 1 >= 1 - SHARE
        return with_load(setting, RATIO) if bursting else setting

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...]:
        """Alternate."""
        cycle_seconds = duration_seconds / CYCLES
        quiet = phase(cycle_seconds * (1 - SHARE), scale)
        return (quiet, phase(cycle_seconds * SHARE, scale, clients=32)) * CYCLES
