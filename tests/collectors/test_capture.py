"""Captures of a real engine process, and what happens when they cannot be taken."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from collectors import capture as capture_module
from collectors import capture_requests as requests_module
from collectors.capture import (
    CaptureError,
    Target,
    find_py_spy,
    make_base,
    prune,
    request,
    take,
)
from collectors.capture_requests import OLDEST_SECONDS, CaptureRequests
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, Scanner, read_process
from collectors.engines import find_engines, load
from collectors.publisher import MemoryPublisher
from collectors.stacks import AttachRefused, NotServing, Sampler
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


def test_what_goes_while_it_is_counted_does_not_end_the_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "capture.json").write_bytes(b"x" * 1000)
        (tmp_path / name / "dangling").symlink_to(tmp_path / "nowhere")
    os.utime(tmp_path / "old", (0, 0))
    gone = tmp_path / "gone"
    found = Path.glob

    def glob(self: Path, pattern: str) -> Iterator[Path]:
        yield gone / "capture.json"
        yield from found(self, pattern)

    monkeypatch.setattr(Path, "glob", glob)
    assert prune(tmp_path, keep_bytes=1500) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_a_folder_that_somebody_else_has_laid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path / "a" / "captures")
    make_base(tmp_path / "a" / "captures")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(CaptureError, match=r"is a link.*\[collect\] capture_folder"):
        make_base(tmp_path / "link")
    with pytest.raises(CaptureError, match=r"cannot be made.*\[collect\] capture_folder"):
        make_base(Path("/proc/nowhere"))
    (tmp_path / "theirs").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "theirs", 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CaptureError, match=r"belongs to user.*\[collect\] capture_folder"):
        make_base(tmp_path / "theirs")


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


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert done()


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


class Requests:
    """The listener, fed by hand."""

    def __init__(self, target: Target | None, folder: Path) -> None:
        self.publisher = MemoryPublisher()
        self.messages: list[bytes | Exception] = []
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
            message = self.messages.pop(0)
            if isinstance(message, Exception):
                raise message
            return message
        time.sleep(0.01)
        return None

    @property
    def captures(self) -> list[Capture]:
        return [one for one in list(self.publisher.records) if isinstance(one, Capture)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures without py-spy and without pauses: what is tested is who gets one."""
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: None)
    monkeypatch.setattr(requests_module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(requests_module, "FIRST_RETRY_SECONDS", 0.01)


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
    file.unlink()
    requests.listener.handle(request("h:8000", 0.2))
    assert [one.state for one in requests.captures] == ["running", "failed", "running", "done"]


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


@pytest.mark.usefixtures("quick")
def test_no_failure_ends_the_listening_and_each_is_told_once(
    own_process: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> int:
        raise OSError("a link that leads nowhere")

    monkeypatch.setattr(requests_module, "prune", broken)
    requests = Requests(own_process, tmp_path)
    requests.messages = [
        RuntimeError("no broker"),
        RuntimeError("no broker"),
        *(encode(request("h:8000", 0.1)) for _ in range(2)),
    ]
    requests.listener.start()
    wait_for(lambda: requests.listener.done == 2)
    requests.messages += [encode(request("h:8000", 0.1))]
    wait_for(lambda: requests.listener.done == 3)
    requests.listener.stop()
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert ["no broker" in text for text in errors] == [True, False]
    assert "a link that leads nowhere" in errors[1]


@pytest.mark.usefixtures("quick")
def test_a_consumer_that_fails_is_closed_and_opened_anew(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Consumer:
        def close(self) -> None:
            opened.append("closed")

    def open_one(listener: CaptureRequests) -> Callable[[], bytes | None]:
        opened.append("opened")
        if len(opened) == 1:
            raise RuntimeError("no broker yet")
        listener._consumer = Consumer()
        first = len(opened) == 2

        def consume() -> bytes | None:
            if first:
                raise RuntimeError("fell off")
            return requests._consume()

        return consume

    monkeypatch.setattr(CaptureRequests, "_open", open_one)
    requests = Requests(own_process, tmp_path)
    requests.listener._consume = None
    requests.messages = [encode(request("h:8000", 0.1))]
    requests.listener.start()
    wait_for(lambda: requests.listener.done == 1)
    requests.listener.stop()
    assert opened == ["opened", "opened", "closed", "opened", "closed"]


@pytest.mark.usefixtures("quick")
def test_between_two_captures_is_a_pause(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_module, "PAUSE_SECONDS", 1000.0)
    requests = Requests(own_process, tmp_path)
    requests.messages = [encode(request("h:8000", 0.1)) for _ in range(2)]
    requests.listener.start()
    wait_for(lambda: requests.listener.done == 1)
    time.sleep(0.5)
    assert len(requests.messages) == 1
    requests.listener.stop()
    assert not requests.listener._thread.is_alive()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("capture_id", ["/../../x", "", "abc", "A" * 8, "0" * 65, "00000000\n"])
def test_an_id_that_is_none_is_answered_and_never_part_of_a_path(
    capture_id: str, own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path / "captures")
    requests.listener.handle(replace(request("h:8000", 0.1), capture_id=capture_id))
    [refused] = requests.captures
    assert (refused.state, refused.capture_id) == ("failed", capture_id)
    assert "its capture_id is not" in (refused.error or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_answered(
    seconds: float, own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path / "captures")
    requests.listener.handle(request("h:8000", seconds))
    [refused] = requests.captures
    assert "ask for more than 0" in (refused.error or "")
    assert decode(Capture, encode(refused)).state == "failed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_reason_cannot_write_lines_of_its_own_into_the_log(
    own_process: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    requests = Requests(own_process, tmp_path)
    requests.listener.handle(request("h:8000", 0.1, reason="a\nERROR all is lost" + "x" * 1000))
    [line] = [text for text in caplog.messages if text.startswith("Capturing")]
    assert "\n" not in line
    assert len(line) < 200


@pytest.mark.usefixtures("quick")
def test_a_capture_is_not_written_through_a_link(own_process: Target, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "captures").symlink_to(tmp_path / "elsewhere")
    requests = Requests(own_process, tmp_path / "captures")
    requests.listener.handle(request("h:8000", 0.1))
    assert requests.captures[-1].state == "failed"
    assert "capture_folder" in (requests.captures[-1].error or "")
    assert list((tmp_path / "elsewhere").iterdir()) == []
