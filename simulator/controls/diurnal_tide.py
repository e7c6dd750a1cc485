"""The load of a day in a short time."""

from simulator.controls.base import Control, phase, tide, with_load
from simulator.fleet.setting import Setting
from simulator.workloads import Phase

# Load at the flood is so many times the usual one; at the ebb it is divided by it.
RATIO = 2.5
STEPS = 12


class DiurnalTide(Control):
    """Let the load rise, fall far below the usual and come back, as over a day."""

    summary = "the load of a day: up, far down, and back"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Follow the tide."""
        height = tide(progress)
        return setting if height == 0 else with_load(setting, RATIO**height)

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...]:
        """Follow it in steps."""
        return tuple(
            phase(duration_seconds / STEPS, scale, clients=8 * RATIO ** tide(step / STEPS))
            for step in range(STEPS)
        )
