"""How the agent describes itself: totals that only grow, and all of an engine's iterations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from collectors.agent_health import Totals, engines_of
from collectors.governor import Rates
from collectors.rank import RankReader
from collectors.watcher import Watched, Watcher


class Reader:
    """What is asked of a rank's reader."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.source = "counter"
        self.seen, self.missed = 10, 3
        self.sampler_cpu_ns = 0
        self.python_cpu_ns = 0

    def stats(self) -> dict[str, int]:
        return {"thread_cpu_ns": self.sampler_cpu_ns} if self.sampler_cpu_ns else {}


def watcher_of(*readers: Reader) -> Watcher:
    watched = [Watched(cast(RankReader, reader), Rates(1000, 100)) for reader in readers]
    parts: dict[str, Any] = {
        "engine_id": "vllm/host/8000",
        "engine": SimpleNamespace(framework="vllm"),
        "source": "stream",
        "iterations_seen": 50,
        "iterations_missed": 8,
        "note": None,
        "watched": watched,
    }
    return cast(Watcher, SimpleNamespace(**parts))


def test_the_cpu_of_reading_only_grows_over_attaches() -> None:
    reader, totals = Reader(), Totals()
    watcher = watcher_of(reader)
    seen: list[float | None] = []
    looks = [(5, 2), (7, 2), (0, 2), (3, 1), (4, 6)]
    for reader.sampler_cpu_ns, reader.python_cpu_ns in looks:
        totals.keep([watcher])
        [health] = engines_of(watcher, totals)
        seen.append(health.reader_cpu_seconds)
    assert [round(cast(float, seconds) * 1e9) for seconds in seen] == [7, 9, 9, 13, 19]


def test_readers_that_went_are_forgotten() -> None:
    reader, totals = Reader(), Totals()
    reader.python_cpu_ns = 9
    assert totals.reader_cpu_ns(cast(RankReader, reader)) == 9
    totals.keep([])
    reader.python_cpu_ns = 4
    assert totals.reader_cpu_ns(cast(RankReader, reader)) == 4


@pytest.mark.parametrize(("rank", "expected"), [(0, (50, 8)), (1, (10, 3))])
def test_the_first_rank_has_what_the_feed_and_the_page_saw_and_missed_too(
    rank: int, expected: tuple[int, int]
) -> None:
    [health] = engines_of(watcher_of(Reader(rank)), Totals())
    assert (health.iterations_seen, health.iterations_missed) == expected
