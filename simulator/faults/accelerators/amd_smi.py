"""``amd-smi``: clocks and power of AMD's GPUs, from ROCm 6 on."""

from __future__ import annotations

import json
from typing import Any

from simulator.faults.accelerators.tool import Clocks, Power, Tool
from simulator.injection.steps import Run

AUTOMATIC = "AUTO"


class AmdSmi(Tool):
    """The newer command; it writes JSON whose form changed with ROCm 7."""

    name = "amd-smi"

    def clocks(self, device: int) -> Clocks:
        """Ask for the range of the graphics clock, and for the performance level."""
        found = self._gpu(
            device, self.ask("metric", "-g", str(device), "--clock", "--perf-level", "--json")
        )
        clock = _table(_table(found.get("clock")).get("gfx_0"))
        highest = _number(clock.get("max_clk"))
        if not highest:
            raise self.silent(device, "highest clock")
        level = str(found.get("perf_level")).upper().rpartition("_")[2]
        lowest = _number(clock.get("min_clk"))
        return Clocks(
            highest_mhz=round(highest),
            lowest_mhz=None if lowest is None else round(lowest),
            held=None
            if level == AUTOMATIC
            else held(device, level, f"amd-smi set -g {device} --perf-level {AUTOMATIC}"),
        )

    def hold_clock(self, device: int, clocks: Clocks, mhz: int) -> Run:
        """Hold it with performance determinism; undone by the automatic level."""
        return self.change(
            ("set", "-g", str(device), "--perf-determinism", str(mhz)),
            ("set", "-g", str(device), "--perf-level", AUTOMATIC),
            f"clock of AMD device {device}",
            None,
        )

    def power(self, device: int) -> Power:
        """Ask for the limits."""
        ask = ("static", "-g", str(device), "--limit", "--json")
        answer = self.ask(*ask)
        limit, _ = self._limit(device, answer)
        now, lowest, highest = (
            _number(limit.get(key)) or _number(limit.get(f"{key}_limit"))
            for key in ("socket_power", "min_power", "max_power")
        )
        if not now:
            raise self.silent(device, "power limit")
        return Power(
            limit_watts=f"{now:.0f}",
            ask=ask,
            answer=answer.strip(),
            # Without overclocking the highest is the default.
            default_watts=max(now, highest or 0),
            lowest_watts=lowest,
        )

    def cap_power(self, device: int, power: Power, watts: int) -> Run:
        """Set the cap."""
        _, sensor = self._limit(device, power.answer)
        command = ("set", "-g", str(device), "--power-cap", *sensor)
        return self.change(
            (*command, str(watts)),
            (*command, power.limit_watts),
            f"power limit of AMD device {device}",
            power,
        )

    def _limit(self, device: int, answer: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Give the limits, and the name of their sensor, which ROCm 7.2 tells and wants."""
        limit = _table(self._gpu(device, answer).get("limit"))
        return (_table(limit["ppt0"]), ("ppt0",)) if "ppt0" in limit else (limit, ())

    def _gpu(self, device: int, answer: str) -> dict[str, Any]:
        try:
            root = json.loads(answer)
        except ValueError as err:
            raise self.silent(device, "settings as JSON") from err
        found = root.get("gpu_data") if isinstance(root, dict) else root
        gpus = [one for one in found or () if _table(one).get("gpu") == device]
        if not gpus:
            raise self.silent(device, "settings")
        return _table(gpus[0])


def held(device: int, level: str, command: str) -> str:
    """Say that somebody has set a performance level, whose clocks could not be restored."""
    return (
        f"device {device} is at the performance level {level.lower()}, whose clocks could not be "
        f"restored: set it to automatic first ('{command}'), or choose another --device"
    )


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """Read a number that stands alone or in ``{"value", "unit"}``; None for ``N/A``."""
    bare = value.get("value") if isinstance(value, dict) else value
    try:
        return float(bare) if isinstance(bare, str | int | float) else None
    except ValueError:
        return None
