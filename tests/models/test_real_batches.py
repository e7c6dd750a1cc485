"""The judge on 26,682 real batches of a healthy vLLM, in the order in which they ran."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest

from models.judge import WARM_BATCHES, Judge, Judgement
from simulator.datasets import Sample, read_dataset

FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"
    )
)
FILE = FOLDER / "vllm_normal_batches.csv.gz"

pytestmark = pytest.mark.skipif(
    not FILE.is_file(),
    reason=f"no {FILE.name}: it is not published with the project; set LATENCYPRISM_SHARED_DATA",
)


@pytest.fixture(scope="module")
def judged() -> list[tuple[Sample, Judgement]]:
    judge = Judge()
    return [
        (one, judge.judge(one.workload, one.duration_ms, one.end_ns))
        for one in read_dataset(FILE).samples
    ]


def test_all_of_the_file_is_read(judged: list[tuple[Sample, Judgement]]) -> None:
    assert len(judged) == 26_682


def test_a_healthy_engine_has_no_incident(judged: list[tuple[Sample, Judgement]]) -> None:
    assert [one for one, judgement in judged if (judgement.score or 0) >= 1] == []


def test_hardly_any_batch_is_an_outlier(judged: list[tuple[Sample, Judgement]]) -> None:
    assert sum(judgement.verdict == "slow" for _, judgement in judged) <= 13


def test_the_median_error_is_below_one_percent(judged: list[tuple[Sample, Judgement]]) -> None:
    errors = [
        abs(judgement.expected_ms / one.duration_ms - 1)
        for one, judgement in judged[WARM_BATCHES + 1 :]
        if judgement.expected_ms is not None and one.duration_ms > 2
    ]
    assert len(errors) > 20_000
    assert statistics.median(errors) < 0.01
