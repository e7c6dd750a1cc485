"""Captures of a real engine process, and what happens when they cannot be taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from collectors import capture as capture_module
from collectors.capture import Target, find_py_spy, request, take
from collectors.capture_files import CaptureError
from collectors.discovery import Process, Scanner, read_process
from collectors.engines import find_engines, load
from collectors.stacks import NotServing, Sampler
from schemas.codec import decode
from schemas.records import Capture, HostReading, Iteration
from simulator.replica.process import ReplicaProcess
from tests.collectors.capturing import refuse, settings_of
from tests.collectors.engine import free_port, needs_native, wait_for
from tests.collectors.engine import load as load_of

needs_py_spy = pytest.mark.skipif(
    find_py_spy() is None, reason="no py-spy command: pip install 'latencyprism[capture]'"
)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A replica under load, found as the agent finds it."""
    with ReplicaProcess(port=free_port(), work_ratio=0.3) as replica, load_of(replica.base_url):
        port = int(replica.base_url.rpartition(":")[2])
        framework = load("vllm")
        [engine] = [one for one in find_engines(Scanner().scan(), [framework]) if one.port == port]
        yield Target(f"h:{engine.name}", "h", engine, framework)


@needs_native
@needs_py_spy
@pytest.mark.process
def test_a_capture_holds_stacks_counters_and_iterations(target: Target, tmp_path: Path) -> None:
    done = take(target, request(target.engine_id, 2.5), settings_of(tmp_path))
    assert (done.state, done.error) == ("done", None)
    folder = Path(done.folder or "")
    core = target.engine.core.pid
    assert set(done.pids) == {core, *(one.process.pid for one in target.engine.ranks)} | {
        target.engine.api_server.pid if target.engine.api_server else core
    }
    for name in (target.label(pid) for pid in done.pids):
        assert "<svg" in (folder / f"flamegraph-{name}.svg").read_text()
        assert json.loads((folder / f"speedscope-{name}.json").read_text())["profiles"]
        for moment in ("begin", "end"):
            assert json.loads((folder / f"dump-{moment}-{name}.json").read_text())
    assert "run_busy_loop" in (folder / f"flamegraph-engine_core-{core}.svg").read_text()
    iterations = [
        decode(Iteration, line) for line in (folder / "iterations.jsonl").read_bytes().splitlines()
    ]
    assert len(iterations) > 10
    readings = (folder / "counters.jsonl").read_bytes().splitlines()
    hosts = [decode(HostReading, line) for line in readings if b'"host.v1"' in line]
    # Ten a second, where the agent has one.
    assert len(hosts) >= 8
    written = {name: (folder / name).stat().st_size for name in done.files}
    assert written == done.files
    assert decode(Capture, (folder / "capture.json").read_bytes()).capture_id == done.capture_id


@needs_py_spy
@pytest.mark.process
def test_no_file_of_a_capture_holds_locals(target: Target, tmp_path: Path) -> None:
    done = take(target, request(target.engine_id, 0.5), settings_of(tmp_path))
    for path in Path(done.folder or "").glob("dump-*.json"):
        for thread in json.loads(path.read_text()):
            assert all(not frame.get("locals") for frame in thread["frames"])


def test_without_py_spy_the_rest_is_captured_and_the_gap_is_told(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: None)
    done = take(own_process, request("h:8000", 0.5), settings_of(tmp_path), attach_sampler=refuse)
    assert done.state == "done"
    assert "pip install 'latencyprism[capture]'" in (done.error or "")
    assert "no iterations: give it SYS_PTRACE" in (done.error or "")
    assert done.files["counters.jsonl"] > 0


def test_a_long_wish_is_cut(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: None)
    settings = settings_of(tmp_path, capture_most_seconds=0.3)
    done = take(own_process, request("h:8000", 9999.0), settings, attach_sampler=refuse)
    assert done.seconds == 0.3


def test_stopping_the_agent_ends_a_capture_with_its_files(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: None)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    done = take(
        own_process, request("h:8000", 60.0), settings_of(tmp_path), stop, attach_sampler=refuse
    )
    assert done.state == "done"
    assert "capture.json" in done.files


