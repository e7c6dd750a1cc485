from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Batch, HostReading, Iteration, PhaseTime, Workload
from streams.timeline import COUNTERS, GRACE_NS, REMEMBERED, Timeline, counters_of

MS = 1_000_000
BEGIN_NS = 10**18


def part(sequence: int, rank: int = 0, **changes: int) -> Iteration:
    """Give rank's part of a batch that begins every 10 ms and takes 8 ms."""
    begin_ns = changes.get("begin_ns", BEGIN_NS + sequence * 10 * MS)
    return Iteration(
        engine_id="e",
        process_start_ns=1,
        rank=rank,
        sequence=sequence,
        begin_ns=begin_ns,
        end_ns=begin_ns + changes.get("duration_ns", 8 * MS),
        uncertainty_ns=changes.get("uncertainty_ns", 1000),
        source="counter",
        missed=changes.get("missed", 0),
        workload=Workload(requests=rank + 1, scheduled_tokens=rank + 1),
        phases=(PhaseTime(phase="forward", duration_ns=rank + 1, samples=1),),
    )


def reading(begin_ms: float, end_ms: float, others: float) -> HostReading:
    return HostReading(
        engine_id="e",
        host="h",
        begin_ns=BEGIN_NS + int(begin_ms * MS),
        end_ns=BEGIN_NS + int(end_ms * MS),
        cpu_count=8,
        others_cpu_ratio=others,
    )


def told(batches: list[Batch]) -> list[tuple[int, int, int]]:
    return [(batch.sequence, batch.revision, batch.ranks) for batch in batches]


def test_with_one_rank_each_iteration_is_a_batch_at_once() -> None:
    timeline = Timeline()
    [batch] = timeline.add(part(1, missed=3, uncertainty_ns=77))
    assert (batch.begin_ns, batch.duration_ns) == (BEGIN_NS + 10 * MS, 8 * MS)
    assert (batch.missed, batch.uncertainty_ns, batch.ranks, batch.revision) == (3, 77, 1, 0)
    assert batch.workload == Workload(requests=1, scheduled_tokens=1)


def test_with_several_ranks_the_batch_waits_for_the_last() -> None:
    timeline = Timeline(ranks=3)
    assert timeline.add(part(1, rank=2)) == []
    assert timeline.add(part(1, rank=0)) == []
    assert told(timeline.add(part(1, rank=1))) == [(1, 0, 3)]


def test_a_batch_runs_from_the_first_begin_to_the_last_end() -> None:
    timeline = Timeline(ranks=2)
    timeline.add(part(1, rank=1, begin_ns=BEGIN_NS, duration_ns=5 * MS, uncertainty_ns=9))
    [batch] = timeline.add(part(1, rank=0, begin_ns=BEGIN_NS + MS, duration_ns=7 * MS))
    assert (batch.begin_ns, batch.end_ns) == (BEGIN_NS, BEGIN_NS + 8 * MS)
    assert (batch.duration_ns, batch.uncertainty_ns) == (8 * MS, 1000)


def test_the_workload_is_the_first_ranks_and_the_phases_are_the_slowest_ones() -> None:
    timeline = Timeline(ranks=2)
    timeline.add(part(1, rank=1, duration_ns=9 * MS))
    [batch] = timeline.add(part(1, rank=0))
    assert (batch.workload.requests, batch.phases[0].duration_ns) == (1, 2)


def test_a_rank_that_does_not_report_is_waited_for_only_so_long() -> None:
    timeline = Timeline(ranks=2)
    timeline.add(part(1))
    silent = part(2, begin_ns=BEGIN_NS + 18 * MS + GRACE_NS)
    assert timeline.add(silent) == []
    overdue = part(3, begin_ns=BEGIN_NS + 18 * MS + GRACE_NS + 1)
    assert told(timeline.add(overdue)) == [(1, 0, 1)]


