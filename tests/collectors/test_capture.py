"""Captures of a real engine process, and what happens when they cannot be taken."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from collectors import capture as capture_module
from collectors.capture import CaptureError, Target, find_py_spy, prune, request, take
from collectors.capture_requests import OLDEST_SECONDS, CaptureRequests
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, Scanner, read_process
from collectors.engines import find_engines, load
from collectors.publisher import MemoryPublisher
from collectors.stacks import AttachRefused, Sampler
from schemas.codec import decode, encode
from schemas.records import Capture, HostReading, Iteration
from schemas.settings import KafkaSettings
from simulator.replica.process import ReplicaProcess
from tests.collectors.engine import free_port, needs_native
from tests.collectors.engine import load as load_of

needs_py_spy = pytest.mark.skipif(
    find_py_spy() is None, reason="no py-spy command: pip install 'latencyprism[capture]'"
)


def refuse(*_: object, **__: object) -> Sampler:
    raise AttachRefused("give it SYS_PTRACE")


def settings_of(folder: Path, **more: float) -> CollectSettings:
    return CollectSettings(capture_folder=str(folder), host="h", **more)  # type: ignore[arg-type]


@pytest.fixture
def own_process() -> Target:
    """This very process, as if it were an engine: enough where nothing has to be read."""
    core = read_process(os.getpid())
    assert core is not None
    engine = EngineProcess(framework="vllm", name="8000", core=core)
    return Target("h:8000", "h", engine, load("vllm"))


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


def test_the_oldest_captures_go_first_and_foreign_folders_stay(tmp_path: Path) -> None:
    for age, name in enumerate(("old", "middle", "new")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "capture.json").write_bytes(b"x" * 1000)
        os.utime(folder, (age, age))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_bytes(b"x" * 9000)
    assert prune(tmp_path, keep_bytes=2500) == 1
    assert prune(tmp_path, keep_bytes=0) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"new", "mine"}


class Requests:
    """The listener, fed by hand."""

    def __init__(self, target: Target | None, folder: Path) -> None:
        self.publisher = MemoryPublisher()
        self.messages: list[bytes] = []
        self.listener = CaptureRequests(
            KafkaSettings(),
            settings_of(folder),
            self.publisher,
            "h",
            lambda engine_id: target if target and engine_id == target.engine_id else None,
            consume=self._consume,
        )

    def _consume(self) -> bytes | None:
        if self.messages:
            return self.messages.pop(0)
        time.sleep(0.01)
        return None

    @property
    def captures(self) -> list[Capture]:
        return [one for one in list(self.publisher.records) if isinstance(one, Capture)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures without py-spy: what is tested is who gets one."""
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: None)


@pytest.mark.usefixtures("quick")
def test_a_request_is_answered_once_with_running_and_done(
    own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path)
    asked = request("h:8000", 0.2, reason="incident 7")
    requests.listener.handle(asked)
    requests.listener.handle(asked)
    assert [one.state for one in requests.captures] == ["running", "done"]
    assert {one.capture_id for one in requests.captures} == {asked.capture_id}
    assert requests.captures[-1].reason == "incident 7"
    assert requests.captures[-1].host == "h"


@pytest.mark.usefixtures("quick")
def test_requests_for_other_hosts_and_answers_are_left_alone(
    own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path)
    requests.listener.handle(request("elsewhere:8000", 0.2))
    requests.listener.handle(replace(request("h:8000", 0.2), state="done"))
    assert requests.captures == []


@pytest.mark.usefixtures("quick")
def test_a_request_from_long_ago_is_refused(own_process: Target, tmp_path: Path) -> None:
    requests = Requests(own_process, tmp_path)
    asked = request("h:8000", 0.2)
    requests.listener.handle(replace(asked, at_ns=asked.at_ns - int((OLDEST_SECONDS + 1) * 1e9)))
    [refused] = requests.captures
    assert refused.state == "failed"
    assert "too old: ask again" in (refused.error or "")


@pytest.mark.usefixtures("quick")
def test_a_capture_that_fails_is_answered_and_the_next_one_is_taken(
    own_process: Target, tmp_path: Path
) -> None:
    file = tmp_path / "captures"
    file.write_text("in the way")
    requests = Requests(own_process, file)
    requests.listener.handle(request("h:8000", 0.2))
    assert requests.captures[-1].state == "failed"
    file.unlink()
    requests.listener.handle(request("h:8000", 0.2))
    assert requests.captures[-1].state == "done"


@pytest.mark.usefixtures("quick")
def test_a_message_that_is_no_request_does_not_end_the_listening(
    own_process: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requests = Requests(own_process, tmp_path)
    requests.messages = [b"\xff{", encode(request("h:8000", 0.2))]
    requests.listener.start()
    deadline = time.monotonic() + 20
    while len(requests.captures) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    requests.listener.stop()
    assert [one.state for one in requests.captures] == ["running", "done"]
    assert "cannot be read and is left out" in caplog.text
