"""Workers that are real processes, with tools that hang, flood, lie and die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from collectors.xpu import child as child_module
from collectors.xpu.child import (
    LONGEST_PAUSE_SECONDS,
    MOST_FAILURES,
    MOST_LINE_BYTES,
    MOST_UNDEAD,
    Child,
)

pytestmark = pytest.mark.process

WORKER = Path(__file__).with_name("fake_worker.py")
ROOT = Path(__file__).parents[3]

# Does what the file ``mode`` beside it says, and tells its pid first.
TOOL = """#!/bin/sh
cd "$(dirname "$0")"
echo $$ > pid
case "$(cat mode)" in
    good) echo "used 7" ;;
    hang) exec sleep 1000 ;;
    stubborn) trap '' TERM INT HUP; while :; do sleep 1000; done ;;
    garbage) head -c 3000 /dev/urandom ;;
    flood) exec cat /dev/zero ;;
    die) kill -9 $PPID ;;
    fail) echo "no driver" >&2; exit 3 ;;
esac
"""


class Clock:
    """Real seconds, and a test's own hours."""

    skew = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skew


class Tool:
    def __init__(self, folder: Path, mode: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = folder / "tool"
        self.path.write_text(TOOL)
        self.path.chmod(0o755)
        self.becomes(mode)

    def becomes(self, mode: str) -> None:
        (self.folder / "mode.new").write_text(mode)
        (self.folder / "mode.new").rename(self.folder / "mode")

    @property
    def pid(self) -> int | None:
        path = self.folder / "pid"
        return int(path.read_text()) if path.exists() and path.read_text().strip() else None


def is_alive(pid: int | None) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def until(holds: Callable[[], bool], child: Child | None = None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still not, after {seconds} s"
        if child is not None:
            child.poll()
        time.sleep(0.02)


Make = Callable[..., Child]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Make]:
    made: list[Child] = []

    def build(*tools: Tool, words: Sequence[str] | None = None) -> Child:
        def command(_vendor: str, period_seconds: float, avoid: Sequence[str]) -> list[str]:
            if words is not None:
                return list(words)
            programs = ",".join(str(tool.path) for tool in tools)
            avoided = [word for name in avoid for word in ("--avoid", name)]
            period = ["--period", str(period_seconds)]
            return [sys.executable, str(WORKER), programs, *period, *avoided]

        made.append(Child("fake", 0.05, 30.0, command, clock))
        return made[-1]

    yield build
    for child in made:
        child.stop()


def test_a_good_tool_is_read_again_and_again(make: Make, tmp_path: Path) -> None:
    child = make(Tool(tmp_path / "a", "good"))
    until(lambda: child.looks >= 3, child)
    assert child.newest is not None
    [device] = child.newest.devices
    assert (device.device_id, device.memory_used_bytes) == ("FAKE-0", 7)
    assert (child.state, child.tool, child.error) == ("working", "tool0", None)
    assert child.newest.begin_ns < child.newest.end_ns
    assert (child.timeouts, child.deaths) == (0, 0)


@pytest.mark.parametrize("mode", ["hang", "stubborn"])
def test_a_tool_that_hangs_is_killed_with_all_that_it_started(
    make: Make, clock: Clock, tmp_path: Path, mode: str
) -> None:
    tool = Tool(tmp_path / "a", mode)
    child = make(tool)
    until(lambda: child.tool == "tool0" and is_alive(tool.pid), child)
    worker, hanging = child.pid, tool.pid
    child.poll()
    assert (child.state, child.timeouts) == ("starting", 0), "it is given its time"
    clock.skew += 41
    child.poll()
    assert (child.state, child.timeouts, child.deaths) == ("failing", 1, 0)
    assert "dmesg" in (child.error or "")
    until(lambda: not is_alive(worker) and not is_alive(hanging))
    until(lambda: child.undead == 0, child)


def test_it_recovers_after_the_pause(make: Make, clock: Clock, tmp_path: Path) -> None:
    tool = Tool(tmp_path / "a", "good")
    child = make(tool)
    until(lambda: child.looks >= 1, child)
    tool.becomes("stubborn")
    before = tool.pid
    until(lambda: child.tool == "tool0" and tool.pid != before, child)
    time.sleep(0.3)
    child.poll()
    clock.skew += 31
    until(lambda: child.timeouts == 1, child)
    assert child.newest is None, "what was seen before is no reading of now"
    looks = child.looks
    tool.becomes("good")
    child.poll()
    assert child.pid is None, "it is left alone for a moment"
    clock.skew += 2
    until(lambda: child.looks > looks, child)
    assert (child.state, child.timeouts) == ("working", 1)


def test_after_a_way_hung_the_next_one_is_tried_first(
    make: Make, clock: Clock, tmp_path: Path
) -> None:
    child = make(Tool(tmp_path / "a", "hang"), Tool(tmp_path / "b", "good"))
    until(lambda: child.tool == "tool0", child)
    clock.skew += 41
    child.poll()
    clock.skew += 2
    until(lambda: child.looks >= 1, child)
    assert (child.state, child.tool, list(child.avoided)) == ("working", "tool1", ["tool0"])


def test_a_way_that_hung_is_tried_again_later(
    make: Make, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Shorter than a look may take, so that the clock's leap makes no look overdue.
    monkeypatch.setattr(child_module, "AVOID_SECONDS", 20.0)
    hung = Tool(tmp_path / "a", "hang")
    child = make(hung, Tool(tmp_path / "b", "good"))
    until(lambda: child.tool == "tool0", child)
    clock.skew += 41
    child.poll()
    clock.skew += 2
    until(lambda: child.looks >= 1, child)
    looks = child.looks
    until(lambda: child.looks > looks, child)
    assert (child.tool, list(child.avoided)) == ("tool1", ["tool0"])
    hung.becomes("good")
    clock.skew += 20
    until(lambda: child.tool == "tool0" and child.state == "working", child)
    assert (child.avoided, child.timeouts) == ({}, 1)


def test_a_way_that_fails_is_left_for_the_next_one_at_once(make: Make, tmp_path: Path) -> None:
    child = make(Tool(tmp_path / "a", "fail"), Tool(tmp_path / "b", "good"))
    until(lambda: child.looks >= 1, child)
    assert (child.tool, child.deaths) == ("tool1", 0)
    assert "no driver" in child.closed["tool0"]


@pytest.mark.parametrize(
    ("mode", "says"),
    [("garbage", "run it by hand"), ("flood", "more than"), ("fail", "status 3")],
)
def test_a_tool_that_talks_nonsense_is_a_failure_of_the_look_only(
    make: Make, tmp_path: Path, mode: str, says: str
) -> None:
    tool = Tool(tmp_path / "a", mode)
    child = make(tool)
    until(lambda: child.error is not None, child)
    assert (child.state, child.newest, child.deaths, child.timeouts) == ("failing", None, 0, 0)
    assert says in (child.error or "")
    tool.becomes("good")
    until(lambda: child.looks >= 1, child)
    assert (child.state, child.error) == ("working", None)


def test_a_worker_that_dies_is_counted_and_replaced(
    make: Make, clock: Clock, tmp_path: Path
) -> None:
    tool = Tool(tmp_path / "a", "die")
    child = make(tool)
    until(lambda: child.deaths == 1, child)
    assert child.state == "failing"
    tool.becomes("good")
    clock.skew += 2
    until(lambda: child.looks >= 1, child)
    assert (child.deaths, child.timeouts) == (1, 0)


@pytest.mark.parametrize(
    "words",
    [
        ["cat", "/dev/zero"],
        ["yes", "no look"],
        ["sh", "-c", "yes '{}' | tr -d '\\n'"],
    ],
    ids=["no line", "no look", "no object"],
)
def test_a_worker_that_writes_what_is_no_look_is_killed(make: Make, words: list[str]) -> None:
    child = make(words=words)
    until(lambda: child.state == "failing", child)
    assert len(child._buffer) <= MOST_LINE_BYTES + child_module.MOST_TURN_BYTES
    assert child.newest is None
    until(lambda: child.undead == 0, child)


def test_pauses_double_and_then_it_is_tried_seldom(make: Make, clock: Clock) -> None:
    child = make(words=["false"])
    pauses: list[float] = []
    while len(pauses) < MOST_FAILURES + 2:
        deaths = child.deaths
        until(lambda deaths=deaths: child.deaths > deaths, child)  # type: ignore[misc]
        pauses.append(round(child._start_at - clock()))
        clock.skew += pauses[-1] + 1
    assert pauses[: MOST_FAILURES - 1] == [2**n for n in range(MOST_FAILURES - 1)]
    assert pauses[MOST_FAILURES - 1 :] == [LONGEST_PAUSE_SECONDS] * 3
    assert child.state == "paused"


def test_one_good_look_between_two_hangs_does_not_end_the_back_off(
    make: Make, clock: Clock, tmp_path: Path
) -> None:
    tool = Tool(tmp_path / "a", "good")
    child = make(tool)
    until(lambda: child.looks >= 1, child)
    assert child._failures == 0
    for failures in (1, 2):
        tool.becomes("fail")
        os.kill(child.pid or 0, signal.SIGKILL)
        until(lambda failures=failures: child.deaths == failures, child)  # type: ignore[misc]
        assert child._failures == failures
        tool.becomes("good")
        clock.skew += 5
        until(lambda: child.state == "working", child)


def test_a_child_that_does_not_die_is_left_behind(
    make: Make, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State D cannot be had at will, so here the kill does not arrive."""
    child = make(Tool(tmp_path / "a", "hang"))
    groups: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda group, _: groups.append(group))
        # It would notice that its end of the pipe closes; a process in state D does not.
        child._command = lambda *_: ["sleep", "1000"]
        for count in range(1, MOST_UNDEAD + 1):
            until(lambda: child.pid is not None, child)
            clock.skew += 41
            child.poll()
            assert (child.undead, child.timeouts) == (count, count)
            clock.skew += LONGEST_PAUSE_SECONDS
        child.poll()
        child.poll()
        assert (child.pid, child.state) == (None, "paused")
        assert "restart the host" in (child.error or "")
        child.stop()
        assert child.undead == MOST_UNDEAD
    for group in groups:
        os.killpg(group, signal.SIGKILL)
    until(lambda: not any(is_alive(group) for group in groups))


@pytest.mark.parametrize("how", ["close", "kill"])
def test_when_the_agent_goes_its_workers_and_their_tools_go(tmp_path: Path, how: str) -> None:
    tool = Tool(tmp_path / "a", "stubborn")
    script = f"""
import sys, time
from collectors.xpu.child import Child
child = Child("fake", 0.05, 30.0, lambda *_: {[sys.executable, str(WORKER), str(tool.path)]!r})
while True:
    child.poll()
    print(child.pid or 0, flush=True)
    time.sleep(0.05)
"""
    agent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert agent.stdout is not None
    with agent, agent.stdout:
        worker = 0
        while not worker:
            worker = int(agent.stdout.readline())
        until(lambda: is_alive(tool.pid))
        agent.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        agent.wait()
    until(lambda: not is_alive(worker) and not is_alive(tool.pid))


def test_stopping_ends_everything_at_once(make: Make, tmp_path: Path) -> None:
    tool = Tool(tmp_path / "a", "stubborn")
    child = make(tool)
    until(lambda: is_alive(tool.pid), child)
    worker = child.pid
    child.stop()
    child.poll()
    assert (child.pid, child.state) == (None, "stopped")
    until(lambda: not is_alive(worker) and not is_alive(tool.pid))
