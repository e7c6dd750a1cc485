"""What a real engine cannot be made to show on demand: a scripted sampler on this very process."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from collectors import outside as outside_module
from collectors import watcher as watcher_module
from collectors.clock import UNKNOWN, Scrape
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, RankProcess, read_process
from collectors.engines import Family, Framework, load
from collectors.engines.described import FeedText, Metrics, Server
from collectors.feeds.listener import FEEDS
from collectors.feeds.log import LogFeed
from collectors.publisher import MemoryPublisher
from collectors.rank import epoch_offset_ns
from collectors.scrape import ScrapeError
from collectors.stacks import AttachRefused, NotServing, Sampler, SamplerUnavailable
from collectors.watcher import Watcher
from schemas.records import Engine, Iteration, Role
from tests.collectors.feeding import decode
from tests.collectors.packing import MS, begin, end, gauges, state

GONE, DENIED, LOST = 2, 3, 4
ID = "h:8000"


class Script:
    """A sampler that hands over what was written down, then nothing."""

    def __init__(self, *packed: bytes, dies: bool = False) -> None:
        self.packed = list(packed)
        self.dies = dies
        self.stopped = 0
        self.rates: list[tuple[int, int]] = []
        self.cpu_ns = 0

    def poll(self, timeout_seconds: float) -> bytes:
        if self.packed:
            return self.packed.pop(0)
        time.sleep(min(timeout_seconds, 0.005))
        return b""

    def set_rates(self, poll_hz: int, stack_hz: int) -> None:
        self.rates.append((poll_hz, stack_hz))

    def stats(self) -> dict[str, int]:
        return {"thread_cpu_ns": self.cpu_ns}

    def last_error(self) -> str | None:
        return "the kernel says no: give it SYS_PTRACE"

    def stop(self) -> None:
        self.stopped += 1

    @property
    def alive(self) -> bool:
        return bool(self.packed) or not self.dies


class OneFamily(Framework):
    """vLLM as it was first known: one way for each role, so that each attach is one attempt."""

    def __init__(self, feed: FeedText) -> None:
        self._vllm = load("vllm")
        self.feed_text = feed
        self.metrics_text = self._vllm.metrics

    def families(self, role: Role = "engine_core", version: str | None = None) -> list[Family]:
        return self._vllm.families(role, version)[:1]

    def version(self, engine: EngineProcess) -> str | None:
        return None

    @property
    def server(self) -> Server:
        return self._vllm.server

    @property
    def feed(self) -> FeedText:
        return self.feed_text

    @property
    def metrics(self) -> Metrics:
        return self.metrics_text


class Bench:
    """A watcher whose attaches and scrapes follow a list; the last entry repeats."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.publisher = MemoryPublisher()
        self.attaches: list[Script | Exception] = []
        self.attached = 0
        self.scrapes = 0
        self.core = read_process(os.getpid())
        assert self.core is not None
        # Scripts of ranks beside the core, by pid.
        self.of_rank: dict[int, Script | Exception] = {}
        self.ranks: tuple[RankProcess, ...] = ()
        self.candidates: tuple[Process, ...] = ()
        self.settings = CollectSettings(metrics_period_seconds=0.01, open_iteration_seconds=0.05)
        self.port: int | None = 8000
        self.feed = FeedText()
        # How many iterations each scrape counts more than the one before.
        self.counted_at_a_time = 10
        self._counted = 0
        # What each scrape says runs; its time is this moment then.
        self.running: int | None = None
        self._started: list[Watcher] = []
        monkeypatch.setattr(outside_module, "scrape", self._scrape)
        monkeypatch.setattr(watcher_module, "RETRY_ATTACH_SECONDS", 0.1)

    def _scrape(self, *_: object) -> Scrape:
        self.scrapes += 1
        self._counted += self.counted_at_a_time
        if self.running is not None:
            return Scrape(
                at_ns=time.time_ns(), iterations=self._counted, running_requests=self.running
            )
        return Scrape(at_ns=self.scrapes * 1000 * MS, iterations=self._counted)

    def _attach(self, pid: int, *_: object, **__: object) -> Sampler:
        of_rank = self.of_rank.get(pid)
        if isinstance(of_rank, Exception):
            raise of_rank
        if of_rank is not None:
            return of_rank
        found = self.attaches[min(self.attached, len(self.attaches) - 1)]
        self.attached += 1
        if isinstance(found, Exception):
            raise found
        return found

    def watcher(self, *attaches: Script | Exception, core: Process | None = None) -> Watcher:
        self.attaches = list(attaches)
        core = core or self.core
        assert core is not None
        watcher = Watcher(
            EngineProcess(
                framework="vllm",
                name="8000",
                core=core,
                port=self.port,
                model="m",
                ranks=self.ranks,
                candidates=self.candidates,
            ),
            OneFamily(self.feed),
            "h",
            self.publisher,
            self.settings,
            "9.9",
            attach_sampler=self._attach,
        )
        self._started.append(watcher)
        return watcher

    def start(self, *attaches: Script | Exception) -> Watcher:
        watcher = self.watcher(*attaches)
        watcher.start()
        return watcher

    def add_rank(self, script: Script | Exception, role: Role) -> None:
        """Give the engine a further process: the one that started the tests, and its parent."""
        pid = os.getpid()
        for _ in range(len(self.ranks) + 1):
            before = read_process(pid)
            assert before is not None
            pid = before.parent_pid
        process = read_process(pid)
        assert process is not None
        self.of_rank[process.pid] = script
        rank = RankProcess(process=process, rank=len(self.ranks) + 1, role=role)
        self.ranks = (*self.ranks, rank)

    def stop(self) -> None:
        for watcher in self._started:
            if watcher._thread.ident is not None:
                watcher.stop()

    @property
    def iterations(self) -> list[Iteration]:
        return [one for one in list(self.publisher.records) if isinstance(one, Iteration)]

    @property
    def is_read(self) -> bool:
        """Whether the newest inventory says that the counter is read."""
        return bool(self.engines) and self.engines[-1].source == "counter"

    @property
    def engines(self) -> list[Engine]:
        return [one for one in list(self.publisher.records) if isinstance(one, Engine)]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    caplog.set_level(logging.INFO)
    bench = Bench(monkeypatch)
    yield bench
    bench.stop()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_iterations_are_published_with_the_engines_id_and_start(bench: Bench) -> None:
    watcher = bench.start(Script(begin(1, MS) + begin(2, 20 * MS, missed=4) + end(2, 30 * MS)))
    wait_for(lambda: len(bench.iterations) == 2)
    assert [one.sequence for one in bench.iterations] == [1, 2]
    assert {one.engine_id for one in bench.iterations} == {ID}
    assert watcher.iterations_seen == 2
    assert watcher.iterations_missed == 4
    running = bench.engines[-1]
    assert (running.state, running.source, running.note) == ("running", "counter", None)
    assert running.process_start_ns == bench.iterations[0].process_start_ns
    assert (running.port, running.model, running.agent_version) == (8000, "m", "9.9")


