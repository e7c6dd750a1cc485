"""``rocm-smi``: clocks and power of AMD's GPUs, where there is no ``amd-smi``."""

from __future__ import annotations

import re

from simulator.faults.accelerators.amd_smi import held
from simulator.faults.accelerators.tool import Clocks, Power, Tool
from simulator.injection.steps import Run

AUTOMATIC = "auto"
LINE = re.compile(r"GPU\[\d+\]\s*: ?(.*)")


def parse_clocks(text: str) -> list[int]:
    """Read the graphics clocks from ``--showclkfrq``, whose JSON mixes all kinds of clocks."""
    found: list[int] = []
    inside = False
    for line in text.splitlines():
        match = LINE.match(line)
        said = match[1].strip() if match is not None else ""
        # Level S is deep sleep.
        clock = re.match(r"\d+: (\d+)Mhz", said)
        if not said or said.startswith("Supported "):
            inside = said.startswith("Supported sclk ")
        elif inside and clock is not None:
            found.append(int(clock[1]))
    return found


def parse_value(text: str, name: str) -> str | None:
    """Read what follows a name, as in ``GPU[0] : Performance Level: auto``."""
    match = re.search(rf"^GPU\[\d+\]\s*: {re.escape(name)}: (\S+)\s*$", text, re.MULTILINE)
    return None if match is None else match[1]


class RocmSmi(Tool):
    """The older command; it ends with status 0 whatever happens, unless told to log errors only."""

    name = "rocm-smi"

    def clocks(self, device: int) -> Clocks:
        """Ask for the levels of the graphics clock, and for the performance level."""
        text = self.ask("-d", str(device), "--showclkfrq", "--showperflevel")
        levels = parse_clocks(text)
        if not levels or not max(levels):
            raise self.silent(device, "clocks")
        level = parse_value(text, "Performance Level") or "unknown"
        command = f"rocm-smi -d {device} --setperflevel {AUTOMATIC}"
        return Clocks(
            highest_mhz=max(levels),
            # Not the lowest of them: the clock of the moment is among them.
            lowest_mhz=levels[0],
            held=None if level == AUTOMATIC else held(device, level, command),
        )

    def hold_clock(self, device: int, clocks: Clocks, mhz: int) -> Run:
        """Hold it with performance determinism; undone by the automatic level."""
        return self.change(
            (*changing(device), "--setperfdeterminism", str(mhz)),
            (*changing(device), "--setperflevel", AUTOMATIC),
            f"clock of AMD device {device}",
            None,
        )

    def power(self, device: int) -> Power:
        """Ask for the cap; it tells neither the default nor the lowest, and refuses a lower one."""
        ask = ("-d", str(device), "--showmaxpower")
        answer = self.ask(*ask)
        try:
            watts = float(parse_value(answer, "Max Graphics Package Power (W)") or "")
        except ValueError:
            raise self.silent(device, "power cap") from None
        return Power(limit_watts=f"{watts:.0f}", ask=ask, answer=answer.strip())

    def cap_power(self, device: int, power: Power, watts: int) -> Run:
        """Set the cap."""
        # It asks a question before it goes above the default, where the operator may have been.
        back = ("--setpoweroverdrive", power.limit_watts, "--autorespond", "y")
        return self.change(
            (*changing(device), "--setpoweroverdrive", str(watts)),
            (*changing(device), *back),
            f"power limit of AMD device {device}",
            power,
        )


def changing(device: int) -> tuple[str, ...]:
    """Give the arguments that all commands begin with that change something."""
    return ("-d", str(device), "--loglevel", "error")
