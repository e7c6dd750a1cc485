"""The recorded batches that the benchmark plays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from simulator.datasets import DatasetError, Row, Sample, read_rows, samples_of

# Beside the repository, where it is not told.
FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"
    )
)
# What the longest part needs: healthy batches, 2,000 slow ones, and healthy ones after them.
LEAST_BATCHES = 12_000


@dataclass(frozen=True, slots=True)
class Data:
    """One file; ``rows`` and ``samples`` are in the order of time."""

    name: str
    rows: Sequence[Row]
    samples: Sequence[Sample]


def files(folder: Path) -> list[Path]:
    """Find the files of healthy batches."""
    found = [*folder.glob("*.csv"), *folder.glob("*.csv.gz")]
    return sorted(path for path in found if "abnormal" not in path.name)


@lru_cache(maxsize=1)
def load(path: Path) -> Data:
    """Read a file of healthy batches.

    Raises:
        DatasetError: It cannot be read, or has too few rows that are right.
    """
    _, rows, _ = read_rows(path)
    if len(rows) < LEAST_BATCHES:
        raise DatasetError(
            f"{path.name} has {len(rows)} batches: {LEAST_BATCHES} are needed; record more"
        )
    return Data(path.name, rows, samples_of(rows))
