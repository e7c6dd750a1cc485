from __future__ import annotations

import json
import math
import random

import pytest

from models.judge import WARM_BATCHES, Judge
from schemas.records import Workload
from tests.models.synthetic import SyntheticEngine, cost_ms, decode, mixed, slow


@pytest.fixture
def engine() -> SyntheticEngine:
    """An engine that is known: 1,000 normal batches were seen."""
    engine = SyntheticEngine()
    engine.run(1000)
    return engine


def test_nothing_is_judged_while_the_engine_is_learnt() -> None:
    judgements = SyntheticEngine().run(WARM_BATCHES + 1)
    assert {one.verdict for one in judgements[:-1]} == {"unknown"}
    assert judgements[-1].verdict != "unknown"
    assert judgements[99].reason == f"learning: 100 of {WARM_BATCHES} batches"


def test_a_slowdown_during_the_warm_up_is_not_judged_either() -> None:
    engine = SyntheticEngine()
    engine.run(50)
    assert slow(engine.run(100, factor=3)) == []


@pytest.mark.parametrize("seed", range(1, 6))
def test_normal_batches_are_never_slow(seed: int) -> None:
    judgements = SyntheticEngine(seed=seed).run(4000)
    assert slow(judgements) == []
    errors = sorted(abs(one.residual or 0) for one in judgements[WARM_BATCHES:])
    assert errors[len(errors) // 2] < 0.02


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_slowdown_by_half_is_found_within_ten_batches(seed: int) -> None:
    engine = SyntheticEngine(seed=seed)
    engine.run(1000)
    assert slow(engine.run(10, factor=1.5))


@pytest.mark.parametrize("factor", [1.1, 1.15])
def test_a_small_slowdown_of_a_young_engine_is_found(factor: float) -> None:
    engine = SyntheticEngine()
    assert slow(engine.run(400)) == []
    assert len(slow(engine.run(200, factor=factor))) > 120


def test_a_slowdown_by_a_twentieth_is_found_once_the_engine_is_well_known() -> None:
    engine = SyntheticEngine()
    assert slow(engine.run(5000)) == []
    assert slow(engine.run(200, factor=1.07))


@pytest.mark.parametrize("scale", [3, 10])
def test_a_heavier_workload_is_no_slowdown(engine: SyntheticEngine, scale: int) -> None:
    judgements = engine.run(2000, scale=scale)
    assert slow(judgements) == []
    assert "drift" in {one.verdict for one in judgements[:20]}
    assert judgements[-1].verdict == "normal"
    assert slow(engine.run(500)) == []


def test_a_slowdown_under_a_new_workload_is_found(engine: SyntheticEngine) -> None:
    engine.run(1000, scale=10)
    assert slow(engine.run(15, scale=10, factor=1.6))


def test_a_fault_that_lasts_does_not_become_normal(engine: SyntheticEngine) -> None:
    judgements = engine.run(2000, factor=1.5)
    assert slow(judgements[-100:]) == list(range(100))
    assert judgements[-1].reason.startswith("sustained: ")
    assert judgements[-1].reason.endswith("times the expected duration")


@pytest.mark.parametrize("slow_batches", [50, 2000])
def test_recovery_is_seen_within_five_batches(engine: SyntheticEngine, slow_batches: int) -> None:
    engine.run(slow_batches, factor=1.5)
    assert slow(engine.run(200)[5:]) == []


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("factor", [1.3, 3.0])
def test_noise_alone_keeps_no_alarm_up(noise: float, factor: float) -> None:
    engine = SyntheticEngine(noise=noise)
    engine.run(2000)
    assert len(slow(engine.run(500, factor=factor)[-200:])) == 200
    # Single batches may stray; what must end is the alarm.
    after = [(one.score or 0) >= 1 for one in engine.run(500)]
    assert not any(after[40:])


def test_a_giant_is_slow_at_once_and_two_of_them_are_an_alarm(engine: SyntheticEngine) -> None:
    judgements = engine.run(2, factor=20)
    assert [one.verdict for one in judgements] == ["slow", "slow"]
    assert [(one.score or 0) >= 1 for one in judgements] == [False, True]
    assert judgements[0].reason.startswith("outlier: ")


def test_a_single_giant_is_an_outlier_and_no_alarm(engine: SyntheticEngine) -> None:
    for _ in range(5):
        (judgement,) = engine.run(1, factor=20)
        assert judgement.verdict == "slow"
        assert (judgement.score or 0) < 1
        assert slow(engine.run(400)) == []


def test_giants_that_come_again_and_again_are_an_alarm(engine: SyntheticEngine) -> None:
    scores = []
    for _ in range(5):
        scores += [one.score or 0 for one in engine.run(9) + engine.run(1, factor=6)]
    assert max(scores[:19]) < 1
    assert scores[-1] >= 1
    assert slow(engine.run(200)[70:]) == []


def test_a_slow_ramp_is_found_on_its_way(engine: SyntheticEngine) -> None:
    engine.run(4000)
    found = [engine.run(1, factor=1 + step / 400)[0] for step in range(200)]
    assert slow(found)
    assert slow(found)[0] < 100


def test_suspicion_does_not_survive_a_pause(engine: SyntheticEngine) -> None:
    before = engine.run(1, factor=1.5)
    assert before[-1].score is not None
    assert 0 < before[-1].score < 1
    engine.pause(60)
    after = engine.run(1)
    assert after[0].score == 0


def test_an_alarm_does_survive_a_pause(engine: SyntheticEngine) -> None:
    assert slow(engine.run(50, factor=1.5))
    engine.pause(60)
    assert engine.run(1, factor=1.5)[0].verdict == "slow"


@pytest.mark.parametrize("phase", ["warm-up", "normal", "suspect", "alarm", "recovery"])
def test_a_judge_goes_on_exactly_from_its_state(phase: str) -> None:
    engine = SyntheticEngine()
    history = {
        "warm-up": [(100, 1.0)],
        "normal": [(600, 1.0)],
        "suspect": [(600, 1.0), (1, 1.5)],
        "alarm": [(600, 1.0), (30, 1.5)],
        "recovery": [(600, 1.0), (30, 1.5), (3, 1.0)],
    }[phase]
    for batches, factor in history:
        engine.run(batches, factor=factor)
    state = json.loads(json.dumps(engine.judge.to_state()))
    other = engine.twin(Judge.from_state(state))
    assert other.judge.to_state() == state
    for factor in (1.5, 1.0, 1.5):
        assert other.run(150, factor=factor) == engine.run(150, factor=factor)
    assert other.judge.to_state() == engine.judge.to_state()


def test_a_state_of_another_version_is_refused_with_what_to_do() -> None:
    state = Judge().to_state() | {"version": 0}
    with pytest.raises(ValueError, match=r"version 0: this worker reads 2; let .* learnt anew"):
        Judge.from_state(state)


@pytest.mark.parametrize("workload", [Workload(), Workload(requests=4)])
def test_a_batch_whose_workload_is_not_known_is_not_judged(
    engine: SyntheticEngine, workload: Workload
) -> None:
    before = engine.judge.to_state()
    found = engine.judge.judge(workload, 1000.0, 2 * 10**18)
    assert (found.verdict, found.reason) == ("unknown", "workload not read")
    assert engine.judge.to_state() == before


@pytest.mark.parametrize("observed_ms", [0.0, -1.0])
def test_a_batch_without_a_duration_is_not_judged(
    engine: SyntheticEngine, observed_ms: float
) -> None:
    found = engine.judge.judge(decode(8, 400), observed_ms, 2 * 10**18)
    assert (found.verdict, found.reason) == ("unknown", "no duration")


def test_the_interval_holds_most_normal_batches(engine: SyntheticEngine) -> None:
    judgements = engine.run(1000)
    inside = [
        one
        for one in judgements
        if (one.low_ms or 0) <= (one.expected_ms or 0) * math.exp(one.residual or 0)
        and (one.expected_ms or 0) * math.exp(one.residual or 0) <= (one.high_ms or 0)
    ]
    assert 970 < len(inside) <= 1000
    assert all((one.low_ms or 0) < (one.expected_ms or 0) < (one.high_ms or 0) for one in inside)


def test_a_batch_that_never_ends_is_a_stall(engine: SyntheticEngine) -> None:
    found = engine.judge.judge_open(decode(8, 400), 5000.0)
    assert found is not None
    assert found.verdict == "slow"
    ratio = 5000 / cost_ms(decode(8, 400))
    assert found.reason.startswith(f"still running after {ratio / 100:.0f}")
    assert found.score is not None
    assert found.score > 1


def test_a_batch_that_may_still_end_in_time_is_no_stall(engine: SyntheticEngine) -> None:
    assert engine.judge.judge_open(decode(8, 400), 1999.0) is None
    assert engine.judge.judge_open(decode(8000, 4000), 5000.0) is None


def test_an_engine_hardly_known_has_no_stalls() -> None:
    engine = SyntheticEngine()
    engine.run(WARM_BATCHES - 1)
    assert engine.judge.judge_open(decode(8, 400), 60_000.0) is None


def test_looking_at_an_open_batch_changes_nothing(engine: SyntheticEngine) -> None:
    before = json.dumps(engine.judge.to_state())
    for elapsed_ms in (10.0, 3000.0, 60_000.0):
        engine.judge.judge_open(decode(8, 400), elapsed_ms)
    assert json.dumps(engine.judge.to_state()) == before


def test_the_terms_add_up_to_what_is_expected(engine: SyntheticEngine) -> None:
    for one in engine.run(50):
        assert sum(one.terms_ms.values()) == pytest.approx(one.expected_ms)
        assert "weights" in one.terms_ms


def test_predicting_is_what_judging_expects_and_changes_nothing(engine: SyntheticEngine) -> None:
    workload = decode(8, 400)
    before = json.dumps(engine.judge.to_state())
    expected_ms = engine.judge.predict(workload)
    assert json.dumps(engine.judge.to_state()) == before
    assert expected_ms == pytest.approx(cost_ms(workload), rel=0.03)
    assert engine.judge.predict(Workload()) is None
    assert Judge().predict(workload) is None


def test_a_tighter_budget_takes_more_evidence() -> None:
    lax, strict = (SyntheticEngine(Judge(false_incidents_per_week=n)) for n in (1000.0, 0.001))
    lags = []
    for engine in (lax, strict):
        engine.run(2000)
        found = engine.run(300, factor=1.07)
        lags.append(next((n for n, one in enumerate(found) if (one.score or 0) >= 1), 300))
        calibration = engine.judge.calibration()
        assert calibration.expected_per_week <= calibration.budget_per_week * 1.01
    assert lags[0] < lags[1]


def test_the_calibration_shows_how_the_threshold_follows(engine: SyntheticEngine) -> None:
    found = engine.judge.calibration()
    assert found.budget_per_week == 1
    assert found.batches == 1000
    assert found.batches_per_week == pytest.approx(7 * 86400 / 0.0056, rel=0.1)
    assert 5 < found.threshold < 60


def test_a_lasting_change_can_be_adopted(engine: SyntheticEngine) -> None:
    engine.run(600, factor=1.3)
    factor = engine.judge.adopt()
    assert factor == pytest.approx(1.3, rel=0.02)
    judgements = engine.run(500, factor=1.3)
    assert slow(judgements) == []
    assert all(sum(one.terms_ms.values()) == pytest.approx(one.expected_ms) for one in judgements)
    assert slow(engine.run(50, factor=1.3 * 1.3))


def test_without_an_alarm_there_is_nothing_to_adopt(engine: SyntheticEngine) -> None:
    before = engine.judge.to_state()
    assert engine.judge.adopt() is None
    assert engine.judge.to_state() == before


def test_an_engine_whose_peers_are_faster_is_slow_from_then_on(engine: SyntheticEngine) -> None:
    engine.judge.rebase(1 / 1.4)
    judgements = engine.run(200)
    assert len(slow(judgements)) > 190
    assert all((one.score or 0) >= 1 for one in judgements[:100])
    assert slow(engine.run(200, factor=1 / 1.4)[10:]) == []


def test_norms_tell_what_batches_cost_here(engine: SyntheticEngine) -> None:
    engine.run(3000)
    norms = engine.judge.norms(5)
    assert len(norms) == 5
    assert [one.visits for one in norms] == sorted((one.visits for one in norms), reverse=True)
    for one in norms:
        cost = cost_ms(decode(one.requests, one.context_tokens))
        assert one.duration_ms == pytest.approx(cost, rel=0.05)


class PrefillEngine(SyntheticEngine):
    """An engine with chunked prefill under load: each batch computes some prompt."""

    def workload(self, scale: int = 1) -> Workload:
        return mixed(self._random.randint(32, 39) * scale, 400, 480)


@pytest.mark.parametrize("factor", [1.15, 1.3, 2.0])
def test_an_engine_that_always_prefills_is_not_blind(factor: float) -> None:
    engine = PrefillEngine()
    assert slow(engine.run(2000)) == []
    assert len(slow(engine.run(1500, factor=factor))) > 1450
    assert slow(engine.run(200)[20:]) == []


@pytest.mark.parametrize("batches", [5000, 20_000])
def test_a_fault_that_grows_slowly_is_not_learnt(batches: int) -> None:
    engine = SyntheticEngine()
    engine.run(3000)
    for step in range(100):
        engine.run(batches // 100, factor=1 + step / 200)
    assert len(slow(engine.run(300, factor=1.5))) == 300


def test_a_fault_is_not_learnt_because_the_workload_changes_in_the_middle() -> None:
    engine = SyntheticEngine()
    engine.run(3000)
    engine.run(50, factor=1.5)
    assert len(slow(engine.run(3000, factor=1.5, scale=4))) == 3000
    assert slow(engine.run(300, scale=4)[10:]) == []


def test_an_engine_that_crashes_again_and_again_is_judged(engine: SyntheticEngine) -> None:
    found = []
    for _ in range(20):
        engine.judge.settle()
        found += engine.run(40, factor=3)
    assert len(slow(found)) > 400


@pytest.mark.parametrize(
    "workload",
    [
        Workload(requests=2**60, scheduled_tokens=2**60),
        Workload(requests=4, scheduled_tokens=4, kv_tokens=2**63),
        Workload(requests=4, scheduled_tokens=4, speculative_tokens=2**61),
    ],
)
def test_garbage_is_no_workload(engine: SyntheticEngine, workload: Workload) -> None:
    assert engine.judge.judge(workload, 10.0, 2 * 10**18).verdict == "unknown"
    json.dumps(engine.judge.to_state())


def test_an_interval_stays_within_what_can_be_written() -> None:
    engine = PrefillEngine()
    for _ in range(300):
        found = engine.run(9) + engine.run(1, factor=50)
        assert all((one.high_ms or 0) <= 11 * (one.expected_ms or 0) for one in found)


def test_a_rich_workload_leaves_the_state_small() -> None:
    judge, random_, now_ns = Judge(), random.Random(2), 10**18
    for number in range(4000):
        requests, context = random_.randint(1, 512), random_.randint(10, 8000)
        drafts, prefill = random_.choice([0, 0, requests]), random_.choice([0, 0, 700])
        workload = Workload(
            requests=requests,
            scheduled_tokens=requests + drafts + prefill,
            prefill_tokens=prefill,
            decode_requests=requests,
            kv_tokens=requests * context,
            speculative_tokens=drafts,
            lora_adapters=random_.randint(0, 5),
        )
        now_ns += 10**7
        judge.judge(workload, cost_ms(workload) * random_.lognormvariate(0, 0.05), now_ns)
        if number % 499 == 0:
            assert len(json.dumps(judge.to_state(), separators=(",", ":"))) < 65_536


def test_a_state_stays_below_64_kib_whatever_is_seen() -> None:
    engine = SyntheticEngine()
    for scale in range(1, 120):
        engine.run(60, scale=scale)
    assert len(json.dumps(engine.judge.to_state())) < 65_536
