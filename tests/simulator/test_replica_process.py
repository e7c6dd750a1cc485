"""A real replica: three processes, HTTP in front, arithmetic behind."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.disturbances import get_clock_ratio, throttle_clock
from simulator.load import LoadReport, run_load
from simulator.replica.process import (
    ReplicaProcess,
    ReplicaStartError,
    TruthIteration,
    read_truth,
)
from simulator.workloads import Phase, Workload

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def truth_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replica") / "truth.csv"


@pytest.fixture(scope="module")
def replica(truth_path: Path) -> Iterator[ReplicaProcess]:
    with ReplicaProcess(truth=truth_path, options=("--max-model-len", "2048")) as running:
        yield running


def call(url: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as err:
        with err:
            return err.code, json.loads(err.read())


def read_metrics(base_url: str) -> dict[str, float]:
    """Read the samples, summed over their labels."""
    with urllib.request.urlopen(f"{base_url}/metrics", timeout=30) as response:
        text = response.read().decode()
    values: dict[str, float] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([\w:]+)(?:\{.*\})? (\S+)", line)
        if match and not line.startswith("#"):
            values[match[1]] = values.get(match[1], 0.0) + float(match[2])
    return values


def wait_for(condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
    deadline_seconds = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline_seconds:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def has_ended(pid: int) -> bool:
    """Say whether a process is gone; a zombie nobody collects counts as gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def decode_load(base_url: str, *, seconds: float, concurrency: int = 4) -> LoadReport:
    phase = Phase(
        duration_seconds=seconds,
        concurrency=concurrency,
        prompt_tokens=(16, 16),
        output_tokens=(40, 40),
    )
    workload = Workload(name="decode", summary="Decode.", phases=(phase,))
    return asyncio.run(run_load(base_url, workload, seed=1))


def undisturbed_decode_ns(iterations: list[TruthIteration]) -> float:
    """Take the lowest tenth: others on this machine make batches longer, never shorter."""
    durations_ns = [i.duration_ns for i in iterations if i.prefill_tokens == 0 and i.requests == 4]
    assert len(durations_ns) >= 40
    return statistics.quantiles(durations_ns, n=10)[0]


def test_the_processes_bear_the_names_of_vllm(replica: ReplicaProcess) -> None:
    titles = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        for pid in (replica.pid, replica.core_pid, replica.worker_pid)
    }
    assert titles[replica.pid].startswith("vllm serve ")
    assert titles[replica.core_pid] == "VLLM::EngineCore"
    assert titles[replica.worker_pid] == "VLLM::Worker"


def test_a_completion_has_the_tokens_asked_for_and_never_the_prompt(
    replica: ReplicaProcess,
) -> None:
    status, answer = call(
        f"{replica.base_url}/v1/completions", {"prompt": "a secret", "max_tokens": 5}
    )
    assert status == 200
    assert answer["choices"][0]["text"] == "tok " * 5
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    assert "secret" not in json.dumps(answer)