def test_an_engine_that_is_gone_is_an_error_that_says_so(
    own_process: Target, tmp_path: Path
) -> None:
    gone = Process(pid=5000999, parent_pid=1, start_ticks=1, arguments=("VLLM::EngineCore",))
    target = replace(own_process, engine=replace(own_process.engine, core=gone))
    with pytest.raises(CaptureError, match="does not run any more: look for it with"):
        take(target, request("h:8000", 0.1), settings_of(tmp_path))


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_setting(
    own_process: Target, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptureError, match=r"capture_folder"):
        take(own_process, request("h:8000", 0.1), settings_of(tmp_path / "file"))


FAKE_SPY = """#!{python}
import signal, sys, time
with open({log!r}, "a") as file:
    print(*sys.argv[1:], file=file)
if sys.argv[1] == "dump":
    print("[]")
    sys.exit()
signal.signal(signal.SIGINT, signal.SIG_IGN)
time.sleep(600)
"""


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A py-spy that records for good and hears no interrupt; gives the file of its arguments."""
    asked = tmp_path / "asked"
    spy = tmp_path / "py-spy"
    spy.write_text(FAKE_SPY.format(python=sys.executable, log=str(asked)))
    spy.chmod(0o755)
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: str(spy))
    return asked


def test_on_stop_all_recorders_have_one_deadline_and_no_dump_is_taken(
    own_process: Target, stubborn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "STOPPED_WRITE_SECONDS", 0.5)
    monkeypatch.setattr(capture_module, "WRITE_SECONDS", 300.0)
    stop = threading.Event()
    done: list[Capture] = []
    asked, settings = request("h:8000", 50.0), settings_of(tmp_path / "captures")
    thread = threading.Thread(
        target=lambda: done.append(take(own_process, asked, settings, stop, refuse))
    )
    thread.start()
    wait_for(lambda: stubborn.exists() and stubborn.read_text().count("record ") == 2)
    stop.set()
    thread.join(60)
    assert [one.state for one in done] == ["done"]
    assert stubborn.read_text().count("dump ") == 1
    assert not any("end" in name for name in done[0].files)


def test_a_recorder_ends_by_itself_should_the_agent_be_killed(
    own_process: Target, stubborn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "WRITE_SECONDS", 0.1)
    take(own_process, request("h:8000", 1.5), settings_of(tmp_path / "c"), attach_sampler=refuse)
    recorded = [line for line in stubborn.read_text().splitlines() if line.startswith("record")]
    assert recorded
    assert all("--duration 35 " in line for line in recorded)


def test_recorders_that_were_started_are_stopped_when_the_next_one_cannot_be(
    own_process: Target, stubborn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "WRITE_SECONDS", 0.1)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], **more: object) -> subprocess.Popen[bytes]:
        if "record" in command and started:
            raise OSError(11, "Resource temporarily unavailable")
        running = popen(command, **more)  # type: ignore[call-overload]
        if "record" in command:
            started.append(running)
        return running  # type: ignore[no-any-return]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(CaptureError, match="broke off: Resource temporarily unavailable"):
        take(own_process, request("h:8000", 1.0), settings_of(tmp_path / "c"))
    assert [one.poll() is not None for one in started] == [True]


def test_processes_that_may_iterate_in_place_of_the_core_are_looked_at_and_tried(
    own_process: Target, quick: None, tmp_path: Path
) -> None:
    other = read_process(os.getppid())
    assert other is not None
    engine = replace(own_process.engine, candidates=(other,))
    tried: list[int] = []

    def not_serving(pid: int, *_: object, **__: object) -> Sampler:
        tried.append(pid)
        raise NotServing("its loop does not run")

    target = replace(own_process, engine=engine)
    done = take(target, request("h:8000", 0.3), settings_of(tmp_path), attach_sampler=not_serving)
    assert done.pids == (os.getpid(), os.getppid())
    assert set(tried) == {os.getpid(), os.getppid()}


def test_a_dump_that_the_running_process_spoilt_is_tried_again(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = tmp_path / "tried"
    spy = tmp_path / "py-spy"
    spy.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = dump ] || exit 0\necho x >> {tried}\n'
        f'[ "$(wc -l < {tried})" -ne 1 ] || {{ echo "Bad address" >&2; exit 1; }}\necho "[]"\n'
    )
    spy.chmod(0o755)
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: str(spy))
    settings = settings_of(tmp_path / "captures")
    done = take(own_process, request("h:8000", 0.1), settings, attach_sampler=refuse)
    assert "no dump" not in (done.error or "")
    assert tried.read_text().count("x") == 3
