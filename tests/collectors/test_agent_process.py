"""The agent beside a real engine: the replica, watched from another process."""

from __future__ import annotations

import bisect
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from collectors.discovery import Scanner
from collectors.engines import find_engines
from collectors.engines import load as load_framework
from collectors.rank import epoch_offset_ns
from collectors.stacks import attach
from schemas.records import HostReading, Iteration, ProcessReading
from simulator.replica.process import ReplicaProcess, TruthIteration, read_truth
from tests.collectors.engine import (
    ROOT,
    Collector,
    free_port,
    is_healthy,
    load,
    needs_native,
    wait_for,
    write_config,
)

pytestmark = pytest.mark.process

WATCHED_SECONDS = 4.0
SEVERAL_RETRIES_SECONDS = 1.5
SLACK_NS = 3_000_000
# Another attempt to attach comes before the test ends.
RETRY_SOON = "import collectors.watcher; collectors.watcher.RETRY_ATTACH_SECONDS = 0.5"
BLOCK_NATIVE = f"import sys; sys.modules['latencyprism_native'] = None; {RETRY_SOON}"
SMALL = 0.3


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaProcess]:
    """One engine for the tests that leave it as it is."""
    with ReplicaProcess(port=free_port(), work_ratio=SMALL) as running:
        yield running


def port_of(replica: ReplicaProcess) -> int:
    return int(replica.base_url.rpartition(":")[2])


@dataclass(frozen=True)
class Watched:
    """One stretch of load: what the agent said, and what the engine itself wrote down."""

    collector: Collector
    iterations: list[Iteration]
    truth: dict[int, TruthIteration]
    offsets_ns: list[tuple[int, int]]

    def monotonic_ns(self, epoch_ns: int) -> int:
        """Undo the epoch as it was then: the system clock of a virtual machine may be stepped."""
        place = bisect.bisect(self.offsets_ns, (epoch_ns, 0))
        return epoch_ns - self.offsets_ns[min(place, len(self.offsets_ns) - 1)][1]


@contextmanager
def following_the_clock() -> Iterator[list[tuple[int, int]]]:
    """Write down epoch time and its distance from the monotonic one, again and again."""
    offsets_ns: list[tuple[int, int]] = []
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.02):
            offsets_ns.append((time.time_ns(), epoch_offset_ns()))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield offsets_ns
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    port = free_port()
    with (
        ReplicaProcess(port=port, truth=folder / "truth.csv") as engine,
        Collector(write_config(folder, port), ["--stdout"]) as collector,
        following_the_clock() as offsets_ns,
    ):
        wait_for(lambda: collector.told("by its memory"))
        with load(engine.base_url):
            wait_for(lambda: collector.iterations)
            time.sleep(WATCHED_SECONDS)
        time.sleep(0.5)
        collector.stop()
        assert engine.stop() == 0
        truth = {one.sequence: one for one in read_truth(folder / "truth.csv")}
        timed = [one for one in collector.iterations if one.end_ns is not None]
        yield Watched(collector, timed, truth, sorted(offsets_ns))


def pairs(watched: Watched) -> list[tuple[Iteration, TruthIteration]]:
    """Pair what was seen with what was, by the time of the begin.

    The counter and the truth may count from different numbers, but never differ in between.
    """
    first = watched.iterations[0]
    begins = {
        number: abs(true.begin_monotonic_ns - watched.monotonic_ns(first.begin_ns))
        for number, true in watched.truth.items()
    }
    shift = min(begins, key=lambda number: begins[number]) - first.sequence
    return [
        (one, watched.truth[one.sequence + shift])
        for one in watched.iterations
        if one.sequence + shift in watched.truth
    ]


@needs_native
def test_every_iteration_is_seen_one_by_one_or_counted_as_missed(watched: Watched) -> None:
    matched = pairs(watched)
    first, last = matched[0][1].sequence, matched[-1][1].sequence
    true = sum(first <= number <= last for number in watched.truth)
    counted = len(matched) + sum(seen.missed for seen, _ in matched[1:])
    assert true >= 50
    assert counted >= 0.99 * true
    assert counted <= 1.01 * true
    assert len(watched.truth) - true <= 0.01 * len(watched.truth) + 3


