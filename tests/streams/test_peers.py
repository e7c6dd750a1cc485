from __future__ import annotations

from dataclasses import replace

import pytest

from models.baselines import Place
from models.peers import DAY_NS, PeerLimits
from models.roofline import USUAL_TIMES
from schemas.records import Engine, Norms
from streams.peers import (
    CELLS,
    EARLY_PERIOD_BATCHES,
    FIRST_BATCHES,
    LOOK_FOR_OLD,
    PEERS_OF_A_KIND,
    PERIOD_BATCHES,
    YOUNG_BATCHES,
    Look,
    Peers,
    Start,
    kind_of,
)

A100 = "NVIDIA A100-SXM4-80GB"
ENGINE = Engine(
    engine_id="own",
    host="host",
    at_ns=1,
    state="running",
    framework="vllm",
    process_start_ns=1,
    version="0.33.0",
    model="Qwen3-32B",
    device_ids=("GPU-1",),
    device_models=(A100,),
    command_digest="0123456789abcdef",
)
SIZES = (1, 8, 16, 32)
# 32e9 weights of 2 bytes at 2,039 GB/s.
LEAST_MS = 31.4


def normal(factor: float = 1.0, sizes: tuple[int, ...] = SIZES) -> list[Place]:
    return [
        Place(
            requests=requests,
            context_tokens=512,
            prefill_tokens=0,
            visits=50,
            duration_ms=factor * (40 + requests / 4),
        )
        for requests in sizes
    ]


class Watched:
    """An engine of a kind, of which one look after the other is taken."""

    def __init__(
        self, peers: Peers, engine: Engine = ENGINE, limits: PeerLimits | None = None
    ) -> None:
        self.engine = engine
        self.start = Start(peers, limits)
        self.asked: list[int] = []

    def look(
        self,
        batches: int = FIRST_BATCHES,
        factor: float = 1.0,
        *,
        suspect: bool = False,
        sizes: tuple[int, ...] = SIZES,
        at_ns: int = 1,
    ) -> Look | None:
        def norms(most: int) -> list[Place]:
            self.asked.append(batches)
            return normal(factor, sizes)[:most]

        return self.start.look(
            self.engine, "counter", norms, batches=batches, at_ns=at_ns, suspect=suspect
        )


def changed(**changes: object) -> Engine:
    return replace(ENGINE, **changes)  # type: ignore[arg-type]  # test shorthand


def with_peers(*factors: float, version: str | None = ENGINE.version) -> Peers:
    peers = Peers()
    for number, factor in enumerate(factors):
        engine = changed(engine_id=f"peer-{number}", version=version)
        look = Watched(Peers(), engine).look(factor=factor)
        assert look is not None
        assert look.norms is not None
        peers.add(look.norms)
    return peers


def looks_at(watched: Watched, last: int, step: int = 10, **options: object) -> list[int]:
    """Give at how many batches something is told others."""
    return [
        batches
        for batches in range(0, last + 1, step)
        if watched.look(batches, **options) is not None  # type: ignore[arg-type]
    ]


def test_an_engine_that_was_slow_from_its_first_batch_is_told_by_its_peers() -> None:
    found = Watched(with_peers(1.0, 1.01, 0.99)).look(factor=1.3)
    assert found is not None
    slow_start = found.slow_start
    assert slow_start is not None
    assert slow_start.by == "peers"
    assert slow_start.ratio == pytest.approx(1.3)
    assert slow_start.factor == pytest.approx(1 / 1.3)
    assert slow_start.score >= 1
    assert slow_start.comparison is not None
    assert set(slow_start.comparison.ratios) == {"peer-0", "peer-1", "peer-2"}


