"""Requests ask for LoRA adapters."""

from simulator.controls.base import Control, swung, with_traffic
from simulator.fleet.setting import Setting

SWINGS = 2
ADAPTERS = 6


class LoraSwap(Control):
    """Let requests ask for several LoRA adapters more, for none more, and again.

    The replica has no adapters.
    """

    summary = "requests ask for six more LoRA adapters, come and go"

    def at(self, progress: float, setting: Setting) -> Setting:
        """Swing."""
        if not swung(progress, SWINGS):
            return setting
        return with_traffic(setting, lora_adapters=setting.traffic.lora_adapters + ADAPTERS)
