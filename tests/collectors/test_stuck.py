"""Engines that get stuck, seen by their memory: each in a process of its own, all at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collectors.config import CollectSettings
from collectors.discovery import read_process
from collectors.engines import Family
from collectors.publisher import MemoryPublisher
from collectors.rank import RankReader
from collectors.stacks import attach
from collectors.standstill import Standing, Standstill
from schemas.records import Iteration, Workload
from tests.collectors.engine import needs_native, wait_for

pytestmark = [pytest.mark.process, needs_native]

SCRIPT = Path(__file__).parent / "stuck_engine.py"
FILE = "collectors/stuck_engine.py"
SPEC: dict[str, Any] = {
    "root": [{"file": FILE, "function": "Core.run_busy_loop"}],
    "step": [{"file": FILE, "function": "Core.step"}],
    "counter": [{"path": "scheduler.current_step", "kind": "int"}],
    "gauges": [
        {"name": "waiting_requests", "path": "scheduler.waiting", "reduce": "len"},
        {"name": "running_requests", "path": "scheduler.running", "reduce": "len"},
    ],
}
FAMILY = Family(name="stuck", spec=SPEC, workload=lambda _: Workload())
WORDS = ("inside", "between", "idle", "stopped", "idle and stopped")
WATCHED_SECONDS = 4.0
SECOND_NS = 1_000_000_000


@dataclass
class Look:
    """What the reader of one engine said, and when the engine got stuck."""

    stuck_ns: int
    publisher: MemoryPublisher
    told: list[tuple[int, Standing]] = field(default_factory=list)
    last: Standing | None = None
    is_stopped: bool = False

    @property
    def opened(self) -> list[Iteration]:
        records = [one for one in self.publisher.records if isinstance(one, Iteration)]
        return [one for one in records if one.end_ns is None]


def look_at(where: str, stack: ExitStack) -> Look:
    arguments = "nowhere" if where == "stopped" else where.split()[0]
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, str(SCRIPT), arguments], stdout=subprocess.PIPE, text=True
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    standstill, look = Standstill(), Look(0, MemoryPublisher())

    def report() -> None:
        now_ns = time.time_ns()
        look.told.append((now_ns, standstill.at(now_ns)))

    core = read_process(process.pid)
    assert core is not None
    reader = RankReader(
        engine_id="h:1",
        process_start_ns=1,
        process=core,
        families=[FAMILY],
        publisher=look.publisher,
        settings=CollectSettings(),
        attach_sampler=attach,
        standstill=standstill,
        report=report,
    )
    reader.attach(1000, 0)
    stop = threading.Event()
    thread = threading.Thread(target=reader.run, args=(stop,))
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop.set)
    if where == "stopped":
        wait_for(lambda: reader.seen > 20)
        os.kill(process.pid, signal.SIGSTOP)
    else:
        assert process.stdout.readline() == "stuck\n"
    if where == "idle and stopped":
        os.kill(process.pid, signal.SIGSTOP)
    look.stuck_ns = time.time_ns()
    time.sleep(WATCHED_SECONDS)
    look.last, look.is_stopped = standstill.at(time.time_ns()), reader.is_stopped
    return look


@pytest.fixture(scope="module")
def looks() -> Iterator[dict[str, Look]]:
    found: dict[str, Look] = {}
    with ExitStack() as stack:

        def take(where: str) -> None:
            found[where] = look_at(where, stack)

        threads = [threading.Thread(target=take, args=(where,)) for where in WORDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield found


@pytest.mark.parametrize("where", ["inside", "between", "stopped"])
def test_a_standstill_with_work_is_told_again_and_again(looks: dict[str, Look], where: str) -> None:
    told = looks[where].told
    for _, standing in told:
        assert (standing.running_requests, standing.waiting_requests) == (2, 1)
    lasted_ns = [at_ns - (standing.still_since_ns or at_ns) for at_ns, standing in told]
    assert len([one for one in lasted_ns if one >= SECOND_NS]) >= 2
    # That the process was stopped is said before that.
    assert len([one for one in lasted_ns if one < SECOND_NS]) <= (where == "stopped")
    # What it says last is what it said first: nothing has moved.
    assert len({standing.still_since_ns for _, standing in told}) == 1
    assert len({standing.last_iteration_end_ns for _, standing in told}) == 1
    assert told[0][1].last_iteration_end_ns is not None


def test_an_engine_that_is_stuck_between_iterations_has_none_that_is_open(
    looks: dict[str, Look],
) -> None:
    look = looks["between"]
    assert not [one for one in look.opened if one.running_ns is not None and one.running_ns > 1e9]
    assert [one for one in looks["inside"].opened if (one.running_ns or 0) > 1e9]


def test_an_idle_engine_is_none_that_stands_still(looks: dict[str, Look]) -> None:
    look = looks["idle"]
    assert look.told == []
    assert look.last is not None
    assert (look.last.running_requests, look.last.waiting_requests) == (0, 0)
    assert look.last.still_since_ns is None
    assert look.last.last_iteration_end_ns is not None


def test_what_waits_for_an_engine_that_was_stopped_while_idle_is_unknown(
    looks: dict[str, Look],
) -> None:
    look = looks["idle and stopped"]
    assert look.last is not None
    assert (look.last.running_requests, look.last.waiting_requests) == (None, None)
    # Said once, when it was seen.
    assert len(look.told) == 1
    assert {where for where, one in looks.items() if one.is_stopped} >= {"idle and stopped"}
    assert not looks["idle"].is_stopped
    assert not looks["between"].is_stopped
