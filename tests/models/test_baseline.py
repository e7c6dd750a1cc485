from __future__ import annotations

import json
import math
import random

import pytest

from models.baseline import MAX_CELLS, Baseline
from models.features import Features, features_of, padded_batch_size
from schemas.records import Workload
from tests.models.synthetic import cost_ms, decode, mixed


def features(workload: Workload) -> Features:
    found = features_of(workload)
    assert found is not None
    return found


def batches(seed: int, count: int) -> list[tuple[Features, float]]:
    random_ = random.Random(seed)
    found = []
    for _ in range(count):
        requests, context = random_.randint(1, 40), random_.randint(100, 900)
        workload = (
            mixed(requests, context, random_.randint(50, 2000))
            if random_.random() < 0.2
            else decode(requests, context)
        )
        found.append((features(workload), cost_ms(workload) * random_.lognormvariate(0, 0.02)))
    return found


def learnt(seed: int = 1, count: int = 1000) -> Baseline:
    baseline = Baseline()
    for one, observed_ms in batches(seed, count):
        baseline.learn(one, observed_ms)
    return baseline


def error(baseline: Baseline, workload: Workload) -> float:
    prediction = baseline.predict(features(workload))
    assert prediction is not None
    return abs(prediction.expected_ms / cost_ms(workload) - 1)


def test_nothing_is_predicted_before_the_first_batch() -> None:
    assert Baseline().predict(features(decode(1, 100))) is None


def test_a_workload_like_those_seen_is_predicted_closely() -> None:
    baseline = learnt()
    assert max(error(baseline, decode(requests, 500)) for requests in range(1, 41)) < 0.03


@pytest.mark.parametrize(
    "workload",
    [decode(400, 500), decode(20, 20_000), mixed(20, 500, 8000), mixed(300, 3000, 4000)],
    ids=["requests", "context", "prefill", "all"],
)
def test_a_workload_never_seen_is_extrapolated(workload: Workload) -> None:
    assert error(learnt(), workload) < 0.10


def test_the_terms_explain_the_prediction_of_the_backbone() -> None:
    prediction = learnt().predict(features(mixed(10, 400, 600)))
    assert prediction is not None
    assert sum(prediction.terms_ms.values()) == pytest.approx(math.exp(prediction.backbone_log_ms))
    assert prediction.terms_ms["weights"] == pytest.approx(5, rel=0.1)
    assert prediction.terms_ms["kv"] == pytest.approx(4600 / 20_000, rel=0.2)


def test_predicting_teaches_nothing() -> None:
    baseline = learnt()
    before = json.dumps(baseline.to_state())
    for one, _ in batches(9, 50):
        baseline.predict(one)
    assert json.dumps(baseline.to_state()) == before


@pytest.mark.parametrize("taken", [1, 19, 300])
def test_a_baseline_comes_back_bit_for_bit(taken: int) -> None:
    stream = batches(2, 600)
    baseline = Baseline()
    for one, observed_ms in stream[:taken]:
        baseline.learn(one, observed_ms)
    restored = Baseline.from_state(json.loads(json.dumps(baseline.to_state())))
    for one, observed_ms in stream[taken:]:
        assert restored.predict(one) == baseline.predict(one)
        restored.learn(one, observed_ms, 0.1)
        baseline.learn(one, observed_ms, 0.1)
    assert restored.to_state() == baseline.to_state()


def test_a_term_that_appears_after_a_restore_is_learnt_as_without_one() -> None:
    """An agent that could not read the context may do so later."""
    blind = [
        features(Workload(requests=n, scheduled_tokens=n, prefill_tokens=0)) for n in range(1, 60)
    ]
    baseline = Baseline()
    for place, one in enumerate(blind):
        baseline.learn(one, 5 + place / 20)
    restored = Baseline.from_state(json.loads(json.dumps(baseline.to_state())))
    for one, observed_ms in batches(3, 200):
        restored.learn(one, observed_ms)
        baseline.learn(one, observed_ms)
        assert restored.predict(one) == baseline.predict(one)


def test_a_restored_baseline_is_independent_of_the_first() -> None:
    baseline = learnt()
    state = baseline.to_state()
    text = json.dumps(state)
    restored = Baseline.from_state(state)
    for one, observed_ms in batches(4, 100):
        restored.learn(one, observed_ms * 3)
    assert json.dumps(baseline.to_state()) == text


def test_a_state_of_another_version_is_refused_with_what_to_do() -> None:
    state = learnt(count=10).to_state() | {"version": 99}
    with pytest.raises(ValueError, match=r"version 99: this worker reads 1; let .* learnt anew"):
        Baseline.from_state(state)


def test_one_wild_batch_pulls_no_further_than_its_limit() -> None:
    baseline = learnt()
    workload = decode(8, 500)
    for _ in range(100):
        baseline.learn(features(workload), cost_ms(workload))
    baseline.learn(features(workload), cost_ms(workload) * 1000, 0.1)
    assert error(baseline, workload) < 0.02


def test_memory_is_bounded_however_many_workloads_there_are() -> None:
    baseline = Baseline()
    for requests in range(8, 400, 8):
        for step in range(20):
            workload = decode(requests, 64 * (step + 1) * 3)
            baseline.learn(features(workload), cost_ms(workload))
    assert len(baseline.to_state()["cells"]) == MAX_CELLS
    assert len(json.dumps(baseline.to_state())) < 100_000


def test_a_context_that_cannot_be_read_is_left_out() -> None:
    found = features(Workload(requests=3, scheduled_tokens=3))
    assert "kv" not in found.terms
    assert (found.bucket, found.mixed) == ((4, False), False)


def test_a_batch_without_tokens_has_no_features() -> None:
    assert features_of(Workload(requests=0, scheduled_tokens=0)) is None
    assert features_of(Workload(requests=3)) is None


def test_padding_never_makes_a_batch_smaller() -> None:
    sizes = [padded_batch_size(n) for n in range(1, 600)]
    assert sizes == sorted(sizes)
    assert all(size >= n for n, size in enumerate(sizes, start=1))
