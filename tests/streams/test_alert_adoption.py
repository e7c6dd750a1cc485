"""A slowdown that lasts is the new normal by policy or on somebody's word, and never by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from schemas.records import Alert, Batch, Norms
from streams.analyze import Analysis
from streams.config import StreamSettings
from tests.streams.feed import ENGINE_ID, Feed, Listener

HOURS = 6.0
# One batch in so many seconds: hours of event time in few batches, and never idle.
STEP_SECONDS = 4.8


class Slow:
    """An engine that is known and becomes slower, with hours of it in few batches."""

    def __init__(self, adopt_after_hours: float) -> None:
        settings = StreamSettings(adopt_after_hours=adopt_after_hours)
        self.listener = Listener(Analysis(ENGINE_ID, clock_ns=lambda: 42, settings=settings))
        self.feed = Feed()
        self.listener.take([self.feed.engine()])
        self.listener.take(self.feed.batches(600))

    def last(self, hours: float, factor: float) -> Iterator[Batch | Alert | Norms]:
        """Let a slowdown last."""
        until_ns = self.feed.now_ns + int(hours * 3.6e12)
        while self.feed.now_ns < until_ns:
            # Only some are timed, so nothing is known of the time between them.
            (batch,) = self.feed.batch(factor)
            yield from self.listener.take([replace(batch, missed=100)])
            self.feed.pause(STEP_SECONDS)

    def resolved(self) -> list[Alert]:
        return [alert for alert in self.listener.alerts if alert.state == "resolved"]


@pytest.fixture(scope="module")
def adopted() -> Slow:
    slow = Slow(HOURS)
    for _ in slow.last(HOURS + 1, 1.4):
        if slow.resolved():
            break
    return slow


def test_a_steady_slowdown_is_adopted_after_the_hours_and_it_is_said(adopted: Slow) -> None:
    (end,) = adopted.resolved()
    assert end.end_ns is not None
    assert (end.end_ns - end.begin_ns) / 3.6e12 == pytest.approx(HOURS, abs=0.02)
    assert "adopted as normal after 6 h: 1.4" in end.summary
    assert end.summary.endswith(" times the old baseline")
    last = adopted.listener.batches[-1]
    assert (last.reason or "").startswith("adopted as normal after 6 h: 1.4")


def test_what_was_adopted_is_normal_and_what_is_slower_than_that_is_not(adopted: Slow) -> None:
    before = len(adopted.listener.alerts)
    adopted.listener.take(adopted.feed.batches(300, factor=1.4))
    assert len(adopted.listener.alerts) == before
    assert adopted.listener.batches[-1].verdict == "normal"
    adopted.listener.take(adopted.feed.batches(300, factor=1.4 * 1.5))
    assert adopted.listener.states[before:][0] == "firing"


def test_nothing_is_adopted_by_itself_by_default() -> None:
    slow = Slow(StreamSettings().adopt_after_hours)
    assert not [*filter(lambda one: isinstance(one, Alert) and one.end_ns, slow.last(4, 1.4))]
    assert slow.listener.batches[-1].verdict == "slow"


def test_a_slowdown_that_grows_is_not_adopted() -> None:
    slow = Slow(2.0)
    for quarter in range(12):
        [*slow.last(0.25, 1.4 + 0.15 * quarter)]
    assert slow.resolved() == []


def test_somebody_may_accept_it_at_once() -> None:
    slow = Slow(0.0)
    assert slow.listener.analysis.accept(slow.feed.now_ns) == []
    slow.listener.take(slow.feed.batches(300, factor=1.4))
    (end,) = slow.listener.analysis.accept(slow.feed.now_ns)
    assert (end.state, end.end_ns) == ("resolved", slow.feed.now_ns)
    assert "adopted as normal after" in end.summary
    slow.listener.take(slow.feed.batches(300, factor=1.4))
    assert slow.listener.states[-1] != "firing"
    assert slow.listener.batches[-1].verdict == "normal"
