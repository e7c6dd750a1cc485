from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import pytest

from schemas.records import Engine, Record
from streams.sinks.base import Rejected, Sink, SinkUnavailable
from streams.sinks.retry import Backoff, write_until_done


class Flaky(Sink):
    """Fails so many times, then takes everything and rejects the first record."""

    def __init__(self, failures: int, retry_after_seconds: float | None = None) -> None:
        self.failures = failures
        self.retry_after_seconds = retry_after_seconds
        self.tried: list[list[Record]] = []
        self.taken: list[Record] = []

    def write(self, records: Sequence[Record]) -> list[Rejected]:
        self.tried.append(list(records))
        if len(self.tried) <= self.failures:
            raise SinkUnavailable("nobody is there", self.retry_after_seconds)
        self.taken += records
        return [Rejected(records[0], "no")]

    def close(self) -> None:
        """Hold nothing."""


def records(count: int) -> list[Record]:
    return [
        Engine(
            engine_id=str(n),
            host="h",
            at_ns=n,
            state="running",
            framework="vllm",
            process_start_ns=1,
        )
        for n in range(count)
    ]


def backoff(give_up_seconds: float = float("inf")) -> Backoff:
    return Backoff(0.001, 0.004, give_up_seconds, random.Random(1))


def pauses(one: Backoff, count: int) -> list[float | None]:
    return [one.next_pause() for _ in range(count)]


def test_pauses_double_up_to_the_longest_and_half_is_chance() -> None:
    found = pauses(Backoff(1.0, 8.0, random=random.Random(1)), 6)
    for pause, most in zip(found, (1.0, 2.0, 4.0, 8.0, 8.0, 8.0), strict=True):
        assert pause is not None
        assert most / 2 < pause <= most


def test_writers_with_different_chances_spread_out() -> None:
    found = {pauses(Backoff(1.0, 8.0, random=random.Random(seed)), 1)[0] for seed in range(20)}
    assert len(found) == 20


def test_the_destination_may_ask_for_more_but_not_for_ever() -> None:
    one = Backoff(1.0, 8.0, random=random.Random(1))
    assert one.next_pause(20.0) == 20.0
    assert one.next_pause(float("inf")) == 300.0
    short = one.next_pause(0.001)
    assert short is not None
    assert short >= 2.0


def test_it_gives_up_before_the_total_would_be_exceeded() -> None:
    found = pauses(Backoff(1.0, 8.0, 10.0, random.Random(1)), 50)
    spent = [pause for pause in found if pause is not None]
    assert found[-1] is None
    assert sum(spent) <= 10.0


def test_many_failures_do_not_overflow() -> None:
    assert pauses(Backoff(1.0, 8.0, random=random.Random(1)), 5000)[-1] is not None


def test_the_same_records_are_tried_until_they_are_taken_and_taken_once() -> None:
    sink, wanted = Flaky(3), records(5)
    rejected = asyncio.run(write_until_done(sink, wanted, backoff()))
    assert sink.tried == [wanted] * 4
    assert sink.taken == wanted
    assert rejected == [Rejected(wanted[0], "no")]


def test_an_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asyncio.run(write_until_done(Flaky(5), records(1), backoff()))
    messages = [record.getMessage() for record in caplog.records if "asyncio" not in record.name]
    assert messages[0] == "nobody is there. Kept and tried again."
    assert messages[1].startswith("Delivered after ")
    assert len(messages) == 2


def test_a_sink_that_works_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asyncio.run(write_until_done(Flaky(0), records(1), backoff()))
    assert [record for record in caplog.records if "latencyprism" in record.name] == []


def test_when_the_time_is_up_the_last_reason_is_raised() -> None:
    sink = Flaky(10**6)
    with pytest.raises(SinkUnavailable, match="nobody is there"):
        asyncio.run(write_until_done(sink, records(1), backoff(0.02)))
    assert 2 < len(sink.tried) < 50
