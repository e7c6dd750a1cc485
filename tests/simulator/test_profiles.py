"""Every profile runs, looks like its engine from outside, and tells the truth about itself."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.profiles.__main__ import load
from simulator.profiles.machinery.recorder import TRUTH_HEADER
from simulator.profiles.process import (
    ProfileProcess,
    ProfileStartError,
    available,
    interpreters,
)
from simulator.replica.truth import HEADER, TruthIteration, parse_truth

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).resolve().parents[2]
PERIOD_MS = 8.0
PYTHONS_FOLDER = os.environ.get("LATENCYPRISM_PYTHONS")
PYTHONS = interpreters(Path(PYTHONS_FOLDER) if PYTHONS_FOLDER else None)
Function = tuple[str, str]


def wait_for(condition: Callable[[], bool], *, timeout_seconds: float = 5.0) -> bool:
    deadline_seconds = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline_seconds:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def title(pid: int) -> str:
    """Give the command line as an observer reads it, with blanks for NULs."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


def functions_on_stacks(pid: int, *, qualified: bool) -> set[Function]:
    """Give file and function of every frame of every thread, by py-spy's reading."""
    native = pytest.importorskip("latencyprism_native", reason="no native sampler: make native")
    try:
        threads = json.loads(native.dump_stacks(pid))
    except native.SamplerError:
        # A stack that changed while it was read.
        return set()
    return {
        (frame["filename"], frame["name"] if qualified else frame["name"].rpartition(".")[2])
        for thread in threads
        for frame in thread["frames"]
    }


def missing_functions(pid: int, wanted: list[Function], *, qualified: bool = True) -> set[Function]:
    """Dump stacks until all the wanted functions were seen; those that were not."""
    missing = {(file, name if qualified else name.rpartition(".")[2]) for file, name in wanted}

    def all_seen() -> bool:
        for path, name in functions_on_stacks(pid, qualified=qualified):
            missing.difference_update(
                {one for one in missing if path.endswith("/" + one[0]) and name == one[1]}
            )
        return not missing

    wait_for(all_seen)
    return missing


def check_truth(iterations: list[TruthIteration]) -> None:
    """Check what every engine's iterations have in common."""
    assert len(iterations) > 10
    first = iterations[0].sequence
    assert [i.sequence for i in iterations] == list(range(first, first + len(iterations)))
    for before, after in itertools.pairwise(iterations):
        assert before.begin_monotonic_ns < before.end_monotonic_ns <= after.begin_monotonic_ns
    for one in iterations:
        # The rest are drafts, where an engine speculates.
        assert one.scheduled_tokens >= one.prefill_tokens + one.decode_requests
        assert one.decode_requests <= one.requests <= one.scheduled_tokens <= one.kv_tokens
    assert any(i.prefill_tokens for i in iterations)
    assert any(i.decode_requests > 1 for i in iterations)


def test_the_truth_has_the_columns_of_the_replica() -> None:
    assert TRUTH_HEADER == HEADER


def test_every_family_has_a_profile() -> None:
    assert {
        "inhouse",
        "llama_cpp",
        "lmdeploy_0_12",
        "sglang_0_4",
        "sglang_0_5_23",
        "sglang_0_5_5",
        "tensorrt_llm_1",
        "tgi_3_3",
        "transformers_cb",
        "vllm_0_12",
        "vllm_0_33_async",
        "vllm_0_8",
        "vllm_v0",
        "vllm_workers",
    } <= set(available())


@pytest.mark.parametrize("name", available())
def test_a_profile_shows_its_engine_and_tells_the_truth(name: str, tmp_path: Path) -> None:
    profile = load(name)
    with ProfileProcess(name, truth=tmp_path / "truth.csv", period_ms=PERIOD_MS) as running:
        assert set(running.pids) == set(profile.processes)
        pids = [running.pid, *running.pids.values()]
        assert not any("simulator" in title(pid) for pid in pids)
        if profile.root is not None:
            assert not missing_functions(running.core_pid, [profile.root, *profile.phases])
        assert wait_for(lambda: len(running.read_truth()) > 25)
        if profile.metrics:
            url = f"http://127.0.0.1:{running.port}{profile.metrics_path}"
            page = urllib.request.urlopen(url, timeout=5).read().decode()
            values = dict(line.rsplit(" ", 1) for line in page.splitlines())
            assert set(values) == set(profile.metrics)
            assert any(float(value) > 0 for value in values.values())
        assert running.stop() == 0
        assert wait_for(lambda: all(has_ended(pid) for pid in pids))
        check_truth(running.read_truth())


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("vllm_0_8", "core", "multiprocessing.spawn import spawn_main"),
        ("vllm_0_33_async", "core", "VLLM::EngineCore"),
        ("sglang_0_5_5", "rank1", "sglang::scheduler_TP1"),
        ("tgi_3_3", "core", "text-generation-server serve"),
    ],
)
def test_a_process_has_the_title_of_its_engine(name: str, label: str, expected: str) -> None:
    with ProfileProcess(name, period_ms=PERIOD_MS) as running:
        assert expected in title(running.pids[label])


