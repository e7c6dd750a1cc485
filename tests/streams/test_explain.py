from __future__ import annotations

import json
from dataclasses import replace

import pytest

from schemas.records import Batch, HostReading, PhaseTime
from streams.explain import EvidenceKeeper, Means

SECOND_NS = 10**9
BEGIN_NS = 10**18


def reading(second: float, others: float) -> HostReading:
    begin_ns = BEGIN_NS + int(second * SECOND_NS)
    return HostReading(
        engine_id="e",
        host="h",
        begin_ns=begin_ns,
        end_ns=begin_ns + SECOND_NS,
        cpu_count=8,
        others_cpu_ratio=others,
    )


def batch(expected_ms: int = 10, **phases_ms: int) -> Batch:
    return Batch(
        engine_id="e",
        process_start_ns=1,
        sequence=1,
        begin_ns=BEGIN_NS,
        end_ns=BEGIN_NS + 1,
        duration_ns=1,
        uncertainty_ns=1,
        source="counter",
        expected_ns=expected_ms * 1_000_000,
        phases=tuple(
            PhaseTime(phase=phase, duration_ns=ms * 1_000_000, samples=1)  # type: ignore[arg-type]
            for phase, ms in phases_ms.items()
        ),
    )


@pytest.fixture
def keeper() -> EvidenceKeeper:
    keeper = EvidenceKeeper()
    for second in range(10):
        keeper.add_host(reading(second, 0.1), suspect=False)
        keeper.add_batch(batch(forward=8, schedule=2), suspect=False)
    return keeper


def test_what_comes_after_the_begin_is_kept_apart_from_the_normal(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS + 10 * SECOND_NS)
    keeper.add_host(reading(10, 0.9), suspect=True)
    keeper.add_batch(batch(forward=16, schedule=2), suspect=True)
    assert keeper.counters_before.values == {"others_cpu_ratio": 0.1}
    assert keeper.counters_during.values == {"others_cpu_ratio": 0.9}
    assert keeper.phases_before_ns.values["forward"] == 8e6
    assert keeper.phases_during_ns.values["forward"] == 16e6
    assert keeper.attribute().cause == "host_cpu_contention"


def test_a_reading_that_is_mostly_older_than_the_incident_counts_for_neither(
    keeper: EvidenceKeeper,
) -> None:
    keeper.begin(BEGIN_NS + int(10.8 * SECOND_NS))
    keeper.add_host(reading(10, 0.9), suspect=True)
    assert keeper.counters_before.values == {"others_cpu_ratio": 0.1}
    assert keeper.counters_during.values == {}


def test_a_new_incident_forgets_the_last_one_and_keeps_the_normal(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS)
    keeper.add_host(reading(10, 0.9), suspect=True)
    keeper.end()
    keeper.begin(BEGIN_NS + 20 * SECOND_NS)
    assert keeper.counters_during.values == {}
    assert keeper.counters_before.values == {"others_cpu_ratio": 0.1}


def test_suspect_readings_and_batches_are_not_normal(keeper: EvidenceKeeper) -> None:
    keeper.add_host(reading(10, 0.9), suspect=True)
    keeper.add_batch(batch(forward=80), suspect=True)
    assert keeper.counters_before.values == {"others_cpu_ratio": 0.1}
    assert keeper.phases_before_ns.values["forward"] == 8e6


def test_a_phase_that_was_not_sampled_took_no_time(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS)
    keeper.add_batch(batch(forward=8, schedule=4), suspect=True)
    keeper.add_batch(batch(forward=8), suspect=True)
    assert keeper.phases_during_ns.values["schedule"] == 2e6


def test_a_batch_without_phases_or_expectation_is_left_out(keeper: EvidenceKeeper) -> None:
    before = keeper.to_state()
    keeper.add_batch(batch(), suspect=False)
    keeper.add_batch(replace(batch(forward=80), expected_ns=None), suspect=False)
    assert keeper.to_state() == before


def test_a_heavier_workload_in_the_incident_is_no_inflation(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS)
    keeper.add_batch(batch(20, forward=16, schedule=4), suspect=True)
    assert keeper.attribute().cause == "unknown"
    keeper.add_batch(batch(20, forward=160, schedule=4), suspect=True)
    assert keeper.attribute().cause == "forward_slower"


def test_without_any_evidence_the_cause_is_unknown() -> None:
    keeper = EvidenceKeeper()
    keeper.begin(BEGIN_NS)
    assert keeper.attribute().cause == "unknown"


def test_a_keeper_goes_on_exactly_from_its_state(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS + 10 * SECOND_NS)
    keeper.add_host(reading(10, 0.9), suspect=True)
    other = EvidenceKeeper()
    other.restore(json.loads(json.dumps(keeper.to_state())))
    for one in (keeper, other):
        one.add_host(reading(11, 0.7), suspect=True)
        one.add_batch(batch(forward=9), suspect=True)
    assert other.to_state() == keeper.to_state()
    assert other.attribute() == keeper.attribute()


def test_plain_means_are_means_and_the_normal_follows_slowly() -> None:
    plain, normal = Means(), Means(0.5)
    for value in (0.0, 0.0, 3.0):
        plain.learn({"a": value})
        normal.learn({"a": value})
    assert (plain.values, normal.values) == ({"a": 1.0}, {"a": 1.5})
