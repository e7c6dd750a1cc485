"""The table of effects compares like with like."""

from dataclasses import replace

import pytest

from benchmarks.effects import (
    Found,
    Window,
    histogram_percentile,
    iteration_ratio,
    median_of_rounds,
    parse_metrics,
    window_by_metrics,
    window_of,
)
from simulator.replica.truth import TruthIteration

PAGE = """\
# HELP vllm:iteration_tokens_total of each step
vllm:iteration_tokens_total_count{{engine="0"}} {iterations}
vllm:generation_tokens_total{{engine="0"}} {tokens}
vllm:generation_tokens_total{{engine="1"}} {tokens}
vllm:inter_token_latency_seconds_count{{engine="0"}} {slow}
vllm:inter_token_latency_seconds_bucket{{engine="0",le="0.01"}} {fast}
vllm:inter_token_latency_seconds_bucket{{engine="0",le="0.02"}} {slow}
vllm:inter_token_latency_seconds_bucket{{engine="0",le="+Inf"}} {slow}
"""


def iterations(duration_ns: int, decode: int, prefill: int = 0) -> list[TruthIteration]:
    one = TruthIteration(
        sequence=0,
        begin_monotonic_ns=0,
        end_monotonic_ns=duration_ns,
        requests=decode,
        scheduled_tokens=decode + prefill,
        prefill_tokens=prefill,
        decode_requests=decode,
        kv_tokens=0,
        waiting_requests=0,
    )
    return [one] * 5


def window(*parts: list[TruthIteration]) -> Window:
    return window_of([one for part in parts for one in part], 1.0, {})


def test_batches_of_another_composition_do_not_count() -> None:
    quiet = window(iterations(10, decode=8), iterations(90, decode=8, prefill=64))
    # Slower on the whole, but only because it had larger batches.
    other = window(iterations(20, decode=8), iterations(500, decode=9))

    assert iteration_ratio(quiet, other) == 2.0


def test_nothing_in_common_is_no_ratio() -> None:
    quiet = window(iterations(10, decode=8))

    assert iteration_ratio(quiet, window(iterations(10, decode=7))) is None
    assert iteration_ratio(quiet, window(iterations(10, decode=8)[:4])) is None


def test_an_engine_without_truth_is_judged_by_its_metrics() -> None:
    before = parse_metrics(PAGE.format(iterations=100, tokens=1000, fast=10, slow=10))
    after = parse_metrics(PAGE.format(iterations=300, tokens=1400, fast=10, slow=110))
    found = window_by_metrics(before, after, 2.0, {})

    assert found.tokens_per_second == 400
    assert found.mean_ms == 10
    assert found.p99_ms == pytest.approx(19.9)
    assert iteration_ratio(found, replace(found, mean_ms=30)) == 3


def test_what_is_beyond_the_last_bound_is_at_least_that_bound() -> None:
    assert histogram_percentile({"x_bucket 0.5": 1, "x_bucket +Inf": 100}, "x", 99) == 0.5


def test_rounds_are_one_row_and_a_failure_stays_one() -> None:
    rounds = [
        Found(fault="cpu_squeeze", severity="light", intensity=1, iteration_ratio=ratio)
        for ratio in (1.0, 3.0, 8.0)
    ]

    assert [one.iteration_ratio for one in median_of_rounds(rounds)] == [3.0]
    failed = replace(rounds[0], iteration_ratio=None, note="no")
    assert median_of_rounds([*rounds, failed]) == [failed]
