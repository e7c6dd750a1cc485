from __future__ import annotations

import json
from dataclasses import replace

import pytest

from models.causes.facts import MOST_PAUSES
from schemas.records import Batch, HostReading, PhaseTime, Workload
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
    # Nor did one in all the batches before it was seen for the first time.
    keeper.add_batch(batch(forward=8, postprocess=9), suspect=True)
    assert keeper.phases_during_ns.values["postprocess"] == 3e6


def test_a_batch_without_phases_or_expectation_is_left_out(keeper: EvidenceKeeper) -> None:
    before = keeper.to_state()["phases_before_ns"]
    keeper.add_batch(batch(), suspect=False)
    keeper.add_batch(replace(batch(forward=80), expected_ns=None), suspect=False)
    assert keeper.to_state()["phases_before_ns"] == before


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


def test_a_look_that_began_before_the_incident_is_better_than_none(
    keeper: EvidenceKeeper,
) -> None:
    keeper.begin(BEGIN_NS + int(10.8 * SECOND_NS))
    keeper.add_host(reading(10, 0.6), suspect=True)
    early = keeper.attribute()
    assert (early.cause, keeper.blind) == ("host_cpu_contention", True)
    keeper.add_host(reading(11, 0.6), suspect=True)
    later = keeper.attribute()
    assert (later.cause, keeper.blind) == ("host_cpu_contention", False)
    assert early.confidence < later.confidence


def test_a_look_that_was_over_before_the_incident_says_nothing(keeper: EvidenceKeeper) -> None:
    keeper.add_host(reading(10, 0.9), suspect=True)
    keeper.begin(BEGIN_NS + 11 * SECOND_NS)
    assert keeper.attribute().cause == "unknown"


def test_cpu_time_of_processes_counts_for_the_time_in_which_batches_ran() -> None:
    keeper = EvidenceKeeper()
    busy = replace(batch(forward=8), duration_ns=SECOND_NS // 4)
    for second in range(1, 4):
        keeper.add_batch(busy, suspect=False)
        begin_ns = BEGIN_NS + second * SECOND_NS
        keeper.add_processes({"core_cores": 0.1}, begin_ns, begin_ns + SECOND_NS, suspect=False)
    assert keeper.counters_before.values == {"core_cores": 0.1, "core_busy_cores": 0.4}
    # An engine that had nothing to do tells no pace.
    keeper.add_processes({"core_cores": 0.9}, BEGIN_NS, BEGIN_NS + SECOND_NS, suspect=False)
    assert keeper.counters_before.values["core_busy_cores"] == 0.4


def test_pauses_are_counted_with_their_shape_and_phase(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS)

    def load(tokens: int, milliseconds: int, phase: str, running: int, waiting: int) -> Batch:
        return replace(
            batch(**{phase: milliseconds}),
            duration_ns=milliseconds * 1_000_000,
            high_ns=12_000_000,
            workload=Workload(
                scheduled_tokens=tokens, running_requests=running, waiting_requests=waiting
            ),
        )

    for tokens, milliseconds, phase, running, waiting in (
        (8, 10, "forward", 8, 0),
        (8, 90, "forward", 8, 0),
        (9, 70, "schedule", 8, 0),
        (9, 10, "forward", 7, 1),
        (9, 11, "forward", 7, 1),
    ):
        keeper.add_batch(load(tokens, milliseconds, phase, running, waiting), suspect=True)
    pauses = keeper.pauses
    assert [(one.excess_ns, one.is_new, one.phase) for one in pauses.newest] == [
        (80_000_000, False, "forward"),
        (60_000_000, True, "schedule"),
    ]
    assert (pauses.batches, pauses.count, pauses.changed, pauses.preempting) == (5, 2, 1, 1)
    assert pauses.excess_ns == 141_000_000


def test_only_the_newest_pauses_are_kept(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS)
    for _ in range(3 * MOST_PAUSES):
        keeper.add_batch(
            replace(batch(forward=90), duration_ns=90_000_000, high_ns=12_000_000), suspect=True
        )
    assert (len(keeper.pauses.newest), keeper.pauses.count) == (MOST_PAUSES, 3 * MOST_PAUSES)
    assert len(json.dumps(keeper.to_state())) < 8_000


def test_a_state_of_an_earlier_version_is_read(keeper: EvidenceKeeper) -> None:
    keeper.begin(BEGIN_NS + 10 * SECOND_NS)
    keeper.add_host(reading(10, 0.9), suspect=True)
    kept = {"counters_before", "phases_before_ns", "counters_during", "phases_during_ns"}
    state = {
        name: value
        for name, value in keeper.to_state().items()
        if name in kept | {"incident_begin_ns"}
    }
    other = EvidenceKeeper()
    other.restore(json.loads(json.dumps(state)))
    assert other.attribute().cause == "host_cpu_contention"
    assert not other.blind


def test_how_far_ranks_are_apart_and_how_many_wait_are_counters_and_no_phases(
    keeper: EvidenceKeeper,
) -> None:
    def apart(spread: float, waiting: int) -> Batch:
        return replace(
            batch(forward=8, communication_wait=1),
            counters={"worker_spread_ratio": spread},
            workload=Workload(waiting_requests=waiting),
        )

    for _ in range(5):
        keeper.add_batch(apart(0.05, 2), suspect=False)
    keeper.begin(BEGIN_NS + 10 * SECOND_NS)
    for _ in range(5):
        keeper.add_batch(apart(0.45, 4), suspect=True)
    facts = keeper.facts()
    assert facts.during == {"waiting_requests": 4.0, "worker_spread_ratio": 0.45}
    assert set(facts.phases_during_ns) == {"forward", "communication_wait"}
    assert keeper.attribute().cause == "slow_rank"
