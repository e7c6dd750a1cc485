"""By how much the physical terms are off, at each place of the workload, as ln of a factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# Visits at which a place weighs as much as what is above it; larger values shrink it more.
SHRINKAGE = 4.0
# What a size does beyond its bucket is seen at once.
SIZE_SHRINKAGE = 1.0
# The least share that a new visit has in a mean: a place forgets within some 100 visits.
FORGETTING = 0.01
# Cells of one engine; the one that was not visited for longest goes first, so that a workload
# that comes to stay always finds room. Keeps the state below 64 KiB.
MAX_CELLS = 600
MAX_SIZES = 600
# The size in a key is the padded number of requests times this, plus what else is different.
VARIANTS = 8

Bucket = tuple[int, int]
Cell = tuple[int, int, int]
Keys = tuple[Bucket, int, Cell]


class Memory:
    """Running means of ln(observed / backbone), in three layers.

    A *bucket* of padded batch size stands in where a *cell* (bucket, context, prefill) is young;
    both are shrunk towards the layer above. A *size* adds what the exact number of requests says
    beyond that: 0 where an engine pads its batches, much where it does not.

    References:
        Efron and Morris, Stein's paradox in statistics, 1977 (the shrinkage).
    """

    def __init__(self) -> None:
        self._buckets: dict[Bucket, list[Any]] = {}
        self._sizes: dict[int, list[Any]] = {}
        self._cells: dict[Cell, list[Any]] = {}

    def correction(self, keys: Keys) -> tuple[float, int, int, int]:
        """Give the correction, and the visits of the bucket, of the cell and of the size."""
        bucket_key, size_key, cell_key = keys
        correction = 0.0
        bucket_visits = cell_visits = size_visits = 0
        bucket = self._buckets.get(bucket_key)
        if bucket is not None:
            bucket_visits, mean = bucket
            correction = bucket_visits / (bucket_visits + SHRINKAGE) * mean
            cell = self._cells.get(cell_key)
            if cell is not None:
                cell_visits, mean = cell
                correction += cell_visits / (cell_visits + SHRINKAGE) * (mean - correction)
            size = self._sizes.get(size_key)
            if size is not None:
                size_visits, mean = size
                correction += size_visits / (size_visits + SIZE_SHRINKAGE) * mean
        return correction, bucket_visits, cell_visits, size_visits

    def learn(self, keys: Keys, off: float) -> None:
        """Learn by how much the backbone was off."""
        bucket_key, size_key, cell_key = keys
        # Taken out and put back: the order of the dictionary is that of the last visits.
        cell = self._cells.pop(cell_key, None) or [0, 0.0]
        self._cells[cell_key] = cell
        size = self._sizes.pop(size_key, None) or [0, 0.0]
        self._sizes[size_key] = size
        bucket = self._buckets.setdefault(bucket_key, [0, 0.0])
        without_size = off - size[0] / (size[0] + SIZE_SHRINKAGE) * size[1]
        _add(bucket, without_size)
        _add(cell, without_size)
        rest = bucket[0] / (bucket[0] + SHRINKAGE) * bucket[1]
        rest += cell[0] / (cell[0] + SHRINKAGE) * (cell[1] - rest)
        _add(size, off - rest)
        if len(self._cells) > MAX_CELLS:
            del self._cells[next(iter(self._cells))]
        if len(self._sizes) > MAX_SIZES:
            del self._sizes[next(iter(self._sizes))]

    def move(self, shift: Callable[[Cell], float]) -> None:
        """Add to each cell what the backbone no longer says there, and to buckets their mean."""
        sums: dict[Bucket, list[float]] = {}
        for key, cell in self._cells.items():
            moved = shift(key)
            cell[1] += moved
            sum_ = sums.setdefault(bucket_of(key), [0.0, 0.0])
            sum_[0] += cell[0]
            sum_[1] += cell[0] * moved
        for bucket_key, (visits, moved) in sums.items():
            if bucket_key in self._buckets:
                self._buckets[bucket_key][1] += moved / visits

    def cells(self) -> Iterator[tuple[Keys, int]]:
        """Give the keys and the visits of each cell; sizes are those of full buckets."""
        for key, cell in self._cells.items():
            bucket = bucket_of(key)
            size = key[0] // VARIANTS
            yield (bucket, size if not key[2] else -1 - size, key), cell[0]

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data, in the order of the last visits."""
        return {
            "buckets": [[*key, *value] for key, value in self._buckets.items()],
            "sizes": [[key, *value] for key, value in self._sizes.items()],
            "cells": [[*key, *value] for key, value in self._cells.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._buckets = {(a, b): [n, mean] for a, b, n, mean in state["buckets"]}
        self._sizes = {key: [n, mean] for key, n, mean in state["sizes"]}
        self._cells = {(a, b, c): [n, mean] for a, b, c, n, mean in state["cells"]}


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
    return (-1 - cell[0] % VARIANTS, cell[2]) if cell[2] else (cell[0], 0)


def _add(entry: list[Any], value: float) -> None:
    visits = entry[0] = entry[0] + 1
    entry[1] += (value - entry[1]) * (1 / visits if visits * FORGETTING < 1 else FORGETTING)