def test_the_sentence_names_peers_ratio_and_work() -> None:
    found = Watched(with_peers(*[1.0] * 5)).look(factor=1.5)
    assert found is not None
    assert found.slow_start is not None
    assert found.slow_start.sentence == (
        "1.50 times as slow from its first batch as 5 peers of its kind (peer-0, peer-1, peer-2 "
        "and 2 more): 60.4 ms where they take 40.2 ms for 1 request of some 512 tokens, and "
        "likewise at 4 sizes of batch"
    )


def test_it_is_told_once() -> None:
    watched = Watched(with_peers(1.0, 1.0))
    told = [watched.look(batches, 1.3) for batches in range(200, 5000, 10)]
    assert [one.slow_start is not None for one in told if one] == [True, *[False] * 19]


def test_an_engine_is_looked_at_each_thousand_batches_and_more_often_at_first() -> None:
    watched = Watched(with_peers(1.0, 1.0))
    assert looks_at(watched, 3500) == [*range(200, 1000, 50), 1000, 2000, 3000]


def test_norms_are_asked_for_only_when_they_are_needed() -> None:
    watched = Watched(with_peers(1.0, 1.0))
    assert looks_at(watched, 3000, step=1) == watched.asked


def test_others_are_told_of_a_limited_number_of_cells() -> None:
    found = Watched(Peers()).look(sizes=tuple(range(1, 3 * CELLS)))
    assert found is not None
    assert found.norms is not None
    assert len(found.norms.cells) == CELLS


def test_context_that_the_engine_does_not_tell_is_unknown_to_others() -> None:
    start = Start(Peers())
    norm = normal()[0]._replace(context_tokens=-1)
    found = start.look(ENGINE, "counter", lambda _: [norm], batches=200, at_ns=1, suspect=False)
    assert found is not None
    assert found.norms is not None
    assert [one.context_tokens for one in found.norms.cells] == [None]


def test_where_peers_had_too_little_of_the_same_work_a_later_look_tells_it() -> None:
    watched = Watched(with_peers(1.0, 1.0))
    first = watched.look(200, 1.3, sizes=(2, 4))
    second = watched.look(200 + EARLY_PERIOD_BATCHES, 1.3)
    assert first is not None
    assert second is not None
    assert (first.slow_start, second.slow_start is None) == (None, False)


def test_an_engine_that_has_learnt_much_is_compared_no_more_but_tells_others() -> None:
    watched = Watched(with_peers(1.0, 1.0))
    found = watched.look(YOUNG_BATCHES, 1.3)
    assert found is not None
    assert found.norms is not None
    assert found.slow_start is None


def test_it_may_turn_out_late_as_peers_come() -> None:
    peers = Peers()
    watched = Watched(peers)
    first = watched.look(200, 1.3)
    for number in range(2):
        look = Watched(Peers(), changed(engine_id=f"peer-{number}")).look()
        assert look is not None
        assert look.norms is not None
        peers.add(look.norms)
    later = watched.look(PERIOD_BATCHES, 1.3)
    assert first is not None
    assert later is not None
    assert (first.slow_start, later.slow_start is None) == (None, False)


def test_an_incident_is_told_others_at_once_and_so_is_its_end() -> None:
    watched = Watched(with_peers(1.0, 1.0))
    suspects = []
    for batches, suspect in ((200, False), (300, True), (301, True), (302, False), (303, False)):
        look = watched.look(batches, suspect=suspect)
        suspects.append(look.norms.suspect if look is not None and look.norms else None)
    assert suspects == [False, True, None, False, None]


def test_nobody_is_compared_while_an_incident_is_open() -> None:
    found = Watched(with_peers(1.0, 1.0)).look(factor=1.3, suspect=True)
    assert found is not None
    assert found.slow_start is None


def test_more_peers_may_be_asked_for() -> None:
    found = Watched(with_peers(1.0, 1.0), limits=PeerLimits(peers=3)).look(factor=1.3)
    assert found is not None
    assert found.slow_start is None


