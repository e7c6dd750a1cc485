"""The engine is spread over more ranks."""

from dataclasses import replace

from simulator.controls.base import Control, jumped
from simulator.controls.model_swap import scaled
from simulator.fleet.setting import Setting

# Two ranks share the work; what each still does alone keeps it from being half.
RATIO = 0.58
# Where the ranks had nothing to tell each other so far.
LINK_MS, LINK_TOKEN_MS = 0.8, 0.1


class RankScaleOut(Control):
    """Restart the engine with twice the ranks: cheaper work, and communication that was not there.

    An engine that has all accelerators of its host already is scaled in to half of them. At the end
    the old number of ranks returns.
    """

    summary = "the engine restarts with twice the ranks, later with those of before"
    redeploys = True

    def at(self, progress: float, setting: Setting) -> Setting:
        """Scale out."""
        if not jumped(progress):
            return setting
        if setting.ranks * 2 > setting.devices_per_host:
            fewer = max(setting.ranks // 2, 1)
            return replace(setting, ranks=fewer, cost=scaled(setting.cost, 1 / RATIO))
        cost = scaled(setting.cost, RATIO)
        linked = replace(
            cost,
            link_ms=cost.link_ms or LINK_MS,
            link_token_ms=cost.link_token_ms or LINK_TOKEN_MS,
        )
        return replace(setting, ranks=setting.ranks * 2, cost=linked)
