"""What recorded batches tell about an engine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.datasets import Row, job_of, read_rows
from simulator.fleet.batching import Batching
from simulator.fleet.draws import keys_of
from simulator.fleet.fit import fit_cost, fit_mixed, halves
from simulator.fleet.parameters import Parameters
from simulator.fleet.presets import load
from simulator.fleet.setting import Tokens, Traffic
from simulator.fleet.smooth import fit, table_of

FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"
    )
)
FILE = FOLDER / "vllm_normal_batches.csv.gz"

PROMPT = 128
DECODE_MS, TOKEN_MS, REQUEST_MS = 30.0, 0.2, 0.1


def recorded(job: str, changes: dict[int, tuple[int, int]], count: int = 200) -> list[Row]:
    """Record a load whose batches cost what they should.

    Args:
        job: Name of the load.

        changes: By number of the batch, how many requests end after it, and at which length. As
            many others come, and their prompts are computed in the next batch.

        count: Batches.
    """
    load_ = job_of(job)
    requests, output = load_["conc"], load_["out"]
    rows: list[Row] = []
    made, at_ms, joining = 10.0 * requests, 0.0, 0
    for number in range(count):
        decoding = requests - joining
        context = decoding * PROMPT + made
        duration = DECODE_MS + context * 1e-4
        if joining:
            duration += TOKEN_MS * joining * PROMPT + REQUEST_MS * decoding
        rows.append(
            Row(
                begin_us=at_ms * 1e3,
                duration_ms=duration,
                requests=decoding,
                mean_input=PROMPT,
                mean_output=round(made / decoding, 2),
                job=job,
            )
        )
        at_ms += duration + 1.0
        made += decoding + joining
        joining, length = changes.get(number, (0, output))
        made -= joining * length
    return rows


def test_a_prefill_that_hides_behind_an_early_end_is_no_pure_decode() -> None:
    # In batch 100 one request is new, and two others end after ten tokens; nothing tells that the
    # load is a loop.
    looped = recorded("in128_out256_conc32", {99: (1, 256), 100: (2, 10)})
    rows = [replace(row, job="in128_out256") for row in looped]
    table = table_of(rows)
    hidden = rows[100]
    assert (hidden.requests, rows[101].requests) == (31, 30)
    assert table.prefill_tokens[100] == 0
    assert hidden.duration_ms > 1.5 * rows[99].duration_ms
    assert not fit(table).decode[100]
    assert fit(table).decode[50]


def test_what_batches_with_prefill_cost_is_found() -> None:
    rows: list[Row] = []
    for requests in (16, 32, 64):
        changes = {n: (1 + n % 7, 256) for n in range(5, 195, 6)}
        rows += recorded(f"in128_out256_conc{requests}", changes)
    table = table_of(rows)
    fitted = fit(table)
    knots, request_ms, sigma = fit_mixed(table, fitted)
    cost = fit_cost(table, fitted)
    assert cost.mixed_tokens_ms == knots
    assert sigma < 0.02
    expected = table.duration_ms[fitted.mixed]
    tokens = (table.decoding + table.prefill_tokens)[fitted.mixed]
    found = np.interp(tokens, *np.array(knots).T) + request_ms * table.decoding[fitted.mixed]
    found += cost.kv_ms * table.kv_tokens[fitted.mixed] / 1e5
    host_ms = expected - found
    assert np.median(host_ms) == pytest.approx(0.9 + 0.006 * 32, abs=0.5)


def test_jobs_are_held_out_whole() -> None:
    rows = [row for out in range(100, 120) for row in recorded(f"in128_out{out}_conc4", {}, 3)]
    fitted, held_out = halves(rows)
    assert len(fitted) + len(held_out) == len(rows)
    assert {row.job for row in fitted}.isdisjoint(row.job for row in held_out)
    assert 5 <= len({row.job for row in fitted}) <= 15


def test_some_answers_end_early() -> None:
    traffic = Traffic(concurrency=1, output_tokens=Tokens(median=100), early_ratio=0.3)
    parameters = Parameters([replace(load("a100_vllm"), traffic=traffic)])
    batching = Batching(parameters, keys_of(1, ["one"]))
    numbers = np.arange(2000)
    _, _, output = batching.draw_request(np.zeros(2000, np.int64), numbers)
    assert (output < 100).mean() == pytest.approx(0.3, abs=0.05)
    assert output.min() >= 1
    assert output.max() == 100


@pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not published with the project")
def test_no_real_batch_of_pure_decode_is_an_outlier() -> None:
    table = table_of(read_rows(FILE)[1])
    fitted = fit(table)
    assert fitted.decode.sum() > 20_000
    assert np.abs(fitted.residual[fitted.decode]).max() < 0.1
