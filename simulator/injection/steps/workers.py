"""Processes of our own that load the machine."""

from __future__ import annotations

import sys

import msgspec

from simulator.injection.steps.base import BaseStep


class Work(BaseStep, tag="work", frozen=True, kw_only=True):
    """Processes of our own that load the machine: `Injector.work` of a fault, in each of them.

    They die with the process that started them, however it ends, so nothing else undoes them.

    Attributes:
        fault: Name of the fault.

        count: How many processes.

        options: What `Injector.work` gets.
    """

    fault: str
    count: int = 1
    options: dict[str, float | str | list[int]] = msgspec.field(default_factory=dict)

    def argv(self) -> tuple[str, ...]:
        """Give the command of one of them."""
        options = msgspec.json.encode(self.options).decode()
        return (sys.executable, "-P", "-m", "simulator.injection.worker", self.fault, options)

    def show(self) -> tuple[str, ...]:
        """Give the command and how it ends."""
        return (f"{self.count} x {' '.join(self.argv())}", "undo: kill them")
