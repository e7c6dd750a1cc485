"""Another setting is recognised by the inventory, learnt anew, and known again when it returns."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from models.judge import SETTLING_BATCHES, WARM_BATCHES
from schemas.records import Batch, Engine
from streams.analyze import Analysis
from streams.regimes import SHELF_BYTES, Regime, Regimes
from tests.streams.feed import ENGINE_ID, Feed, Listener

LATER_NS = 1_000_000_000_000
KNOWN = {
    "version": "1.0",
    "ranks": 2,
    "device_ids": ("a", "b"),
    "device_models": ("H100", "H100"),
    "command_digest": "0123456789abcdef",
}


class Deployed:
    """An engine that is known in one setting."""

    def __init__(self) -> None:
        self.feed, self.listener = Feed(), Listener()
        self.inventory(**KNOWN)
        self.listener.take(self.feed.batches(400))

    def inventory(self, **changes: object) -> None:
        given = KNOWN | changes
        self.feed.ranks = int(str(given["ranks"]))
        self.listener.take([self.feed.engine(**given)])

    def restart(self, **changes: object) -> None:
        """Restart the engine; the inventory comes first."""
        self.feed.process_start_ns += LATER_NS
        self.feed.sequence = 0
        self.inventory(**changes)

    def batches(self, count: int, factor: float = 1.0) -> list[Batch]:
        found = self.listener.take(self.feed.batches(count, factor=factor))
        return [one for one in found if isinstance(one, Batch)]


def inventory(feed: Feed, **changes: object) -> Engine:
    return replace(feed.engine(), **changes)  # type: ignore[arg-type]  # test shorthand


@pytest.fixture
def deployed() -> Deployed:
    return Deployed()


CHANGES: list[tuple[dict[str, object], str]] = [
    ({"framework": "sglang"}, "framework vllm -> sglang"),
    ({"version": "2.0"}, "version 1.0 -> 2.0"),
    ({"model": "other"}, "model a-model -> other"),
    ({"ranks": 4}, "ranks 2 -> 4"),
    ({"ranks": 1}, "ranks 2 -> 1"),
    ({"device_ids": ("a",), "device_models": ()}, "devices 2 -> 1"),
    ({"device_models": ("A100", "A100")}, "device models H100+H100 -> A100+A100"),
    ({"command_digest": "fedcba9876543210"}, "command changed"),
]


@pytest.mark.parametrize(("changes", "said"), CHANGES, ids=[said for _, said in CHANGES])
def test_another_setting_is_learnt_anew_and_every_batch_says_so(
    deployed: Deployed, changes: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    deployed.restart(**changes)
    deployed.inventory(**changes)
    batches = deployed.batches(WARM_BATCHES, factor=2.0)
    assert {batch.verdict for batch in batches} == {"unknown"}
    assert {(batch.reason or "").partition(";")[0] for batch in batches} == {
        f"learning anew: {said}"
    }
    assert f"{ENGINE_ID} runs in another setting; learning anew: {said}." in caplog.messages
    after = deployed.batches(100, factor=2.0)[-1]
    assert after.verdict == "normal"
    assert "anew" not in (after.reason or "")
    assert deployed.listener.alerts == []


def test_a_restart_in_the_same_setting_keeps_what_was_learnt(deployed: Deployed) -> None:
    deployed.restart()
    verdicts = [batch.verdict for batch in deployed.batches(SETTLING_BATCHES + 100)]
    assert set(verdicts[:SETTLING_BATCHES]) == {"unknown"}
    assert set(verdicts[SETTLING_BATCHES:]) == {"normal"}


@pytest.mark.parametrize(
    "unknown",
    [
        {"version": None},
        {"device_ids": (), "device_models": ()},
        {"device_models": ("H100", "")},
        {"command_digest": None},
        {"model": None},
    ],
    ids=lambda unknown: next(iter(unknown)),
)
def test_what_is_not_known_for_a_while_is_no_other_setting(
    deployed: Deployed, unknown: dict[str, object]
) -> None:
    deployed.restart(**unknown)
    deployed.inventory()
    batches = deployed.batches(SETTLING_BATCHES + 50)
    assert batches[-1].verdict == "normal"
    assert not any("anew" in (batch.reason or "") for batch in batches)


def test_what_becomes_known_counts_from_then_on(deployed: Deployed) -> None:
    feed, listener = Feed(), Listener()
    listener.take([feed.engine()])
    listener.take(feed.batches(600))
    listener.take([feed.engine(version="1.0")])
    assert listener.take(feed.batch())[0].verdict == "normal"  # type: ignore[union-attr]
    listener.take([feed.engine(version="2.0")])
    assert listener.take(feed.batch())[0].verdict == "unknown"  # type: ignore[union-attr]


def test_ranks_that_the_agent_finds_one_by_one_are_no_other_setting(deployed: Deployed) -> None:
    """Within one process there is no other number of them; a new agent begins with one, too."""
    for ranks in (1, 1, 2):
        deployed.inventory(ranks=ranks)
    assert deployed.batches(1)[0].verdict == "normal"


def test_a_restart_whose_ranks_are_found_one_by_one_is_known_in_the_end(
    deployed: Deployed,
) -> None:
    deployed.restart(ranks=1)
    deployed.batches(20)
    deployed.inventory(ranks=2)
    verdicts = [batch.verdict for batch in deployed.batches(SETTLING_BATCHES + 50)]
    assert set(verdicts[SETTLING_BATCHES:]) == {"normal"}


def test_a_deploy_that_is_rolled_back_finds_its_old_baseline(deployed: Deployed) -> None:
    deployed.restart(version="2.0")
    deployed.batches(WARM_BATCHES + 200, factor=1.6)
    deployed.restart()
    batches = deployed.batches(SETTLING_BATCHES + 200)
    assert (batches[0].reason or "").startswith("known from before: version 2.0 -> 1.0")
    assert {batch.verdict for batch in batches[SETTLING_BATCHES:]} == {"normal"}
    # It is the old baseline, not a new one: what the other version cost is slow here.
    assert "slow" in {batch.verdict for batch in deployed.batches(50, factor=1.6)}


def test_an_old_baseline_settles_as_after_every_restart(deployed: Deployed) -> None:
    """Here the first batches come before the inventory; those of a new process say nothing."""
    deployed.restart(version="2.0")
    deployed.batches(WARM_BATCHES + 200, factor=1.6)
    deployed.feed.process_start_ns += LATER_NS
    deployed.feed.sequence = 0
    deployed.batches(5, factor=3.0)
    deployed.inventory()
    deployed.batches(SETTLING_BATCHES - 1, factor=3.0)
    assert deployed.listener.alerts == []


def test_both_sides_of_a_deploy_that_flips_are_known(deployed: Deployed) -> None:
    deployed.restart(version="2.0")
    deployed.batches(WARM_BATCHES + 200, factor=1.6)
    for version, factor in (("1.0", 1.0), ("2.0", 1.6), ("1.0", 1.0), ("2.0", 1.6)):
        deployed.restart(version=version)
        batches = deployed.batches(SETTLING_BATCHES + 100, factor)
        assert {batch.verdict for batch in batches[SETTLING_BATCHES:]} == {"normal"}
    assert deployed.listener.alerts == []


def test_another_setting_ends_the_incident_of_the_one_before(deployed: Deployed) -> None:
    deployed.batches(100, factor=1.6)
    deployed.restart(model="other")
    assert deployed.listener.states[-1] == "resolved"
    assert "runs in another setting" in deployed.listener.alerts[-1].summary


FEWER: list[dict[str, object]] = [
    {"ranks": 1},
    {"device_ids": ("a",), "device_models": ("H100",)},
    {"ranks": 1, "device_ids": (), "device_models": ()},
]


@pytest.mark.parametrize("fewer", FEWER, ids=str)
def test_a_first_look_that_finds_less_of_a_new_process_shelves_nothing(
    deployed: Deployed, fewer: dict[str, object]
) -> None:
    deployed.restart(**fewer)
    deployed.batches(20)
    deployed.inventory()
    batches = deployed.batches(SETTLING_BATCHES + 50)
    assert {batch.verdict for batch in batches[SETTLING_BATCHES:]} == {"normal"}
    assert not any("known from" in (batch.reason or "") for batch in batches)
    assert deployed.listener.analysis.to_state()["regimes"]["shelf"] == []


def test_what_grows_look_by_look_is_waited_for() -> None:
    regimes = Regimes()
    whole = KNOWN | {"ranks": 4}
    regimes.know(inventory(Feed(), **whole), same_process=False)
    first = True
    for ranks in (1, 2, 3, 4):
        now = inventory(Feed(), **(whole | {"ranks": ranks}))
        assert regimes.know(now, same_process=not first) == ""
        first = False
        regimes.restore(json.loads(json.dumps(regimes.to_state())))
    assert regimes.know(now, same_process=True) == ""


def test_fewer_devices_of_another_model_are_another_setting_at_once() -> None:
    regimes = Regimes()
    regimes.know(inventory(Feed(), **KNOWN), same_process=False)
    other = inventory(Feed(), **(KNOWN | {"device_ids": ("a",), "device_models": ("A100",)}))
    assert regimes.know(other, same_process=False).startswith("devices 2 -> 1")


def test_the_inventory_of_an_engine_that_is_gone_is_no_other_setting(deployed: Deployed) -> None:
    deployed.inventory(state="gone", model=None, version="?")
    assert deployed.batches(1)[0].verdict == "normal"


def test_it_goes_on_exactly_from_its_state_with_what_is_shelved(deployed: Deployed) -> None:
    deployed.restart(version="2.0")
    deployed.batches(WARM_BATCHES + 100, factor=1.6)
    state = json.loads(json.dumps(deployed.listener.analysis.to_state()))
    other = Listener(Analysis.from_state(ENGINE_ID, state, clock_ns=lambda: 42))
    deployed.feed.process_start_ns += LATER_NS
    deployed.feed.sequence = 0
    back = [deployed.feed.engine(**KNOWN), *deployed.feed.batches(150)]
    assert other.take(back) == deployed.listener.take(back)
    assert other.analysis.to_state() == deployed.listener.analysis.to_state()


@pytest.mark.parametrize(("size", "kept"), [(1_000, 2), (SHELF_BYTES, 1), (2 * SHELF_BYTES, 0)])
def test_what_is_shelved_stays_small(
    feed_of: Callable[[str], Engine], size: int, kept: int
) -> None:
    regimes = Regimes()
    regimes.know(feed_of("0"), same_process=False)
    for number in range(1, 6):
        before = regimes.now
        assert regimes.know(feed_of(str(number)), same_process=False)
        # Half of it is left when it is packed.
        assert (
            regimes.swap(before, {"much": random.Random(number).randbytes(size // 2).hex()}) is None
        )
    state = regimes.to_state()
    assert [regime["version"] for regime, _ in state["shelf"]] == ["3", "4"][2 - kept :]
    assert len(json.dumps(state)) < SHELF_BYTES + 2_000
    assert regimes.to_state(room_bytes=-1)["shelf"] == []


def test_the_shelf_of_an_earlier_version_is_read(feed_of: Callable[[str], Engine]) -> None:
    regimes, other = Regimes(), Regimes()
    regimes.know(feed_of("1"), same_process=False)
    assert regimes.know(feed_of("2"), same_process=False)
    assert regimes.swap(Regime.of(feed_of("1")), {"much": 1}) is None
    state = regimes.to_state()
    del state["doubtful"]
    state["shelf"][0][1] = {"much": 1}
    other.restore(json.loads(json.dumps(state)))
    assert other.know(feed_of("1"), same_process=False)
    assert other.swap(None, None) == {"much": 1}


@pytest.fixture
def feed_of() -> Callable[[str], Engine]:
    return lambda version: inventory(Feed(), version=version)


def test_a_regime_comes_back_from_its_state() -> None:
    regimes, other = Regimes(), Regimes()
    regimes.know(inventory(Feed(), **KNOWN), same_process=False)
    other.restore(json.loads(json.dumps(regimes.to_state())))
    assert other.now == regimes.now
    assert isinstance(other.now, Regime)
