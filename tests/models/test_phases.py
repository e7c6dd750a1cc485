"""What surrounds the forward pass: gaps between batches and the phases of the host."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from models.phases import MOST_BLIND_BATCHES, WARM_VALUES, WINDOW_BATCHES, Around, Surroundings
from schemas.records import Batch, PhaseTime, Workload

FORWARD_MS = 30.0
SECOND_NS = 1_000_000_000


class Run:
    """Batches of one engine, with gaps like those of a real vLLM: 0.2 ms and 12 us a request."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.surroundings = Surroundings()
        self.sequence = 0
        self.now_ns = 10**18
        self.schedule_ms = 0.5

    def batch(self, gap_ms: float | None = None, requests: int | None = None) -> Batch:
        """Give the next batch, after a usual gap or the given one."""
        requests = requests or self._random.randint(4, 64)
        usual_ms = (0.2 + 0.012 * requests) * self._random.lognormvariate(0, 0.15)
        self.now_ns += int((usual_ms if gap_ms is None else gap_ms) * 1e6)
        begin_ns, self.now_ns = self.now_ns, self.now_ns + int(FORWARD_MS * 1e6)
        self.sequence += 1
        return Batch(
            engine_id="host:8000",
            process_start_ns=1,
            sequence=self.sequence,
            begin_ns=begin_ns,
            end_ns=self.now_ns,
            duration_ns=self.now_ns - begin_ns,
            uncertainty_ns=1000,
            source="counter",
            workload=Workload(
                requests=requests,
                scheduled_tokens=requests,
                prefill_tokens=0,
                decode_requests=requests,
                kv_tokens=requests * 500,
            ),
            phases=(PhaseTime(phase="schedule", duration_ns=self._schedule_ns(), samples=1),),
        )

    def judge(self, batch: Batch, *, suspect: bool = False) -> Around:
        return self.surroundings.judge(batch, FORWARD_MS, suspect=suspect)

    def go(self, count: int, gap_ms: Callable[[int], float | None] | float | None = None) -> Around:
        """Judge so many batches; give what was said of the last one."""
        return [*self.each(count, gap_ms)][-1]

    def each(
        self, count: int, gap_ms: Callable[[int], float | None] | float | None = None
    ) -> Iterator[Around]:
        for number in range(count):
            yield self.judge(self.batch(gap_ms(number) if callable(gap_ms) else gap_ms))

    def _schedule_ns(self) -> int:
        # As from a few stack samples: nothing most of the time, then much.
        return int(self.schedule_ms * 10 * 1e6) if self._random.random() < 0.1 else 0


@pytest.fixture
def run() -> Run:
    """An engine that is known."""
    run = Run()
    assert max(around.score for around in run.each(2000)) < 1
    return run


def every(count: int, gap_ms: float) -> Callable[[int], float | None]:
    return lambda number: gap_ms if number % count == 0 else None


def test_the_gap_before_a_batch_is_told_with_what_is_usual(run: Run) -> None:
    around = run.judge(run.batch(gap_ms=0.8, requests=50))
    assert around.gap_ns == 800_000
    assert around.expected_gap_ns == pytest.approx(800_000, rel=0.1)
    assert around.slow_parts == ()


def test_gaps_that_are_far_too_long_are_an_alarm_within_two_seconds(run: Run) -> None:
    begin_ns = run.now_ns
    while not (around := run.judge(run.batch(gap_ms=25.0))).slow_parts:
        assert run.now_ns - begin_ns < 2 * SECOND_NS
    assert around.slow_parts == ("gap",)
    assert around.score >= 1
    assert around.reason.startswith("gap before the batch: 25.0 ms where ")
    assert around.reason.endswith(" ms is usual")


def test_one_long_gap_in_ten_batches_is_an_alarm(run: Run) -> None:
    assert any(around.score >= 1 for around in run.each(100, every(10, 200.0)))


@pytest.mark.parametrize("gap_ms", [1.2, 1.6])
def test_a_gap_that_costs_little_is_none(run: Run, gap_ms: float) -> None:
    """Three times as long as usual, and less than 5 % of the batch."""
    assert max(around.score for around in run.each(2000, gap_ms)) < 1


def test_a_long_gap_now_and_then_is_none(run: Run) -> None:
    assert max(around.score for around in run.each(3000, every(500, 60.0))) < 1


def test_how_rare_long_gaps_are_is_learnt(run: Run) -> None:
    """One in sixty was nothing thirty times; then a handful close together says little, too."""
    assert max(around.score for around in run.each(1800, every(60, 40.0))) < 1
    assert max(around.score for around in run.each(60, every(10, 40.0))) < 1


def test_a_burst_of_long_gaps_within_a_second_is_none(run: Run) -> None:
    assert max(around.score for around in run.each(12, 25.0)) < 1
    assert max(around.score for around in run.each(500)) < 1


def test_an_alarm_ends_soon_after_the_gaps_are_usual_again(run: Run) -> None:
    assert run.go(200, 25.0).score >= 1
    assert [around.score >= 1 for around in run.each(10)].count(True) <= 5


def test_gaps_that_stay_long_are_still_an_alarm_after_two_thousand(run: Run) -> None:
    run.go(100, 25.0)
    assert all(around.score >= 1 for around in run.each(2000, 25.0))


