"""What the physical baseline is for: workloads never seen, and engines that pad or do not."""

from __future__ import annotations

import random

import pytest

from models.baselines._memory import padded
from models.baselines.chosen import Chosen
from models.baselines.physical import Physical, token_step
from models.features import Features, features_of
from schemas.records import Workload
from tests.contracts.test_baselines import learnt
from tests.models.synthetic import cost_ms, decode, mixed


def features(workload: Workload) -> Features:
    found = features_of(workload)
    assert found is not None
    return found


def error(baseline: Physical, workload: Workload) -> float:
    return abs(baseline.predict_one(features(workload)) / cost_ms(workload) - 1)


@pytest.fixture
def baseline() -> Physical:
    found = learnt("physical")
    assert isinstance(found, Physical)
    return found


@pytest.mark.parametrize(
    "workload",
    [decode(400, 500), decode(20, 20_000), mixed(20, 500, 8000), mixed(300, 3000, 4000)],
    ids=["requests", "context", "prefill", "all"],
)
def test_a_workload_never_seen_is_extrapolated(baseline: Physical, workload: Workload) -> None:
    assert error(baseline, workload) < 0.10


def test_the_terms_are_those_of_the_engine(baseline: Physical) -> None:
    expected = baseline.expect(features(mixed(10, 400, 600)))
    assert expected is not None
    terms_ms = baseline.terms_ms(expected)
    assert terms_ms["weights"] == pytest.approx(5, rel=0.1)
    assert terms_ms["kv"] == pytest.approx(4600 / 20_000, rel=0.2)
    assert terms_ms["prefill"] == pytest.approx(10, rel=0.1)


def test_no_term_is_ever_negative() -> None:
    """Context and size grow together here, so that a plain regression swings between them."""
    baseline = Physical()
    random_ = random.Random(3)
    for step in range(400):
        requests = 1 + step // 10
        workload = decode(requests, 100 + 10 * requests)
        baseline.learn_one(features(workload), cost_ms(workload) * random_.lognormvariate(0, 0.05))
        expected = baseline.expect(features(workload))
        assert expected is not None
        terms_ms = baseline.terms_ms(expected)
        assert min(value for name, value in terms_ms.items() if name != "memory") >= 0


@pytest.mark.parametrize("pads", [True, False])
def test_engines_that_pad_and_engines_that_do_not_are_both_known(pads: bool) -> None:
    def cost(requests: int) -> float:
        return 5 + 2.0 * (padded(requests) if pads else requests)

    baseline = Chosen()
    random_ = random.Random(4)
    for _ in range(1500):
        requests = random_.randint(1, 24)
        observed_ms = cost(requests) * random_.lognormvariate(0, 0.01)
        baseline.learn_one(features(decode(requests, random_.randint(100, 900))), observed_ms)
    worst = max(
        abs(baseline.predict_one(features(decode(requests, 500))) / cost(requests) - 1)
        for requests in range(1, 25)
    )
    assert worst < 0.05
    assert baseline.pads is pads


def test_what_is_known_of_one_context_stays_while_another_is_learnt() -> None:
    baseline = Physical()
    short, long = features(decode(8, 200)), features(decode(8, 5000))
    for _ in range(100):
        baseline.learn_one(short, 10.0)
    for _ in range(500):
        baseline.learn_one(long, 15.0)
    assert baseline.predict_one(short) == pytest.approx(10, rel=0.02)
    assert baseline.predict_one(long) == pytest.approx(15, rel=0.02)


def test_padding_never_makes_a_batch_smaller() -> None:
    sizes = [padded(n) for n in range(1, 600)]
    assert sizes == sorted(sizes)
    assert all(size >= n for n, size in enumerate(sizes, start=1))


def test_steps_of_tokens_grow_with_them() -> None:
    steps = [token_step(n) for n in range(1, 5000)]
    assert steps == sorted(steps)
    assert set(range(1, steps[-1] + 1)) == set(steps)