@needs_native
def test_sequences_only_grow_and_no_iteration_is_given_twice(watched: Watched) -> None:
    sequences = [one.sequence for one in watched.iterations]
    assert all(one < two for one, two in itertools.pairwise(sequences))


@needs_native
def test_the_workload_is_the_engines_own(watched: Watched) -> None:
    known = [
        (seen.workload, true)
        for seen, true in pairs(watched)
        if seen.workload.scheduled_tokens is not None
    ]
    right = sum(
        (one.requests, one.scheduled_tokens, one.prefill_tokens, one.decode_requests, one.kv_tokens)
        == (
            true.requests,
            true.scheduled_tokens,
            true.prefill_tokens,
            true.decode_requests,
            true.kv_tokens,
        )
        for one, true in known
    )
    assert right >= 0.98 * len(known)
    # On a host that others keep busy a batch may pass unread; it must not be the rule.
    assert len(known) >= 0.8 * len(watched.iterations)


@needs_native
def test_begin_and_end_are_as_uncertain_as_the_record_says(watched: Watched) -> None:
    matched = pairs(watched)
    good = 0
    for seen, true in matched:
        assert seen.end_ns is not None
        allowed_ns = seen.uncertainty_ns + SLACK_NS
        begin_error_ns = watched.monotonic_ns(seen.begin_ns) - true.begin_monotonic_ns
        end_error_ns = watched.monotonic_ns(seen.end_ns) - true.end_monotonic_ns
        good += abs(begin_error_ns) <= allowed_ns and abs(end_error_ns) <= allowed_ns
    assert good >= 0.9 * len(matched)


@needs_native
def test_the_forward_pass_is_among_the_phases(watched: Watched) -> None:
    phases = [phase for one in watched.iterations for phase in one.phases]
    forward = sum(phase.duration_ns for phase in phases if phase.phase == "forward")
    assert forward > 0
    assert forward >= 0.3 * sum(phase.duration_ns for phase in phases)


@needs_native
def test_host_and_processes_are_read_beside_it(watched: Watched) -> None:
    records = watched.collector.records
    assert any(isinstance(one, HostReading) for one in records)
    roles = {one.role for one in records if isinstance(one, ProcessReading)}
    assert roles == {"api_server", "engine_core", "worker"}


@needs_native
def test_a_good_watch_has_nothing_to_complain_about(watched: Watched) -> None:
    # A busy neighbour may make reading dearer than its budget; that is told and no fault.
    assert [line for line in watched.collector.complaints if "of a core" not in line] == []
    assert "Traceback" not in "\n".join(watched.collector.lines)


@needs_native
def test_a_restarted_engine_is_the_same_engine_with_a_later_start(tmp_path: Path) -> None:
    port = free_port()
    with Collector(write_config(tmp_path, port), ["--stdout"], RETRY_SOON) as collector:
        with ReplicaProcess(port=port, work_ratio=SMALL) as first:
            wait_for(lambda: collector.told("by its memory"))
            first.kill()
        wait_for(lambda: collector.engines[-1].state == "gone")
        wait_for(lambda: len(collector.told("the engine ended after")) == 1)
        with ReplicaProcess(port=port, work_ratio=SMALL) as second:
            wait_for(lambda: len(collector.told("by its memory")) == 2)
            with load(second.base_url):
                wait_for(lambda: len(collector.iterations) > 5)
    assert {one.engine_id for one in collector.engines} == {f"h:{port}"}
    states = [state for state, _ in itertools.groupby(one.state for one in collector.engines)]
    assert states[:3] == ["running", "gone", "running"]
    starts = [one.process_start_ns for one in collector.engines]
    assert starts == sorted(starts)
    assert len(set(starts)) == 2
    assert collector.complaints == []