def test_gaps_as_of_the_alarm_can_be_taken_as_usual(run: Run) -> None:
    assert run.surroundings.adopt() is None
    run.go(100, lambda _: 25.0)
    factor = run.surroundings.adopt()
    assert factor is not None
    assert factor > 10
    assert max(around.score for around in run.each(1000, 25.0)) < 1


def test_an_idle_engine_has_no_gap(run: Run) -> None:
    """What comes after a pause is new: nothing of it decodes yet."""
    for _ in range(300):
        batch = run.batch(gap_ms=700.0)
        alone = replace(batch.workload, requests=1, prefill_tokens=200, decode_requests=0)
        assert run.judge(replace(batch, workload=alone)).gap_ns is None
    assert run.go(1).score < 0.3


def test_requests_with_draft_tokens_go_on(run: Run) -> None:
    """They compute more than one token each, as prompts do."""
    batch = run.batch(gap_ms=2.0, requests=8)
    drafts = replace(batch.workload, prefill_tokens=32, decode_requests=0, speculative_tokens=24)
    assert run.judge(replace(batch, workload=drafts)).gap_ns == 2_000_000


@pytest.mark.parametrize("kv_tokens", [129, 2001])
def test_a_prompt_from_the_cache_is_not_taken_for_a_request_that_goes_on(
    run: Run, kv_tokens: int
) -> None:
    """All but its last token is found, so it looks like decoding; its context gives it away."""
    first, second = run.batch(requests=1), run.batch(gap_ms=900.0, requests=1)
    for batch, tokens in ((first, 1000), (second, kv_tokens)):
        around = run.judge(replace(batch, workload=replace(batch.workload, kv_tokens=tokens)))
    assert around.gap_ns is None


@pytest.mark.parametrize(
    "change",
    [{"missed": 1}, {"source": "metrics"}, {"sequence": 10_000}, {"workload": Workload()}],
    ids=lambda change: next(iter(change)),
)
def test_where_it_is_not_known_what_came_before_there_is_no_gap(
    run: Run, change: dict[str, object]
) -> None:
    batch = run.batch(gap_ms=500.0)
    changed: Batch = replace(batch, **change)  # type: ignore[arg-type]  # test shorthand
    assert run.judge(changed).gap_ns is None


def test_another_process_begins_without_a_gap(run: Run) -> None:
    run.surroundings.forget_last()
    assert run.judge(run.batch(gap_ms=9000.0)).gap_ns is None
    assert run.judge(run.batch(gap_ms=1.0)).gap_ns == 1_000_000


def test_an_alarm_does_not_stand_where_no_gap_is_known_any_more(run: Run) -> None:
    assert run.go(200, 25.0).score >= 1
    for _ in range(MOST_BLIND_BATCHES + 1):
        around = run.judge(replace(run.batch(), missed=1))
    assert around.score == 0


def test_an_alarm_ends_at_once_where_only_metrics_are_read(run: Run) -> None:
    assert run.go(200, 25.0).score >= 1
    around = run.judge(replace(run.batch(), source="metrics"))
    assert (around.score, around.slow_parts) == (0, ())


def test_a_few_batches_without_a_known_gap_do_not_end_an_alarm(run: Run) -> None:
    assert run.go(200, 25.0).score >= 1
    blind = [run.judge(replace(run.batch(), missed=1)) for _ in range(MOST_BLIND_BATCHES)]
    assert blind[-1].score >= 1


def test_nothing_is_judged_before_enough_is_known() -> None:
    run = Run()
    for number in range(WARM_VALUES):
        around = run.judge(run.batch(gap_ms=25.0 if number > 50 else None))
    assert around.score == 0


def test_gaps_grow_with_requests_and_that_is_no_fault(run: Run) -> None:
    scores = []
    for requests in range(64, 400):
        usual_ms = 0.2 + 0.012 * requests
        scores += [run.judge(run.batch(usual_ms, requests)).score for _ in range(5)]
    assert max(scores) < 1


def test_a_phase_that_takes_more_of_the_batch_is_named_in_an_alarm(run: Run) -> None:
    run.schedule_ms = 5.0
    named = [run.judge(run.batch(), suspect=True) for _ in range(10 * WINDOW_BATCHES)]
    assert sum(around.slow_parts == ("schedule",) for around in named) > 5 * WINDOW_BATCHES


def test_a_phase_alone_is_no_alarm(run: Run) -> None:
    """It is part of the batch's duration, which is judged as a whole."""
    run.schedule_ms = 5.0
    around = run.go(500)
    assert (around.score < 1, around.slow_parts) == (True, ())


def test_it_goes_on_exactly_from_its_state_and_the_state_is_small(run: Run) -> None:
    run.go(60, every(5, 25.0))
    state = json.loads(json.dumps(run.surroundings.to_state()))
    other = Surroundings()
    other.restore(state)
    batches = [run.batch(gap_ms=25.0 if number < 300 else None) for number in range(600)]
    expected = [run.judge(batch) for batch in batches]
    assert [other.judge(batch, FORWARD_MS, suspect=False) for batch in batches] == expected
    assert {around.score >= 1 for around in expected} == {True, False}
    assert other.to_state() == run.surroundings.to_state()
    assert len(json.dumps(state)) < 4096
