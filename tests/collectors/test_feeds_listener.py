"""When an engine's own feed is believed, and when it is not any more."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from collectors.clock import Scrape
from collectors.discovery import EngineProcess, Process
from collectors.engines.described import FeedText
from collectors.feeds import FeedEnded, FeedUnavailable, Listener, Said
from collectors.feeds import listener as listener_module
from collectors.feeds.listener import ENOUGH_TOKENS, SILENT_LOOKS, WRONG_LOOKS
from schemas.records import Workload
from tests.collectors.packing import MS

CORE = Process(pid=1, parent_pid=0, start_ticks=1, arguments=("x",))
ENGINE = EngineProcess(framework="x", name="1", core=CORE)


class Spoken:
    """A feed that says what the test puts into it."""

    name = "its iteration log"

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.ended = False
        self.closed = 0
        self.opened = 0
        self.refused: Exception | None = None
        self._number = 0

    def open(self, described: FeedText, engine: EngineProcess) -> Spoken:
        if self.refused is not None:
            raise self.refused
        self.opened += 1
        return self

    def say(self, count: int = 1, *, lasted_ms: int = 10, requests: int = 8) -> None:
        for _ in range(count):
            self._number += 1
            self.said.append(
                Said(
                    index=self._number,
                    duration_ns=lasted_ms * MS,
                    after_ns=0,
                    at_ns=MS,
                    workload=Workload(decode_requests=requests, prefill_tokens=0),
                )
            )

    def poll(self, timeout_seconds: float) -> list[Said]:
        if self.ended:
            raise FeedEnded("nobody writes it any more")
        said, self.said = self.said, []
        return said

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Spoken:
    spoken = Spoken()
    monkeypatch.setitem(listener_module.FEEDS, "log", spoken.open)
    monkeypatch.setattr(listener_module, "REOPEN_SECONDS", 0.0)
    return spoken


@pytest.fixture
def listener(spoken: Spoken) -> Listener:
    listener = make()
    listener.open()
    return listener


def make(described: FeedText | None = None) -> Listener:
    return Listener(
        described or FeedText(kind="log", line="^$"),
        ENGINE,
        engine_id="h:1",
        process_start_ns=1,
        epoch_offset_ns=lambda: 0,
    )


@pytest.fixture
def look(listener: Listener) -> Callable[..., None]:
    """Scrape: what /metrics counts more than at the last look."""
    total = {"iterations": 100, "tokens": 1000, "seconds": 0.0}

    def look(iterations: int, *, tokens: int = 0, seconds_each: float = 0.0) -> None:
        total["iterations"] += iterations
        total["tokens"] += tokens
        total["seconds"] += tokens * seconds_each
        listener.hold_against(
            Scrape(
                at_ns=1,
                iterations=int(total["iterations"]),
                token_latency_seconds=total["seconds"],
                token_latency_count=int(total["tokens"]),
            )
        )

    look(0)
    return look


def hear(listener: Listener) -> int:
    return len(list(listener.listen(0.0)))


def test_an_open_feed_speaks_with_its_first_iteration(listener: Listener, spoken: Spoken) -> None:
    assert hear(listener) == 0
    assert listener.is_open
    assert not listener.speaks
    spoken.say(2)
    assert hear(listener) == 2
    assert listener.speaks
    assert listener.seen == 2


def test_a_sign_of_life_is_no_iteration(listener: Listener, spoken: Spoken) -> None:
    spoken.said.append(Said(index=1, duration_ns=0, after_ns=0, at_ns=1, is_heartbeat=True))
    assert hear(listener) == 0
    assert not listener.speaks


def test_silence_while_the_engine_is_idle_is_none(
    listener: Listener, spoken: Spoken, look: Callable[..., None]
) -> None:
    spoken.say()
    hear(listener)
    for _ in range(SILENT_LOOKS + 3):
        look(0)
    assert listener.speaks


def test_silence_while_the_engine_counts_ends_the_belief(
    listener: Listener, spoken: Spoken, look: Callable[..., None]
) -> None:
    spoken.say()
    hear(listener)
    look(1)
    for _ in range(SILENT_LOOKS):
        assert listener.speaks
        look(10)
    assert not listener.speaks
    assert listener.is_open
    spoken.say()
    hear(listener)
    assert listener.speaks


def test_one_look_too_early_is_no_silence(
    listener: Listener, spoken: Spoken, look: Callable[..., None]
) -> None:
    for _ in range(5):
        look(10)
        spoken.say(10)
        hear(listener)
        look(0)
    assert listener.speaks


def test_durations_that_are_only_the_rest_of_a_wait_are_not_believed(
    listener: Listener,
    spoken: Spoken,
    look: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(WRONG_LOOKS):
        assert listener.is_open
        spoken.say(50, lasted_ms=4)
        hear(listener)
        look(50, tokens=400, seconds_each=0.010)
    assert not listener.is_open
    assert not listener.speaks
    assert "overlapped scheduling: let the agent read the engine's memory" in caplog.text
    listener.open()
    assert spoken.opened == 1


def test_durations_that_are_nothing_in_every_other_iteration_are_not_believed(
    listener: Listener, spoken: Spoken, look: Callable[..., None]
) -> None:
    """As vLLM told them with overlapped scheduling: 10.25 ms, 0.72 ms, and so on."""
    for _ in range(WRONG_LOOKS):
        assert listener.is_open
        for _ in range(25):
            spoken.say(lasted_ms=10)
            spoken.say(lasted_ms=1)
        hear(listener)
        look(50, tokens=400, seconds_each=0.006)
    assert not listener.is_open


def test_batches_of_all_sizes_are_believed(
    listener: Listener, spoken: Spoken, look: Callable[..., None]
) -> None:
    for _ in range(WRONG_LOOKS + 3):
        for requests in range(1, 9):
            spoken.say(10, lasted_ms=3 + requests, requests=requests)
        hear(listener)
        look(80, tokens=360, seconds_each=0.010)
    assert listener.speaks


@pytest.mark.parametrize(("lasted_ms", "tokens"), [(9, 400), (4, ENOUGH_TOKENS - 1)])
def test_durations_that_fit_or_are_few_are_believed(
    listener: Listener,
    spoken: Spoken,
    look: Callable[..., None],
    lasted_ms: int,
    tokens: int,
) -> None:
    for _ in range(WRONG_LOOKS + 3):
        spoken.say(50, lasted_ms=lasted_ms)
        hear(listener)
        look(50, tokens=tokens, seconds_each=0.010)
    assert listener.speaks


def test_a_feed_that_ends_is_closed_and_opened_anew(listener: Listener, spoken: Spoken) -> None:
    spoken.say()
    hear(listener)
    spoken.ended = True
    assert hear(listener) == 0
    assert (listener.is_open, listener.speaks, spoken.closed) == (False, False, 1)
    spoken.ended = False
    listener.open()
    spoken.say(5)
    spoken.said = spoken.said[-1:]
    [iteration] = list(listener.listen(0.0))
    # What it said in between is nothing that is known to be lost.
    assert iteration.missed == 0
    assert listener.seen == 2


def test_why_there_is_none_is_told_once(spoken: Spoken, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spoken.refused = FeedUnavailable("it goes into a pipe: send it into a file")
    listener = make()
    for _ in range(5):
        listener.open()
        assert hear(listener) == 0
    [line] = caplog.messages
    assert line == "h:1: no iterations from the engine itself: it goes into a pipe: " + (
        "send it into a file"
    )


def test_an_engine_without_a_feed_is_not_asked(
    spoken: Spoken, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    listener = make(FeedText())
    listener.open()
    assert hear(listener) == 0
    assert (spoken.opened, caplog.messages) == (0, [])
