"""What every baseline promises, whichever there are."""

from __future__ import annotations

import json
import math
import random

import pytest
from river import base

from models.baselines import Baseline, available, load
from models.features import Features, features_of
from tests.models.synthetic import cost_ms, decode, mixed

baselines = pytest.mark.parametrize("name", available())


def batches(seed: int, count: int) -> list[tuple[Features, float]]:
    """Give batches of all sizes, a fifth of them with prefill, and what they take in ms."""
    random_ = random.Random(seed)
    found = []
    for _ in range(count):
        requests, context = random_.randint(1, 40), random_.randint(100, 900)
        workload = (
            mixed(requests, context, random_.randint(50, 2000))
            if random_.random() < 0.2
            else decode(requests, context)
        )
        features = features_of(workload)
        assert features is not None
        found.append((features, cost_ms(workload) * random_.lognormvariate(0, 0.02)))
    return found


def learnt(name: str, seed: int = 1, count: int = 1000) -> Baseline:
    baseline = load(name)
    for features, observed_ms in batches(seed, count):
        baseline.learn_one(features, observed_ms)
    return baseline


def text(baseline: Baseline) -> str:
    return json.dumps(baseline.to_state())


def test_there_are_baselines_and_base_is_none() -> None:
    assert "physical" in available()
    assert "base" not in available()


def test_a_baseline_nobody_wrote_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookupError, match=f"unknown baseline 'guess'; have: {available()[0]}"):
        load("guess")


@baselines
def test_it_is_a_regressor_of_river(name: str) -> None:
    assert isinstance(load(name), base.Regressor)


@baselines
def test_nothing_is_expected_before_the_first_batch(name: str) -> None:
    features, _ = batches(1, 1)[0]
    assert load(name).expect(features) is None
    assert load(name).predict_one(features) == 0


@baselines
def test_one_batch_is_enough_to_expect_something(name: str) -> None:
    features, observed_ms = batches(1, 1)[0]
    baseline = load(name)
    baseline.learn_one(features, observed_ms)
    assert baseline.predict_one(features) == pytest.approx(observed_ms, rel=0.01)
    assert baseline.learnt == 1


@baselines
def test_predictions_are_above_zero_and_close(name: str) -> None:
    baseline = learnt(name)
    errors = sorted(
        abs(math.log(observed_ms / baseline.predict_one(features)))
        for features, observed_ms in batches(2, 500)
    )
    assert errors[250] < 0.03


@baselines
def test_terms_add_up_to_what_is_expected(name: str) -> None:
    baseline = learnt(name)
    for features, _ in batches(3, 50):
        expected = baseline.expect(features)
        assert expected is not None
        terms_ms = baseline.terms_ms(expected)
        assert sum(terms_ms.values()) == pytest.approx(math.exp(expected.log_ms))


@baselines
def test_predicting_teaches_nothing(name: str) -> None:
    baseline = learnt(name)
    before = text(baseline)
    for features, _ in batches(9, 50):
        expected = baseline.expect(features)
        assert expected is not None
        baseline.terms_ms(expected)
        baseline.predict_one(features)
    baseline.places()
    assert text(baseline) == before


@baselines
@pytest.mark.parametrize("taken", [1, 19, 300, 1100])
def test_a_baseline_comes_back_bit_for_bit(name: str, taken: int) -> None:
    stream = batches(2, 1500)
    baseline = load(name)
    for features, observed_ms in stream[:taken]:
        baseline.learn_one(features, observed_ms)
    restored = load(name)
    restored.restore(json.loads(text(baseline)))
    for features, observed_ms in stream[taken:]:
        assert restored.predict_one(features) == baseline.predict_one(features)
        restored.learn_one(features, observed_ms)
        baseline.learn_one(features, observed_ms)
    assert text(restored) == text(baseline)


@baselines
def test_a_restored_baseline_is_independent_of_the_first(name: str) -> None:
    baseline = learnt(name)
    state = baseline.to_state()
    before = json.dumps(state)
    restored = load(name)
    restored.restore(state)
    for features, observed_ms in batches(4, 100):
        restored.learn_one(features, observed_ms * 3)
    assert text(baseline) == before


@baselines
def test_a_state_of_another_version_is_refused_with_what_to_do(name: str) -> None:
    state = learnt(name, count=10).to_state() | {"version": 99}
    with pytest.raises(ValueError, match=r"version 99: this worker reads \d; let .* learnt anew"):
        load(name).restore(state)


@baselines
def test_memory_is_bounded_however_many_workloads_there_are(name: str) -> None:
    baseline = load(name)
    random_ = random.Random(5)
    for _ in range(6000):
        features = features_of(decode(random_.randint(1, 3000), random_.randint(1, 100_000)))
        assert features is not None
        baseline.learn_one(features, random_.uniform(5, 500))
    assert len(text(baseline)) < 60_000


@baselines
def test_places_tell_what_was_learnt_where(name: str) -> None:
    baseline = load(name)
    features = features_of(decode(8, 400))
    assert features is not None
    for _ in range(50):
        baseline.learn_one(features, 12.0)
    (place,) = baseline.places()
    assert (place.requests, place.prefill_tokens, place.visits) == (8, 0, 50)
    assert place.duration_ms == pytest.approx(12, rel=0.05)
    assert abs(place.context_tokens - 400) < 64
