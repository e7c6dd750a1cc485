from __future__ import annotations

import pytest

from models.attribution import CAUSES, PHASE_CAUSES, UNKNOWN, Cause, attribute, phase_inflation

BEFORE = {
    "others_cpu_ratio": 0.1,
    "cpu_steal_ratio": 0.0,
    "cpu_frequency_hz": 3e9,
    "memory_pressure_ratio": 0.0,
    "io_pressure_ratio": 0.05,
    "engine_run_queue_wait_ratio": 0.02,
    "xpu_core_clock_ratio": 1.0,
    "xpu_utilization_ratio": 0.9,
    "xpu_others": 0.0,
}
# Counters while each cause is at work, and what the alert says of them.
AT_WORK = {
    "host_cpu_contention": ({"others_cpu_ratio": 0.85}, "CPUs: 10 % before, 85 % now"),
    "host_cpu_steal": ({"cpu_steal_ratio": 0.4}, "0 % before, 40 % now"),
    "host_cpu_frequency": ({"cpu_frequency_hz": 1.5e9}, "3 GHz before, 1.5 GHz now"),
    "run_queue_delay": ({"engine_run_queue_wait_ratio": 0.95}, "0.02 s each second before, 0.95"),
    "memory_pressure": ({"memory_pressure_ratio": 0.5}, "0 % of the time before, 50 % now"),
    "disk_pressure": ({"io_pressure_ratio": 0.9}, "5 % of the time before, 90 % now"),
    "accelerator_clock": ({"xpu_core_clock_ratio": 0.4}, "100 % of its highest clock before, 40 %"),
    "accelerator_contention": ({"xpu_others": 4.0}, "accelerator: 0 before, 4 now"),
}
PHASES = {"forward": 10_000_000, "schedule": 1_000_000, "sample": 500_000}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_each_cause_is_named_from_its_counter(cause: Cause) -> None:
    during, sentence = AT_WORK[cause.name]
    found = attribute(BEFORE, BEFORE | during, {}, {})
    assert (found.cause, found.others) == (cause.name, ())
    assert sentence in found.sentence
    assert found.next_step == cause.next_step
    assert 0.8 < found.confidence <= 1


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_a_counter_that_is_missing_accuses_nobody(cause: Cause) -> None:
    during, _ = AT_WORK[cause.name]
    found = attribute({}, during, {}, {})
    assert (found.cause, found.pressures) == (UNKNOWN, {})


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_a_resource_that_got_better_is_no_cause(cause: Cause) -> None:
    during, _ = AT_WORK[cause.name]
    found = attribute(BEFORE | during, BEFORE, {}, {})
    assert (found.cause, found.pressures[cause.name]) == (UNKNOWN, 0.0)


def test_noise_below_the_gates_is_no_cause() -> None:
    during = BEFORE | {"others_cpu_ratio": 0.15, "memory_pressure_ratio": 0.02}
    assert attribute(BEFORE, during, {}, {}).cause == UNKNOWN


def test_two_resources_short_are_both_listed_the_shorter_first() -> None:
    during = BEFORE | {"others_cpu_ratio": 0.85, "memory_pressure_ratio": 0.5}
    found = attribute(BEFORE, during, {}, {})
    assert (found.cause, found.others) == ("host_cpu_contention", ("memory_pressure",))
    alone = attribute(BEFORE, BEFORE | {"others_cpu_ratio": 0.85}, {}, {})
    assert found.confidence < alone.confidence


def test_threads_that_wait_under_contention_are_its_consequence() -> None:
    during = BEFORE | {"others_cpu_ratio": 0.5, "engine_run_queue_wait_ratio": 1.5}
    found = attribute(BEFORE, during, {}, {})
    assert (found.cause, found.others) == ("host_cpu_contention", ())