def test_the_inventory_says_what_runs_and_when_the_last_iteration_ended(bench: Bench) -> None:
    now_ns = time.monotonic_ns()
    watcher = bench.start(Script(begin(1, now_ns - 30 * MS) + end(1, now_ns), gauges(now_ns, 4, 2)))
    wait_for(lambda: bench.iterations and not watcher._core.reader.sampler.packed)  # type: ignore[union-attr]
    watcher.report()
    last = bench.engines[-1]
    assert last.last_iteration_end_ns == bench.iterations[0].end_ns
    assert (last.waiting_requests, last.running_requests) == (4, 2)


def test_a_server_that_is_found_later_shows_its_command_line(bench: Bench) -> None:
    watcher = bench.watcher(AttachRefused("no"))
    watcher.report()
    server = Process(pid=5, parent_pid=1, start_ticks=1, arguments=("vllm", "serve", "m"))
    before = bench.engines[-1].command_digest
    watcher.adopt(replace(watcher.engine, api_server=server))
    watcher.report()
    assert bench.engines[-1].command_digest not in (None, before)


def test_work_that_stands_still_is_told_at_once(bench: Bench) -> None:
    """Between two iterations, so that none of them is open."""
    ended_ns = time.monotonic_ns() - 1500 * MS
    held_ns = ended_ns + 250 * MS
    bench.start(Script(begin(1, ended_ns - MS) + end(1, ended_ns), gauges(held_ns, 1, 0)))
    wait_for(lambda: bench.engines and bench.engines[-1].still_since_ns is not None)
    last = bench.engines[-1]
    assert (last.waiting_requests, last.running_requests) == (1, 0)
    assert last.still_since_ns is not None
    assert last.at_ns - last.still_since_ns >= 1000 * MS
    assert all(one.end_ns is not None for one in bench.iterations)


