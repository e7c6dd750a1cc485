"""The faults of an engine's process and of its clients, on a real replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.disturbances import get_clock_ratio, set_clock_ratio
from simulator.faults import Machine, Target, available, load
from simulator.faults.kv_exhaustion import split
from simulator.faults.processes import Victim
from simulator.faults.slow_clients import OUTPUT_TOKENS
from simulator.injection.run import InjectionError, Refused, injected
from simulator.injection.steps import start_ticks_of
from simulator.load import run_load
from simulator.replica.process import ReplicaProcess, TruthIteration, read_truth
from simulator.workloads import Phase, Workload

pytestmark = pytest.mark.process

# Decode batches of one request take some two milliseconds of arithmetic.
SMALL = 0.1
CONTEXT_TOKENS = 1_024
# Of 16 tokens each: room for two such contexts.
KV_BLOCKS = 128
LONG_SECONDS = 120.0


@pytest.fixture(scope="module")
def truth_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine_faults") / "truth.csv"


@pytest.fixture(scope="module")
def replica(truth_path: Path) -> Iterator[ReplicaProcess]:
    options = ("--max-model-len", str(CONTEXT_TOKENS), "--num-blocks", str(KV_BLOCKS))
    with ReplicaProcess(truth=truth_path, work_ratio=SMALL, options=options) as running:
        yield running


@pytest.fixture
def inject(replica: ReplicaProcess, tmp_path: Path) -> Callable[..., Any]:
    """Make a fault of the replica in a block."""
    target = Target(pids=(replica.core_pid,), url=replica.base_url)

    def make(name: str, intensity: float) -> Any:
        return injected(
            name, intensity=intensity, target=target, seconds=LONG_SECONDS, folder=tmp_path
        )

    return make


@pytest.fixture
def batches(replica: ReplicaProcess, truth_path: Path) -> Callable[[float], list[TruthIteration]]:
    """Give the iterations under a small load of so many seconds."""

    def run(seconds: float) -> list[TruthIteration]:
        before = len(read_truth(truth_path))
        phase = Phase(
            duration_seconds=seconds, concurrency=2, prompt_tokens=(16, 16), output_tokens=(24, 24)
        )
        workload = Workload(name="small", summary="Small.", phases=(phase,))
        report = asyncio.run(run_load(replica.base_url, workload, seed=1))
        assert report.failures == 0
        # The core writes its truth when it has no more work.
        assert wait_for(lambda: len(read_truth(truth_path)) >= before + report.tokens // 2)
        return read_truth(truth_path)[before:]

    return run


def wait_for(condition: Callable[[], bool], *, timeout_seconds: float = 10.0) -> bool:
    deadline_seconds = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline_seconds:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def call(url: str, body: object = None, *, timeout_seconds: float = 30.0) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data)
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as err:
        with err:
            return err.code, json.loads(err.read())


def knobs(replica: ReplicaProcess) -> dict[str, float]:
    status, answer = call(f"{replica.base_url}/replica/disturbances")
    assert status == 200
    return dict(answer)


def complete(replica: ReplicaProcess, *, timeout_seconds: float = 30.0) -> float:
    """Ask for two tokens, and give how long that took."""
    begin_seconds = time.monotonic()
    body = {"prompt": [1], "max_tokens": 2}
    status, _ = call(f"{replica.base_url}/v1/completions", body, timeout_seconds=timeout_seconds)
    assert status == 200
    return time.monotonic() - begin_seconds


def metric(replica: ReplicaProcess, name: str) -> float:
    with urllib.request.urlopen(f"{replica.base_url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def unread_bytes_of_clients(replica: ReplicaProcess) -> list[int]:
    """Give for each connection to the replica what its client has not taken from the kernel."""
    port = int(replica.base_url.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [row for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"]
    return [int(row[4].partition(":")[2], 16) for row in mine]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def memory_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def milliseconds(iterations: list[TruthIteration]) -> list[float]:
    return [one.duration_ns / 1e6 for one in iterations]


def test_all_knobs_are_0_and_take_part_in_turns(replica: ReplicaProcess) -> None:
    url = f"{replica.base_url}/replica/disturbances"
    assert set(knobs(replica).values()) == {0.0}
    assert call(url, {"worker_delay_ms": 1.5})[1] == knobs(replica)
    call(url, {"tokenizer_ms": 2})
    assert {name: value for name, value in knobs(replica).items() if value} == {
        "worker_delay_ms": 1.5,
        "tokenizer_ms": 2.0,
    }
    call(url, dict.fromkeys(knobs(replica), 0))
    assert set(knobs(replica).values()) == {0.0}


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        ({"gil_hog": 1}, "give gil_hog_ratio, gc_pause_ms"),
        ({"gil_hog_ratio": 1.5}, "from 0 (off) to 1"),
        ({"gc_pause_ms": -1}, "from 0 (off) to 250"),
        ({"tokenizer_ms": True}, "from 0 (off)"),
        ({"worker_delay_ms": "much"}, "from 0 (off)"),
        ({"worker_delay_ms": 5, "compile_pause_ms": None}, "from 0 (off)"),
    ],
)
def test_a_bad_knob_is_refused_and_turns_nothing(
    replica: ReplicaProcess, body: object, advice: str
) -> None:
    status, answer = call(f"{replica.base_url}/replica/disturbances", body)
    assert status == 400
    assert advice in answer["error"]["message"]
    assert set(knobs(replica).values()) == {0.0}


@pytest.mark.parametrize(
    ("name", "intensity"),
    [
        ("gil_hog", 0.5),
        ("gc_pauses", 5),
        ("compile_pauses", 100),
        ("tokenizer_stall", 5),
        ("slow_worker", 5),
    ],
)
def test_a_fault_of_the_replica_leaves_every_knob_as_it_was(
    replica: ReplicaProcess, inject: Callable[..., Any], name: str, intensity: float
) -> None:
    url = f"{replica.base_url}/replica/disturbances"
    threads = threads_of(replica.core_pid)
    with inject(name, intensity):
        (knob,) = (name for name, value in knobs(replica).items() if value == intensity)
    assert set(knobs(replica).values()) == {0.0}
    assert threads_of(replica.core_pid) == threads
    call(url, {knob: 0.25})
    before = knobs(replica)
    with inject(name, intensity):
        assert knobs(replica) == before | {knob: intensity}
    assert knobs(replica) == before
    call(url, {knob: 0})


def test_a_slow_worker_makes_each_batch_longer(
    inject: Callable[..., Any], batches: Callable[[float], list[TruthIteration]]
) -> None:
    with inject("slow_worker", 25):
        assert min(milliseconds(batches(0.5))) >= 25
    assert min(milliseconds(batches(0.3))) < 25


def test_under_a_gil_hog_most_of_the_time_goes_into_long_batches(
    replica: ReplicaProcess,
    inject: Callable[..., Any],
    batches: Callable[[float], list[TruthIteration]],
) -> None:
    threads = os.listdir(f"/proc/{replica.core_pid}/task")
    usual = milliseconds(batches(0.5))
    with inject("gil_hog", 0.9):
        (hog,) = set(os.listdir(f"/proc/{replica.core_pid}/task")).difference(threads)
        # It is held for 27 of 30 ms. Short batches may fit in between, even many: what counts is
        # where the time goes.
        hit = milliseconds(batches(1.0))
        assert sum(one for one in hit if one > 10) > 0.6 * sum(hit), sorted(hit)
        stat = Path(f"/proc/{replica.core_pid}/task/{hog}/stat").read_text()
        # In clock ticks; to wait takes none.
        assert int(stat.rpartition(")")[2].split()[11]) >= 5
    assert min(usual) < 10
    assert min(milliseconds(batches(0.3))) < 10


def test_gc_pauses_stop_some_batches(
    replica: ReplicaProcess,
    inject: Callable[..., Any],
    batches: Callable[[float], list[TruthIteration]],
) -> None:
    before = memory_of(replica.core_pid)
    with inject("gc_pauses", 60):
        durations = milliseconds(batches(3.0))
        held = memory_of(replica.core_pid) - before
    # So many objects that a look at them takes that long.
    assert held > 10e6
    usual = statistics.median(durations)
    assert sum(one > usual + 30 for one in durations) >= 2
    assert usual < 60


def test_compile_pauses_hit_a_batch_of_another_shape(
    inject: Callable[..., Any], batches: Callable[[float], list[TruthIteration]]
) -> None:
    with inject("compile_pauses", 300):
        durations = milliseconds(batches(2.0))
    assert max(durations) >= 300
    # At most once a second, and each takes time of its own.
    assert sum(one >= 300 for one in durations) <= 3
    assert min(durations) < 300


def test_a_tokenizer_stall_delays_requests_and_not_batches(
    replica: ReplicaProcess,
    inject: Callable[..., Any],
    batches: Callable[[float], list[TruthIteration]],
) -> None:
    with inject("tokenizer_stall", 250):
        assert complete(replica) >= 0.25
        assert min(milliseconds(batches(0.5))) < 100


def test_a_knob_is_heard_while_requests_stall(replica: ReplicaProcess) -> None:
    url = f"{replica.base_url}/replica/disturbances"
    call(url, {"tokenizer_ms": 5_000})
    stalled = [threading.Thread(target=complete, args=(replica,)) for _ in range(8)]
    for thread in stalled:
        thread.start()
    time.sleep(0.2)
    begin_seconds = time.monotonic()
    assert call(url, {"tokenizer_ms": 0})[0] == 200
    for thread in stalled:
        thread.join()
    # One stall alone would have taken 5 s, and all of them 40.
    assert time.monotonic() - begin_seconds < 4.5


def test_the_clock_of_the_replica_comes_back(
    replica: ReplicaProcess, inject: Callable[..., Any]
) -> None:
    for before in (0.8, 1.0):
        set_clock_ratio(replica.base_url, before)
        with inject("replica_clock", 0.6):
            assert get_clock_ratio(replica.base_url) == pytest.approx(0.4)
        assert get_clock_ratio(replica.base_url) == before


def test_micro_stalls_stop_the_process_and_let_it_run(
    replica: ReplicaProcess, inject: Callable[..., Any]
) -> None:
    with inject("micro_stalls", 200):
        assert wait_for(lambda: state_of(replica.core_pid) == "T")
        assert wait_for(lambda: state_of(replica.core_pid) != "T")
    assert state_of(replica.core_pid) != "T"
    complete(replica)


def test_a_hang_lasts_until_the_end(replica: ReplicaProcess, inject: Callable[..., Any]) -> None:
    with inject("hang", 1):
        assert state_of(replica.core_pid) == "T"
        # Somebody else lets it run.
        os.kill(replica.core_pid, signal.SIGCONT)
        assert wait_for(lambda: state_of(replica.core_pid) == "T")
        with pytest.raises(TimeoutError):
            complete(replica, timeout_seconds=0.3)
    assert state_of(replica.core_pid) != "T"
    complete(replica)


def test_a_killed_worker_leaves_no_stopped_process(
    replica: ReplicaProcess, inject: Callable[..., Any]
) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(inject("hang", 1))
        os.kill(running.workers[0], signal.SIGKILL)
        assert wait_for(running.has_ended)
        assert state_of(replica.core_pid) != "T"
        with pytest.raises(InjectionError, match="signal 9"):
            stack.close()
    complete(replica)


def test_another_process_with_the_same_pid_is_not_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        ticks = start_ticks_of(other.pid)
        assert ticks is not None
        try:
            with pytest.raises(RuntimeError, match="has ended"):
                Victim(other.pid, ticks - 1).stop()
            assert state_of(other.pid) != "T"
        finally:
            other.kill()


@pytest.mark.parametrize("name", ["micro_stalls", "hang"])
def test_a_process_that_is_not_there_is_refused(name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (sentence,) = load(name).obstacles(Target(pids=(gone.pid,)), Machine())
    assert "give the engine's processes with --pid" in sentence


def test_slow_clients_hold_their_streams_until_the_end(
    replica: ReplicaProcess, inject: Callable[..., Any]
) -> None:
    tokens = metric(replica, "vllm:generation_tokens_total")
    with inject("slow_clients", 6):
        # The engine has given all their tokens; they have taken a few letters.
        assert wait_for(
            lambda: metric(replica, "vllm:generation_tokens_total") == tokens + 6 * OUTPUT_TOKENS
        )
        assert sum(unread > 0 for unread in unread_bytes_of_clients(replica)) == 6
        complete(replica)
    assert wait_for(lambda: not any(unread_bytes_of_clients(replica)))


def test_kv_exhaustion_preempts_requests_until_the_end(
    replica: ReplicaProcess, inject: Callable[..., Any]
) -> None:
    before = metric(replica, "vllm:num_preemptions_total")
    with inject("kv_exhaustion", 4):
        assert wait_for(
            lambda: metric(replica, "vllm:num_preemptions_total") > before, timeout_seconds=20
        )
    assert wait_for(
        lambda: (
            metric(replica, "vllm:num_requests_running") == 0
            and metric(replica, "vllm:num_requests_waiting") == 0
        )
    )


def test_long_requests_fit_into_the_context() -> None:
    for context_tokens in (64, 1_000, 32_768):
        prompt_tokens, output_tokens = split(context_tokens)
        assert 0 < output_tokens < prompt_tokens
        assert prompt_tokens + output_tokens <= context_tokens


@pytest.mark.parametrize("name", ["kv_exhaustion", "slow_clients"])
def test_a_load_needs_an_address(name: str) -> None:
    (sentence,) = load(name).obstacles(Target(), Machine())
    assert "--url" in sentence
    with pytest.raises(Refused), contextlib.ExitStack() as stack:
        stack.enter_context(injected(name, target=Target()))


def test_a_replica_that_is_not_there_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    target = Target(url="http://127.0.0.1:9")
    with (
        pytest.raises(InjectionError, match="check --url"),
        injected("gil_hog", target=target, folder=tmp_path),
    ):
        pass


def test_the_faults_of_the_replica_say_so() -> None:
    of_replica = {name for name in available() if load(name).needs.replica}
    assert {"gil_hog", "gc_pauses", "compile_pauses", "tokenizer_stall"} <= of_replica
    for name in of_replica:
        assert any("--url" in one for one in load(name).obstacles(Target(), Machine()))
