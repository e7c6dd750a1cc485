"""``nvidia-smi``: clocks and power of NVIDIA's GPUs."""

from __future__ import annotations

import contextlib

from simulator.faults.accelerators.tool import Clocks, Power, Tool
from simulator.injection.steps import Run, StepError

# What drivers before 535 call the first.
HELD_COLUMNS = (
    "clocks_event_reasons.applications_clocks_setting",
    "clocks_throttle_reasons.applications_clocks_setting",
)


def parse_numbers(text: str) -> list[float | None]:
    """Read the cells of a query, row by row; None for ``[N/A]`` and all else that is no number."""
    return [number(cell) for line in text.splitlines() for cell in line.split(",")]


def number(cell: str) -> float | None:
    """Read one cell."""
    try:
        return float(cell)
    except ValueError:
        return None


def query_of(device: int, query: str) -> tuple[str, ...]:
    """Give the arguments of a query."""
    return ("-i", str(device), query, "--format=csv,noheader,nounits")


class NvidiaSmi(Tool):
    """The command of NVIDIA's driver.

    It tells neither the range that the clocks are locked to nor whether they are: only that a
    lock, or a setting of the application clocks, holds the clock down at the moment.
    """

    name = "nvidia-smi"

    def clocks(self, device: int) -> Clocks:
        """Ask for the supported clocks, and for what holds the clock down."""
        highest = self._numbers(device, "--query-gpu=clocks.max.graphics")
        if not highest or not highest[0]:
            raise self.silent(device, "highest clock")
        listed: list[float | None] = []
        with contextlib.suppress(StepError):  # not every device has a list
            listed = self._numbers(device, "--query-supported-clocks=graphics")
        listed_mhz = tuple(sorted({round(one) for one in listed if one}))
        return Clocks(
            highest_mhz=round(highest[0]),
            lowest_mhz=min(listed_mhz, default=None),
            listed_mhz=listed_mhz if len(listed_mhz) > 1 else (),
            held=self._held(device),
        )

    def hold_clock(self, device: int, clocks: Clocks, mhz: int) -> Run:
        """Lock to a range up to the value; undone by unlocking."""
        lowest = mhz if clocks.lowest_mhz is None else min(clocks.lowest_mhz, mhz)
        # -eow: what the device does not support is a warning only, with status 0.
        return self.change(
            ("-i", str(device), "-eow", "-lgc", f"{lowest},{mhz}"),
            ("-i", str(device), "-rgc"),
            f"clock of NVIDIA device {device}",
            None,
        )

    def power(self, device: int) -> Power:
        """Ask for the limits."""
        columns = "--query-gpu=power.limit,power.default_limit,power.min_limit"
        answer = self._query(device, columns)
        found = parse_numbers(answer)
        if len(found) != 3 or not found[0]:
            raise self.silent(device, "power limit")
        limit, default, lowest = found
        return Power(
            limit_watts=f"{limit:.2f}",
            ask=query_of(device, columns),
            answer=answer.strip(),
            default_watts=default,
            lowest_watts=lowest,
        )

    def cap_power(self, device: int, power: Power, watts: int) -> Run:
        """Set the limit."""
        return self.change(
            ("-i", str(device), "-eow", "-pl", str(watts)),
            ("-i", str(device), "-pl", power.limit_watts),
            f"power limit of NVIDIA device {device}",
            power,
        )

    def _query(self, device: int, query: str) -> str:
        return self.ask(*query_of(device, query))

    def _numbers(self, device: int, query: str) -> list[float | None]:
        return parse_numbers(self._query(device, query))

    def _held(self, device: int) -> str | None:
        newer, older = (f"--query-gpu={column}" for column in HELD_COLUMNS)
        try:
            said = self._query(device, newer)
        except StepError:
            said = self._query(device, older)
        if said.strip() != "Active":
            return None
        return (
            f"device {device} is held by a clock setting already, which could not be restored: "
            f"reset it first ('nvidia-smi -i {device} -rgc', or -rac), or choose another --device"
        )
