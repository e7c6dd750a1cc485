"""Intervals against published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.score import confidence
from simulator.score.confidence import Estimate, f1, mean, quantile, rate, share


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


def pairs(*of: tuple[int, int]) -> list[tuple[float, float, float]]:
    return [(hits, misses, hits) for hits, misses in of]


def ends(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_few_units_have_no_interval() -> None:
    few = [0.0, 1.0, 2.0, 3.0]
    for found in (
        quantile(few, 0.5, 10, 1),
        mean(few, 10, 1),
        f1(pairs((3, 0), (3, 1), (3, 2), (3, 3)), [0], 10, 1),
        # Many values, though of few faults.
        quantile(few * 9, 0.5, 10, 1, units=[str(value) for value in few] * 9),
    ):
        assert found.value is not None
        assert (found.low, found.high) == (None, None)
        assert found.n == len(few)


def test_draws_that_all_agree_are_no_interval() -> None:
    for found in (
        quantile([4.0] * 20, 0.5, 10, 1),
        mean([4.0] * 20, 10, 1),
        f1(pairs(*[(3, 0)] * 20), [0] * 20, 10, 1),
    ):
        assert found.value is not None
        assert (found.low, found.high) == (None, None)


def test_a_share_of_what_belongs_together_is_as_unsure_as_that_of_few() -> None:
    assert share(40, 80, units=10).value == 0.5
    assert ends(share(40, 80, units=10)) == ends(share(5, 10))
    assert ends(share(80, 80, units=10)) == ends(share(10, 10))


def test_a_quantile_of_what_belongs_together_is_less_sure() -> None:
    values = [float(n) for n in range(60)]
    alone = ends(quantile(values, 0.5, 500, 1))
    together = ends(quantile(values, 0.5, 500, 1, units=[str(n // 10) for n in range(60)]))
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_drawn_quantiles_are_those_of_the_drawn_values() -> None:
    ordered = np.array([1.0, 2.0, 4.0, 8.0])
    weights = np.array([[1, 1, 1, 1], [0, 3, 0, 1], [4, 0, 0, 0]], dtype=float)
    for q in (0.0, 0.5, 0.9, 1.0):
        found = confidence._weighted_quantile(ordered, weights, q)
        drawn = [np.repeat(ordered, row.astype(int)) for row in weights]
        assert found == pytest.approx([np.quantile(one, q) for one in drawn])


def test_a_bootstrap_can_be_repeated() -> None:
    units = pairs(*[(n, 40 - n) for n in range(40)])
    assert f1(units, [0, 3], 200, 7) == f1(units, [0, 3], 200, 7)
    assert f1(units, [0, 3], 200, 7) != f1(units, [0, 3], 200, 8)


def test_the_interval_of_an_f1_covers_it_and_narrows_with_more_faults() -> None:
    few = f1(pairs(*[(9, 1), (5, 5)] * 3), [2, 0], 500, 1)
    many = f1(pairs(*[(9, 1), (5, 5)] * 50), [2, 0] * 25, 500, 1)
    for found in (few, many):
        assert found.value is not None
        assert ends(found)[0] < found.value < ends(found)[1]
    assert ends(many)[1] - ends(many)[0] < ends(few)[1] - ends(few)[0]


def test_one_answer_to_two_faults_counts_half_for_each_in_precision() -> None:
    # Both faults were found by one incident, and another was false.
    found = f1([(1, 0, 0.5), (1, 0, 0.5)], [1], 10, 1)
    assert found.value == pytest.approx(2 * 0.5 * 1 / 1.5)