@needs_native
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_a_refused_attach_is_one_line_and_the_metrics_go_on(
    replica: ReplicaProcess, tmp_path: Path
) -> None:
    # Everything is imported first: nobody may not read where root keeps its environment.
    as_nobody = (
        "import confluent_kafka, prometheus_client.parser, latencyprism_native, os\n"
        "import collectors.agent, collectors.publisher, collectors.engines as engines\n"
        "import collectors.xpu.base as xpu\n"
        "[engines.load(name) for name in engines.available()]\n"
        "[xpu.load(name) for name in xpu.available()]\n"
        "import encodings.idna, http.client, latencyprism.__main__ as entry\n"
        "entry.build_parser()\n"
        f"{RETRY_SOON}\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    )
    folder = tmp_path
    config = write_config(folder, port_of(replica), metrics_period_seconds=0.3)
    while folder != Path("/tmp") and folder != folder.parent:
        folder.chmod(0o755)
        folder = folder.parent
    with (
        Collector(config, ["--stdout"], as_nobody) as collector,
        load(replica.base_url),
    ):
        wait_for(lambda: len(collector.iterations) >= 3 or collector.process.poll() is not None)
        time.sleep(SEVERAL_RETRIES_SECONDS)
    [complaint] = collector.complaints
    assert "watched by /metrics only" in complaint
    assert "SYS_PTRACE" in complaint
    assert {one.source for one in collector.iterations} == {"metrics"}
    assert collector.engines[-1].source == "metrics"
    assert "SYS_PTRACE" in (collector.engines[-1].note or "")


def test_without_the_extension_the_metrics_are_read_and_it_is_said_once(
    replica: ReplicaProcess, tmp_path: Path
) -> None:
    config = write_config(tmp_path, port_of(replica), metrics_period_seconds=0.3)
    with (
        Collector(config, ["--stdout"], BLOCK_NATIVE) as collector,
        load(replica.base_url),
    ):
        wait_for(lambda: len(collector.iterations) >= 3)
        time.sleep(SEVERAL_RETRIES_SECONDS)
    [complaint] = collector.complaints
    assert "watched by /metrics only: the native sampler is not installed" in complaint
    assert "make native" in complaint
    assert {one.source for one in collector.iterations} == {"metrics"}
    assert all(one.iterations >= 1 for one in collector.iterations)


def test_with_the_broker_away_it_says_so_once_and_ends_well(
    replica: ReplicaProcess, tmp_path: Path
) -> None:
    pytest.importorskip("confluent_kafka", reason="pip install 'latencyprism[collect]'")
    config = write_config(tmp_path, port_of(replica))
    config.write_text(
        config.read_text() + f'[kafka]\nbootstrap_servers = "127.0.0.1:{free_port()}"\n'
    )
    with Collector(config) as collector:
        wait_for(lambda: collector.told("is not reachable"))
        time.sleep(1.0)
        assert collector.process.poll() is None
        assert collector.stop() == 0
    assert len(collector.told(" ERROR ")) == 1
    assert collector.told("takes records again") == []
    assert collector.told("records were not sent")


@needs_native
def test_an_engine_survives_being_attached_to_and_left_again(replica: ReplicaProcess) -> None:
    engines = find_engines(Scanner().scan(), [load_framework("vllm")])
    [engine] = [one for one in engines if one.core.pid == replica.core_pid]
    spec = load_framework("vllm").families()[0].spec
    with load(replica.base_url, concurrency=2):
        for _ in range(20):
            sampler = attach(engine.core.pid, spec, poll_hz=1000, stack_hz=50, realtime=False)
            sampler.poll(0.02)
            sampler.stop()
    assert is_healthy(replica.base_url)
    assert replica.is_running


def test_stdout_that_nobody_reads_any_more_is_no_crash(
    replica: ReplicaProcess, tmp_path: Path
) -> None:
    config = write_config(tmp_path, port_of(replica), reading_period_seconds=0.1)
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "latencyprism", "collect", "--stdout"),
            *("--config", str(config), "--seconds", "3"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write_end,
        stderr=subprocess.PIPE,
    )
    os.close(write_end)
    os.read(read_end, 10)
    os.close(read_end)
    _, errors = process.communicate(timeout=30)
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors
    assert process.returncode in (0, 141)


def test_a_free_port_is_free() -> None:
    socket.create_server(("127.0.0.1", free_port())).close()