def test_engines_of_another_kind_are_no_peers() -> None:
    peers = with_peers(1.0, 1.0, 1.0, version="0.32.0")
    found = Watched(peers).look(factor=1.3)
    assert found is not None
    assert found.slow_start is None


@pytest.mark.parametrize(
    "change",
    [
        {"framework": "sglang"},
        {"version": "0.33.1"},
        {"model": "Qwen3-14B"},
        {"ranks": 2},
        {"cuda_graphs": False},
        {"command_digest": "f" * 16},
        {"device_models": ("NVIDIA H200",)},
        {"device_models": (A100, A100)},
    ],
    ids=str,
)
def test_what_makes_another_kind(change: dict[str, object]) -> None:
    other = kind_of(changed(**change), "counter")
    assert other is not None
    assert other != kind_of(ENGINE, "counter")


def test_durations_read_on_another_rung_are_another_quantity() -> None:
    assert kind_of(ENGINE, "stream") != kind_of(ENGINE, "counter")


@pytest.mark.parametrize(
    "change",
    [
        {"engine_id": "x"},
        {"host": "x"},
        {"port": 9},
        {"pids": (7,)},
        {"process_start_ns": 9},
        {"device_ids": ("GPU-2",)},
        {"source": "stack"},
    ],
    ids=str,
)
def test_what_makes_no_other_kind(change: dict[str, object]) -> None:
    assert kind_of(changed(**change), "counter") == kind_of(ENGINE, "counter")


@pytest.mark.parametrize(
    "change",
    [
        {"version": None},
        {"model": None},
        {"command_digest": None},
        {"device_models": ()},
        {"device_models": (A100, "")},
        {"device_ids": ("MIG-4d806f22-346a-5a1d-ac01-86b505cdf485",)},
        {"device_ids": ("GPU-00000000c0ffee00:1",)},
    ],
    ids=str,
)
def test_with_something_unknown_there_is_no_kind_and_nothing_for_others(
    change: dict[str, object],
) -> None:
    assert kind_of(changed(**change), "counter") is None
    found = Watched(with_peers(1.0, 1.0), changed(**change)).look(factor=1.3)
    assert found == Look(norms=None)


def test_without_an_inventory_nothing_is_said() -> None:
    start = Start(with_peers(1.0, 1.0))
    told = start.look(None, "counter", lambda most: normal(), batches=900, at_ns=1, suspect=False)
    assert told is None


def test_an_engine_goes_on_where_it_was() -> None:
    peers = with_peers(1.0, 1.0)
    first, second = Watched(peers), Watched(peers)
    first.look(200, 1.3, suspect=True)
    first.look(300, 1.3)
    second.start.restore(first.start.to_state())
    told = [(one.look(999, 1.3), one.look(1000, 1.3)) for one in (first, second)]
    assert told[0] == told[1]
    assert told[0][1] is not None
    assert told[0][1].slow_start is None