def test_a_stream_has_one_chunk_per_token_and_an_end(replica: ReplicaProcess) -> None:
    request = urllib.request.Request(
        f"{replica.base_url}/v1/completions",
        data=json.dumps({"prompt": [1, 2, 3], "max_tokens": 4, "stream": True}).encode(),
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        events = [line for line in response.read().decode().splitlines() if line]
    assert events[-1] == "data: [DONE]"
    reasons = [json.loads(e.removeprefix("data: "))["choices"][0] for e in events[:-1]]
    assert [choice["text"] for choice in reasons] == ["tok "] * 4
    assert [choice["finish_reason"] for choice in reasons] == [None, None, None, "length"]


@pytest.mark.parametrize(
    ("body", "status", "advice"),
    [
        ({"prompt": []}, 400, "send one prompt per request"),
        ({"prompt": "x", "max_tokens": 0}, 400, "give an integer of 1 or more"),
        ({"prompt": [1] * 2000, "max_tokens": 100}, 400, "shorten the prompt"),
        ({"prompt": "x", "model": "other"}, 404, "ask for 'replica'"),
        (["no object"], 400, "send one"),
    ],
)
def test_a_bad_request_is_told_what_to_do(
    replica: ReplicaProcess, body: object, status: int, advice: str
) -> None:
    got_status, answer = call(f"{replica.base_url}/v1/completions", body)
    assert got_status == status
    assert answer["error"]["code"] == status
    assert advice in answer["error"]["message"]


def test_metrics_and_truth_count_the_same_iterations(
    replica: ReplicaProcess, truth_path: Path
) -> None:
    report = decode_load(replica.base_url, seconds=1.5, concurrency=8)
    assert report.failures == 0
    assert report.requests >= 8
    assert report.tokens == report.requests * 40
    time.sleep(0.3)
    metrics = read_metrics(replica.base_url)
    iterations = read_truth(truth_path)
    assert metrics["vllm:iteration_tokens_total_count"] == len(iterations)
    assert metrics["vllm:iteration_tokens_total_sum"] == sum(
        iteration.scheduled_tokens for iteration in iterations
    )
    assert metrics["vllm:num_requests_running"] == 0
    assert metrics["vllm:generation_tokens_total"] >= report.tokens
    assert [i.sequence for i in iterations] == list(range(1, len(iterations) + 1))
    for before, after in itertools.pairwise(iterations):
        assert before.begin_monotonic_ns < before.end_monotonic_ns <= after.begin_monotonic_ns
    assert all(i.scheduled_tokens == i.prefill_tokens + i.decode_requests for i in iterations)


def test_a_client_that_leaves_ends_its_request(replica: ReplicaProcess) -> None:
    body = json.dumps({"prompt": [1], "max_tokens": 2000, "stream": True}).encode()
    before = read_metrics(replica.base_url)["vllm:request_success_total"]
    request = urllib.request.Request(f"{replica.base_url}/v1/completions", data=body)
    with urllib.request.urlopen(request, timeout=30) as response:
        response.readline()

    def is_idle() -> bool:
        metrics = read_metrics(replica.base_url)
        ended = metrics["vllm:request_success_total"] == before + 1
        return ended and metrics["vllm:num_requests_running"] == 0

    assert wait_for(is_idle, timeout_seconds=5)


def test_clients_that_leave_are_nothing_to_report(capfd: pytest.CaptureFixture[str]) -> None:
    body = json.dumps({"prompt": [1], "max_tokens": 1000, "stream": True}).encode()
    with ReplicaProcess(work_ratio=0.1) as replica:
        for _ in range(3):
            request = urllib.request.Request(f"{replica.base_url}/v1/completions", data=body)
            with urllib.request.urlopen(request, timeout=30) as response:
                response.readline()
        assert wait_for(
            lambda: read_metrics(replica.base_url)["vllm:num_requests_running"] == 0,
            timeout_seconds=10,
        )
    assert capfd.readouterr().err == ""


def test_a_throttled_clock_makes_decoding_slower_by_about_its_ratio(
    replica: ReplicaProcess, truth_path: Path
) -> None:
    quiet: list[TruthIteration] = []
    throttled: list[TruthIteration] = []
    # In turns, so that a busy minute on this machine falls on both.
    for _ in range(3):
        for ratio, iterations in ((1.0, quiet), (0.5, throttled)):
            seen = len(read_truth(truth_path))
            with throttle_clock(replica.base_url, ratio):
                assert get_clock_ratio(replica.base_url) == ratio
                decode_load(replica.base_url, seconds=0.8)
            time.sleep(0.2)
            iterations += read_truth(truth_path)[seen:]
    assert get_clock_ratio(replica.base_url) == 1.0
    slowdown_ratio = undisturbed_decode_ns(throttled) / undisturbed_decode_ns(quiet)
    assert 1.5 < slowdown_ratio < 2.6


def test_a_clock_ratio_out_of_range_is_refused(replica: ReplicaProcess) -> None:
    with pytest.raises(ValueError, match=r"0\.05 to 1\.0"), throttle_clock(replica.base_url, 3.0):
        pass


def test_a_load_without_a_server_says_what_to_check() -> None:
    with pytest.raises(ConnectionError, match="check the address"):
        decode_load("http://127.0.0.1:9", seconds=0.1)


def test_a_load_counts_the_requests_that_fail() -> None:
    with ReplicaProcess(work_ratio=0.1) as replica:
        phase = Phase(
            duration_seconds=1.0, concurrency=2, prompt_tokens=(8, 8), output_tokens=(2000, 2000)
        )
        workload = Workload(name="doomed", summary="Doomed.", phases=(phase,))

        async def doomed() -> LoadReport:
            load = asyncio.create_task(run_load(replica.base_url, workload, seed=0))
            await asyncio.sleep(0.5)
            os.kill(replica.pid, signal.SIGKILL)
            return await load

        report = asyncio.run(doomed())
    assert report.failures == report.requests >= 2


def test_a_killed_parent_takes_its_children_along() -> None:
    with ReplicaProcess(work_ratio=0.1) as replica:
        replica.kill()
        for pid in (replica.core_pid, replica.worker_pid):
            assert wait_for(lambda pid=pid: has_ended(pid), timeout_seconds=3)  # type: ignore[misc]


def test_a_busy_replica_stops_within_two_seconds(tmp_path: Path) -> None:
    truth_path = tmp_path / "truth.csv"
    with ReplicaProcess(truth=truth_path, work_ratio=0.1) as replica:
        body = json.dumps({"prompt": [1], "max_tokens": 4000, "stream": True}).encode()
        request = urllib.request.Request(f"{replica.base_url}/v1/completions", data=body)
        with urllib.request.urlopen(request, timeout=30) as response:
            response.readline()
            began_at_seconds = time.monotonic()
            assert replica.stop() == 0
            assert time.monotonic() - began_at_seconds < 2.0
        assert has_ended(replica.core_pid)
        assert has_ended(replica.worker_pid)
    assert read_truth(truth_path)


def test_a_dead_worker_ends_the_replica_with_a_reason(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with ReplicaProcess(work_ratio=0.1) as replica:
        os.kill(replica.worker_pid, signal.SIGKILL)
        call(f"{replica.base_url}/v1/completions", {"prompt": [1], "max_tokens": 2})
        assert wait_for(lambda: not replica.is_running, timeout_seconds=5)
        assert replica.stop() == 1
    assert "restart the replica" in capfd.readouterr().err


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "simulator.replica", "--port", str(port)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.strip() == f"port {port} is in use: choose another with --port"


def test_a_truth_file_that_cannot_be_written_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ReplicaStartError, match="status 1"), ReplicaProcess(truth=tmp_path):
        pass
    message = capfd.readouterr().err
    assert "choose another path with --truth" in message
    assert "Traceback" not in message
