"""Requests stay away and come back."""

from simulator.controls.base import Control, phase, with_traffic
from simulator.fleet.setting import Setting
from simulator.workloads import Phase

# From here to there nearly nobody asks.
BEGIN, END = 0.1, 0.7
REQUESTS_PER_SECOND = 0.05


class Lull(Control):
    """Let nearly all requests stay away, and come back at once to an engine that has been idle."""

    summary = "requests stay away and come back at once"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Take the requests away for a while."""
        if not BEGIN <= progress < END:
            return setting
        return with_traffic(setting, requests_per_second=REQUESTS_PER_SECOND)

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...]:
        """Pause in the middle."""
        return (
            phase(duration_seconds * BEGIN, scale),
            phase(duration_seconds * (END - BEGIN), scale, requests_per_second=REQUESTS_PER_SECOND),
            phase(duration_seconds * (1 - END), scale),
        )
