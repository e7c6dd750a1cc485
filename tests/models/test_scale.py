from __future__ import annotations

import json
import random

import pytest

from models.scale import WINDOW, RobustScale


def scale_of(residuals: list[float]) -> RobustScale:
    scale = RobustScale()
    for residual in residuals:
        scale.learn(residual)
    return scale


def normal(seed: int, count: int, sigma: float = 0.02) -> list[float]:
    random_ = random.Random(seed)
    return [random_.gauss(0, sigma) for _ in range(count)]


def test_before_the_first_residual_the_scale_is_the_callers() -> None:
    assert RobustScale().sigma(unknown=0.3) == 0.3


def test_of_normal_residuals_it_is_the_standard_deviation() -> None:
    assert scale_of(normal(1, 400)).sigma(1.0) == pytest.approx(0.02, rel=0.15)


def test_a_few_outliers_do_not_widen_it() -> None:
    calm = normal(2, 390)
    assert scale_of([*calm, *[5.0] * 10]).sigma(1.0) == pytest.approx(
        scale_of(calm).sigma(1.0), rel=0.15
    )


def test_a_heavy_tail_does_widen_it() -> None:
    calm = normal(3, 320)
    assert scale_of([*calm, *[0.2] * 80]).sigma(1.0) > 3 * scale_of(calm).sigma(1.0)


def test_it_forgets_what_is_older_than_its_window() -> None:
    recent = normal(4, WINDOW)
    assert scale_of([*[9.0] * 1000, *recent]).sigma(1.0) == scale_of(recent).sigma(1.0)


@pytest.mark.parametrize("taken", [0, 1, 399, 400, 1234])
def test_a_scale_goes_on_exactly_from_its_state(taken: int) -> None:
    residuals = normal(5, 2000)
    scale = scale_of(residuals[:taken])
    restored = RobustScale.from_state(json.loads(json.dumps(scale.to_state())))
    for residual in residuals[taken:]:
        assert restored.sigma(1.0) == scale.sigma(1.0)
        restored.learn(residual)
        scale.learn(residual)
    assert len(scale.to_state()) == WINDOW
