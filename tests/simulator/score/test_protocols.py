"""The paper's protocol and prequential runs, on batches whose law is known."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from models.judge import Judge, Judgement
from schemas.records import Verdict, Workload
from simulator.datasets import Sample
from simulator.score import data_report, paper, prequential
from simulator.score.disturb import disturbance
from simulator.score.paper import ABNORMAL, Protocol, ProtocolError, Trial, trial_of
from simulator.score.strategies import Expect, Trained, frozen, means_of_last

FEW = Protocol(seeds=2, training=1000, disturbances=("2",))


def made(jobs: int = 8, batches: int = 400, factor: float = 1.0) -> list[Sample]:
    """Give batches of jobs of four sizes that an engine pads to; 1 % of noise."""
    draw = random.Random(5)
    samples, now_ns = [], 1_790_000_000_000_000_000
    for job in range(jobs):
        for number in range(batches):
            requests = 8 * (job % 4) + 8
            kv_tokens = requests * (200 + number % 200)
            duration_ms = factor * (10 + requests / 2 + kv_tokens / 2000) * draw.gauss(1, 0.01)
            now_ns += int(duration_ms * 1e6)
            workload = Workload(
                requests=requests,
                scheduled_tokens=requests,
                prefill_tokens=0,
                decode_requests=requests,
                kv_tokens=kv_tokens,
            )
            samples.append(Sample(now_ns, duration_ms, workload, f"job{job}"))
        now_ns += 60_000_000_000
    return samples


NORMAL = made()


def test_a_trial_is_counted_as_the_paper_does() -> None:
    flags = [True] * 3 + [False] * 997 + [False] * 5 + [True] * 195
    trial = trial_of(flags)
    assert trial == Trial(tp=195, fp=3, fn=5, tn=997, lag=5, slowed_recall=195 / 200)
    assert trial.precision == pytest.approx(195 / 198)
    assert trial.recall == pytest.approx(195 / 200)
    assert trial.f1 == pytest.approx(2 * 195 / (2 * 195 + 3 + 5))
    assert trial.false_positive_rate == pytest.approx(0.003)


def test_a_trial_in_which_nothing_is_flagged_has_no_lag() -> None:
    trial = trial_of([False] * 1200)
    assert (trial.lag, trial.precision, trial.recall, trial.f1) == (None, 0.0, 0.0, 0.0)
    found = paper.summary([trial, trial_of([False] * 1000 + [True] * 200)])
    assert (found.missed, found.lag.value, found.recall.value) == (1, 0.0, 0.5)


def test_a_window_is_the_mean_of_ten_and_flags_nothing_before() -> None:
    assert means_of_last([1.0] * 9) == [0] * 9
    assert means_of_last([*range(12)])[9:] == [4.5, 5.5, 6.5]


@pytest.mark.parametrize(
    ("name", "slowed"),
    [
        ("1.5", [15.0] * 20),
        ("+20ms", [30.0] * 20),
        ("spikes", ([10.0] * 9 + [210.0]) * 2),
        ("ramp", [10 + 5 * place / 19 for place in range(20)]),
    ],
)
def test_healthy_batches_are_slowed_down(name: str, slowed: list[float]) -> None:
    assert disturbance(name)([10.0] * 20) == pytest.approx(slowed)


@pytest.mark.parametrize("name", ["", "fast", "-1", "0", "nan", "+xms", "+-3ms"])
def test_a_slowdown_without_meaning_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="write a factor"):
        disturbance(name)


def test_each_strategy_finds_what_is_twice_as_slow() -> None:
    for strategy, found in paper.play(NORMAL, FEW).scores["2"].items():
        assert found.recall.value is not None
        assert found.recall.value > 0.95, strategy
        assert found.missed == 0


def test_the_fixed_charts_flag_beyond_fifteen_percent_of_what_was_observed() -> None:
    charts = Trained(NORMAL[:600], ["point"]).charts[""]
    assert charts.flags("point", [0.149, 0.151, 0.3]) == [False, True, True]
    window = charts.flags("window", [0.149] * 10 + [0.2])
    assert window == [False] * 10 + [True]


def test_the_prediction_is_frozen_after_training() -> None:
    trained = Trained(NORMAL[:600], ["point"])
    slow = [2 * one.duration_ms for one in NORMAL[600:800]]
    stream = trained.begin(NORMAL[400:600])
    first = stream.continued(NORMAL[600:800], slow, "point")
    assert stream.continued(NORMAL[600:800], slow, "point") == first
    assert all(first[200:])


def test_what_a_frozen_judge_expects_stays() -> None:
    judge = Judge()
    for one in NORMAL[:400]:
        judge.judge(one.workload, one.duration_ms, one.end_ns)
    expect, later = frozen(judge), NORMAL[400:500]
    before = list(expect(later))
    for one in later:
        judge.judge(one.workload, 2 * one.duration_ms, one.end_ns)
    assert list(expect(later)) == before
    assert list(frozen(judge)(later)) != before


def test_the_judge_of_one_continuation_knows_nothing_of_another() -> None:
    stream = Trained(NORMAL[:600], ["ours"]).begin(NORMAL[400:600])
    usual = [one.duration_ms for one in NORMAL[600:800]]
    before = stream.continued(NORMAL[600:800], usual, "ours")
    stream.continued(NORMAL[600:800], [3 * one for one in usual], "ours")
    assert stream.continued(NORMAL[600:800], usual, "ours") == before
    assert not any(before)


def test_shuffled_rows_are_never_learnt_and_streamed_both() -> None:
    training, stream = paper.deal(NORMAL, FEW, random.Random(1))
    assert (len(training), len(stream)) == (1000, 1200)
    assert not {id(one) for one in training} & {id(one) for one in stream}
    assert {one.job for one in stream} == {one.job for one in NORMAL}


def test_with_the_group_split_no_job_is_in_both() -> None:
    protocol = Protocol(split="group", seeds=1, training=1000)
    training, stream = paper.deal(NORMAL, protocol, random.Random(1))
    assert not {one.job for one in training} & {one.job for one in stream}
    assert len(stream) == 1200
    jobs = [one.job for one in stream]
    assert sum(now != after for now, after in pairwise(jobs)) == 2


def test_too_few_batches_or_jobs_are_refused() -> None:
    with pytest.raises(ProtocolError, match="too few"):
        paper.play(NORMAL[:1400], FEW)
    with pytest.raises(ProtocolError, match="--split random"):
        paper.play(made(jobs=2, batches=1000), Protocol(split="group", disturbances=("2",)))
    with pytest.raises(ProtocolError, match="nothing is slow"):
        paper.play(NORMAL, Protocol(seeds=1))
    with pytest.raises(ProtocolError, match="too few"):
        prequential.play(NORMAL[:200], 1)


def test_slow_batches_of_a_file_are_drawn() -> None:
    protocol = Protocol(seeds=1, training=1000, strategies=("window", "ours"))
    found = paper.play(NORMAL, protocol, made(jobs=1, batches=50, factor=3.0))
    assert list(found.scores) == [ABNORMAL]
    assert found.scores[ABNORMAL]["window"].missed == 0


def test_a_protocol_can_be_repeated() -> None:
    protocol = Protocol(seeds=1, training=400, disturbances=("1.2",))
    assert paper.play(NORMAL, protocol) == paper.play(NORMAL, protocol)


def test_healthy_batches_in_both_orders_raise_no_alarm() -> None:
    found = prequential.play(NORMAL, 2)
    assert [order.name for order in found.orders] == ["as they ran", "shuffled 1", "shuffled 2"]
    for order in found.orders:
        assert (order.false_points.value, order.false_incidents.value) == (0.0, 0.0)
        assert order.median_error is not None
        assert order.median_error < 0.02
        assert order.within["200"].value is not None
        assert order.within["200"].value > 0.9
        # There are no 5,000 batches.
        assert order.within["5000"].value is None


def test_no_false_alarm_in_few_orders_is_no_proof_that_there_is_none() -> None:
    found = prequential.play(NORMAL, 2)
    judged = sum(order.false_points.n for order in found.orders[1:])
    for name in ("false_points", "false_incidents"):
        rate = found.mean_of_orders[name]
        assert (rate.value, rate.low) == (0.0, 0.0)
        assert rate.high == pytest.approx(3.6889 / judged * 10_000, rel=1e-3)
    assert found.mean_of_orders["median_error"].low is None


def test_alarms_are_counted_where_they_begin() -> None:
    found = prequential.alarms([True, True, False, True, False, False, True])
    assert found == [(0, 2), (3, 1), (6, 1)]
    assert prequential.alarms([]) == []


def test_a_slow_batch_is_no_incident_unless_an_alarm_goes_on() -> None:
    def judged(score: float | None, verdict: Verdict = "slow") -> Judgement:
        return Judgement(verdict=verdict, reason="", score=score)

    assert prequential.is_alarm(judged(1.0))
    assert not prequential.is_alarm(judged(0.99))
    assert not prequential.is_alarm(judged(None))
    assert not prequential.is_alarm(judged(2.0, "unknown"))


def test_a_false_incident_is_told_with_the_row_that_began_it() -> None:
    usual = [replace(one, number=number) for number, one in enumerate(NORMAL)]
    slow = [
        replace(one, duration_ms=one.duration_ms * (2 if 2000 <= one.number < 2100 else 1))
        for one in usual
    ]
    (found,) = prequential.order_score("as they ran", slow).incidents
    assert 2000 <= found.number < 2005
    assert found.job == NORMAL[2000].job
    assert found.batches == pytest.approx(100, abs=15)


def test_unseen_work_is_scored_by_the_first_batches_of_each_job() -> None:
    found = prequential.order_score("as they ran", NORMAL)
    # Seven jobs begin after the warm-up.
    assert found.within_new.n == 7 * prequential.FIRST_BATCHES


def test_of_spikes_those_batches_that_were_slowed_are_told_apart() -> None:
    slowed = [place % 10 == 9 for place in range(200)]
    trial = trial_of([False] * 1000 + slowed, slowed)
    assert (trial.recall, trial.slowed_recall) == (0.1, 1.0)
    protocol = Protocol(seeds=1, training=600, strategies=("point",), disturbances=("spikes",))
    score = paper.play(NORMAL, protocol).scores["spikes"]["point"]
    assert (score.recall.value, score.slowed_recall.value) == (0.1, 1.0)


def test_a_rival_is_trained_on_the_same_rows_and_judged_by_the_same_charts() -> None:
    seen: list[int] = []

    def train(samples: Sequence[Sample]) -> Expect:
        seen.append(len(samples))
        return lambda stream: [one.duration_ms / 2 for one in stream]

    protocol = Protocol(seeds=1, training=700, strategies=("half point",), disturbances=("2",))
    found = paper.play(NORMAL, protocol, rivals={"half": train}).scores["2"]["half point"]
    assert seen == [700]
    # By this model every batch should take half as long.
    assert found.false_positive_rate.value == 1.0


def test_shuffled_jobs_stay_whole_and_in_the_order_of_time() -> None:
    found = prequential.shuffled(NORMAL, 3)
    assert [one.end_ns for one in found] == sorted(one.end_ns for one in found)
    jobs = [one.job for one in found]
    assert sum(now != after for now, after in pairwise(jobs)) == 7
    assert jobs != [one.job for one in NORMAL]


@pytest.mark.parametrize("protocol", ["paper", "prequential"])
def test_tables_json_and_picture_are_made(protocol: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra [gym]")
    from simulator.score.data_picture import draw

    found: data_report.DataScore
    if protocol == "paper":
        # The middle one is found by nobody: there is no lag to show.
        found = paper.play(NORMAL, Protocol(seeds=1, training=600, disturbances=("1.001", "2")))
    else:
        found = prequential.play(NORMAL[:1500], 1)
    console = Console(width=160, file=io.StringIO())
    console.print(data_report.render(found))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "nan" not in text
    assert ("window3s" if protocol == "paper" else "as they ran") in text
    assert orjson.loads(data_report.to_json(found))["protocol_name"] == protocol
    draw(found, tmp_path / "score.svg")
    assert (tmp_path / "score.svg").read_bytes().startswith(b"<?xml")
