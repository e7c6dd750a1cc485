"""Incidents: which fault each one answers, how soon, with which cause, and which are false."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import Record
from simulator.score import Score, score
from tests.simulator.score.tape import (
    OTHER_ID,
    STRICT,
    alert,
    at_ns,
    batch,
    batches,
    control,
    engine,
    fault,
    incident,
)


def scored(*records: Record) -> Score:
    return score([*batches(0, 60), *records], STRICT)


def statuses(found: Score) -> list[str]:
    return [outcome.status for outcome in found.outcomes]


def test_a_fault_is_found_by_an_incident_that_fires_within_it() -> None:
    found = scored(fault(10, 20), *incident(10.7, 22))
    assert statuses(found) == ["found"]
    incidents = found.overall.incidents
    assert (incidents.found, incidents.expected, incidents.false) == (1, 1, 0)
    assert incidents.precision.value == incidents.recall.value == incidents.f1.value == 1.0


def test_a_fault_is_found_within_the_grace_after_it() -> None:
    assert statuses(scored(fault(10, 20), *incident(24.9, 26))) == ["found"]
    assert statuses(scored(fault(10, 20), *incident(25.2, 26))) == ["missed"]


def test_the_grace_is_longer_where_batches_are() -> None:
    slowly = [batch(float(second), seconds=1.0) for second in range(1, 61)]
    for fired, status in ((39.0, "found"), (41.0, "missed")):
        found = score([*slowly, fault(10, 20), *incident(fired, 50)], STRICT)
        assert statuses(found) == [status]
    rarely = [batch(5.0 * number) for number in range(1, 40)]
    found = score([*rarely, fault(10, 20), *incident(51, 60)], STRICT)
    assert statuses(found) == ["missed"]


def test_a_fault_that_nobody_finds_is_missed() -> None:
    found = scored(fault(10, 20), fault(30, 40, name="other"), *incident(31, 41))
    assert statuses(found) == ["missed", "found"]
    assert found.by_fault["cpu_squeeze"].incidents.recall.value == 0.0
    assert found.by_fault["other"].incidents.recall.value == 1.0
    assert found.overall.incidents.f1.value == pytest.approx(2 / 3)


def test_an_incident_that_overlaps_no_fault_is_false() -> None:
    found = scored(fault(10, 20), *incident(11, 21), *incident(40, 42))
    incidents = found.overall.incidents
    assert (incidents.false, incidents.drift_mistaken) == (1, 0)
    assert incidents.precision.value == 0.5


def test_further_incidents_in_a_fault_are_duplicates() -> None:
    found = scored(fault(10, 20), *incident(11, 13), *incident(15, 17), *incident(18, 24))
    incidents = found.overall.incidents
    assert (incidents.found, incidents.duplicates, incidents.false) == (1, 2, 0)
    assert incidents.incidents_per_found == 3.0


def test_an_incident_after_the_end_of_a_fault_that_was_found_is_false() -> None:
    found = scored(fault(10, 20), *incident(11, 13), *incident(22, 24), *incident(26, 27))
    incidents = found.overall.incidents
    assert (incidents.found, incidents.duplicates, incidents.false) == (1, 0, 2)
    # The time in which it could be false is watched time.
    assert incidents.engine_weeks * 7 * 86400 == pytest.approx(50, abs=0.01)


def test_an_incident_in_the_grace_answers_a_fault_that_nothing_answered() -> None:
    found = scored(
        fault(10, 20), fault(12, 21, name="other"), *incident(11, 11.5), *incident(22, 24)
    )
    assert statuses(found) == ["found", "found"]
    assert found.overall.incidents.false == 0


def test_an_incident_that_fired_before_the_fault_is_false_and_covers_it() -> None:
    found = scored(fault(10, 20), *incident(8, 25))
    assert statuses(found) == ["covered"]
    incidents = found.overall.incidents
    assert (incidents.found, incidents.covered, incidents.false) == (0, 1, 1)
    assert incidents.recall.value == 0.0


def test_an_incident_may_fire_while_the_fault_is_being_made() -> None:
    found = scored(fault(10, 20, onset=9.5), alert(9.7))
    assert statuses(found) == ["found"]
    outcome = found.outcomes[0]
    assert (outcome.lag_batches, outcome.lag_ns, outcome.since_begin_ns) == (0, 0, 0)
    assert statuses(scored(fault(10, 20, onset=9.5), *incident(9.3, 9.4))) == ["missed"]


def test_suspicion_may_be_older_than_the_fault() -> None:
    early = replace(alert(10.5), begin_ns=at_ns(9.0))
    assert statuses(scored(fault(10, 20), early)) == ["found"]


def test_an_incident_that_grew_out_of_a_fault_but_fired_too_late_is_neither() -> None:
    found = scored(fault(10, 20), *[replace(alert(30), begin_ns=at_ns(19))])
    incidents = found.overall.incidents
    assert (incidents.found, incidents.false, incidents.late) == (0, 0, 1)


def test_a_fault_that_begins_while_the_last_ones_incident_is_open_is_covered() -> None:
    found = scored(fault(10, 20), fault(21, 30, name="other"), *incident(11, 31))
    assert statuses(found) == ["found", "covered"]


def test_an_incident_in_the_grace_of_one_fault_answers_the_one_at_work() -> None:
    found = scored(fault(10, 20), fault(21, 30, name="other"), *incident(22, 31))
    assert statuses(found) == ["missed", "found"]


def test_one_incident_answers_two_faults_at_once_and_either_cause_is_right() -> None:
    second = fault(12, 22, name="disk", causes=("disk_pressure",))
    found = scored(fault(10, 20), second, *incident(13, 25, cause="disk_pressure"))
    assert statuses(found) == ["found", "found"]
    assert found.overall.causes.right_first.value == 1.0
    assert found.by_fault["cpu_squeeze"].causes.right_first.value == 0.0
    assert found.by_fault["disk"].causes.right_first.value == 1.0
    assert found.overall.incidents.precision.n == 1


def test_a_second_fault_may_have_its_own_incident() -> None:
    second = fault(12, 22, name="disk", causes=("disk_pressure",))
    found = scored(fault(10, 20), second, *incident(11, 11.5), *incident(13, 25))
    assert [one.incident.fired_ns for one in found.outcomes if one.incident] == [
        at_ns(11),
        at_ns(13),
    ]


def test_a_fault_of_the_host_wants_an_incident_of_each_engine() -> None:
    records: list[Record] = [engine(), engine(OTHER_ID), *batches(0, 60, engine_id=OTHER_ID)]
    found = scored(*records, fault(10, 20, engine_ids=()), *incident(11, 21))
    assert statuses(found) == ["found", "missed"]
    assert found.overall.incidents.recall.value == 0.5
    both = scored(
        *records,
        fault(10, 20, engine_ids=()),
        *incident(11, 21),
        *incident(12, 21, engine_id=OTHER_ID),
    )
    assert statuses(both) == ["found", "found"]
    assert both.faults == 1


def test_a_fault_of_many_engines_is_one_observation() -> None:
    ids = [f"host:{port}" for port in range(8000, 8008)]
    records: list[Record] = [fault(10, 20, engine_ids=())]
    for engine_id in ids:
        records += [*batches(0, 60, engine_id=engine_id)]
        records += incident(11, 21, engine_id=engine_id)
    found = score(records, STRICT).overall
    assert (found.lag.batches_p50.n, found.causes.right_first.n) == (1, 1)
    incidents = found.incidents
    assert (incidents.found, incidents.expected, incidents.faults) == (8, 8, 1)
    for share in (incidents.recall, incidents.precision):
        assert (share.value, share.n) == (1.0, 1)
        assert share.low is not None
        assert share.low < 0.3


def test_the_f1_of_incidents_lies_in_its_interval_though_one_answers_two_faults() -> None:
    records: list[Record] = []
    for begin in range(10, 510, 50):
        records += [fault(begin, begin + 20), fault(begin, begin + 20, name="other")]
        records += [*incident(begin + 2, begin + 21), *incident(begin + 40, begin + 41)]
    f1 = score([*batches(0, 520), *records], STRICT).overall.incidents.f1
    assert f1.value == pytest.approx(2 * 0.5 / 1.5)
    assert f1.value is not None
    assert f1.low is not None
    assert f1.high is not None
    assert f1.low < f1.value < f1.high


def test_an_incident_of_another_engine_is_false() -> None:
    records: list[Record] = [
        *batches(0, 60, engine_id=OTHER_ID),
        *incident(11, 21, engine_id=OTHER_ID),
    ]
    found = scored(fault(10, 20), *records)
    assert statuses(found) == ["missed"]
    assert found.overall.incidents.false == 1


def test_an_incident_in_a_control_is_drift_taken_for_a_fault() -> None:
    found = scored(control(10, 20), *incident(12, 21), *incident(40, 41))
    assert [one.control for one in found.false] == ["prompt_ramp", None]
    assert found.overall.incidents.drift_mistaken == 1
    assert found.by_control["prompt_ramp"].incidents.false == 1
    assert found.by_control["normal"].incidents.false == 1


def test_an_incident_older_than_the_control_is_not_its() -> None:
    assert [one.control for one in scored(control(10, 20), *incident(9, 21)).false] == [None]


def test_a_fault_within_a_control_is_found() -> None:
    found = scored(control(5, 40), fault(10, 20), *incident(11, 21))
    assert (statuses(found), found.overall.incidents.false) == (["found"], 0)


def test_an_intermittent_fault_expects_an_incident_all_the_same() -> None:
    found = scored(fault(10, 20, intermittent=True), *incident(12, 22))
    assert statuses(found) == ["found"]


def test_an_engine_with_nothing_to_do_is_not_scored() -> None:
    idle: list[Record] = [*batches(0, 5), *batches(30, 35), fault(10, 20)]
    for told in ([], incident(12, 21)):
        found = score([*idle, *told], STRICT)
        assert statuses(found) == ["unscored"]
        assert found.overall.incidents.expected == 0
        assert found.overall.incidents.recall.value is None
        assert found.overall.incidents.false == 0
        assert any("had no batch" in note for note in found.notes)


def test_a_stall_that_nobody_finds_is_missed() -> None:
    stalled: list[Record] = [*batches(0, 10), *batches(20.5, 30), fault(10.2, 20.2)]
    assert statuses(score(stalled, STRICT)) == ["missed"]
    assert statuses(score([*stalled, *incident(13, 22)], STRICT)) == ["found"]


def test_an_unfinished_fault_excuses_nothing_after_it() -> None:
    records: list[Record] = [fault(10, None), fault(30, 40, name="other"), *incident(12, 14)]
    found = scored(*records, *incident(31, 41))
    assert statuses(found) == ["unscored", "found"]
    incidents = found.overall.incidents
    assert (incidents.expected, incidents.false) == (1, 0)
    assert incidents.engine_weeks * 7 * 86400 == pytest.approx(10, abs=0.01)
    assert any("1 incidents fired in faults that are not scored" in note for note in found.notes)


def test_a_stall_is_found_though_no_batch_ends() -> None:
    found = score([*batches(0, 10), fault(10, 20), *incident(13, 22, cause="stall")], STRICT)
    assert statuses(found) == ["found"]
    assert (found.outcomes[0].lag_batches, found.outcomes[0].lag_ns) == (0, 3_000_000_000)


def test_healthy_time_leaves_out_faults_their_grace_and_idle_hours() -> None:
    found = score([*batches(0, 60), *batches(4000, 4060), fault(10, 20)], STRICT)
    assert found.overall.incidents.engine_weeks * 7 * 86400 == pytest.approx(120 - 15, abs=0.01)


def test_time_in_which_nobody_judged_is_not_watched() -> None:
    begun = [replace(one, verdict="unknown") for one in batches(0, 30)]
    anew = [replace(one, verdict="unknown") for one in batches(60, 75)]
    found = score([*begun, *batches(30, 60), *anew, *batches(75, 80)], STRICT)
    assert found.overall.incidents.engine_weeks * 7 * 86400 == pytest.approx(35, abs=0.01)


def test_false_incidents_are_told_per_engine_week() -> None:
    found = scored(*incident(10, 11), *incident(20, 21))
    rate = found.overall.incidents.false_per_engine_week
    assert rate.value == pytest.approx(2 * 7 * 86400 / 60, rel=1e-3)
    assert rate.n == 2


# How soon.


def test_the_lag_is_counted_from_the_first_batch_that_ended_in_the_fault() -> None:
    # Batches end at 10.1, 10.2, ...; the fourth of them makes it fire.
    found = scored(fault(10.05, 20), alert(10.4, told_after_seconds=0.003))
    outcome = found.outcomes[0]
    assert outcome.lag_batches == 3
    assert outcome.lag_ns == 300_000_000
    assert outcome.since_begin_ns == 350_000_000
    assert outcome.delivery_ns == 3_000_000
    assert found.overall.lag.batches_p50.value == 3
    assert found.overall.lag.ms_p50.value == pytest.approx(300)
    assert found.overall.lag.delivery_ms_p99.value == pytest.approx(3)


def test_in_a_replay_nobody_knows_how_long_an_alert_took() -> None:
    found = scored(fault(10, 20), alert(10.7, told_after_seconds=0.0))
    assert found.outcomes[0].delivery_ns is None
    assert found.overall.lag.delivery_ms_p50.value is None
    assert found.overall.lag.batches_p50.value is not None


def test_the_first_batch_already_may_fire() -> None:
    assert scored(fault(10.05, 20), alert(10.1)).outcomes[0].lag_batches == 0


# The cause.


def test_an_update_corrects_the_cause() -> None:
    found = scored(
        fault(10, 20),
        alert(11, incident_id="one", cause="forward_slower"),
        alert(12, "updated", incident_id="one", revision=1, cause="host_cpu_contention"),
        alert(22, "resolved", incident_id="one", revision=2, cause="disk_pressure", end=22),
    )
    assert found.overall.causes.right_at_firing.value == 0.0
    assert found.overall.causes.right_first.value == 1.0
    assert found.overall.causes.named == {"host_cpu_contention": 1}


def test_revisions_in_any_order_are_one_incident() -> None:
    found = scored(
        fault(10, 20),
        alert(12, "updated", incident_id="one", revision=1, cause="disk_pressure"),
        alert(11, incident_id="one", cause="host_cpu_contention"),
        alert(11, incident_id="one", cause="host_cpu_contention"),
    )
    assert found.overall.incidents.found == 1
    assert found.overall.causes.right_at_firing.value == 1.0
    assert found.overall.causes.right_first.value == 0.0


def test_a_right_cause_may_be_second_or_third_but_not_fourth() -> None:
    for place, right in ((0, 1.0), (1, 1.0), (2, 0.0)):
        others = ["disk_pressure", "slow_rank"]
        others.insert(place, "host_cpu_contention")
        records = incident(11, 21, cause="forward_slower", others=others)
        causes = scored(fault(10, 20), *records).overall.causes
        assert (causes.right_first.value, causes.right_in_three.value) == (0.0, right)


def test_the_share_of_unknown_causes_is_told() -> None:
    found = scored(fault(10, 20), *incident(11, 21, cause="unknown"))
    assert found.overall.causes.unknown.value == 1.0


def test_causes_are_also_counted_over_all_faults() -> None:
    causes = scored(fault(10, 20), fault(30, 40), *incident(11, 21)).overall.causes
    assert (causes.right_first.value, causes.right_first_of_all.value) == (1.0, 0.5)


def test_a_fault_without_a_right_answer_asks_for_none() -> None:
    causes = scored(fault(10, 20, causes=()), *incident(11, 21)).overall.causes
    assert causes.right_first.value is None
    assert causes.right_first_of_all.value is None


# The effect.


def test_the_effect_is_the_median_over_what_was_expected() -> None:
    took = [batch(10 + n, seconds=s) for n, s in enumerate((0.1, 0.15, 0.15, 0.15, 0.9), start=1)]
    found = score([batch(1), *took, fault(10, 20)], STRICT)
    assert found.outcomes[0].effect == pytest.approx(1.5)


def test_the_effect_of_an_intermittent_fault_is_that_on_the_sum() -> None:
    took = [batch(10 + n, seconds=s) for n, s in enumerate((0.1, 0.1, 0.1, 0.3), start=1)]
    found = score([*took, fault(10, 20, intermittent=True)], STRICT)
    assert found.outcomes[0].effect == pytest.approx(1.5)


def test_material_faults_are_told_apart_by_the_true_effect_alone() -> None:
    faults = [
        fault(10, 15, name="felt", true_ratio=1.2),
        fault(20, 25, name="weak", true_ratio=1.01),
        fault(70, 75, name="measured"),
    ]
    slow = [batch(70.5 + n, "slow", seconds=0.3) for n in range(4)]
    found = scored(*faults, *slow, *incident(11, 16))
    assert found.overall.incidents.expected == 3
    assert found.material.incidents.expected == 1
    assert found.material.incidents.recall.value == 1.0
    assert found.by_fault["felt"].effect.true_ratio == 1.2
    assert found.by_fault["measured"].effect.measured == pytest.approx(3.0)
    assert found.by_fault["measured"].effect.true_ratio is None


# Groups.


def test_faults_are_grouped_by_severity_and_by_workload() -> None:
    records: list[Record] = [
        fault(10, 15, severity="light"),
        fault(20, 25, severity=None),
        *incident(21, 26),
    ]
    found = scored(*records)
    assert list(found.by_severity) == ["light", "number"]
    assert found.by_severity["number"].incidents.recall.value == 1.0
    assert found.by_fault_and_severity["cpu_squeeze"]["light"].incidents.recall.value == 0.0
    assert found.by_workload["5-8"].incidents.found == 1