def test_a_clock_that_sinks_a_little_under_contention_is_its_consequence() -> None:
    during = BEFORE | {"others_cpu_ratio": 0.85, "cpu_frequency_hz": 3e9 * 0.85}
    found = attribute(BEFORE, during, {}, {})
    assert (found.cause, found.others) == ("host_cpu_contention", ())


def test_a_clock_that_sinks_far_under_contention_is_a_fault_of_its_own() -> None:
    during = BEFORE | {"others_cpu_ratio": 0.85, "cpu_frequency_hz": 3e9 * 0.5}
    found = attribute(BEFORE, during, {}, {})
    assert (found.cause, found.others) == ("host_cpu_contention", ("host_cpu_frequency",))


def test_a_clock_that_sinks_a_little_without_contention_is_the_cause() -> None:
    during = BEFORE | {"cpu_frequency_hz": 3e9 * 0.85}
    assert attribute(BEFORE, during, {}, {}).cause == "host_cpu_frequency"


@pytest.mark.parametrize("phase", PHASE_CAUSES)
def test_without_a_short_resource_the_phase_that_grew_is_named(phase: str) -> None:
    before = dict.fromkeys(PHASE_CAUSES, 1000000)
    found = attribute(BEFORE, BEFORE, before, before | {phase: 2_000_000})
    name, next_step = PHASE_CAUSES[phase]
    assert (found.cause, found.next_step) == (name, next_step)
    assert f"the {phase} phase takes 2.00 times as long for its work" in found.sentence


def test_the_phase_that_added_most_time_is_named_not_the_one_that_grew_most() -> None:
    during = PHASES | {"forward": 15_000_000, "schedule": 3_000_000}
    assert attribute(BEFORE, BEFORE, PHASES, during).cause == "forward_slower"


def test_a_phase_is_named_with_less_confidence_than_a_resource() -> None:
    by_phase = attribute(BEFORE, BEFORE, PHASES, PHASES | {"forward": 30_000_000})
    by_counter = attribute(BEFORE, BEFORE | {"others_cpu_ratio": 0.85}, PHASES, PHASES)
    assert by_phase.confidence < by_counter.confidence


def test_before_the_hosts_counters_are_in_a_phase_is_named_with_doubt() -> None:
    during = PHASES | {"forward": 30_000_000}
    early, later = attribute(BEFORE, {}, PHASES, during), attribute(BEFORE, BEFORE, PHASES, during)
    assert early.cause == later.cause == "forward_slower"
    assert early.confidence < later.confidence
    assert "not in yet" in early.sentence


def test_phases_that_grew_with_their_work_are_no_cause() -> None:
    during = {name: 2 * value for name, value in PHASES.items()}
    assert attribute(BEFORE, BEFORE, PHASES, during, expected_ratio=2.0).cause == UNKNOWN


def test_where_nothing_changed_the_cause_is_unknown() -> None:
    found = attribute(BEFORE, BEFORE, PHASES, PHASES)
    assert (found.cause, found.confidence) == (UNKNOWN, 0.0)
    assert "capture" in found.next_step


def test_inflation_is_growth_beyond_the_work() -> None:
    found = phase_inflation({"forward": 10, "new": 0}, {"forward": 30, "new": 5}, 1.5)
    assert found == {"forward": 2.0}


def test_every_cause_is_tested_here() -> None:
    assert [cause.name for cause in CAUSES] == list(AT_WORK)


def test_an_accelerator_that_has_less_to_do_is_not_blamed_for_its_clock() -> None:
    during = BEFORE | {"xpu_core_clock_ratio": 0.2, "xpu_utilization_ratio": 0.1}
    assert attribute(BEFORE, during, {}, {}).cause == UNKNOWN


def test_processes_that_were_always_on_the_accelerator_are_no_cause() -> None:
    before = BEFORE | {"xpu_others": 2.0}
    assert attribute(before, before, {}, {}).cause == UNKNOWN
    assert attribute(before, before | {"xpu_others": 0.0}, {}, {}).cause == UNKNOWN
