from __future__ import annotations

import json
import math
import random

import pytest

from models.surprise import Surprise


def learnt(residuals: list[float], scale: float = 0.1) -> Surprise:
    surprise = Surprise(scale)
    for residual in residuals:
        surprise.learn(residual, residual / surprise.scale)
    return surprise


def gauss(seed: int, count: int, sigma: float = 0.02) -> list[float]:
    random_ = random.Random(seed)
    return [random_.gauss(0, sigma) for _ in range(count)]


def test_the_scale_is_the_standard_deviation_of_normal_residuals() -> None:
    assert learnt(gauss(1, 2000)).scale == pytest.approx(0.02, rel=0.2)


def test_a_few_outliers_do_not_widen_the_scale() -> None:
    calm = gauss(2, 2000)
    wild = [5.0 if place % 50 == 0 else one for place, one in enumerate(calm)]
    assert learnt(wild).scale == pytest.approx(learnt(calm).scale, rel=0.2)


def test_probabilities_are_those_of_the_residuals() -> None:
    surprise = learnt(gauss(3, 20_000), scale=0.02)
    fresh = gauss(4, 20_000)
    for probability in (0.1, 0.01, 0.001):
        limit = next(z / 10 for z in range(1, 200) if surprise.of(z / 10) >= -math.log(probability))
        found = sum(one / surprise.scale > limit for one in fresh) / len(fresh)
        assert 0.1 * probability < found < 1.5 * probability


def test_what_was_never_seen_is_more_surprising_the_further_it_is() -> None:
    surprise = learnt(gauss(5, 5000), scale=0.02)
    nats = [surprise.of(z) for z in (-9.0, 0.0, 0.1, 1.0, 3.0, 10.0, 100.0, 1e6, 1e300)]
    assert nats[0] == 0
    assert nats == sorted(nats)
    assert math.isfinite(nats[-1])


def test_an_engine_that_stutters_by_nature_is_not_surprised_by_it() -> None:
    stutter = [1.0 if place % 100 == 0 else one for place, one in enumerate(gauss(6, 5000))]
    steady, stuttering = learnt(gauss(6, 5000)), learnt(stutter)
    assert stuttering.of(0.9 / stuttering.scale) < 6
    assert steady.of(0.9 / steady.scale) > 12


def test_a_young_engine_is_not_sure_of_anything() -> None:
    young, old = learnt(gauss(7, 50)), learnt(gauss(7, 10_000))
    assert young.of(8.0) < old.of(8.0) - 2


def test_the_limit_of_a_probability_is_where_it_is_reached() -> None:
    surprise = learnt(gauss(8, 5000))
    limit = surprise.beyond(0.005)
    assert surprise.of(limit) >= -math.log(0.005)
    assert surprise.of(limit / 1.13) <= -math.log(0.005)


@pytest.mark.parametrize("taken", [0, 5, 64, 700])
def test_it_comes_back_bit_for_bit(taken: int) -> None:
    stream = gauss(9, 1500)
    surprise = learnt(stream[:taken])
    restored = Surprise(1.0)
    restored.restore(json.loads(json.dumps(surprise.to_state())))
    for residual in stream[taken:]:
        z = residual / surprise.scale
        assert restored.of(z) == surprise.of(z)
        restored.learn(residual, z)
        surprise.learn(residual, z)
    assert json.dumps(restored.to_state()) == json.dumps(surprise.to_state())


def test_it_forgets_slowly_and_stays_small() -> None:
    surprise = learnt(gauss(10, 60_000))
    assert len(json.dumps(surprise.to_state())) < 3500