def test_gauges_that_could_not_be_read_are_unknown_and_no_work(bench: Bench) -> None:
    now_ns = time.monotonic_ns()
    watcher = bench.start(Script(gauges(now_ns, UNKNOWN, 0)))
    wait_for(lambda: bench.is_read and not watcher._core.reader.sampler.packed)  # type: ignore[union-attr]
    watcher.report()
    last = bench.engines[-1]
    assert (last.waiting_requests, last.running_requests) == (None, 0)
    assert last.still_since_ns is None


def test_a_standstill_is_told_by_the_metrics_where_nothing_else_is_read(bench: Bench) -> None:
    bench.counted_at_a_time, bench.running = 0, 2
    bench.start(AttachRefused("no"))
    wait_for(lambda: bench.engines and bench.engines[-1].still_since_ns is not None)
    assert bench.engines[-1].running_requests == 2


def test_an_iteration_that_never_ends_is_seen_all_the_same(bench: Bench) -> None:
    bench.start(Script(begin(1, time.monotonic_ns())))
    wait_for(lambda: len(bench.iterations) >= 2)
    first, second = bench.iterations[:2]
    assert first.end_ns is None
    assert first.running_ns is not None
    assert second.running_ns is not None
    assert first.running_ns < second.running_ns


def test_a_refused_attach_is_one_line_and_falls_to_the_metrics(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = bench.start(AttachRefused("give the agent SYS_PTRACE"))
    wait_for(lambda: bench.attached >= 3 and len(bench.iterations) >= 3)
    assert warnings(caplog) == [f"{ID}: watched by /metrics only: give the agent SYS_PTRACE"]
    assert {one.source for one in bench.iterations} == {"metrics"}
    assert bench.engines[-1].source == "metrics"
    assert bench.engines[-1].note == "watched by /metrics only: give the agent SYS_PTRACE"
    wait_for(lambda: watcher.iterations_seen >= 30)


def test_an_engine_that_still_starts_is_no_warning(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.start(NotServing("no thread runs its loop"), Script())
    wait_for(lambda: bench.is_read)
    assert warnings(caplog) == []
    assert f"{ID}: watched by /metrics only: no thread runs its loop" in caplog.text


def test_permission_lost_on_the_way_falls_to_the_metrics_with_one_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(begin(1, MS) + end(1, 2 * MS) + state(DENIED))
    bench.start(script)
    wait_for(lambda: {"counter", "metrics"} == {one.source for one in bench.iterations})
    bench.stop()
    told = f"{ID}: watched by /metrics only: reading was refused: {script.last_error()}"
    assert told in warnings(caplog)
    assert set(warnings(caplog)) == {told}
    assert script.stopped


def test_a_refusal_is_not_tried_again_at_once(bench: Bench) -> None:
    bench.start(Script(state(DENIED)))
    wait_for(lambda: bench.scrapes)
    assert bench.attached == 1


def test_a_reader_that_dies_without_a_word_is_noticed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.start(Script(dies=True))
    wait_for(lambda: bench.scrapes)
    assert "watched by /metrics only: reading stopped" in warnings(caplog)[0]


def test_when_it_may_read_again_it_climbs_back_and_counts_nothing_twice(bench: Bench) -> None:
    script = Script(begin(1, MS) + end(1, 2 * MS))
    watcher = bench.start(AttachRefused("not yet"), AttachRefused("not yet"), script)
    wait_for(lambda: bench.is_read)
    assert bench.engines[-1].note is None
    by_metrics = sum(one.iterations for one in bench.iterations if one.source == "metrics")
    wait_for(lambda: watcher.iterations_seen == by_metrics + 1)


def test_the_interval_that_the_counter_covered_is_not_a_mean_as_well(bench: Bench) -> None:
    bench.start(AttachRefused("not yet"), Script(state(DENIED)), AttachRefused("no"))
    wait_for(lambda: bench.attached >= 3 and bench.scrapes >= 8)
    bench.stop()
    # Each scrape counts ten more; a mean across the change would begin before it.
    ends = [one.end_ns for one in bench.iterations]
    assert len(ends) == len(set(ends))
    assert sum(one.iterations for one in bench.iterations) == 10 * (bench.scrapes - 2)


def test_without_a_port_it_does_not_claim_to_read_the_metrics(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.port = None
    bench.start(SamplerUnavailable("build it"))
    wait_for(lambda: bench.attached >= 2)
    assert warnings(caplog) == [f"{ID}: not watched, its port is unknown: build it"]
    assert bench.scrapes == 0


def test_a_counter_that_moved_is_told_and_watching_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.start(Script(state(LOST), begin(1, MS) + end(1, 2 * MS)))
    wait_for(lambda: bench.iterations)
    assert "its counter moved; looking for it again" in caplog.text
    assert bench.attached == 1


def test_stopping_is_not_the_engines_end(bench: Bench) -> None:
    script = Script()
    watcher = bench.start(script)
    wait_for(lambda: bench.attached)
    watcher.stop()
    assert watcher.ended.is_set()
    assert script.stopped
    assert all(one.state == "running" for one in bench.engines)


def test_an_engine_that_is_gone_is_said_to_be(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Process(pid=5000999, parent_pid=1, start_ticks=1, arguments=("VLLM::EngineCore",))
    watcher = bench.watcher(Script(), core=gone)
    watcher.start()
    wait_for(watcher.ended.is_set)
    assert [one.state for one in bench.engines] == ["running", "gone"]
    assert f"{ID}: the engine ended after 0 iterations." in caplog.text


def test_a_failure_of_ours_is_told_once_and_is_not_the_engines_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = bench.start(RuntimeError("a bug"))
    wait_for(lambda: bench.attached >= 3)
    assert len(warnings(caplog)) == 1
    assert not watcher.ended.is_set()
    assert all(one.state == "running" for one in bench.engines)


def test_events_that_are_cut_off_do_not_end_the_watch(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(begin(1, MS)[:-3], begin(5, MS) + end(5, 2 * MS))
    bench.start(script)
    wait_for(lambda: bench.iterations)
    assert "cut off" in caplog.text


def test_a_scrape_that_fails_is_no_error_of_the_watch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = threading.Event()

    def fail(*_: object) -> Scrape:
        failures.set()
        raise ScrapeError("nobody there")

    monkeypatch.setattr(outside_module, "scrape", fail)
    watcher = bench.start(AttachRefused("no"))
    wait_for(failures.is_set)
    watcher.count_engine_iterations()
    watcher.report()
    assert bench.engines[-1].engine_iterations is None


def test_the_engines_own_count_is_in_the_inventory(bench: Bench) -> None:
    watcher = bench.watcher(Script())
    watcher.count_engine_iterations()
    watcher.report(cpu_ratio=0.01)
    assert bench.engines[-1].engine_iterations == 10
    assert bench.engines[-1].agent_cpu_ratio == 0.01


def test_reading_that_costs_too_much_is_slowed_down_and_told(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    watcher = bench.start(script)
    wait_for(lambda: bench.is_read)
    now_ns = 10**9
    monkeypatch.setattr("collectors.watcher.time.monotonic_ns", lambda: now_ns)
    watcher.govern()
    assert script.rates == []
    now_ns, script.cpu_ns = now_ns + 10**9, 10**8
    watcher.govern()
    # Stacks are what can be given up first.
    assert script.rates == [(1000, 25)]
    assert "takes 10.0 % of a core, which is over its budget of 2.0 %" in warnings(caplog)[0]
    assert "Raise [collect] cpu_budget_ratio" in warnings(caplog)[0]
    for _ in range(8):
        now_ns += 10**9
        watcher.govern()
    assert script.rates[-1] == (1000, CollectSettings().stack_hz)
    assert len(warnings(caplog)) == 1
    watcher.report()
    assert (bench.engines[-1].poll_hz, bench.engines[-1].stack_hz) == script.rates[-1]


def wait_until_watched(bench: Bench, watcher: Watcher, *ranks: int) -> None:
    wait_for(lambda: bench.is_read)
    watcher.watch_ranks()
    wait_for(lambda: bench.engines[-1].watched_ranks == (0, *ranks))


def test_a_rank_that_iterates_as_the_core_does_is_a_rank_of_the_batch(bench: Bench) -> None:
    bench.add_rank(Script(begin(5, MS) + end(5, 20 * MS)), "engine_core")
    watcher = bench.start(Script(begin(5, MS) + end(5, 10 * MS)))
    wait_until_watched(bench, watcher, 1)
    wait_for(lambda: len(bench.iterations) == 2)
    assert {(one.rank, one.sequence) for one in bench.iterations} == {(0, 5), (1, 5)}
    assert bench.engines[-1].ranks == 2
    assert bench.engines[-1].sources == ("counter", "counter")


def test_a_workers_share_is_told_by_role_and_is_no_rank_to_wait_for(bench: Bench) -> None:
    now_ns = time.monotonic_ns()
    bench.add_rank(Script(begin(1, now_ns + MS) + end(1, now_ns + 9 * MS)), "worker")
    bench.add_rank(Script(), "worker")
    watcher = bench.start(Script(begin(41, now_ns)))
    wait_until_watched(bench, watcher, 1, 2)
    wait_for(lambda: any(one.role == "worker" for one in bench.iterations))
    [share] = [one for one in bench.iterations if one.role == "worker"]
    assert (share.sequence, share.rank) == (41, 1)
    assert share.process_start_ns == bench.engines[-1].process_start_ns
    assert bench.engines[-1].ranks == 1


def test_a_rank_that_is_refused_is_one_line_and_does_not_trouble_the_core(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.add_rank(AttachRefused("give it SYS_PTRACE"), "engine_core")
    watcher = bench.start(Script())
    wait_for(lambda: bench.is_read)
    watcher.watch_ranks()
    wait_for(lambda: "rank 1 is not watched: give it SYS_PTRACE" in caplog.text)
    assert bench.engines[-1].source == "counter"
    assert bench.engines[-1].ranks == 1


def test_workers_that_outlive_their_core_are_let_go_and_the_engine_stays_gone(bench: Bench) -> None:
    for _ in range(2):
        bench.add_rank(Script(), "worker")
    script = Script()
    watcher = bench.start(script)
    wait_until_watched(bench, watcher, 1, 2)
    watcher._core.reader.process = replace(watcher.engine.core, pid=5000999)
    script.packed.append(state(GONE))
    wait_for(watcher.ended.is_set)
    wait_for(lambda: not any(watch.is_alive for watch in watcher._ranks.values()))
    watcher.report()
    assert bench.engines[-1].state == "gone"
    assert [one.state for one in bench.engines].count("gone") == 1


def test_a_rank_whose_number_changed_is_watched_under_the_new_one(bench: Bench) -> None:
    bench.add_rank(Script(), "engine_core")
    watcher = bench.start(Script())
    wait_until_watched(bench, watcher, 1)
    [rank] = watcher.engine.ranks
    watcher.engine = replace(watcher.engine, ranks=(replace(rank, rank=3),))
    watcher.watch_ranks()
    watcher.report()
    wait_for(lambda: bench.engines[-1].watched_ranks == (0, 3))


def test_without_a_count_on_its_page_it_does_not_claim_to_read_the_metrics(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = bench.watcher(AttachRefused("no"))
    watcher._framework.metrics_text = Metrics()  # type: ignore[attr-defined]  # OneFamily's
    watcher.start()
    wait_for(lambda: warnings(caplog))
    assert "not watched, for its metrics page has no count of iterations: no" in warnings(caplog)[0]
    assert bench.engines[-1].source is None


def test_one_worker_alone_is_left_in_peace(bench: Bench) -> None:
    bench.add_rank(Script(), "worker")
    watcher = bench.start(Script())
    wait_for(lambda: bench.is_read)
    watcher.watch_ranks()
    assert watcher._ranks == {}


def test_workers_are_left_alone_where_the_settings_say_so(bench: Bench) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, workers=False)
    bench.add_rank(Script(), "engine_core")
    watcher = bench.start(Script())
    wait_for(lambda: bench.is_read)
    watcher.watch_ranks()
    assert watcher._ranks == {}


def test_of_several_processes_the_one_whose_loop_runs_is_watched(bench: Bench) -> None:
    bench.add_rank(Script(begin(5, MS) + end(5, 20 * MS)), "engine_core")
    candidate = bench.ranks[0].process
    bench.ranks, bench.candidates = (), (candidate,)
    watcher = bench.start(NotServing("no loop there"))
    wait_for(lambda: bench.iterations)
    assert bench.engines[-1].source == "counter"
    # Its counters, captures and devices are those of the process that is read.
    assert watcher.engine.core == candidate
    watcher.adopt(
        replace(watcher.engine, core=watcher.engine.candidates[0], candidates=(candidate,))
    )
    assert watcher.engine.core == candidate


@pytest.fixture
def engine_log(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """A log that the engine writes; give it the numbers of its next iterations."""
    path = tmp_path / "engine.log"
    path.write_bytes(b"")
    fd = tmp_path / "proc" / str(os.getpid()) / "fd"
    fd.mkdir(parents=True)
    (fd / "1").symlink_to(path)
    vllm = load("vllm").feed
    bench.feed = vllm
    monkeypatch.setitem(FEEDS, "log", lambda text, engine: LogFeed(text, engine, tmp_path / "proc"))

    def write(*numbers: int) -> None:
        with path.open("ab") as file:
            for number in numbers:
                file.write(decode(number).replace(b"pid=25038", b"pid=%d" % os.getpid()))

    yield write
    bench.stop()


def is_open(watcher: Watcher) -> Callable[[], bool]:
    return lambda: watcher._outside.listener.is_open


def test_what_the_engine_says_itself_is_taken_before_the_metrics(
    bench: Bench, engine_log: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    bench.counted_at_a_time = 0
    watcher = bench.start(AttachRefused("give the agent SYS_PTRACE"))
    wait_for(is_open(watcher))
    assert bench.engines[-1].source == "metrics"
    engine_log(6, 7, 9)
    wait_for(lambda: watcher.source == "stream")
    wait_for(lambda: len(bench.iterations) == 3)
    assert {one.source for one in bench.iterations} == {"stream"}
    first = bench.iterations[0].sequence
    assert [one.sequence - first for one in bench.iterations] == [0, 1, 3]
    assert {one.engine_id for one in bench.iterations} == {ID}
    assert (watcher.iterations_seen, watcher.iterations_missed) == (3, 1)
    wait_for(lambda: bench.engines[-1].source == "stream")
    assert bench.engines[-1].note == "watched by its iteration log: give the agent SYS_PTRACE"
    assert warnings(caplog)[-1] == f"{ID}: {bench.engines[-1].note}"


def test_a_log_without_iterations_leaves_the_metrics_as_they_are(
    bench: Bench, engine_log: Callable[..., None]
) -> None:
    watcher = bench.start(AttachRefused("no"))
    wait_for(lambda: watcher._outside.listener.is_open and len(bench.iterations) >= 5)
    assert {one.source for one in bench.iterations} == {"metrics"}
    assert watcher.source == "metrics"


def test_an_engine_that_stops_to_log_while_it_counts_falls_to_the_metrics(
    bench: Bench, engine_log: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    bench.counted_at_a_time = 0
    bench.settings = msgspec.structs.replace(bench.settings, metrics_period_seconds=0.1)
    watcher = bench.start(AttachRefused("no"))
    wait_for(is_open(watcher))
    engine_log(1)
    wait_for(lambda: watcher.source == "stream")
    scrapes = bench.scrapes
    wait_for(lambda: bench.scrapes > scrapes + 3)
    # Idle is not silent: nothing was counted.
    assert watcher.source == "stream"
    bench.counted_at_a_time = 10
    wait_for(lambda: watcher.source == "metrics")
    wait_for(lambda: "says nothing while /metrics counts: look at the engine's log" in caplog.text)
    wait_for(lambda: [one for one in bench.iterations if one.source == "metrics"])
    first = next(one for one in bench.iterations if one.source == "metrics")
    # All that was counted while the log was silent, not only what came after that was noticed.
    assert first.iterations >= 20
    engine_log(2)
    wait_for(lambda: watcher.source == "stream")


def test_while_it_says_them_iterations_are_not_counted_twice(
    bench: Bench, engine_log: Callable[..., None]
) -> None:
    bench.counted_at_a_time = 1
    bench.settings = msgspec.structs.replace(bench.settings, metrics_period_seconds=0.1)
    watcher = bench.start(AttachRefused("no"))
    wait_for(is_open(watcher))
    number = 0
    while bench.scrapes < 12:
        engine_log(number)
        number += 1
        time.sleep(0.005)
    wait_for(lambda: len([one for one in bench.iterations if one.source == "stream"]) == number)
    bench.stop()
    by_metrics = sum(one.iterations for one in bench.iterations if one.source == "metrics")
    # Only before its first word and after its last.
    assert by_metrics <= bench.scrapes // 2
    assert watcher.iterations_seen == number + by_metrics


def test_memory_that_may_be_read_is_better_than_what_the_engine_says(
    bench: Bench, engine_log: Callable[..., None]
) -> None:
    bench.counted_at_a_time = 0
    script = Script(begin(1, MS) + end(1, 2 * MS))
    watcher = bench.start(AttachRefused("not yet"), AttachRefused("not yet"), script)
    wait_for(is_open(watcher))
    engine_log(3)
    wait_for(lambda: bench.is_read)
    assert not watcher._outside.listener.is_open
    engine_log(4)
    time.sleep(0.1)
    assert [one.source for one in bench.iterations] in (["stream", "counter"], ["counter"])


def test_ranks_are_not_tried_where_the_core_only_speaks(
    bench: Bench, engine_log: Callable[..., None]
) -> None:
    bench.counted_at_a_time = 0
    bench.add_rank(Script(), "engine_core")
    watcher = bench.start(AttachRefused("no"))
    wait_for(is_open(watcher))
    engine_log(3)
    wait_for(lambda: watcher.source == "stream")
    watcher.watch_ranks()
    assert watcher._ranks == {}
    assert bench.engines[-1].sources == ("stream",)


def test_the_two_clocks_are_compared_within_a_microsecond_or_so() -> None:
    before_ns = time.time_ns() - time.monotonic_ns()
    assert abs(epoch_offset_ns() - before_ns) < 50 * MS
