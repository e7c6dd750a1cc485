"""A receiver, and destinations that deliver to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.streams.delivery.running import Make, Run
from tests.streams.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def make(receiver: Receiver, tmp_path: Path) -> Iterator[Make]:
    runs: list[Run] = []

    def make_run(**changes: Any) -> Run:
        runs.append(Run(receiver, tmp_path / str(len(runs)), **changes))
        return runs[-1]

    yield make_run
    for run in runs:
        run.destination.close()
