"""The judge on 26,682 real batches of a healthy vLLM, in the order in which they ran."""

from __future__ import annotations

import csv
import gzip
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.judge import WARM_BATCHES, Judge, Judgement
from schemas.records import Workload

FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"
    )
)
FILE = FOLDER / "vllm_normal_batches.csv.gz"
# The file has no prefill tokens; they follow from who joined the batch, within this budget.
TOKEN_BUDGET = 2048

pytestmark = pytest.mark.skipif(
    not FILE.is_file(),
    reason=f"no {FILE.name}: it is not published with the project; set LATENCYPRISM_SHARED_DATA",
)


@dataclass(frozen=True, slots=True)
class Row:
    begin_seconds: float
    duration_ms: float
    requests: int
    mean_input: float
    mean_output: float
    job: str

    @property
    def output_length(self) -> int:
        """Tokens that each request of this job asks for, from a name like ``in512_out128``."""
        return int(self.job.split("_")[1].removeprefix("out"))


def read_rows() -> list[Row]:
    with gzip.open(FILE, "rt", newline="") as file:
        rows = [
            Row(
                float(raw["start_ts"]),
                float(raw["duration_us"]) / 1e3,
                int(raw["batch_size"]),
                float(raw["avg_input_length"]),
                float(raw["avg_output_length"]),
                raw["job_name"],
            )
            for raw in csv.DictReader(file)
        ]
    return sorted(rows, key=lambda row: row.begin_seconds)


def workload_of(row: Row, after: Row | None) -> Workload:
    """Derive the workload; new requests show in the next batch's size and mean output."""
    prefill = 0
    if after is not None and after.job == row.job:
        made = row.requests * row.mean_output + after.requests
        finished = max(0, round((made - after.requests * after.mean_output) / row.output_length))
        joined = max(0, after.requests - row.requests + finished)
        prefill = int(min(joined * row.mean_input, TOKEN_BUDGET - row.requests)) if joined else 0
    return Workload(
        requests=row.requests,
        scheduled_tokens=row.requests + prefill,
        prefill_tokens=prefill,
        decode_requests=row.requests,
        kv_tokens=int(row.requests * (row.mean_input + row.mean_output)),
    )


@pytest.fixture(scope="module")
def judged() -> list[tuple[Row, Judgement]]:
    rows = read_rows()
    judge = Judge()
    found = []
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        end_ns = int(row.begin_seconds * 1000 + row.duration_ms * 1e6)
        found.append((row, judge.judge(workload_of(row, after), row.duration_ms, end_ns)))
    return found


def test_all_of_the_file_is_read(judged: list[tuple[Row, Judgement]]) -> None:
    assert len(judged) == 26_682


def test_a_healthy_engine_has_no_incident(judged: list[tuple[Row, Judgement]]) -> None:
    assert [row for row, judgement in judged if judgement.verdict == "slow"] == []


def test_the_median_error_is_below_two_percent(judged: list[tuple[Row, Judgement]]) -> None:
    errors = [
        abs(judgement.expected_ms / row.duration_ms - 1)
        for row, judgement in judged[WARM_BATCHES + 1 :]
        if judgement.expected_ms is not None and row.duration_ms > 2
    ]
    assert len(errors) > 20_000
    assert statistics.median(errors) < 0.02
