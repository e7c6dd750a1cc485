"""From what an engine says of its iterations to records."""

from __future__ import annotations

import pytest

from collectors.feeds import Said
from collectors.feeds.clock import DELAY_NS, StreamClock
from schemas.records import Iteration, Workload
from tests.collectors.packing import MS

EPOCH_NS = 1_700_000_000 * 1_000_000_000


def clock() -> StreamClock:
    return StreamClock(
        engine_id="h:8000",
        process_start_ns=5,
        epoch_offset_ns=lambda: EPOCH_NS,
    )


def said(
    index: int,
    *,
    lasted_ms: int = 10,
    window_ms: tuple[int, int] = (100, 110),
    dummy: bool = False,
    heartbeat: bool = False,
) -> Said:
    return Said(
        index=index,
        duration_ns=lasted_ms * MS,
        after_ns=window_ms[0] * MS,
        at_ns=window_ms[1] * MS,
        workload=Workload(requests=index),
        is_dummy=dummy,
        is_heartbeat=heartbeat,
    )


def feed(clock: StreamClock, *said: Said) -> list[Iteration]:
    return list(clock.feed(list(said)))


def test_it_ends_in_the_middle_of_the_room_that_there_is() -> None:
    [one] = feed(clock(), said(4, lasted_ms=7))
    assert one.end_ns == EPOCH_NS + 105 * MS
    assert one.begin_ns == EPOCH_NS + 98 * MS
    assert one.uncertainty_ns == 5 * MS + DELAY_NS
    assert one.source == "stream"
    assert (one.rank, one.role, one.phases) == (0, "engine_core", ())
    assert one.workload == Workload(requests=4)
    assert (one.engine_id, one.process_start_ns) == ("h:8000", 5)


def test_those_of_one_look_ran_one_after_the_other() -> None:
    first, second, third = feed(
        clock(), *(said(index, lasted_ms=10, window_ms=(100, 124)) for index in range(3))
    )
    assert third.end_ns == EPOCH_NS + 122 * MS
    assert second.end_ns == third.begin_ns
    assert first.end_ns == second.begin_ns
    assert first.end_ns >= EPOCH_NS + 100 * MS
    assert {one.uncertainty_ns for one in (first, second, third)} == {2 * MS + DELAY_NS}


def test_those_held_back_and_told_together_are_as_uncertain_as_the_look() -> None:
    told = feed(clock(), *(said(index, lasted_ms=50, window_ms=(100, 110)) for index in range(3)))
    assert {one.uncertainty_ns for one in told} == {5 * MS + DELAY_NS}


def test_iterations_are_numbered_from_the_time_of_the_first_in_ms() -> None:
    one, two = feed(clock(), said(70), said(71))
    assert one.sequence == (EPOCH_NS + 110 * MS) // 1_000_000
    assert two.sequence == one.sequence + 1


def test_opened_anew_it_is_numbered_from_a_later_time() -> None:
    numbering = clock()
    [one] = feed(numbering, said(70))
    numbering.lost()
    [two] = feed(numbering, said(3, window_ms=(9000, 9010)))
    assert two.sequence > one.sequence
    assert two.missed == 0


def test_a_gap_in_the_numbers_is_missed_and_not_guessed() -> None:
    counting = clock()
    assert [one.missed for one in feed(counting, said(3), said(4), said(9))] == [0, 0, 4]
    assert (counting.seen, counting.missed) == (3, 4)


def test_the_first_number_says_nothing_of_what_was_missed() -> None:
    [one] = feed(clock(), said(1000))
    assert one.missed == 0


def test_a_number_that_falls_is_a_feed_that_began_anew() -> None:
    told = feed(clock(), said(1000), said(0, window_ms=(9000, 9010)), said(1))
    assert [one.missed for one in told] == [0, 0, 0]
    assert told[0].sequence < told[1].sequence < told[2].sequence


def test_what_is_said_twice_counts_once() -> None:
    counting = clock()
    one, two = feed(counting, said(3), said(3), said(4))
    assert two.sequence == one.sequence + 1
    assert counting.seen == 2


@pytest.mark.parametrize(("dummy", "seen"), [(True, 3), (False, 2)])
def test_what_is_no_iteration_of_requests_has_a_number_and_no_record(
    dummy: bool, seen: int
) -> None:
    counting = clock()
    told = feed(counting, said(3), said(4, dummy=dummy, heartbeat=not dummy), said(5))
    assert [one.sequence - told[0].sequence for one in told] == [0, 2]
    assert [one.missed for one in told] == [0, 0]
    assert counting.seen == seen