def test_a_rank_that_never_reports_costs_its_batches_nothing_but_the_grace() -> None:
    timeline = Timeline(ranks=2)
    found = [
        one
        for n in range(1, 50)
        for one in timeline.add(part(n, begin_ns=BEGIN_NS + n * GRACE_NS // 5))
    ]
    assert told(found) == [(n, 0, 1) for n in range(1, 44)]


def test_a_late_part_amends_the_batch_with_a_higher_revision() -> None:
    timeline = Timeline(ranks=3)
    timeline.add(part(1))
    timeline.add(part(1, rank=1))
    later = part(2, begin_ns=BEGIN_NS + GRACE_NS * 2)
    assert told(timeline.add(later)) == [(1, 0, 2)]
    assert told(timeline.add(part(1, rank=2))) == [(1, 1, 3)]


def test_batches_may_be_completed_out_of_order() -> None:
    timeline = Timeline(ranks=2)
    for one in (part(1), part(2), part(2, rank=1)):
        found = timeline.add(one)
    assert told(found) == [(2, 0, 2)]
    assert told(timeline.add(part(1, rank=1))) == [(1, 0, 2)]


def test_workers_shares_tell_how_far_ranks_are_apart_and_are_not_waited_for() -> None:
    timeline = Timeline()
    for rank, duration_ms in ((1, 4), (2, 8), (3, 5)):
        share = replace(part(7, rank=rank, duration_ns=duration_ms * MS), role="worker")
        timeline.add_share(share)
    [batch] = timeline.add(part(7))
    assert batch.ranks == 1
    assert batch.counters == {"worker_spread_ratio": 0.5, "slowest_worker_rank": 2.0}


def test_one_worker_alone_is_not_apart_from_anyone() -> None:
    timeline = Timeline()
    timeline.add_share(replace(part(7, rank=1), role="worker"))
    [batch] = timeline.add(part(7))
    assert batch.counters == {}


def test_shares_without_their_batch_are_forgotten_in_the_end() -> None:
    timeline = Timeline()
    for sequence in range(3 * REMEMBERED):
        timeline.add_share(replace(part(sequence, rank=1), role="worker"))
    assert len(timeline._shares) == REMEMBERED


def test_processes_of_the_engine_are_kept_apart() -> None:
    timeline = Timeline(ranks=2)
    timeline.add(part(1))
    assert timeline.add(replace(part(1, rank=1), process_start_ns=2)) == []


def test_what_waits_is_bounded_and_nothing_of_it_is_lost() -> None:
    timeline = Timeline(ranks=2)
    found = [one for n in range(1, 1000) for one in timeline.add(part(n, begin_ns=BEGIN_NS + n))]
    assert told(found) == [(n, 0, 1) for n in range(1, 1000 - REMEMBERED)]


def test_it_knows_which_parts_are_still_to_come() -> None:
    timeline = Timeline(ranks=2)
    timeline.add(part(1))
    assert timeline.awaits(part(1, rank=1))
    assert not timeline.awaits(part(1))
    assert not timeline.awaits(part(2))
    timeline.forget()
    assert not timeline.awaits(part(1, rank=1))


def test_what_was_forgotten_is_not_given_out_later() -> None:
    timeline = Timeline(ranks=2)
    timeline.add(part(1))
    timeline.forget()
    assert timeline.add(part(2, begin_ns=BEGIN_NS + 100 * GRACE_NS)) == []
    overdue = part(3, begin_ns=BEGIN_NS + 200 * GRACE_NS)
    assert told(timeline.add(overdue)) == [(2, 0, 1)]


def test_what_waits_for_a_rank_that_is_gone_is_not_lost() -> None:
    timeline = Timeline(ranks=2)
    timeline.add(part(1))
    timeline.ranks = 1
    assert told(timeline.add(part(2))) == [(2, 0, 1)]
    timeline.ranks = 2
    assert told(timeline.add(part(3, begin_ns=BEGIN_NS + 2 * GRACE_NS))) == [(1, 0, 1)]


def test_the_workers_of_one_batch_do_not_show_in_the_next() -> None:
    timeline = Timeline()
    timeline.add_host(reading(0, 100, 0.1))
    for rank, duration_ms in ((1, 4), (2, 8)):
        share = replace(part(7, rank=rank, duration_ns=duration_ms * MS), role="worker")
        timeline.add_share(share)
    spread, plain = timeline.add(part(7)) + timeline.add(part(8))
    assert set(spread.counters) == {
        "others_cpu_ratio",
        "worker_spread_ratio",
        "slowest_worker_rank",
    }
    assert plain.counters == {"others_cpu_ratio": 0.1}


def test_a_batch_carries_the_reading_that_overlaps_it_most() -> None:
    timeline = Timeline()
    for begin_ms, others in ((0, 0.1), (100, 0.2), (200, 0.3), (300, 0.4)):
        timeline.add_host(reading(begin_ms, begin_ms + 100, others))
    long = part(1, begin_ns=BEGIN_NS + 150 * MS, duration_ns=120 * MS)
    assert timeline.add(long)[0].counters == {"others_cpu_ratio": 0.3}
    short = part(2, begin_ns=BEGIN_NS + 110 * MS)
    assert timeline.add(short)[0].counters == {"others_cpu_ratio": 0.2}


def test_a_batch_newer_than_every_reading_carries_the_latest() -> None:
    """That is the usual case: the reading of this second comes when the second is over."""
    timeline = Timeline()
    timeline.add_host(reading(-2000, -1000, 0.1))
    timeline.add_host(reading(-1000, 0, 0.7))
    [batch] = timeline.add(part(1, begin_ns=BEGIN_NS + 300 * MS))
    assert batch.counters == {"others_cpu_ratio": 0.7}


def test_without_readings_there_are_no_counters() -> None:
    assert Timeline().add(part(1))[0].counters == {}


@pytest.mark.parametrize("name", COUNTERS)
def test_counters_are_fields_of_the_reading_and_unknown_ones_are_left_out(name: str) -> None:
    values: dict[str, Any] = {"others_cpu_ratio": None, name: 0.0}
    assert counters_of(replace(reading(0, 1, 0.5), **values)) == {name: 0.0}
