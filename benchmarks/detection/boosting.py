"""Offline gradient boosting, as the paper has it: 200 trees of depth 4, trained once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from simulator.datasets import Row, Sample
from simulator.score.strategies import Expect, Train

TREES, DEPTH = 200, 4
PAPER, WITH_PREFILL = "boosting", "boosting+prefill"

Floats = npt.NDArray[np.float64]


def rivals(rows: Sequence[Row]) -> dict[str, Train]:
    """Give both models: what the paper's sees of a row, and prefill tokens besides."""
    return {
        PAPER: partial(train, rows, prefill=False),
        WITH_PREFILL: partial(train, rows, prefill=True),
    }


def train(rows: Sequence[Row], samples: Sequence[Sample], *, prefill: bool) -> Expect:
    """Train on some of the rows."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=TREES, max_depth=DEPTH, random_state=1)
    model.fit(matrix(rows, samples, prefill), [one.duration_ms for one in samples])

    def expect(stream: Sequence[Sample]) -> Sequence[float]:
        found: list[float] = model.predict(matrix(rows, stream, prefill)).tolist()
        return found

    return expect


def matrix(rows: Sequence[Row], samples: Sequence[Sample], prefill: bool) -> Floats:
    """Give the columns of the file, one row for each sample, and the tokens they come to."""
    found = []
    for sample in samples:
        row = rows[sample.number]
        inputs, outputs = row.requests * row.mean_input, row.requests * row.mean_output
        columns = [row.requests, row.mean_input, row.mean_output, inputs, outputs]
        columns.append(row.mean_output if row.longest_output is None else row.longest_output)
        found.append([*columns, *([sample.workload.prefill_tokens or 0] if prefill else [])])
    return np.array(found, np.float64)
