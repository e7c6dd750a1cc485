"""Intervals against published numbers."""

from __future__ import annotations

import pytest

from simulator.score.confidence import bootstrap_f1, mean, quantile, rate, share


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(hits: int, n: int, low: float, high: float) -> None:
    found = share(hits, n)
    assert found.value == pytest.approx(hits / n)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_the_interval_of_a_share_ends_at_its_ends() -> None:
    assert share(0, 5).low == 0.0
    assert share(5, 5).high == 1.0


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [
        # Garwood's limits, as tabulated for 95 % in Johnson, Kotz and Kemp.
        (0, 0.0, 3.6889),
        (1, 0.0253, 5.5716),
        (2, 0.2422, 7.2247),
        (5, 1.6235, 11.6683),
        (10, 4.7954, 18.3904),
        (100, 81.3640, 121.6273),
    ],
)
def test_the_poisson_interval_is_the_published_one(events: int, low: float, high: float) -> None:
    found = rate(events, 1.0)
    assert found.low == pytest.approx(low, abs=1e-3)
    assert found.high == pytest.approx(high, abs=1e-3)


def test_a_rate_is_per_unit_of_exposure() -> None:
    found = rate(10, 4.0)
    assert found.value == 2.5
    assert found.high == pytest.approx(18.3904 / 4, abs=1e-3)


def test_many_events_are_no_jump_away_from_few() -> None:
    exact, close = rate(1000, 1.0), rate(1001, 1.0)
    assert exact.low is not None
    assert exact.high is not None
    assert close.low == pytest.approx(exact.low + 1, abs=0.1)
    assert close.high == pytest.approx(exact.high + 1, abs=0.1)


def test_without_anything_seen_nothing_is_known() -> None:
    assert share(0, 0).value is None
    assert rate(3, 0.0).value is None
    assert quantile([], 0.5, 10, 1).value is None
    assert mean([], 10, 1).value is None


def test_one_value_has_no_interval() -> None:
    assert (quantile([4.0], 0.9, 10, 1).value, quantile([4.0], 0.9, 10, 1).low) == (4.0, None)
    assert (mean([4.0], 10, 1).value, mean([4.0], 10, 1).low) == (4.0, None)
    assert bootstrap_f1([(3, 1)], [0], 10, 1) == (None, None)


def test_a_bootstrap_can_be_repeated() -> None:
    pairs = [(n, 40 - n) for n in range(40)]
    assert bootstrap_f1(pairs, [0, 3], 200, 7) == bootstrap_f1(pairs, [0, 3], 200, 7)
    assert bootstrap_f1(pairs, [0, 3], 200, 7) != bootstrap_f1(pairs, [0, 3], 200, 8)


def test_the_interval_of_an_f1_covers_it_and_narrows_with_more_faults() -> None:
    few = bootstrap_f1([(9, 1), (5, 5)] * 2, [2, 0], 500, 1)
    many = bootstrap_f1([(9, 1), (5, 5)] * 50, [2, 0] * 25, 500, 1)
    for low, high in (few, many):
        assert low is not None
        assert high is not None
        assert low < 2 * 14 / (2 * 14 + 6 + 2 / 2) < high
    assert many[1] - many[0] < few[1] - few[0]  # type: ignore[operator]  # known from above
