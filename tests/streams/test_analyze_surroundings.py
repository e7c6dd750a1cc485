"""Gaps between batches, engines that stand still: what one engine's analysis makes of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from schemas.records import Alert, Batch, Engine
from streams.analyze import Analysis
from tests.streams.feed import ENGINE_ID, Feed, Listener

GAP_SECONDS = 0.03


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def listener(feed: Feed) -> Listener:
    """A listener that knows the engine."""
    listener = Listener()
    listener.take([feed.engine()])
    listener.take(feed.batches(1200))
    assert listener.alerts == []
    return listener


def held_up(feed: Feed, listener: Listener, count: int) -> list[Batch]:
    """Give batches that are as quick as ever, each after a long gap."""
    found = []
    for _ in range(count):
        feed.pause(GAP_SECONDS)
        found += [one for one in listener.take(feed.batch()) if isinstance(one, Batch)]
    return found


def standing(feed: Feed, seconds: float, **changes: object) -> list[Engine]:
    """Give the inventory once a second while nothing moves."""
    last_ns = feed.now_ns
    given: dict[str, object] = {
        "running_requests": 5,
        "waiting_requests": 0,
        "last_iteration_end_ns": last_ns,
    }
    found = []
    for _ in range(round(seconds)):
        feed.pause(1)
        found.append(feed.engine(**(given | changes)))
    return found


def test_usual_gaps_are_on_the_batches(listener: Listener) -> None:
    last = listener.batches[-1]
    assert last.gap_ns == 200_000
    assert last.expected_gap_ns == pytest.approx(200_000, rel=0.05)
    assert last.slow_parts == ()


def test_gaps_that_are_too_long_are_one_incident_from_firing_to_resolved(
    feed: Feed, listener: Listener
) -> None:
    batches = held_up(feed, listener, 200)
    assert (batches[-1].verdict, batches[-1].slow_parts) == ("slow", ("gap",))
    assert batches[-1].reason == "gap before the batch: 30.2 ms where 0.2 ms is usual"
    assert batches[-1].incident_id == listener.alerts[0].incident_id
    end_ns = feed.now_ns
    listener.take(feed.batches(400))
    assert (listener.states[0], listener.states[-1]) == ("firing", "resolved")
    resolved = listener.alerts[-1]
    assert abs((resolved.end_ns or 0) - end_ns) < 100_000_000
    assert resolved.evidence.ratio > 2
    assert len({alert.incident_id for alert in listener.alerts}) == 1


def test_gaps_that_stay_long_are_still_told_at_the_end(feed: Feed, listener: Listener) -> None:
    batches = held_up(feed, listener, 1000)
    assert {batch.verdict for batch in batches[-300:]} == {"slow"}


def test_means_of_intervals_have_no_gap(feed: Feed, listener: Listener) -> None:
    for _ in range(60):
        feed.pause(2)
        mean = replace(feed.batch()[0], source="metrics", iterations=50)
        (batch,) = listener.take([mean])
        assert isinstance(batch, Batch)
        assert (batch.gap_ns, batch.slow_parts) == (None, ())
    assert listener.alerts == []


def test_an_engine_that_freezes_is_told_within_seconds_and_ends_with_the_next_batches(
    feed: Feed, listener: Listener
) -> None:
    frozen_ns = feed.now_ns
    listener.take(standing(feed, 6))
    (alert,) = listener.alerts
    assert (alert.state, alert.cause, alert.severity) == ("firing", "stall", "page")
    assert alert.batch_end_ns - frozen_ns <= 4_000_000_000
    assert alert.summary == f"{ENGINE_ID}: frozen: 5 requests running, no batch for 2.0 s"
    moves_ns = feed.now_ns
    listener.take(feed.batches(400))
    assert listener.states == ["firing", "resolved"]
    assert 0 <= (listener.alerts[1].end_ns or 0) - moves_ns < 50_000_000


def test_a_frozen_engine_stays_an_incident_as_long_as_it_stands_still(
    feed: Feed, listener: Listener
) -> None:
    listener.take(standing(feed, 600))
    assert listener.states == ["firing"]
    assert listener.analysis.tick(feed.now_ns + 600_000_000_000) == []


def test_a_frozen_engine_that_has_no_work_any_more_is_over(feed: Feed, listener: Listener) -> None:
    listener.take(standing(feed, 6))
    listener.take(standing(feed, 40, running_requests=0))
    listener.take([feed.reading()])
    assert listener.states == ["firing", "resolved"]


def test_an_idle_engine_is_not_frozen(feed: Feed, listener: Listener) -> None:
    listener.take(standing(feed, 600, running_requests=0))
    assert listener.alerts == []


def test_a_halt_that_both_inventory_and_iteration_tell_of_is_told_once(
    feed: Feed, listener: Listener
) -> None:
    listener.take([feed.open_iteration(5)])
    listener.take(standing(feed, 30))
    assert listener.states == ["firing"]


def test_an_engine_that_freezes_as_it_begins_again_after_a_pause(
    feed: Feed, listener: Listener
) -> None:
    listener.take(standing(feed, 600, running_requests=0))
    work_ns = feed.now_ns
    listener.take(standing(feed, 5, last_iteration_end_ns=listener.batches[-1].end_ns))
    (alert,) = listener.alerts
    assert alert.batch_end_ns - work_ns <= 4_000_000_000


def test_gaps_and_halts_go_on_exactly_from_a_state(feed: Feed, listener: Listener) -> None:
    held_up(feed, listener, 20)
    listener.take(standing(feed, 2))
    state = json.loads(json.dumps(listener.analysis.to_state()))
    other = Listener(Analysis.from_state(ENGINE_ID, state, clock_ns=lambda: 42))
    rest = [*standing(feed, 4), *feed.batches(300)]
    for _ in range(100):
        feed.pause(GAP_SECONDS)
        rest += feed.batch()
    expected = listener.take(rest)
    assert other.take(rest) == expected
    assert {one.cause for one in expected if isinstance(one, Alert)} >= {"stall"}
    assert other.analysis.to_state() == listener.analysis.to_state()
