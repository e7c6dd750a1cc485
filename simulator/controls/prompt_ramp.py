"""Prompts get longer and longer."""

from simulator.controls.base import Control, longer, phase, ramp, with_traffic
from simulator.fleet.setting import Setting
from simulator.workloads import Phase

RATIO = 6.0
STEPS = 8


class PromptRamp(Control):
    """Let prompts grow to six times their length, requests and answers staying as they are."""

    summary = "prompts grow to six times their length"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Grow the lengths evenly."""
        ratio = 1 + (RATIO - 1) * ramp(progress)
        return with_traffic(
            setting, prompt_tokens=longer(setting.traffic.prompt_tokens, ratio, setting)
        )

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...]:
        """Grow in steps."""
        ratios = [1 + (RATIO - 1) * ramp(step / (STEPS - 1)) for step in range(STEPS)]
        return tuple(
            phase(
                duration_seconds / STEPS,
                scale,
                prompt_tokens=(round(64 * ratio), round(192 * ratio)),
            )
            for ratio in ratios
        )