def test_the_ranks_of_a_profile_run_what_theirs_do() -> None:
    worker = [
        ("vllm/v1/executor/multiproc_executor.py", "WorkerProc.worker_busy_loop"),
        ("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner._model_forward"),
    ]
    with ProfileProcess("vllm_workers", period_ms=PERIOD_MS) as running:
        assert [title(pid) for pid in running.rank_pids] == [
            "VLLM::Worker_TP0",
            "VLLM::Worker_TP1",
        ]
        for pid in running.rank_pids:
            assert not missing_functions(pid, worker)


def test_one_seed_means_one_first_batch(tmp_path: Path) -> None:
    # Later ones depend on when the requests of a thread come.
    firsts = []
    for number in range(2):
        truth = tmp_path / f"truth{number}.csv"
        with ProfileProcess("inhouse", truth=truth, period_ms=PERIOD_MS, seed=7) as running:
            assert wait_for(lambda: len(running.read_truth()) > 3)
        first = running.read_truth()[0]
        firsts.append((first.requests, first.scheduled_tokens, first.kv_tokens))
    assert firsts[0] == firsts[1]


def test_a_profile_may_compute_instead_of_sleeping(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    with ProfileProcess("inhouse", truth=truth, period_ms=PERIOD_MS, busy=True) as running:
        assert wait_for(lambda: len(running.read_truth()) > 5)
        fields = Path(f"/proc/{running.core_pid}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[11]) > 0


def test_all_processes_end_when_the_first_one_is_killed() -> None:
    with ProfileProcess("vllm_workers", period_ms=PERIOD_MS) as running:
        os.kill(running.pid, signal.SIGKILL)
        assert wait_for(lambda: all(has_ended(pid) for pid in running.pids.values()))


def test_a_profile_ends_after_its_time() -> None:
    with ProfileProcess("inhouse", period_ms=PERIOD_MS, seconds=0.2) as running:
        assert wait_for(lambda: not running.is_running)
        assert running.stop() == 0


def test_an_unknown_profile_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"take one of inhouse, .*vllm_workers"):
        ProfileProcess("gpt")


def test_a_profile_that_cannot_start_says_where_to_look() -> None:
    python = (sys.executable, "-c", "raise SystemExit('no')")
    with pytest.raises(ProfileStartError, match="see its message above"):
        ProfileProcess("inhouse", python=python).start()


def test_the_command_line_ends_with_its_input(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    done = subprocess.run(
        [sys.executable, "-m", "simulator.profiles", "inhouse", "--truth", str(truth)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert json.loads(done.stdout)["processes"].keys() == {"core"}
    parse_truth(truth.read_text())


@pytest.mark.parametrize("minor", range(8, 15))
def test_a_profile_runs_on_every_interpreter_at_hand(minor: int, tmp_path: Path) -> None:
    python = PYTHONS.get(f"3.{minor}")
    if python is None:
        pytest.skip(f"no CPython 3.{minor}: put one into the folder of LATENCYPRISM_PYTHONS")
    root = load("vllm_0_33_async").root
    assert root is not None
    truth = tmp_path / "truth.csv"
    with ProfileProcess(
        "vllm_0_33_async", python=python, truth=truth, period_ms=PERIOD_MS
    ) as running:
        # Code objects have no qualified names before 3.11.
        assert not missing_functions(running.core_pid, [root], qualified=minor >= 11)
        assert wait_for(lambda: len(running.read_truth()) > 20)
    check_truth(running.read_truth())
