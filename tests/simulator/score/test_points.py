"""Single batches: which are slow by a fault, which are called so, which have no label."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import Record
from simulator.score import Options, score
from simulator.score.metrics import PointScore
from tests.simulator.score.tape import STRICT, batch, batches, control, engine, fault


def points_of(*records: Record, options: Options = STRICT) -> PointScore:
    return score(records, options).overall.points


def matrix(points: PointScore) -> tuple[int, int, int, int]:
    return points.tp, points.fp, points.fn, points.tn


def test_each_cell_of_the_matrix_is_counted() -> None:
    # Slow from 1.0 to 1.5: batches that end at 1.1 ... 1.5. Called: 1.3, 1.4, 1.5, and 1.6.
    points = points_of(*batches(0, 2, slow=[(1.2, 1.6)]), fault(1.0, 1.5))
    assert matrix(points) == (3, 1, 2, 14)
    assert points.precision.value == pytest.approx(3 / 4)
    assert points.recall.value == pytest.approx(3 / 5)
    assert points.f1.value == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert points.false_positive_rate.value == pytest.approx(1 / 15)


def test_a_batch_nobody_judged_counts_as_not_slow_and_is_told_apart() -> None:
    unknown = [batch(1.1, "unknown"), batch(1.9, "unknown"), batch(1.2, "slow"), batch(1.8)]
    points = points_of(*unknown, fault(1.0, 1.5))
    assert matrix(points) == (1, 0, 1, 2)
    assert points.unknown == 2
    assert points.coverage.value == pytest.approx(0.5)


def test_drift_is_not_slow() -> None:
    assert matrix(points_of(batch(1.2, "drift"), batch(2, "drift"), fault(1, 1.5))) == (0, 0, 1, 1)


def test_around_the_begin_and_end_of_a_fault_there_is_no_label() -> None:
    # 0.75 ... 1.25 and 1.75 ... 2.25 touch the guard: ends 0.8 ... 1.3, and 1.8 ... 2.3.
    options = replace(STRICT, guard_ns=250_000_000)
    points = points_of(*batches(0, 3, slow=[(1, 2)]), fault(1.0, 2.0), options=options)
    assert points.unscored == 12
    assert matrix(points) == (4, 0, 0, 14)


def test_while_a_fault_is_being_made_there_is_no_label() -> None:
    points = points_of(*batches(0, 3, slow=[(0.5, 2)]), fault(1.0, 2.0, onset=0.5))
    assert points.unscored == 5
    assert matrix(points) == (10, 0, 0, 15)


def test_a_batch_that_straddles_the_begin_of_a_fault_has_no_label() -> None:
    points = points_of(batch(1.05, "slow"), batch(0.5), batch(1.4, "slow"), fault(1.0, 1.5))
    assert points.unscored == 1
    assert matrix(points) == (1, 0, 0, 1)


def test_batches_within_an_intermittent_fault_have_no_label() -> None:
    points = points_of(*batches(0, 3, slow=[(1, 1.5)]), fault(1.0, 2.0, intermittent=True))
    assert points.unscored == 10
    assert matrix(points) == (0, 0, 0, 20)


def test_a_steady_fault_counts_though_another_begins_meanwhile() -> None:
    options = replace(STRICT, guard_ns=250_000_000)
    both = (fault(1, 4), fault(2, 3, name="other"))
    assert matrix(points_of(*batches(0, 5, slow=[(1, 4)]), *both, options=options))[0] == 24
    hidden = (fault(1, 4), fault(2, 3, name="pauses", intermittent=True))
    assert matrix(points_of(*batches(0, 5, slow=[(1, 4)]), *hidden, options=options))[0] == 24


def test_a_control_makes_nothing_slow() -> None:
    found = score([*batches(0, 3, slow=[(1.0, 1.2)]), control(1, 2)], STRICT)
    assert matrix(found.overall.points) == (0, 2, 0, 28)
    assert found.by_control["prompt_ramp"].points.fp == 2
    assert found.by_control["prompt_ramp"].points.tn == 8
    assert found.by_control["normal"].points.tn == 20


def test_a_fault_of_one_engine_makes_no_other_slow() -> None:
    here, there = batches(0, 2), batches(0, 2, engine_id="host:9000")
    assert matrix(points_of(*here, *there, fault(1, 2))) == (0, 0, 10, 30)


def test_a_fault_of_the_host_makes_all_its_engines_slow() -> None:
    found = score(
        [
            *[engine(), engine("far:8000", host="far"), engine("an-engine", host="host")],
            *batches(0, 2),
            *batches(0, 2, engine_id="far:8000"),
            *batches(0, 2, engine_id="an-engine"),
            fault(1, 2, engine_ids=()),
        ],
        STRICT,
    )
    assert matrix(found.overall.points) == (0, 0, 20, 40)


def test_after_the_begin_of_an_unfinished_fault_there_is_no_label() -> None:
    found = score([*batches(0, 2, slow=[(1, 2)]), fault(1, None)], STRICT)
    assert matrix(found.overall.points) == (0, 0, 0, 10)
    assert any("no end" in note for note in found.notes)


def test_a_fault_that_slows_nothing_gives_no_label() -> None:
    weak = fault(1, 2, true_ratio=1.01)
    assert matrix(points_of(*batches(0, 3, slow=[(1, 1.5)]), weak)) == (0, 0, 0, 20)
    felt = fault(1, 2, true_ratio=1.02)
    assert matrix(points_of(*batches(0, 3, slow=[(1, 1.5)]), felt)) == (5, 0, 5, 20)


def test_the_value_of_an_f1_lies_in_its_interval() -> None:
    faults = [fault(20 * n, 20 * n + 10) for n in range(1, 7)]
    slow = [(20.0 * n, 20.0 * n + n) for n in range(1, 8)]
    f1 = points_of(*batches(0, 150, slow=slow), *faults).f1
    assert f1.low is not None
    assert f1.value is not None
    assert f1.high is not None
    assert f1.low < f1.value < f1.high
    assert f1.n == 6


def test_the_end_of_a_fault_is_what_its_last_record_says() -> None:
    ended = replace(fault(1, 1.5), fault_id="one")
    begun = replace(fault(1, None), fault_id="one")
    for order in ([begun, ended], [ended, begun]):
        assert matrix(points_of(*batches(0, 2), *order)) == (0, 0, 5, 15)


def test_an_amended_batch_counts_once_as_last_told() -> None:
    told = [batch(1.5, "slow", revision=1), batch(1.5, "normal"), batch(1.5, "normal")]
    assert matrix(points_of(*told, fault(1, 2))) == (1, 0, 0, 0)


def test_batches_are_grouped_by_their_size() -> None:
    small, large = batches(0, 1, slow=[(0, 0.1)], requests=1), batches(1, 2, requests=64)
    unread = batches(2, 3, requests=None)
    found = score([*small, *large, *unread], STRICT)
    assert list(found.by_workload) == ["1", "33-64", "unknown"]
    assert found.by_workload["1"].points.fp == 1
    assert found.by_workload["33-64"].points.tn == 10


def test_a_false_alarm_belongs_to_no_fault() -> None:
    found = score([*batches(0, 3, slow=[(0, 2)]), fault(1, 2)], STRICT)
    points = found.by_fault["cpu_squeeze"].points
    assert points.recall.value == 1.0
    assert points.precision.value is None
    assert points.f1.value is None
