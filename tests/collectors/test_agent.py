"""The agent's bookkeeping, with engines that exist on paper only."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collectors import agent as agent_module
from collectors.agent import Agent, frameworks_of
from collectors.capture_files import CaptureError
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, ProcessTable, read_process
from collectors.engines import available
from collectors.publisher import MemoryPublisher
from schemas.records import HostReading

SERVER = Process(
    pid=5000900, parent_pid=1, start_ticks=1, arguments=("vllm", "serve", "m", "--port", "8000")
)
CORE = Process(pid=5000901, parent_pid=5000900, start_ticks=2, arguments=("VLLM::EngineCore",))


class Table:
    """A process table that a test writes."""

    def __init__(self, *processes: Process) -> None:
        self.processes = list(processes)

    def scan(self) -> ProcessTable:
        children: dict[int, list[Process]] = {}
        for process in self.processes:
            children.setdefault(process.parent_pid, []).append(process)
        return ProcessTable({process.pid: process for process in self.processes}, children)


class Watched:
    """What the agent asks of a watcher, written down."""

    def __init__(self, engine: EngineProcess, *_: object) -> None:
        self.engine = engine
        self.ended = threading.Event()
        self.iterations_seen = 0
        self.source: str | None = None
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def report(self, state: str = "running", cpu_ratio: float | None = None) -> None:
        self.calls.append(state)

    def count_engine_iterations(self) -> None:
        self.calls.append("count")

    def govern(self) -> None:
        self.calls.append("govern")

    def adopt(self, engine: EngineProcess) -> None:
        self.engine = engine

    def watch_ranks(self) -> None:
        """Nobody asks for more than the core here."""


class Bench:
    def __init__(self, *processes: Process, **settings: Any) -> None:
        self.table = Table(*processes)
        self.made: list[Watched] = []
        self.publisher = MemoryPublisher()
        self.agent = Agent(
            CollectSettings(host="h", **settings),
            self.publisher,
            "9.9",
            scanner=self.table,  # type: ignore[arg-type]  # it only scans
            make_watcher=self._make,
        )

    def _make(self, *arguments: Any) -> Any:
        self.made.append(Watched(*arguments))
        return self.made[-1]

    def discover(self) -> None:
        self.agent._discover()


def test_an_engine_is_watched_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(SERVER, CORE)
    bench.discover()
    bench.discover()
    assert [one.calls for one in bench.made] == [["start"]]
    assert list(bench.agent.watchers) == ["h:8000"]


def test_workers_that_appear_later_become_part_of_the_engine() -> None:
    bench = Bench(SERVER, CORE)
    bench.discover()
    worker = Process(pid=5000902, parent_pid=CORE.pid, start_ticks=3, arguments=("VLLM::Worker",))
    bench.table.processes.append(worker)
    bench.discover()
    assert bench.made[0].engine.rank_of == {worker.pid: 1, CORE.pid: 0}


def test_a_restarted_engine_is_watched_under_the_same_id() -> None:
    bench = Bench(SERVER, CORE)
    bench.discover()
    bench.made[0].ended.set()
    bench.table.processes = [SERVER, replace(CORE, pid=5000911, start_ticks=9)]
    bench.discover()
    assert [one.engine.core.pid for one in bench.made] == [CORE.pid, 5000911]
    assert list(bench.agent.watchers) == ["h:8000"]


def test_a_restart_that_reuses_the_pid_is_another_engine() -> None:
    bench = Bench(SERVER, CORE)
    bench.discover()
    bench.made[0].ended.set()
    bench.table.processes = [SERVER, replace(CORE, start_ticks=9)]
    bench.discover()
    assert len(bench.made) == 2


def test_an_engine_that_ended_is_not_watched_again_while_the_table_still_shows_it() -> None:
    bench = Bench(SERVER, CORE)
    bench.discover()
    bench.made[0].ended.set()
    bench.discover()
    bench.discover()
    assert len(bench.made) == 1
    bench.table.processes = [SERVER]
    bench.discover()
    assert bench.agent._ended == set()


def test_who_wants_to_capture_an_engine_that_ended_is_told_so() -> None:
    bench = Bench(SERVER, CORE)
    bench.discover()
    assert bench.agent.find_target("h:8000") is not None
    assert bench.agent.find_target("elsewhere:8000") is None
    bench.made[0].ended.set()
    for _ in range(2):
        with pytest.raises(CaptureError, match="h:8000 does not run any more: look for it with"):
            bench.agent.find_target("h:8000")
        bench.discover()
    bench.table.processes = [SERVER, replace(CORE, start_ticks=9)]
    bench.discover()
    assert bench.agent.find_target("h:8000") is not None


def test_only_the_ports_that_were_asked_for_are_watched() -> None:
    bench = Bench(SERVER, CORE, ports=(9000,))
    bench.discover()
    assert bench.made == []


def test_no_engine_is_said_once_with_what_was_looked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(SERVER)
    bench.discover()
    bench.discover()
    assert [one.getMessage() for one in caplog.records] == [
        f"No engine found yet on h; looking every 2 s for: {', '.join(available())}."
    ]


def test_a_port_that_is_known_late_gives_a_better_name_while_nothing_was_counted() -> None:
    nameless = replace(SERVER, arguments=("vllm", "serve", "m", "--port", "0"))
    bench = Bench(nameless, CORE)
    bench.discover()
    assert list(bench.agent.watchers) == [f"h:pid{CORE.pid}"]
    bench.table.processes = [SERVER, CORE]
    bench.discover()
    assert bench.made[0].calls == ["start", "stop", "gone"]
    assert list(bench.agent.watchers) == ["h:8000"]


def test_an_engine_that_iterates_keeps_its_name() -> None:
    nameless = replace(SERVER, arguments=("vllm", "serve", "m", "--port", "0"))
    bench = Bench(nameless, CORE)
    bench.discover()
    bench.made[0].iterations_seen = 5
    bench.table.processes = [SERVER, CORE]
    bench.discover()
    assert list(bench.agent.watchers) == [f"h:pid{CORE.pid}"]
    assert bench.made[0].engine.port == 8000
    assert len(bench.made) == 1


def test_what_one_engine_answers_keeps_no_other_from_being_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(SERVER, CORE)
    bench.discover()
    bench.agent.watchers["h:bad"] = bench.agent.watchers.pop("h:8000")
    good = Watched(bench.made[0].engine)
    bench.agent.watchers["h:good"] = good  # type: ignore[assignment]  # a stand-in

    def fail() -> None:
        raise TypeError("Integer exceeds 64-bit range")

    bench.made[0].count_engine_iterations = fail  # type: ignore[method-assign]
    bench.agent._cpu_seconds = bench.agent._cpu_at = 0.0
    bench.agent._report()
    assert good.calls == ["count", "running", "govern"]
    assert "the report of h:bad failed and is tried again" in caplog.text


def test_a_users_file_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "vllm.toml"
    own.write_text("[core]\nmatch = ['^my-vllm$']\n[metrics]\niterations = ['my_batches']\n")
    frameworks = frameworks_of(CollectSettings(engine_files=(str(own),)))
    assert [one.name() for one in frameworks].count("vllm") == 1
    assert frameworks[0].name() == "vllm"
    assert frameworks[0].families() == []


def guess_of(core: Process) -> EngineProcess:
    return EngineProcess(framework="vllm", name="8000", core=core, guessed=True)


@pytest.mark.parametrize(
    ("source", "stays"), [(None, False), ("metrics", False), ("counter", True)]
)
def test_a_core_that_was_only_guessed_makes_way_for_the_one_that_shows_itself(
    source: str | None, stays: bool
) -> None:
    bench = Bench()
    guess, shown = read_process(os.getpid()), replace(CORE, pid=5000123)
    assert guess is not None
    bench.agent._watch(guess_of(guess))
    bench.made[0].source = source
    bench.agent._watch(replace(guess_of(shown), guessed=False))
    [watcher] = bench.agent.watchers.values()
    assert (watcher.engine.core == guess) is stays


def test_two_engines_of_one_name_are_told_once_and_the_first_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alive = read_process(os.getpid())
    assert alive is not None
    core = replace(alive, parent_pid=SERVER.pid, arguments=CORE.arguments)
    bench = Bench(SERVER, core)
    bench.discover()
    bench.table.processes.append(CORE)
    bench.discover()
    bench.discover()
    assert [one.engine.core.pid for one in bench.made] == [core.pid]
    told = [one.getMessage() for one in caplog.records]
    assert len(told) == 1
    assert f"pid {CORE.pid} is not watched, because pid {core.pid} serves" in told[0]


def test_a_framework_that_does_not_exist_is_refused() -> None:
    with pytest.raises(LookupError, match="unknown framework 'vlm'"):
        Bench(engines=("vlm",))


def test_a_failing_task_is_told_once_and_again_when_it_fails_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    failing = True

    def read_host() -> None:
        if failing:
            raise OSError("no /proc/stat")

    for _ in range(3):
        bench.agent._guarded(read_host)
    failing = False
    bench.agent._guarded(read_host)
    failing = True
    bench.agent._guarded(read_host)
    assert [one.getMessage() for one in caplog.records] == [
        "read_host failed and is tried again: no /proc/stat"
    ] * 2


def test_it_works_for_as_long_as_it_was_told_and_lets_go_of_every_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_module, "REPORT_PERIOD_SECONDS", 0.1)
    bench = Bench(SERVER, CORE, reading_period_seconds=0.1, discovery_period_seconds=0.1)
    bench.agent.run(seconds=0.6)
    assert bench.made[0].calls[0] == "start"
    assert bench.made[0].calls[-1] == "stop"
    assert {"count", "running", "govern"} <= set(bench.made[0].calls)
    hosts = [one for one in bench.publisher.records if isinstance(one, HostReading)]
    assert hosts
    assert {one.engine_id for one in hosts} == {"h:8000"}


def test_it_stops_when_told_to() -> None:
    bench = Bench()
    thread = threading.Thread(target=bench.agent.run)
    thread.start()
    bench.agent.stop()
    thread.join(10)
    assert not thread.is_alive()
