"""By how much the physical terms are off, at each place of the workload, as ln of a factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# Visits at which a place weighs as much as what is above it; larger values shrink it more.
SHRINKAGE = 4.0
# A cell with so many visits needs no help from its neighbours.
OWN_MIND = 30
# The least share that a new visit has in a mean: a place forgets within some 100 visits.
FORGETTING = 0.01
# Cells of one engine; the one that was not visited for longest goes first, so that a workload
# that comes to stay always finds room. Keeps the state below 64 KiB.
MAX_CELLS = 400
MAX_BUCKETS = 150
# What a place cost at first is known after so many visits, and then moves by so much with each.
ANCHORED = 20
ANCHOR_GAIN = 0.0005
# How quickly the drift of all places is followed.
DRIFT_GAIN = 0.005
# The size in a key is the number of requests times this, plus what else is different.
VARIANTS = 8

Bucket = tuple[int, int]
Cell = tuple[int, int, int]
Keys = tuple[Bucket, Cell]


class Memory:
    """Running means of ln(observed / backbone), in two layers.

    A *bucket* of padded batch size stands in where a *cell* (size, context, prefill) is young; both
    are shrunk towards the layer above. Each holds what the backbone is off by in total, so that
    learning one cell leaves what is known of another alone.

    Attributes:
        most_cells: How many cells are kept.

        drift: By how much places went up since they were learnt, in ln units, over the latest
            batches: what follows batch by batch follows a slow fault as well.

    References:
        Efron and Morris, Stein's paradox in statistics, 1977 (the shrinkage).
    """

    def __init__(self, most_cells: int = MAX_CELLS) -> None:
        self.most_cells = most_cells
        self.drift = 0.0
        self._buckets: dict[Bucket, list[Any]] = {}
        self._cells: dict[Cell, list[Any]] = {}

    def correction(self, keys: Keys) -> tuple[float, int, int]:
        """Give the correction, and the visits of the bucket and of the cell."""
        bucket_key, cell_key = keys
        correction = 0.0
        bucket_visits = cell_visits = 0
        bucket = self._buckets.get(bucket_key)
        if bucket is not None:
            bucket_visits, mean = bucket
            correction = bucket_visits / (bucket_visits + SHRINKAGE) * mean
            cell = self._cells.get(cell_key)
            if cell is not None:
                cell_visits = cell[0]
            if cell_visits < OWN_MIND:
                correction += self._by_neighbours(cell_key, correction)
            if cell is not None:
                mean = cell[1]
                correction += cell_visits / (cell_visits + SHRINKAGE) * (mean - correction)
        return correction, bucket_visits, cell_visits

    def _by_neighbours(self, cell_key: Cell, correction: float) -> float:
        """Give what cells of a little less and a little more context add to a bucket's mean."""
        size, step, tokens = cell_key
        added = 0.0
        for neighbour in (step - 1, step + 1):
            cell = self._cells.get((size, neighbour, tokens))
            if cell is not None:
                own = cell[0] / (cell[0] + SHRINKAGE) * (cell[1] - correction - added)
                added += own / 2 if added else own
        return added

    def learn(self, keys: Keys, off: float) -> None:
        """Learn by how much the backbone was off."""
        bucket_key, cell_key = keys
        # Taken out and put back: the order of the dictionary is that of the last visits.
        cell = self._cells.pop(cell_key, None) or [0, 0.0, 0.0]
        self._cells[cell_key] = cell
        bucket = self._buckets.pop(bucket_key, None) or [0, 0.0]
        self._buckets[bucket_key] = bucket
        _add(bucket, off)
        _add(cell, off)
        # The anchor hardly moves any more after the first visits, where the mean follows.
        cell[2] += (off - cell[2]) * (1 / cell[0] if cell[0] <= ANCHORED else ANCHOR_GAIN)
        self.drift += DRIFT_GAIN * (cell[1] - cell[2] - self.drift)
        if len(self._cells) > self.most_cells:
            del self._cells[next(iter(self._cells))]
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]

    def roll_back(self) -> float:
        """Go back to what places were like in all the time; give what they had drifted by."""
        drift, self.drift = self.drift, 0.0
        for cell in self._cells.values():
            cell[1] = cell[2]
        for bucket in self._buckets.values():
            bucket[1] -= drift
        return drift

    def move(self, shift: Callable[[Cell], float]) -> None:
        """Add to each cell what the backbone no longer says there, and to buckets their mean."""
        sums: dict[Bucket, list[float]] = {}
        for key, cell in self._cells.items():
            moved = shift(key)
            cell[1] += moved
            cell[2] += moved
            sum_ = sums.setdefault(bucket_of(key), [0.0, 0.0])
            sum_[0] += cell[0]
            sum_[1] += cell[0] * moved
        for bucket_key, (visits, moved) in sums.items():
            if bucket_key in self._buckets:
                self._buckets[bucket_key][1] += moved / visits

    def cells(self) -> Iterator[tuple[Keys, int]]:
        """Give the keys and the visits of each cell."""
        for key, cell in self._cells.items():
            yield (bucket_of(key), key), cell[0]

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data, in the order of the last visits."""
        return {
            "most_cells": self.most_cells,
            "drift": self.drift,
            "buckets": [[*key, *value] for key, value in self._buckets.items()],
            "cells": [[*key, *value] for key, value in self._cells.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.most_cells, self.drift = state["most_cells"], state["drift"]
        self._buckets = {(a, b): [n, mean] for a, b, n, mean in state["buckets"]}
        self._cells = {(a, b, c): [n, mean, anchor] for a, b, c, n, mean, anchor in state["cells"]}


def cell_centre(cell: Cell, context_step_tokens: int) -> tuple[int, float, int]:
    """Give the requests, the mean context and the prefill tokens in the middle of a cell.

    >>> cell_centre((8 * VARIANTS, 4, 0), 64), cell_centre((8 * VARIANTS, -1, 3), 64)
    ((8, 288.0, 0), (8, 0.0, 32))
    """
    size, context_step, token_step = cell
    requests = size // VARIANTS
    context = (context_step + 0.5) * context_step_tokens if context_step >= 0 else 0.0
    if not token_step:
        return requests, context, 0
    if token_step <= 16:
        tokens = 16 * token_step - 8
    elif token_step <= 28:
        tokens = 256 + 64 * (token_step - 16) - 32
    else:
        tokens = 1024 + 256 * (token_step - 28) - 128
    return requests, context, max(tokens - requests, 1)


def bucket_of(cell: Cell) -> Bucket:
    """Give the bucket of a cell: its padded size, or its tokens where there is prefill."""
    size, variant = divmod(cell[0], VARIANTS)
    return (-1 - variant, cell[2]) if cell[2] else (padded(size) * VARIANTS + variant, 0)


def padded(tokens: int) -> int:
    """Round a batch up to the size that a CUDA graph is usually captured for.

    >>> [padded(n) for n in (1, 2, 3, 5, 8, 9, 64, 65)]
    [1, 2, 4, 8, 8, 16, 64, 72]
    """
    if tokens <= 2:
        return tokens
    return 4 if tokens <= 4 else -(-tokens // 8) * 8


def _add(entry: list[Any], value: float) -> None:
    visits = entry[0] = entry[0] + 1
    entry[1] += (value - entry[1]) * (1 / visits if visits * FORGETTING < 1 else FORGETTING)
