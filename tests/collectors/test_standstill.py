"""Since when there has been work and nothing came of it: by records, and on real processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collectors.standstill import FRESH_NS, Standing, Standstill
from schemas.records import Iteration, Workload

MS = 1_000_000
SECOND_NS = 1000 * MS
NOW = 1_789_000_000 * SECOND_NS


def iteration(begin_ns: int, end_ns: int, sequence: int = 1, running: int = 3) -> Iteration:
    return Iteration(
        engine_id="h:1",
        process_start_ns=1,
        sequence=sequence,
        begin_ns=begin_ns,
        end_ns=end_ns,
        uncertainty_ns=MS,
        source="counter",
        workload=Workload(requests=running, running_requests=running, waiting_requests=1),
    )


def still_open(begin_ns: int, now_ns: int, sequence: int = 2) -> Iteration:
    return replace(iteration(begin_ns, 0, sequence), end_ns=None, running_ns=now_ns - begin_ns)


@pytest.fixture
def engine() -> Standstill:
    """One whose last iteration has just ended."""
    engine = Standstill()
    engine.ended(iteration(NOW - 20 * MS, NOW))
    return engine


def due_at(engine: Standstill, moments: range) -> list[int]:
    return [at for at in moments if engine.is_due(at)]


def test_what_the_last_iteration_had_is_what_is_known(engine: Standstill) -> None:
    assert engine.at(NOW + MS) == Standing(
        running_requests=3, waiting_requests=1, last_iteration_end_ns=NOW, still_since_ns=None
    )


def test_what_nobody_has_looked_at_for_a_while_is_unknown(engine: Standstill) -> None:
    later = engine.at(NOW + FRESH_NS + 1)
    assert (later.running_requests, later.waiting_requests, later.still_since_ns) == (None,) * 3
    assert later.last_iteration_end_ns == NOW


def test_an_idle_engine_stands_still_without_work(engine: Standstill) -> None:
    for at in range(NOW, NOW + 20 * SECOND_NS, SECOND_NS // 4):
        engine.holds(at, 0, 0)
        assert not engine.is_due(at)
    last = engine.at(NOW + 20 * SECOND_NS)
    assert (last.running_requests, last.waiting_requests, last.still_since_ns) == (0, 0, None)


def test_work_of_which_nothing_comes_is_told_after_a_second_and_each_second(
    engine: Standstill,
) -> None:
    told = []
    for at in range(NOW + SECOND_NS // 4, NOW + 5 * SECOND_NS, SECOND_NS // 4):
        engine.holds(at, 2, 0)
        told += [at] * engine.is_due(at)
    assert [(at - NOW) / SECOND_NS for at in told] == [1.25, 2.25, 3.25, 4.25]
    assert engine.at(NOW + 5 * SECOND_NS - 1).still_since_ns == NOW + SECOND_NS // 4


def test_requests_that_wait_are_work(engine: Standstill) -> None:
    engine.holds(NOW + MS, None, 1)
    assert engine.is_due(NOW + MS + SECOND_NS)


def test_unknown_is_no_work(engine: Standstill) -> None:
    engine.holds(NOW + MS, None, None)
    assert not engine.is_due(NOW + MS + SECOND_NS)


def test_an_open_iteration_is_work_since_its_begin(engine: Standstill) -> None:
    begin_ns = NOW + 60 * SECOND_NS
    engine.holds(begin_ns - MS, 0, 0)
    told = []
    for at in range(begin_ns + 100 * MS, begin_ns + 2 * SECOND_NS, 100 * MS):
        engine.runs(still_open(begin_ns, at))
        # Its batch may have been all that there was.
        engine.holds(at, 0, 0)
        told += [at] * engine.is_due(at)
    assert told == [begin_ns + SECOND_NS]
    assert engine.at(begin_ns + 2 * SECOND_NS).still_since_ns == begin_ns


def test_a_batch_that_is_read_late_changes_nothing_until_it_is(engine: Standstill) -> None:
    begin_ns = NOW + 60 * SECOND_NS
    engine.holds(begin_ns - MS, 0, 2)
    late = replace(still_open(begin_ns, begin_ns + 100 * MS), workload=Workload())
    engine.runs(late)
    first = engine.at(begin_ns + 100 * MS)
    assert (first.running_requests, first.waiting_requests) == (0, 2)
    engine.runs(still_open(begin_ns, begin_ns + 200 * MS))
    then = engine.at(begin_ns + 200 * MS)
    assert (then.running_requests, then.waiting_requests) == (3, 1)


def test_each_iteration_has_a_begin_of_its_own(engine: Standstill) -> None:
    for sequence in range(2, 9):
        begin_ns = NOW + sequence * 600 * MS
        for at in range(begin_ns + 100 * MS, begin_ns + 600 * MS, 100 * MS):
            engine.runs(still_open(begin_ns, at, sequence))
            assert not engine.is_due(at)


def test_an_iteration_that_is_told_to_be_open_no_more_is_no_work(engine: Standstill) -> None:
    engine.runs(still_open(NOW, NOW + 100 * MS))
    engine.holds(NOW + 1200 * MS, 0, 0)
    assert not engine.is_due(NOW + 1200 * MS)


def test_an_end_is_progress(engine: Standstill) -> None:
    engine.holds(NOW + MS, 2, 0)
    engine.ended(iteration(NOW + 2 * MS, NOW + 900 * MS, 2))
    assert not engine.is_due(NOW + SECOND_NS + MS)
    assert engine.at(NOW + SECOND_NS).still_since_ns is None


def test_what_was_seen_long_ago_is_not_told_again(engine: Standstill) -> None:
    engine.holds(NOW + MS, 2, 0)
    moments = range(NOW + MS, NOW + 9 * SECOND_NS, 100 * MS)
    assert max(due_at(engine, moments)) <= NOW + MS + FRESH_NS


@pytest.mark.parametrize("ahead_ns", [5 * SECOND_NS, 3600 * SECOND_NS])
def test_a_clock_that_is_set_back_delays_no_word(engine: Standstill, ahead_ns: int) -> None:
    for at in range(NOW + ahead_ns, NOW + ahead_ns + 3 * SECOND_NS, SECOND_NS // 4):
        engine.holds(at, 2, 0)
        engine.is_due(at)
    told = []
    for at in range(NOW, NOW + 3 * SECOND_NS, SECOND_NS // 4):
        engine.holds(at, 2, 0)
        told += [at] * engine.is_due(at)
    assert [(at - NOW) / SECOND_NS for at in told] == [1, 2]


def test_what_was_seen_by_a_clock_that_was_ahead_is_not_fresh(engine: Standstill) -> None:
    engine.holds(NOW + 3600 * SECOND_NS, 2, 0)
    now = engine.at(NOW)
    assert (now.running_requests, now.still_since_ns) == (None, None)


def test_once_nobody_looks_nothing_is_known_but_the_last_end(engine: Standstill) -> None:
    engine.holds(NOW + MS, 2, 0)
    engine.forget()
    assert not engine.is_due(NOW + 2 * SECOND_NS)
    assert engine.at(NOW + 2 * MS) == Standing(
        running_requests=None,
        waiting_requests=None,
        last_iteration_end_ns=NOW,
        still_since_ns=None,
    )
