"""Another model is deployed."""

from dataclasses import replace

from simulator.controls.base import Control, jumped
from simulator.fleet.setting import Cost, Setting

# The new model is larger by so much.
RATIO = 1.6


class ModelSwap(Control):
    """Restart the engine with a larger model: dearer, told by the inventory, and no fault.

    At the end the old model returns, which is a second swap.
    """

    summary = "the engine restarts with a model 1.6 times as dear, later with the old one"
    redeploys = True

    def at(self, progress: float, setting: Setting) -> Setting:
        """Swap."""
        if not jumped(progress):
            return setting
        return replace(setting, model=f"{setting.model}-larger", cost=scaled(setting.cost, RATIO))


def scaled(cost: Cost, ratio: float) -> Cost:
    """Multiply all that the accelerator's work costs."""
    return replace(
        cost,
        decode_ms=tuple((size, ms * ratio) for size, ms in cost.decode_ms),
        kv_ms=cost.kv_ms * ratio,
        prefill_ms=cost.prefill_ms * ratio,
        attention_ms=cost.attention_ms * ratio,
        mixed_ms=cost.mixed_ms * ratio,
        mixed_tokens_ms=tuple((tokens, ms * ratio) for tokens, ms in cost.mixed_tokens_ms),
        mixed_request_ms=cost.mixed_request_ms * ratio,
        lora_ms=cost.lora_ms * ratio,
    )
