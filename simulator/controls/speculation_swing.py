"""Draft tokens are accepted, or not."""

from simulator.controls.base import Control, swung, with_traffic
from simulator.fleet.setting import Setting

SWINGS = 3
DRAFT_TOKENS = 3
GOOD_RATIO, BAD_RATIO = 0.9, 0.2


class SpeculationSwing(Control):
    """Let the engine draft tokens, of which nearly all and then few are accepted.

    An engine that does not speculate begins to, as vLLM does by its load. The replica cannot.
    """

    summary = "speculative decoding, with acceptance that swings between 0.9 and 0.2"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Swing: good guesses first, then bad ones."""
        if not 0 < progress < 1:
            return setting
        fitting = setting.token_budget // setting.max_requests - 1
        tokens = setting.traffic.speculative_tokens or min(DRAFT_TOKENS, fitting)
        bad = swung(progress, SWINGS)
        return with_traffic(
            setting, speculative_tokens=tokens, accepted_ratio=BAD_RATIO if bad else GOOD_RATIO
        )
