"""Every fault that can be made on this machine is killed at some moment, and leaves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulator.faults import Machine, Target, available, load
from simulator.injection.journal import Journal, Journals
from simulator.injection.steps import Cgroup, Write, state_of

pytestmark = pytest.mark.process

FRONT = """
import sys
from pathlib import Path
from simulator.faults import Machine, Target
from simulator.injection.run import injected
name, pid, place = sys.argv[1:]
with injected(
    name,
    severity="light",
    target=Target(pids=(int(pid),)),
    machine=Machine(scratch=Path(place, "scratch")),
    folder=Path(place, "journals"),
) as running:
    running.wait()
"""
TAG = "LATENCYPRISM_TEST_TAG"


def is_running(pid: int) -> bool:
    found = state_of(pid)
    return found is not None and found.state not in "ZX"


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@dataclasses.dataclass
class Trial:
    """One fault, aimed at a process that sleeps."""

    name: str
    place: Path
    tag: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    seen: dict[str, Journal] = dataclasses.field(default_factory=dict)

    def start(self) -> None:
        (self.place / "scratch").mkdir(parents=True)
        self.victim = subprocess.Popen(["sleep", "300"])
        self.before = self.state_of_victim()
        self.front = subprocess.Popen(
            [sys.executable, "-c", FRONT, self.name, str(self.victim.pid), str(self.place)],
            env=os.environ | {TAG: self.tag},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )

    def has_begun(self) -> bool:
        return any((self.place / "journals").glob("*.journal"))

    def state_of_victim(self) -> tuple[object, ...]:
        pid = self.victim.pid
        return (
            sorted(os.sched_getaffinity(pid)),
            os.getpriority(os.PRIO_PROCESS, pid),
            Path(f"/proc/{pid}/cgroup").read_text(),
        )

    def processes(self) -> list[int]:
        """Give the processes that came of the front, and it."""
        mark, found = f"{TAG}={self.tag}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes():
                    found.append(int(path.parent.name))
        return [pid for pid in found if is_running(pid)]

    def kill(self) -> None:
        """Kill front and keeper; the guard is left."""
        with contextlib.suppress(OSError):
            for journal in Journals(self.place / "journals").all():
                self.seen[journal.fault_id] = journal
        pids = [self.front.pid]
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "fault-keeper\n":
                    pids.append(pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.front.wait()

    def what_is_left(self) -> list[str]:
        found = [str(path) for path in (self.place / "scratch").iterdir()]
        found += [str(path) for path in (self.place / "journals").glob("*.journal")]
        found += [line for line in Path("/proc/swaps").read_text().split() if self.tag_in(line)]
        if self.state_of_victim() != self.before:
            found.append(f"{self.before} is {self.state_of_victim()}")
        state = state_of(self.victim.pid)
        if state is None or state.state == "T":
            found.append(f"the process is {state}")
        for step in (step for journal in self.seen.values() for step in journal.steps):
            if isinstance(step, Cgroup) and Path(step.path).exists():
                found.append(step.path)
            if isinstance(step, Write) and step.before is not None and Path(step.path).exists():
                now = Path(step.path).read_text()
                if now.strip() != step.before.strip():
                    found.append(f"{step.path}: {now}")
        return found

    def tag_in(self, line: str) -> bool:
        return str(self.place) in line

    def close(self) -> None:
        for process in (self.front, self.victim):
            process.kill()
            process.wait()


@pytest.fixture
def trials(tmp_path: Path) -> Iterator[list[Trial]]:
    """A trial for each fault that can be aimed at a process here."""
    with subprocess.Popen(["sleep", "300"]) as process:
        target = Target(pids=(process.pid,))
        names = [
            name
            for name in available()
            if not load(name).obstacles(target, Machine(scratch=tmp_path))
        ]
        process.kill()
    found = [Trial(name, tmp_path / name) for name in names]
    yield found
    for trial in found:
        if trial.place.exists():
            trial.close()


def test_each_fault_that_can_be_made_here_is_undone_when_it_is_killed(
    trials: list[Trial],
) -> None:
    draw = random.Random(11)
    assert trials
    for trial in trials:
        trial.start()
        # From the first step on; before that there is nothing to undo.
        assert wait_until(trial.has_begun), trial.name
        time.sleep(draw.uniform(0.0, 0.8))
        trial.kill()
        assert wait_until(lambda trial=trial: not trial.processes()), trial.name  # type: ignore[misc]
        assert trial.what_is_left() == [], trial.name
        trial.close()
