"""Some requests bring very long contexts."""

from dataclasses import replace

from simulator.controls.base import Control, jumped, longer, phase, with_traffic
from simulator.fleet.setting import Setting
from simulator.workloads import Phase

# Of the logarithm of lengths: one in ten is then seven times as long as the median, one in a
# hundred thirty times.
SPREAD = 1.5
MOST_RATIO = 64.0


class LongContext(Control):
    """Let some prompts be very long among the usual ones."""

    summary = "some requests arrive with contexts up to 30 times as long"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Spread the lengths of prompts."""
        if not jumped(progress):
            return setting
        usual = setting.traffic.prompt_tokens
        most = longer(usual, MOST_RATIO, setting).most
        wide = replace(usual, spread=max(usual.spread, SPREAD), most=most)
        return with_traffic(setting, prompt_tokens=wide)

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...]:
        """Take turns: most of the time the usual, then prompts that fill most of the context."""
        turn_seconds = duration_seconds / 4
        usual = phase(turn_seconds * 0.6, scale)
        return (
            usual,
            phase(turn_seconds * 0.4, scale, prompt_tokens=(1_500, 3_000)),
        ) * 4
