"""What something usually takes by number of requests, and how often it takes how much longer."""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# Below this (ms, or percent of a batch) lengths are not told apart by a clock that looks a
# thousand times a second.
LEAST = 0.05
LOG_LEAST = math.log(LEAST)
# Values of one size before others of it are compared with them.
FAMILIAR_VISITS = 10
# Each value moves its mean by one part in so many, at least, and counts as off by so much, at most.
MOST_VISITS = 100.0
MOST_PULL = 0.5
# Excess is counted in steps of ln(observed / expected), up to 60 times as long.
TAIL_STEP = 0.15
TAIL_STEPS = 28
# Older counts fade: what an engine does once in so many batches is usual for it.
REMEMBERED_VALUES = 20_000


@dataclass(slots=True)
class Usual:
    """What one part usually takes in each cell (see `cell_of`), and how often how much longer.

    >>> usual, cell = Usual(), cell_of(8)
    >>> for _ in range(100):
    ...     usual.learn(cell, 0.3)
    >>> round(usual.expected(cell) or 0, 3), usual.expected(cell_of(64))
    (0.3, None)
    >>> round(usual.chance(0.3, 3.0), 3), usual.chance(0.3, 0.3)
    (0.011, 1.0)
    """

    cells: dict[int, list[float]] = field(default_factory=dict)
    counts: list[float] = field(default_factory=lambda: [0.0] * TAIL_STEPS)
    values: float = 0.0

    def expected(self, cell: int) -> float | None:
        """Give the usual value; None where too few were seen."""
        found = self.cells.get(cell)
        return math.exp(found[1]) if found is not None and found[0] >= FAMILIAR_VISITS else None

    def chance(self, expected: float, value: float) -> float:
        """Give how often a value so far above the usual one is seen, of all values: 0 to 1."""
        step = _step(expected, value)
        return (1 + self.counts[step]) / (1 + self.values) if step > 0 else 1.0

    def learn(self, cell: int, value: float) -> None:
        """Take in a value."""
        log_value = math.log(value) if value > LEAST else LOG_LEAST
        found = self.cells.get(cell)
        if found is None:
            found = self.cells[cell] = [0.0, log_value]
        if found[0] >= FAMILIAR_VISITS:
            self._count(math.exp(found[1]), value)
        if found[0] < MOST_VISITS:
            found[0] += 1
        off = log_value - found[1]
        found[1] += (MOST_PULL if off > MOST_PULL else max(off, -MOST_PULL)) / found[0]

    def _count(self, expected: float, value: float) -> None:
        for number in range(1, _step(expected, value) + 1):
            self.counts[number] += 1
        self.values += 1
        if self.values >= REMEMBERED_VALUES:
            self.values /= 2
            self.counts = [count / 2 for count in self.counts]

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        cells = [[cell, *found] for cell, found in self.cells.items()]
        return {"cells": cells, "counts": list(self.counts), "values": self.values}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Usual":
        """Rebuild it."""
        cells = {int(cell): [visits, mean] for cell, visits, mean in state["cells"]}
        return cls(cells, list(state["counts"]), state["values"])


def _step(expected: float, value: float) -> int:
    if value <= expected:
        return 0
    return min(int(math.log(value / expected) / TAIL_STEP), TAIL_STEPS - 1)


@cache
def cell_of(requests: int, mixed: bool = False) -> int:
    """Give the cell of a batch: two for each doubling of the requests, and others with prefill.

    >>> [cell_of(n) for n in (1, 2, 3, 4, 8, 100)], cell_of(1, True)
    ([0, 4, 6, 8, 12, 26], 1)
    """
    return 2 * round(2 * math.log2(max(requests, 1))) + mixed
