"""Every workload keeps the contract, found by listing the folder."""

from __future__ import annotations

import math
import random

import pytest

from simulator.load import percentile, plan_request
from simulator.workloads import Phase, available, build


def test_the_expected_workloads_are_found() -> None:
    assert {"burst", "long_prompts", "mixed", "ramp", "steady"} <= set(available())


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_a_workload_fills_its_duration_and_fits_the_replica(name: str, scale: float) -> None:
    workload = build(name, duration_seconds=36.0, scale=scale)
    assert workload.duration_seconds == pytest.approx(36.0)
    assert workload.summary.endswith(".")
    for phase in workload.phases:
        assert phase.prompt_tokens[1] + phase.output_tokens[1] <= 4_096
        assert (phase.concurrency or phase.requests_per_second or 0) > 0


def test_an_unknown_workload_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"choose one of burst, .*steady"):
        build("stedy", duration_seconds=1.0)


def test_a_phase_needs_exactly_one_kind_of_load() -> None:
    with pytest.raises(ValueError, match="either concurrency or requests_per_second"):
        Phase(duration_seconds=1.0, prompt_tokens=(1, 2), output_tokens=(1, 2))


def test_the_same_seed_draws_the_same_requests() -> None:
    (phase,) = build("steady", duration_seconds=1.0).phases
    first, second, other = (random.Random(seed) for seed in ("7/client/0", "7/client/0", "8"))
    assert plan_request(phase, first) == plan_request(phase, second)
    assert plan_request(phase, first) != plan_request(phase, other)


def test_percentiles_are_nearest_ranks() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0, 2.0], 99) == 2.0
    assert math.isnan(percentile([], 50))
