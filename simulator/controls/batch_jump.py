"""Many more requests from one moment to the next."""

from simulator.controls.base import Control, jumped, phase, with_load
from simulator.fleet.setting import Setting
from simulator.workloads import Phase

RATIO = 3.0


class BatchJump(Control):
    """Let three times as many requests be under way at once."""

    summary = "three times as many requests from one moment to the next"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Jump."""
        return with_load(setting, RATIO) if jumped(progress) else setting

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...]:
        """Jump after a twentieth."""
        return (
            phase(duration_seconds * 0.05, scale),
            phase(duration_seconds * 0.95, scale, clients=24),
        )
