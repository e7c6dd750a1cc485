from __future__ import annotations

import random
from dataclasses import replace

import pytest

from models.peers import DAY_NS, LEAST_BATCHES, PeerLimits, compare, is_peer
from schemas.records import NormCell, Norms

NOW_NS = 10 * DAY_NS
SIZES = (1, 8, 16, 24, 32)


def norms(
    engine_id: str,
    factor: float = 1.0,
    *,
    sizes: tuple[int, ...] = SIZES,
    visits: int = 50,
    prefill_factor: float | None = None,
) -> Norms:
    cells = [cell(size, 0, factor, visits) for size in sizes]
    if prefill_factor is not None:
        cells.append(cell(8, 512, prefill_factor, visits))
    return Norms(engine_id=engine_id, at_ns=NOW_NS, kind="a", batches=1000, cells=tuple(cells))


def cell(requests: int, prefill_tokens: int, factor: float, visits: int) -> NormCell:
    return NormCell(
        requests=requests,
        context_tokens=640,
        prefill_tokens=prefill_tokens,
        visits=visits,
        duration_ns=int(factor * (20e6 + 2e5 * requests + 1e5 * prefill_tokens)),
    )


def healthy(count: int, spread: float = 0.01, seed: int = 1) -> list[Norms]:
    draw = random.Random(seed)
    return [norms(f"peer-{number}", draw.lognormvariate(0, spread)) for number in range(count)]


def test_the_ratio_is_that_to_the_median_of_the_peers() -> None:
    found = compare(norms("own", 1.3), healthy(6))
    assert found is not None
    assert found.ratio == pytest.approx(1.3, rel=0.02)
    assert set(found.ratios) == {f"peer-{number}" for number in range(6)}
    assert found.is_slow


def test_the_evidence_is_what_both_take_for_the_same_work_most_visited_first() -> None:
    own = norms("own", 1.3)
    own = replace(own, cells=(*own.cells[1:], replace(own.cells[0], visits=900)))
    found = compare(own, [norms("b"), norms("c"), norms("d", sizes=SIZES[:3])])
    assert found is not None
    assert [one.requests for one in found.cells] == [1, 8, 16, 24, 32]
    assert [one.peers for one in found.cells] == [3, 3, 3, 2, 2]
    assert found.cells[0].duration_ns / found.cells[0].peers_ns == pytest.approx(1.3, rel=1e-6)


@pytest.mark.parametrize(("factor", "slow"), [(1.1, False), (1.14, False), (1.17, True)])
def test_it_takes_fifteen_percent(factor: float, slow: bool) -> None:
    found = compare(norms("own", factor), healthy(6, spread=0.001))
    assert found is not None
    assert found.is_slow is slow


def test_a_faster_engine_is_not_slow() -> None:
    found = compare(norms("own", 0.5), healthy(6))
    assert found is not None
    assert (found.is_slow, round(found.ratio, 1)) == (False, 0.5)


def test_peers_that_differ_much_among_themselves_call_nobody_slow() -> None:
    peers = [norms(f"peer-{number}", 1 + number / 8) for number in range(5)]
    found = compare(norms("own", 1.8), peers)
    assert found is not None
    assert (found.ratio > 1.15, found.is_slow) == (True, False)


@pytest.mark.parametrize(("slow", "found"), [(3, True), (4, False)])
def test_of_six_the_slow_ones_are_found_up_to_half_of_them(slow: int, found: bool) -> None:
    fleet = [
        norms(f"{number}", one.cells[0].duration_ns / 20.2e6 * (1.3 if number < slow else 1.0))
        for number, one in enumerate(healthy(6))
    ]
    verdicts = []
    for own in fleet:
        comparison = compare(own, fleet)
        assert comparison is not None
        verdicts.append(comparison.is_slow)
    assert verdicts == [found] * slow + [False] * (6 - slow)


@pytest.mark.parametrize(("factor", "slow"), [(1.4, False), (1.6, True)])
def test_a_single_peer_has_to_be_left_far_behind(factor: float, slow: bool) -> None:
    found = compare(norms("own", factor), [norms("peer")])
    assert found is not None
    assert (found.z, found.is_slow) == (None, slow)


def test_two_peers_have_to_agree() -> None:
    found = compare(norms("own", 1.7), [norms("fast"), norms("as slow", 1.7)])
    assert found is not None
    assert not found.is_slow


def test_more_peers_may_be_asked_for() -> None:
    found = compare(norms("own", 1.3), healthy(3), PeerLimits(peers=4))
    assert found is not None
    assert not found.is_slow


@pytest.mark.parametrize("factor", [0.1, 9.0])
def test_one_odd_place_of_the_workload_decides_nothing(factor: float) -> None:
    peers = [norms("b", prefill_factor=1.0), norms("c", prefill_factor=1.0)]
    found = compare(norms("own", prefill_factor=factor), peers)
    assert found is not None
    assert found.ratio == pytest.approx(1.0)


def test_places_weigh_as_much_as_batches_were_there() -> None:
    peers = [norms("b"), norms("c")]
    own = norms("own", 1.4)
    own = replace(own, cells=(cell(1, 0, 1.0, 1000), *own.cells[1:]))
    found = compare(own, peers)
    assert found is not None
    assert found.ratio == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (norms("own", sizes=(1, 8, 40, 48, 56)), norms("peer")),
        (norms("own", visits=9), norms("peer")),
        (norms("own"), norms("peer", visits=9)),
        (norms("own"), norms("peer", sizes=(2, 4))),
        (norms("own"), replace(norms("peer"), cells=())),
    ],
    ids=["two of five cells", "own not known", "peer's not known", "none shared", "no cells"],
)
def test_with_too_little_work_in_common_nothing_is_said(own: Norms, peer: Norms) -> None:
    assert compare(own, [peer]) is None


def test_two_cells_are_enough_where_half_of_the_batches_are_there() -> None:
    assert compare(norms("own", sizes=(1, 8, 40)), [norms("peer")]) is not None


def test_context_that_nobody_knows_is_compared_with_such_alone() -> None:
    def unknown(one: Norms) -> Norms:
        return replace(one, cells=tuple(replace(one, context_tokens=None) for one in one.cells))

    assert compare(unknown(norms("own")), [norms("peer")]) is None
    assert compare(unknown(norms("own")), [unknown(norms("peer"))]) is not None


@pytest.mark.parametrize(
    "other",
    [
        norms("own"),
        replace(norms("peer"), kind="b"),
        replace(norms("peer"), suspect=True),
        replace(norms("peer"), batches=LEAST_BATCHES - 1),
        replace(norms("peer"), at_ns=NOW_NS - DAY_NS),
    ],
    ids=["itself", "another kind", "in an incident", "too young", "too old"],
)
def test_who_is_no_peer(other: Norms) -> None:
    own = norms("own", 2.0)
    assert is_peer(own, norms("peer"))
    assert not is_peer(own, other)
    assert compare(own, [other]) is None


@pytest.mark.parametrize("count", [2, 3, 6, 20])
def test_healthy_engines_are_not_slow_against_each_other(count: int) -> None:
    slow = 0
    for seed in range(300):
        own, *others = healthy(count + 1, spread=0.03, seed=seed)
        found = compare(own, others)
        assert found is not None
        slow += found.is_slow
    assert slow <= 1
