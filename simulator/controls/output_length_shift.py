"""Answers become long."""

from simulator.controls.base import Control, jumped, longer, phase, with_traffic
from simulator.fleet.setting import Setting
from simulator.workloads import Phase

RATIO = 3.0


class OutputLengthShift(Control):
    """Let answers be three times as long: more requests at once, more context, less prefill."""

    summary = "answers become three times as long"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Lengthen the answers."""
        if not jumped(progress):
            return setting
        return with_traffic(
            setting, output_tokens=longer(setting.traffic.output_tokens, RATIO, setting)
        )

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...]:
        """Lengthen them after a twentieth."""
        return (
            phase(duration_seconds * 0.05, scale),
            phase(duration_seconds * 0.95, scale, output_tokens=(192, 576)),
        )
