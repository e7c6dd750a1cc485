"""What every detector promises, whichever there are."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator

import pytest

from models.detectors import Detector, Evidence, available, load

detectors = pytest.mark.parametrize("name", available())
SPACING = math.log(1e6)
HOSTILE = [0.0, -0.0, 1e308, -1e308, 5e-324, 41.0, 1e9, -40.0]


def evidence(z: float, *, mixed: bool = False, novelty: int = 0) -> Evidence:
    """Give what a residual of ``z`` scales says where residuals have a normal distribution."""
    scale = 0.05
    survival = 0.5 * math.erfc(max(min(z, 5.0), -5.0) / math.sqrt(2))
    surprise = -math.log(survival) + (math.log(z / 5) * 4 if z > 5 else 0.0)
    return Evidence(z * scale, scale, surprise, mixed, novelty)


def residuals(seed: int, count: int) -> Iterator[tuple[float, bool]]:
    """Give calm residuals with slow stretches and wild values among them."""
    random_ = random.Random(seed)
    for place in range(count):
        centre = 20.0 if place // 40 % 3 == 1 else 0.0
        yield random_.gauss(centre, random_.choice([1.0, 1.0, 30.0])), random_.random() < 0.3


def scores(detector: Detector, stream: list[tuple[float, bool]]) -> list[float]:
    return [detector.score_one(evidence(z, mixed=mixed), SPACING) for z, mixed in stream]


def slow_stream() -> list[tuple[float, bool]]:
    """Give what raises each detector: a slow stretch, and single giants after it."""
    return [(60.0, False)] * 30 + [(0.0, False), (0.0, False), (0.0, False), (1e6, False)] * 30


def alarmed(name: str) -> Detector:
    """Give a detector in the middle of an alarm."""
    detector = load(name)
    for z, mixed in slow_stream():
        if scores(detector, [(z, mixed)])[-1] >= 1:
            return detector
    raise AssertionError(f"{name} is not to be raised")


def test_there_are_detectors_and_base_is_none() -> None:
    assert available()
    assert "base" not in available()


def test_a_detector_nobody_wrote_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookupError, match=f"unknown detector 'nose'; have: {available()[0]}"):
        load("nose")


@detectors
def test_each_load_is_a_detector_of_its_own(name: str) -> None:
    one, two = load(name), load(name)
    scores(one, [(50.0, False)] * 20)
    assert two.to_state() == load(name).to_state()


@detectors
def test_scores_are_finite_and_not_negative(name: str) -> None:
    detector = load(name)
    stream = [*residuals(1, 2000), *((z, mixed) for z in HOSTILE for mixed in (False, True))]
    found = scores(detector, stream)
    assert all(math.isfinite(score) and score >= 0 for score in found)


@detectors
def test_the_same_residuals_give_the_same_scores(name: str) -> None:
    stream = list(residuals(2, 1000))
    assert scores(load(name), stream) == scores(load(name), stream)


@detectors
def test_a_detector_goes_on_exactly_from_its_state_wherever_it_stopped(name: str) -> None:
    stream = list(residuals(3, 300))
    expected = scores(load(name), stream)
    first = load(name)
    for taken, (z, mixed) in enumerate(stream):
        second = load(name)
        second.restore(json.loads(json.dumps(first.to_state())))
        assert scores(second, stream[taken:]) == expected[taken:]
        first.score_one(evidence(z, mixed=mixed), SPACING)


@detectors
def test_giving_the_state_changes_nothing_and_the_state_is_a_copy(name: str) -> None:
    stream = list(residuals(4, 300))
    detector = load(name)
    expected = scores(load(name), stream)
    found = []
    for z, mixed in stream:
        before = detector.to_state()
        text = json.dumps(before)
        found.append(detector.score_one(evidence(z, mixed=mixed), SPACING))
        assert json.dumps(before) == text
    assert found == expected


@detectors
def test_the_state_does_not_grow(name: str) -> None:
    detector = load(name)
    scores(detector, list(residuals(5, 1000)))
    early = len(json.dumps(detector.to_state()))
    scores(detector, list(residuals(6, 20_000)))
    assert len(json.dumps(detector.to_state())) < early + 200


@detectors
def test_it_can_be_raised_and_says_by_how_much_batches_are_slower(name: str) -> None:
    detector = alarmed(name)
    assert detector.shift >= 0
    assert math.isfinite(detector.shift)


@detectors
def test_higher_is_stranger(name: str) -> None:
    calm, strange = load(name), load(name)
    assert scores(strange, [(100.0, False)])[-1] > scores(calm, [(0.0, False)])[-1]


@detectors
@pytest.mark.parametrize("z", [0.0, -5.0])
def test_what_is_as_expected_or_faster_never_raises_it(name: str, z: float) -> None:
    assert max(scores(load(name), [(z, False), (z, True)] * 5000)) == 0


@detectors
def test_noise_of_the_usual_size_never_raises_it(name: str) -> None:
    random_ = random.Random(7)
    noise = [(random_.gauss(0, 1), random_.random() < 0.2) for _ in range(20_000)]
    assert max(scores(load(name), noise)) < 1


@detectors
def test_an_alarm_ends_when_residuals_are_normal_again(name: str) -> None:
    assert scores(alarmed(name), [(0.0, False)] * 100)[-1] < 1


@detectors
def test_rest_forgets_everything(name: str) -> None:
    detector = alarmed(name)
    detector.rest()
    assert scores(detector, [(0.0, False)])[-1] == 0
