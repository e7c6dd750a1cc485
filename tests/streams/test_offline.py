from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from schemas.codec import encode
from schemas.recording import seen_ns
from schemas.records import Alert, Record
from streams.analyze import Analysis, Result
from streams.config import StreamSettings
from streams.offline import SILENCE_CHECK_NS, SILENCE_NS, Offline
from tests.streams.feed import SECOND_NS, Feed, Listener

SLOW_TWICE = ((500, 1.0), (120, 2.0), (500, 1.0), (120, 1.6), (200, 1.0))


def stream(feed: Feed) -> Iterator[Record]:
    yield feed.engine()
    for count, factor in SLOW_TWICE:
        yield from feed.batches(count, factor=factor, others=0.8 if factor > 1 else 0.1)


def played(records: list[Record], offline: Offline | None = None) -> list[Result]:
    offline = offline or Offline()
    return [result for record in records for result in offline.feed(record)]


def alerts(results: list[Result]) -> list[Alert]:
    return [one for one in results if isinstance(one, Alert)]


def slow_until_the_end(feed: Feed) -> list[Record]:
    return [feed.engine(), *feed.batches(500), *feed.batches(100, factor=2.0, others=0.8)]


def test_it_says_exactly_what_the_analysis_of_a_worker_says() -> None:
    records = [*stream(Feed())]
    now_ns = 0
    listener = Listener(Analysis(Feed().engine_id, clock_ns=lambda: now_ns))
    by_hand: list[Result] = []
    for record in records:
        now_ns = seen_ns(record)
        by_hand += listener.take([record])  # type: ignore[list-item]  # as the feed makes them
    assert played(records) == by_hand
    assert [one.state for one in alerts(by_hand)].count("firing") == 2


def test_the_same_records_give_the_same_bytes() -> None:
    first, second = (b"".join(map(encode, played([*stream(Feed())]))) for _ in range(2))
    assert first == second


def test_engines_do_not_know_of_each_other() -> None:
    feeds = [Feed(seed=seed, engine_id=f"host:{seed}") for seed in range(3)]
    alone = {feed.engine_id: played([*stream(feed)]) for feed in feeds}
    streams = [stream(Feed(seed=seed, engine_id=f"host:{seed}")) for seed in range(3)]
    mixed: list[Record] = []
    draw = random.Random(7)
    while streams:
        one = draw.choice(streams)
        record = next(one, None)
        if record is None:
            streams.remove(one)
        else:
            mixed.append(record)
    together = played(sorted(mixed, key=seen_ns))
    for engine_id, results in alone.items():
        assert [one for one in together if one.engine_id == engine_id] == results


def test_what_the_analysis_does_not_read_changes_nothing() -> None:
    records = [*stream(Feed())]
    results = played(records)
    assert played([one for record in records for one in (record, *results[:1])]) == results


def test_time_passes_for_a_silent_engine_while_others_talk() -> None:
    silent, other = Feed(engine_id="host:1"), Feed(engine_id="host:2")
    offline = Offline()
    before = played(slow_until_the_end(silent), offline)
    assert [one.state for one in alerts(before)][-1] != "resolved"
    other.now_ns = silent.now_ns
    after: list[Result] = []
    for _ in range(60):
        other.pause(1.0)
        after += played([other.reading()], offline)
    (end,) = alerts(after)
    assert (end.engine_id, end.state) == ("host:1", "resolved")
    waited_ns = (end.end_ns or 0) - silent.now_ns
    assert SILENCE_NS < waited_ns <= SILENCE_NS + SILENCE_CHECK_NS + SECOND_NS


def test_an_engine_that_comes_back_was_silent_meanwhile() -> None:
    feed, offline = Feed(), Offline()
    played(slow_until_the_end(feed), offline)
    fell_silent_ns = feed.now_ns
    feed.pause(3600.0)
    first, *_ = alerts(played([*feed.batches(1)], offline))
    assert first.state == "resolved"
    assert (first.end_ns or 0) - fell_silent_ns <= SILENCE_NS + 2 * SILENCE_CHECK_NS


def test_one_wrong_time_does_not_stop_the_clock() -> None:
    wrong, feed = Feed(engine_id="host:1"), Feed(engine_id="host:2")
    offline = Offline()
    wrong.pause(1e6)
    played([feed.engine(), wrong.engine(), *feed.batches(500)], offline)
    played([*feed.batches(100, factor=2.0)], offline)
    other = Feed(engine_id="host:3")
    other.now_ns = feed.now_ns + 40 * SECOND_NS
    assert [one.state for one in alerts(played([other.reading()], offline))] == ["resolved"]


def test_a_whole_stream_that_falls_silent_is_ended_by_a_tick() -> None:
    feed, offline = Feed(), Offline()
    played(slow_until_the_end(feed), offline)
    (end,) = offline.tick(feed.now_ns + 31 * SECOND_NS)
    assert (end.state, end.at_ns) == ("resolved", feed.now_ns + 31 * SECOND_NS)


def test_the_end_of_a_stream_ends_what_is_open() -> None:
    feed, offline = Feed(), Offline()
    played(slow_until_the_end(feed), offline)
    (end,) = alerts(offline.end())
    assert end.state == "resolved"
    assert SILENCE_NS < (end.end_ns or 0) - feed.now_ns <= SILENCE_NS + 2 * SILENCE_CHECK_NS
    assert Offline().end() == []


def test_it_judges_as_it_is_configured() -> None:
    feed, offline = Feed(), Offline(StreamSettings(false_incidents_per_week=0.25))
    played([feed.engine(), *feed.batches(1)], offline)
    calibration = offline.analyses[feed.engine_id].calibrations()["single"]
    assert calibration.budget_per_week == 0.25


def test_silence_is_as_long_as_in_the_worker() -> None:
    worker = pytest.importorskip("streams.workers.analyze", reason="no faust")
    assert worker.SILENCE_SECONDS * SECOND_NS == SILENCE_NS
    assert worker.SILENCE_SECONDS * SECOND_NS / 6 == SILENCE_CHECK_NS
