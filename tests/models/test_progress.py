"""An engine that stands still with work is told from one that has none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from models.progress import FIRST_BATCHES, Halt, Progress
from schemas.records import Engine

BEGIN_NS = 10**18
SECOND_NS = 1_000_000_000
STANDS = Engine(
    engine_id="host:8000",
    host="host",
    at_ns=BEGIN_NS,
    state="running",
    framework="vllm",
    process_start_ns=1,
    running_requests=5,
    waiting_requests=2,
    last_iteration_end_ns=BEGIN_NS - SECOND_NS,
)


@pytest.fixture
def progress() -> Progress:
    """An engine that ends a batch each 30 ms."""
    progress = Progress(process_start_ns=1)
    for _ in range(200):
        progress.add(30_000_000)
    return progress


def looks(progress: Progress, seconds: range, **changes: object) -> list[Halt | None]:
    """Look once a second at an engine that stands still."""
    engine = replace(STANDS, **changes)  # type: ignore[arg-type]  # test shorthand
    return [
        progress.look(replace(engine, at_ns=BEGIN_NS + one * SECOND_NS), BEGIN_NS - SECOND_NS)
        for one in seconds
    ]


def test_an_engine_with_work_that_ends_no_batch_is_frozen_within_seconds(
    progress: Progress,
) -> None:
    *before, halt = looks(progress, range(3))
    assert before == [None, None]
    assert halt is not None
    assert halt.reason == "frozen: 5 requests running, no batch for 2.0 s"


def test_only_requests_that_wait_are_work_too(progress: Progress) -> None:
    halt = looks(progress, range(3), running_requests=0, waiting_requests=1)[-1]
    assert halt is not None
    assert halt.reason == "frozen: 1 request waiting, no batch for 2.0 s"


def test_an_engine_without_work_is_never_frozen(progress: Progress) -> None:
    found = looks(progress, range(600), running_requests=0, waiting_requests=0)
    assert found == [None] * 600


def test_an_engine_whose_work_is_not_known_is_never_frozen(progress: Progress) -> None:
    found = looks(progress, range(600), running_requests=None, waiting_requests=None)
    assert found == [None] * 600
    assert looks(progress, range(600), last_iteration_end_ns=None) == [None] * 600


def test_time_without_work_does_not_count(progress: Progress) -> None:
    """It was idle for ten minutes; the first request stands still only since it came."""
    looks(progress, range(600), running_requests=0, waiting_requests=0)
    found = looks(progress, range(600, 603))
    assert [halt is not None for halt in found] == [False, False, True]


def test_batches_that_end_are_no_halt(progress: Progress) -> None:
    for second in range(60):
        at_ns = BEGIN_NS + second * SECOND_NS
        engine = replace(STANDS, at_ns=at_ns, last_iteration_end_ns=at_ns - 500_000_000)
        assert progress.look(engine, 0) is None


def test_an_inventory_that_comes_late_is_no_halt(progress: Progress) -> None:
    """Batches have moved on meanwhile."""
    late = replace(STANDS, at_ns=BEGIN_NS + 60 * SECOND_NS)
    assert [progress.look(late, BEGIN_NS + 90 * SECOND_NS) for _ in range(3)] == [None] * 3


def test_a_batch_stamped_by_a_clock_that_was_ahead_hides_no_halt(progress: Progress) -> None:
    ahead_ns = BEGIN_NS + 3600 * SECOND_NS
    found = [
        progress.look(replace(STANDS, at_ns=BEGIN_NS + one * SECOND_NS), ahead_ns)
        for one in range(3)
    ]
    assert [halt is not None for halt in found] == [False, False, True]


def test_a_clock_that_is_set_back_while_it_stands_still_hides_no_halt(progress: Progress) -> None:
    looks(progress, range(3600, 3602))
    progress.open_seen_ns = BEGIN_NS + 3600 * SECOND_NS
    found = looks(progress, range(3))
    assert [halt is not None for halt in found] == [False, False, True]


def test_batches_that_are_still_on_their_way_are_no_halt(progress: Progress) -> None:
    """Inventory and iterations come by different topics: the agent's own word counts."""
    for second in range(60):
        at_ns = BEGIN_NS + second * SECOND_NS
        engine = replace(STANDS, at_ns=at_ns, last_iteration_end_ns=at_ns - 20_000_000)
        assert progress.look(engine, BEGIN_NS - 3600 * SECOND_NS) is None


def test_an_engine_of_long_batches_has_more_time() -> None:
    progress = Progress(process_start_ns=1)
    for _ in range(200):
        progress.add(SECOND_NS)
    found = looks(progress, range(15))
    assert [halt is not None for halt in found] == [False] * 10 + [True] * 5


def test_the_first_batches_of_a_process_may_take_a_minute(progress: Progress) -> None:
    progress.restart()
    for _ in range(FIRST_BATCHES - 1):
        progress.add(30_000_000)
    assert looks(progress, range(60)) == [None] * 60
    progress.add(30_000_000)
    assert looks(progress, range(60))[-1] is not None


def test_another_process_is_known_by_the_inventory(progress: Progress) -> None:
    later = 3600 * SECOND_NS
    assert looks(progress, range(60), process_start_ns=later) == [None] * 60
    assert looks(progress, range(60, 63), process_start_ns=later)[-1] is not None


def test_a_batch_that_is_seen_to_run_is_left_to_its_own_judge(progress: Progress) -> None:
    for second in range(9):
        progress.open_seen_ns = BEGIN_NS + second * SECOND_NS
        assert looks(progress, range(second, second + 1)) == [None]


def test_it_goes_on_exactly_from_its_state(progress: Progress) -> None:
    looks(progress, range(2))
    other = Progress(**json.loads(json.dumps(progress.to_state())))
    assert looks(other, range(2, 3)) == looks(progress, range(2, 3)) != [None]
