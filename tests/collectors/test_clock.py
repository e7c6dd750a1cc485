"""From observations to iterations, with every observation written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from collectors.clock import (
    BEGIN,
    MEASURED_SAMPLES,
    STATE,
    STATE_ATTACHED,
    UNKNOWN,
    CounterClock,
    MetricsClock,
    Scrape,
    phase_times,
    unpack,
)
from schemas.records import Iteration, Phase, PhaseTime, Workload
from tests.collectors.packing import MS, batch, begin, end, event, stack, state

OFFSET = 1_700_000_000_000_000_000
PHASES: tuple[Phase, ...] = ("schedule", "forward")
FORWARD = 1


def read_workload(fields: dict[str, int]) -> Workload | None:
    total, requests = fields.get("total"), fields.get("requests")
    if total is None or requests is None or total < requests:
        return None
    return Workload(requests=requests, scheduled_tokens=total)


class Bench:
    """A clock and what it said so far."""

    def __init__(self, **more: Any) -> None:
        self.offset_ns = OFFSET
        self.clock = CounterClock(
            engine_id="host:8000",
            process_start_ns=77,
            fields=("requests", "total"),
            phases=PHASES,
            read_workload=read_workload,
            epoch_offset_ns=lambda: self.offset_ns,
            **more,
        )

    def feed(self, *packed: bytes) -> list[Iteration]:
        return list(self.clock.feed(unpack(b"".join(packed))))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_iteration_runs_from_its_begin_to_its_end(bench: Bench) -> None:
    [iteration] = bench.feed(begin(7, 10 * MS), batch(7, 2, 50), end(7, 30 * MS))
    assert iteration == Iteration(
        engine_id="host:8000",
        process_start_ns=77,
        sequence=7,
        begin_ns=OFFSET + 10 * MS,
        end_ns=OFFSET + 30 * MS,
        uncertainty_ns=MS // 2,
        source="counter",
        workload=Workload(requests=2, scheduled_tokens=50),
    )
    assert (bench.clock.seen, bench.clock.missed) == (1, 0)


def test_nothing_is_said_before_the_end_is_known(bench: Bench) -> None:
    assert bench.feed(begin(1, 0), batch(1, 1, 1), stack(FORWARD)) == []
    assert len(bench.feed(end(1, 5 * MS))) == 1


def test_in_a_busy_loop_the_next_begin_is_the_end(bench: Bench) -> None:
    first, second = bench.feed(begin(1, 10 * MS), begin(2, 22 * MS), begin(3, 40 * MS))
    assert (first.sequence, first.end_ns) == (1, OFFSET + 22 * MS)
    assert (second.begin_ns, second.end_ns) == (OFFSET + 22 * MS, OFFSET + 40 * MS)


def test_an_idle_engine_between_end_and_begin_is_in_no_iteration(bench: Bench) -> None:
    first, second = bench.feed(
        begin(1, 10 * MS), end(1, 20 * MS), begin(2, 900 * MS), end(2, 905 * MS)
    )
    assert first.end_ns == OFFSET + 20 * MS
    assert second.begin_ns == OFFSET + 900 * MS


def test_an_end_ends_its_own_iteration_only(bench: Bench) -> None:
    assert bench.feed(begin(2, 10 * MS), end(1, 12 * MS)) == []
    [iteration] = bench.feed(end(2, 20 * MS), end(2, 21 * MS))
    assert iteration.end_ns == OFFSET + 20 * MS


def test_a_counter_that_jumped_says_how_many_were_missed(bench: Bench) -> None:
    iterations = bench.feed(begin(1, 0), begin(5, 40 * MS, missed=3), end(5, 50 * MS))
    assert [iteration.missed for iteration in iterations] == [0, 3]
    assert (bench.clock.seen, bench.clock.missed) == (2, 3)


def test_a_batch_of_another_iteration_is_ignored(bench: Bench) -> None:
    [iteration] = bench.feed(begin(2, 0), batch(1, 9, 9), batch(3, 9, 9), end(2, MS))
    assert iteration.workload == Workload()
    assert bench.clock.workloads_refused == 0


def test_a_batch_before_any_begin_is_ignored(bench: Bench) -> None:
    assert bench.feed(batch(0, 1, 1), stack(FORWARD), end(0, MS)) == []


def test_a_torn_batch_is_refused_and_counted(bench: Bench) -> None:
    [iteration] = bench.feed(begin(1, 0), batch(1, 9, 3), end(1, MS))
    assert iteration.workload == Workload()
    assert bench.clock.workloads_refused == 1


@pytest.mark.parametrize("numbers", [(2, UNKNOWN), (UNKNOWN, 8)])
def test_a_number_that_could_not_be_read_is_missing_and_not_a_number(
    bench: Bench, numbers: tuple[int, int]
) -> None:
    bench.feed(begin(1, 0), batch(1, *numbers), end(1, MS))
    assert bench.clock.workloads_refused == 1


def test_a_torn_batch_does_not_undo_a_good_one(bench: Bench) -> None:
    [iteration] = bench.feed(begin(1, 0), batch(1, 2, 8), batch(1, 9, 3), end(1, MS))
    assert iteration.workload == Workload(requests=2, scheduled_tokens=8)


def test_the_worse_edge_decides_the_uncertainty(bench: Bench) -> None:
    wide_begin, wide_end = bench.feed(
        begin(1, 0, gap_ns=8 * MS),
        end(1, 20 * MS, gap_ns=MS),
        begin(2, 30 * MS, gap_ns=MS),
        end(2, 40 * MS, gap_ns=6 * MS),
    )
    assert (wide_begin.uncertainty_ns, wide_end.uncertainty_ns) == (4 * MS, 3 * MS)


def test_a_step_of_the_system_clock_moves_both_ends_alike(bench: Bench) -> None:
    bench.feed(begin(1, 10 * MS))
    bench.offset_ns = OFFSET + 1000 * MS
    [iteration] = bench.feed(end(1, 30 * MS))
    assert iteration.begin_ns == OFFSET + 1010 * MS
    assert iteration.end_ns == OFFSET + 1030 * MS


def test_a_running_iteration_is_reported_once_a_period(bench: Bench) -> None:
    bench.feed(begin(4, 10 * MS), batch(4, 1, 6))
    assert bench.clock.open_iteration(109 * MS, 100 * MS) is None
    first = bench.clock.open_iteration(110 * MS, 100 * MS)
    assert first is not None
    assert (first.sequence, first.end_ns, first.running_ns) == (4, None, 100 * MS)
    assert first.begin_ns == OFFSET + 10 * MS
    assert first.workload == Workload(requests=1, scheduled_tokens=6)
    assert first.phases == ()
    assert bench.clock.open_iteration(150 * MS, 100 * MS) is None
    second = bench.clock.open_iteration(215 * MS, 100 * MS)
    assert second is not None
    assert second.running_ns == 205 * MS
    assert bench.clock.seen == 0


def test_between_iterations_nothing_is_open(bench: Bench) -> None:
    assert bench.clock.open_iteration(10**12, 1) is None
    bench.feed(begin(1, 0), end(1, MS))
    assert bench.clock.open_iteration(10**12, 1) is None


def test_an_iteration_whose_end_will_not_be_seen_is_never_given(bench: Bench) -> None:
    bench.feed(begin(1, 0))
    bench.clock.lost()
    assert bench.feed(end(1, MS), begin(9, 5 * MS)) == []
    assert bench.clock.seen == 0


def test_phases_are_shares_of_the_stack_samples(bench: Bench) -> None:
    samples = [stack(FORWARD)] * 9 + [stack(0)] * 3
    [iteration] = bench.feed(begin(1, 0), *samples, end(1, 24 * MS))
    assert iteration.phases == (
        PhaseTime(phase="forward", duration_ns=18 * MS, samples=9, estimated=False),
        PhaseTime(phase="schedule", duration_ns=6 * MS, samples=3, estimated=True),
    )


def test_a_stack_outside_the_step_is_in_no_iteration_and_a_torn_one_in_no_count(
    bench: Bench,
) -> None:
    none, torn, unheard_of = stack(-1), stack(-2), stack(len(PHASES))
    [iteration] = bench.feed(
        begin(1, 0), stack(FORWARD, inside=False), none, torn, unheard_of, end(1, MS)
    )
    assert [(phase.phase, phase.samples) for phase in iteration.phases] == [("other", 1)]
    assert bench.clock.phase_samples == {"forward": 1, "other": 1}


def test_samples_do_not_leak_into_the_next_iteration(bench: Bench) -> None:
    first, second = bench.feed(begin(1, 0), stack(0), begin(2, MS), stack(FORWARD), begin(3, MS))
    assert [phase.phase for phase in first.phases + second.phases] == ["schedule", "forward"]


def test_a_phase_is_measured_from_so_many_samples_on() -> None:
    for count in (MEASURED_SAMPLES - 1, MEASURED_SAMPLES):
        [time] = phase_times({"forward": count}, 100)
        assert time.estimated is (count < MEASURED_SAMPLES)
    assert phase_times({}, 100) == ()


def test_shares_never_exceed_the_iteration() -> None:
    times = phase_times({"forward": 3, "schedule": 3, "idle": 1}, 1000)
    assert 997 <= sum(time.duration_ns for time in times) <= 1000


def test_what_the_reader_says_of_itself_is_no_iteration(bench: Bench) -> None:
    assert bench.feed(begin(1, 0), state(5), state(4), end(1, MS))[0].sequence == 1


@pytest.mark.parametrize("left", [1, 12, 27, 28, 35])
def test_bytes_that_end_within_an_event_are_refused(left: int) -> None:
    whole = begin(1, 0)
    packed = whole + batch(1, 2, 3)[:left]
    found = unpack(packed)
    assert next(found).kind == BEGIN
    with pytest.raises(ValueError, match="cut off at byte"):
        next(found)


def test_unpacking_gives_every_number_back() -> None:
    [one] = unpack(event(3, -5, 2**62, flags=1, code=6, counter=2**63, at_ns=8, gap_ns=9))
    assert (one.kind, one.flags, one.code, one.counter) == (3, 1, 6, 2**63)
    assert (one.at_ns, one.gap_ns, one.payload) == (8, 9, (-5, 2**62))
    assert list(unpack(b"")) == []


def scrape(
    seconds: float, iterations: int, tokens: int | None = 0, *, with_latency: bool = True
) -> Scrape:
    """Give the counters of an engine that decodes three requests in 20 ms each time."""
    return Scrape(
        at_ns=OFFSET + int(seconds * 1000) * MS,
        iterations=iterations,
        tokens=tokens,
        waiting_requests=1,
        running_requests=3,
        token_latency_seconds=iterations * 3 * 0.02 if with_latency else None,
        token_latency_count=iterations * 3 if with_latency else None,
    )


@pytest.fixture
def metrics() -> MetricsClock:
    return MetricsClock(engine_id="host:8000", process_start_ns=77)


def test_two_scrapes_give_the_mean_of_the_iterations_between(metrics: MetricsClock) -> None:
    assert metrics.feed(scrape(0, 100, 1000)) is None
    # Idle for most of these ten seconds, which says nothing about an iteration.
    iteration = metrics.feed(scrape(10, 150, 1400))
    assert iteration == Iteration(
        engine_id="host:8000",
        process_start_ns=77,
        sequence=OFFSET // MS + 10_000,
        begin_ns=OFFSET + 9980 * MS,
        end_ns=OFFSET + 10_000 * MS,
        uncertainty_ns=20 * MS,
        source="metrics",
        iterations=50,
        workload=Workload(requests=3, scheduled_tokens=8, waiting_requests=1, running_requests=3),
    )
    assert metrics.seen == 50


def test_an_idle_engine_gives_nothing(metrics: MetricsClock) -> None:
    metrics.feed(scrape(0, 100))
    assert metrics.feed(scrape(1, 100)) is None
    assert metrics.seen == 0


def test_without_the_time_between_tokens_there_is_no_workload_to_be_judged_by(
    metrics: MetricsClock,
) -> None:
    """Nobody knows how much of the interval was idle."""
    metrics.feed(scrape(0, 100, 100, with_latency=False))
    iteration = metrics.feed(scrape(1, 110, 200, with_latency=False))
    assert iteration is not None
    assert iteration.end_ns is not None
    assert iteration.end_ns - iteration.begin_ns == 100 * MS
    assert iteration.workload.scheduled_tokens is None


def test_a_counter_that_fell_is_a_restart_and_begins_anew(metrics: MetricsClock) -> None:
    metrics.feed(scrape(0, 100, 900))
    assert metrics.feed(scrape(1, 5, 20)) is None
    iteration = metrics.feed(scrape(2, 15, 120))
    assert iteration is not None
    assert (iteration.iterations, iteration.workload.scheduled_tokens) == (10, 10)


def test_an_engine_that_counts_no_tokens_has_none_and_not_zero(metrics: MetricsClock) -> None:
    metrics.feed(scrape(0, 1, None))
    iteration = metrics.feed(scrape(1, 2, 5))
    assert iteration is not None
    assert iteration.workload.scheduled_tokens is None


def test_a_clock_that_stands_still_gives_nothing(metrics: MetricsClock) -> None:
    metrics.feed(scrape(1, 1))
    assert metrics.feed(scrape(1, 9)) is None


def test_what_was_timed_in_another_way_is_not_counted_again(metrics: MetricsClock) -> None:
    metrics.feed(scrape(0, 1))
    metrics.lost()
    assert metrics.feed(scrape(3600, 100_000)) is None
    iteration = metrics.feed(scrape(3601, 100_010))
    assert iteration is not None
    assert iteration.iterations == 10


def test_a_pointer_counter_numbers_iterations_from_the_time_of_the_attach() -> None:
    """The sampler counts them from 0: after a restart of the agent, rows must not collide."""
    clock = CounterClock(
        engine_id="host:8000",
        process_start_ns=77,
        fields=(),
        phases=(),
        read_workload=read_workload,
        epoch_offset_ns=lambda: OFFSET,
        pointer_counters=(1,),
    )
    attached_by_pointer = event(STATE, 1, code=STATE_ATTACHED, at_ns=5 * MS)
    attached_by_number = event(STATE, 0, code=STATE_ATTACHED, at_ns=90 * MS)

    [pointer] = clock.feed(unpack(attached_by_pointer + begin(3, 10 * MS) + end(3, 30 * MS)))
    [number] = clock.feed(unpack(attached_by_number + begin(9, 100 * MS) + end(9, 120 * MS)))

    assert pointer.sequence == OFFSET // MS + 5 + 3
    assert number.sequence == 9


def attached(choice: int, rung: int, at_ns: int = 0) -> bytes:
    return event(STATE, choice, rung, code=STATE_ATTACHED, at_ns=at_ns)


def test_every_record_names_the_rung_that_it_was_read_on(bench: Bench) -> None:
    [by_counter] = bench.feed(attached(0, 1), begin(1, MS), end(1, 2 * MS))
    [by_stack] = bench.feed(attached(-1, 2, at_ns=7 * MS), begin(1, 8 * MS), end(1, 9 * MS))
    assert (by_counter.source, by_stack.source) == ("counter", "stack")
    # Calls are counted from each attach on, so the time of the attach keeps rows apart.
    assert by_stack.sequence == OFFSET // MS + 7 + 1


def test_iterations_that_passed_while_the_counter_was_lost_are_missed(bench: Bench) -> None:
    bench.feed(attached(0, 1), begin(10, MS), end(10, 2 * MS))
    bench.clock.lost()
    [after] = bench.feed(attached(0, 1), begin(15, 9 * MS), end(15, 10 * MS))
    assert after.missed == bench.clock.missed == 4


def test_calls_seen_before_and_after_another_attach_are_not_compared(bench: Bench) -> None:
    bench.feed(attached(-1, 2), begin(10, MS), end(10, 2 * MS))
    [after] = bench.feed(attached(-1, 2), begin(15, 9 * MS), end(15, 10 * MS))
    assert after.missed == 0


def test_a_batch_that_only_keeps_ranks_in_step_is_counted_and_not_given() -> None:
    bench = Bench(is_dummy=lambda fields: fields.get("requests") == 0)
    assert bench.feed(begin(1, MS), batch(1, 0, 0), end(1, 2 * MS)) == []
    [real] = bench.feed(begin(2, 3 * MS), batch(2, 1, 5), end(2, 4 * MS))
    assert real.sequence == 2
    assert (bench.clock.seen, bench.clock.dummies) == (2, 1)


class Pair:
    """A core and a worker of it, seen by two clocks."""

    def __init__(self) -> None:
        self.core = Bench()
        self.last = -1
        self.worker = Bench(rank=3, role="worker", align=self._align)

    def _align(self, begin_ns: int, workload: Workload) -> int | None:
        found = self.core.clock.sequence_at(begin_ns, workload, self.last)
        self.last = self.last if found is None else found
        return found


def test_a_workers_share_takes_the_number_of_the_cores_iteration() -> None:
    pair = Pair()
    pair.core.feed(begin(41, 10 * MS), batch(41, 2, 50))
    [share] = pair.worker.feed(begin(7, 11 * MS), batch(7, 2, 50), end(7, 19 * MS))
    assert (share.sequence, share.rank, share.role) == (41, 3, "worker")


def test_a_worker_that_runs_behind_an_overlapping_core_takes_batches_in_order() -> None:
    pair = Pair()
    # Its steps are never seen to end.
    pair.core.feed(*(begin(counter, counter * 1000) for counter in range(1, 300)))
    pair.core.feed(begin(41, 10 * MS), batch(41, 2, 50), begin(42, 12 * MS), batch(42, 2, 2))
    shares = pair.worker.feed(begin(1, 15 * MS), batch(1, 2, 50), end(1, 20 * MS))
    pair.core.feed(begin(43, 20 * MS), batch(43, 2, 2))
    shares += pair.worker.feed(
        *(begin(2, 22 * MS), batch(2, 2, 2), end(2, 25 * MS)),
        *(begin(3, 26 * MS), batch(3, 2, 2), end(3, 30 * MS)),
    )
    assert [share.sequence for share in shares] == [41, 42, 43]


def test_one_end_that_goes_unseen_does_not_make_a_worker_fall_behind() -> None:
    pair = Pair()
    pair.core.feed(
        *(begin(41, 10 * MS), batch(41, 2, 2), end(41, 19 * MS)),
        *(begin(42, 20 * MS), batch(42, 2, 2)),
        *(begin(43, 30 * MS), batch(43, 2, 2)),
    )
    [share] = pair.worker.feed(begin(3, 31 * MS), batch(3, 2, 2), end(3, 39 * MS))
    assert share.sequence == 43


def test_a_worker_never_gets_an_iteration_that_is_over_or_of_another_size() -> None:
    pair = Pair()
    pair.core.feed(begin(41, 10 * MS), batch(41, 2, 50), end(41, 12 * MS))
    pair.core.feed(begin(42, 20 * MS), batch(42, 9, 90))
    assert pair.worker.feed(begin(1, 21 * MS), batch(1, 2, 50), end(1, 22 * MS)) == []
    assert pair.worker.clock.unaligned == 1
