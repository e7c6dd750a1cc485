"""A vendor's command: what it tells about clocks and power, and how it changes them."""

from __future__ import annotations

import math
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from simulator.injection.steps import COMMAND_SECONDS, Run, StepError


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The clocks that a device can be held at.

    Attributes:
        highest_mhz: The highest one.

        lowest_mhz: The lowest one; None where the tool does not tell it.

        listed_mhz: The only ones that there are, in rising order; empty where any will do.

        held: Why the device is held at a clock already, and how to end that; None if it is not.
    """

    highest_mhz: int
    lowest_mhz: int | None = None
    listed_mhz: tuple[int, ...] = ()
    held: str | None = None

    def nearest_mhz(self, ratio: float) -> int:
        """Give the clock next to a share of the highest one."""
        wanted = self.highest_mhz * ratio
        if self.listed_mhz:
            return min(self.listed_mhz, key=lambda clock: abs(clock - wanted))
        return max(round(wanted), self.lowest_mhz or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The limit of a device's power.

    Attributes:
        limit_watts: The one in force, as the tool writes it.

        ask: Arguments of the query that told this.

        answer: What it answered.

        default_watts: The one after boot; None where the tool does not tell it.

        lowest_watts: The lowest that may be set.
    """

    limit_watts: str
    ask: tuple[str, ...]
    answer: str
    default_watts: float | None = None
    lowest_watts: float | None = None

    def share_watts(self, ratio: float) -> int:
        """Give a share of the default limit, and never less than may be set.

        Raises:
            StepError: It would be no lower than the limit in force.
        """
        whole = float(self.limit_watts) if self.default_watts is None else self.default_watts
        watts = max(1, round(whole * ratio), math.ceil(self.lowest_watts or 0))
        if watts >= float(self.limit_watts):
            raise StepError(
                f"{watts} W is no less than the limit of {self.limit_watts} W in force, and none "
                "is ever raised: ask for a lower intensity, or choose accelerator_clock_lock"
            )
        return watts


class Tool(ABC):
    """A vendor's command line tool.

    Args:
        path: Where it is; commands carry it whole, so that undoing does not depend on a PATH.
    """

    name: ClassVar[str]

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def clocks(self, device: int) -> Clocks:
        """Ask for the clocks of a device."""

    @abstractmethod
    def hold_clock(self, device: int, clocks: Clocks, mhz: int) -> Run:
        """Plan to hold the clock at or below a value."""

    @abstractmethod
    def power(self, device: int) -> Power:
        """Ask for the power limit of a device."""

    @abstractmethod
    def cap_power(self, device: int, power: Power, watts: int) -> Run:
        """Plan to lower the power limit; undone by setting the one that was in force."""

    def change(
        self, arguments: tuple[str, ...], undo: tuple[str, ...], setting: str, power: Power | None
    ) -> Run:
        """Make the step from the arguments of two commands.

        Args:
            arguments: Those that change the setting.

            undo: Those that undo it.

            setting: Its name; no two injections may change it at once.

            power: The limit that undoing sets; the step is refused if it is another one by then.
        """
        return Run(
            argv=(self.path, *arguments),
            undo_argv=(self.path, *undo),
            setting=setting,
            ask_argv=() if power is None else (self.path, *power.ask),
            answer="" if power is None else power.answer,
        )

    def ask(self, *arguments: str) -> str:
        """Run a query, which changes nothing."""
        command = " ".join((self.name, *arguments))
        try:
            done = subprocess.run(
                (self.path, *arguments),
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            raise StepError(f"'{command}' failed ({err}): run it by hand to see why") from err
        if done.returncode:
            said = (done.stderr + done.stdout).strip().splitlines()
            raise StepError(
                f"'{command}' ended with status {done.returncode}"
                f"{f' ({said[0]})' if said else ''}: check the driver and the --device"
            )
        return done.stdout

    def silent(self, device: int, what: str) -> StepError:
        """Make the error about a device that does not tell something."""
        return StepError(
            f"{self.name} does not tell the {what} of device {device}: choose another --device, or "
            "another fault"
        )