class TestRoofline:
    def test_an_engine_without_peers_that_is_far_from_what_is_possible_is_slow(self) -> None:
        found = Watched(Peers()).look(factor=10.0)
        assert found is not None
        slow_start = found.slow_start
        assert slow_start is not None
        assert slow_start.by == "roofline"
        assert slow_start.ratio == pytest.approx(402.5 / (LEAST_MS + 10), rel=0.02)
        assert slow_start.factor == pytest.approx(USUAL_TIMES / slow_start.ratio)
        assert slow_start.score >= 1
        assert slow_start.sentence.startswith("slow from its first batch: 9.7 times the least")

    def test_below_that_it_is_only_a_word_and_a_single_one(self) -> None:
        watched = Watched(Peers())
        told = [watched.look(batches, 6.0) for batches in range(200, 3001, 50)]
        found = [one.slow_start for one in told if one is not None and one.slow_start is not None]
        assert [one.score < 1 for one in found] == [True]
        assert found[0].sentence.startswith("perhaps slow from its first batch: 5.8 times")

    def test_a_word_does_not_keep_peers_from_telling_it_later(self) -> None:
        peers = Peers()
        watched = Watched(peers)
        watched.look(200, 6.0)
        for one in with_peers(1.0, 1.0).of(kind_of(ENGINE, "counter")).values():
            peers.add(one)
        found = watched.look(1000, 6.0)
        assert found is not None
        assert found.slow_start is not None
        assert found.slow_start.by == "peers"

    def test_where_all_are_slow_together_the_hardware_tells_it(self) -> None:
        found = Watched(with_peers(*[10.0] * 5)).look(factor=10.0)
        assert found is not None
        assert found.slow_start is not None
        assert found.slow_start.by == "roofline"

    def test_peers_that_may_yet_tell_it_better_are_waited_for(self) -> None:
        watched = Watched(with_peers(1.0, 1.0))
        early = watched.look(200, 10.0, sizes=(2, 4))
        late = watched.look(1000, 10.0, sizes=(2, 4))
        assert early is not None
        assert late is not None
        assert (early.slow_start, late.slow_start is None) == (None, False)

    def test_a_part_of_a_device_has_no_bound(self) -> None:
        found = Watched(Peers(), changed(device_ids=("MIG-4d806f22",))).look(factor=10.0)
        assert found == Look(norms=None)

    def test_a_normal_engine_is_nothing_to_speak_of(self) -> None:
        found = Watched(Peers()).look()
        assert found is not None
        assert found.slow_start is None


class TestPeers:
    @staticmethod
    def norms(engine_id: str, at_ns: int = 1, kind: str = "a") -> Norms:
        return Norms(engine_id=engine_id, at_ns=at_ns, kind=kind, batches=1000, cells=())

    def test_the_newest_of_an_engine_counts_whatever_comes_last(self) -> None:
        peers = Peers()
        for at_ns in (5, 9, 7):
            peers.add(self.norms("x", at_ns))
        assert [one.at_ns for one in peers.of("a").values()] == [9]

    def test_an_engine_is_of_one_kind_at_a_time(self) -> None:
        peers = Peers()
        peers.add(self.norms("x", 1, "a"))
        peers.add(self.norms("x", 2, "b"))
        peers.add(self.norms("x", 1, "a"))
        assert (list(peers.of("a")), list(peers.of("b"))) == ([], ["x"])

    def test_of_a_large_fleet_the_latest_are_kept_in_whatever_order_they_come(self) -> None:
        count = PEERS_OF_A_KIND + 10
        for order in (range(count), reversed(range(count))):
            peers = Peers()
            for number in order:
                peers.add(self.norms(f"{number}", at_ns=number))
            assert set(peers.of("a")) == {f"{number}" for number in range(10, count)}

    @pytest.mark.parametrize("newest_first", [False, True])
    def test_engines_that_are_gone_do_not_pile_up(self, newest_first: bool) -> None:
        """A new one each minute for a week, each of a kind of its own."""
        peers = Peers()
        minutes = range(7 * 24 * 60)
        for minute in reversed(minutes) if newest_first else minutes:
            peers.add(self.norms(f"{minute}", minute * DAY_NS // (24 * 60), kind=f"{minute}"))
        kept = [minute for minute in minutes if peers.of(f"{minute}")]
        assert len(kept) < 4 * 24 * 60
        # Those of the last day are all there.
        assert kept[-24 * 60 :] == list(minutes[-24 * 60 :])

    def test_one_clock_that_is_ahead_costs_the_others_nothing(self) -> None:
        peers = Peers()
        for number in range(5):
            peers.add(self.norms(f"{number}"))
        for _ in range(2 * LOOK_FOR_OLD):
            peers.add(self.norms("ahead", 9 * DAY_NS))
        assert len(peers.of("a")) == 6

    def test_a_kind_that_nobody_is_of_is_empty(self) -> None:
        assert (list(Peers().of("a")), list(Peers().of(None))) == ([], [])
