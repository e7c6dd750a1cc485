"""Prompts are found in the prefix cache, or not."""

from simulator.controls.base import Control, swung, with_traffic
from simulator.fleet.setting import Setting

SWINGS = 3
FOUND_RATIO, MISSED_RATIO = 0.9, 0.0


class CacheSwing(Control):
    """Let the prefix cache answer for nearly all prompts and for none in turn.

    The replica has no prefix cache.
    """

    summary = "prefix-cache hits swing between nearly all prompts and none"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Swing: misses first, then hits."""
        if not 0 < progress < 1:
            return setting
        hits = swung(progress, SWINGS)
        return with_traffic(setting, cached_ratio=FOUND_RATIO if hits else MISSED_RATIO)
