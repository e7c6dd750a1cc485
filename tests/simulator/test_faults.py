"""What every fault keeps to, whoever wrote it: found by themselves in `simulator/faults`."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from schemas.causes import CAUSES
from schemas.records import FaultSeverity, HostReading, ProcessReading, XpuReading
from simulator.faults import Injector, Machine, Target, available, load
from simulator.fleet.effect import Effect
from simulator.injection.base import MOST_PROCESSES
from simulator.injection.steps import Step, StepError, Work

SEVERITIES: tuple[FaultSeverity, ...] = ("light", "medium", "heavy")

_watching = False
_changes: list[str] = []
CHANGES = frozenset(
    {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
)


def _note_change(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching:
        return
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & writes
    # Signal 0 only asks whether one may.
    signalled = event == "os.kill" and arguments[1] != 0
    if event in CHANGES or opened or signalled:
        _changes.append(f"{event} {arguments[0]}")


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:
    # There is no way to take it off again, so it asks whether it is wanted.
    sys.addaudithook(_note_change)


@pytest.fixture
def changes() -> Iterator[list[str]]:
    """What this process changes on the machine meanwhile."""
    global _watching
    _changes.clear()
    _watching = True
    yield _changes
    _watching = False


@pytest.fixture(params=available())
def injector(request: pytest.FixtureRequest) -> Injector:
    return load(request.param)


def test_there_are_at_least_twenty() -> None:
    assert len(available()) >= 20


def test_a_name_that_is_none_is_told_those_that_there_are() -> None:
    for name in ("no_such", "base", "steps", "../x", ""):
        with pytest.raises(ValueError, match=r"choose one of .*cpu_squeeze"):
            load(name)


def test_it_says_what_it_is(injector: Injector) -> None:
    for text in (injector.summary, injector.touches, injector.unit):
        assert text.strip() == text != ""
        assert "\n" not in text
    assert injector.causes
    assert set(injector.causes) <= CAUSES.keys()
    assert len(set(injector.causes)) == len(injector.causes)


def test_its_levels_differ_and_may_be_asked_for(injector: Injector) -> None:
    levels = [injector.levels.of(severity) for severity in SEVERITIES]
    low, high = injector.limits
    # Harder may be a lower number, as of a clock's share.
    assert levels in (sorted(levels), sorted(levels, reverse=True))
    # What cannot be harder or lighter says so by its limits.
    assert len(set(levels)) == (1 if low == high else 3)
    assert low <= min(levels)
    assert max(levels) <= high


def fields(record: type) -> set[str]:
    return {field.name for field in dataclasses.fields(record)}


@pytest.mark.parametrize("severity", SEVERITIES)
def test_its_effect_is_in_terms_of_what_an_agent_reads(
    severity: FaultSeverity, injector: Injector
) -> None:
    effect = injector.effect(injector.levels.of(severity))
    assert isinstance(effect, Effect)
    assert effect.host.keys() <= fields(HostReading)
    assert effect.process.keys() <= fields(ProcessReading)
    assert effect.device.keys() <= fields(XpuReading)


@pytest.fixture(scope="module")
def other() -> Iterator[int]:
    """A process that could be an engine's."""
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process.pid
        process.kill()


def test_what_is_in_the_way_ends_with_what_to_do(injector: Injector, tmp_path: Path) -> None:
    """On a machine that has nothing, and for nobody."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1 kB\nSwapTotal: 0 kB\n")
    bare = Machine(
        root=tmp_path,
        uid=12345,
        which=lambda _: None,
        has_module=lambda _: False,
        scratch=tmp_path / "none",
    )
    for obstacle in injector.obstacles(Target(), bare):
        what, _, advice = obstacle.partition(": ")
        assert what, obstacle
        assert advice.strip(), obstacle


@pytest.mark.parametrize("name", [name for name in available() if load(name).needs.target])
def test_it_is_aimed_at_no_process_that_it_must_not_touch(name: str, tmp_path: Path) -> None:
    """As the second one: the first may be fine."""
    injector = load(name)
    stat = "{} (x) S 50 1 1 0 -1 {} " + "0 " * 40
    of_kernel = 0x00200000
    gone, mine, kernel_s = 70, 77, 78
    flags = {mine: 0, 1: 0, kernel_s: of_kernel, os.getpid(): 0, os.getppid(): 0}
    for pid, bits in flags.items():
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/stat").write_text(stat.format(pid, bits))
    machine = Machine(root=tmp_path, uid=0, scratch=tmp_path)
    fine = injector.obstacles(Target(pids=(mine,)), machine)
    for pid, why in (
        (gone, "there is no process"),
        (1, "the system's first"),
        (kernel_s, "of the kernel"),
        (os.getpid(), "is this one"),
        # In a container the one that started us may well be the first.
        (os.getppid(), "that started it" if os.getppid() != 1 else "the system's first"),
    ):
        found = injector.obstacles(Target(pids=(mine, pid)), machine)
        told = [one for one in found if one not in fine and f"process {pid}" in one]
        assert any(why in one and "--pid" in one for one in told), (pid, found)


def test_it_starts_no_more_processes_than_is_sane(injector: Injector, tmp_path: Path) -> None:
    machine = Machine(scratch=tmp_path, cpus=tuple(range(2048)))
    target = Target(pids=(77,), url="http://127.0.0.1:8000")
    try:
        steps = injector.plan(injector.limits[1], target, machine)
    except (LookupError, OSError, StepError) as err:
        pytest.skip(f"it has no plan here: {err}")
    assert sum(step.count for step in steps if isinstance(step, Work)) <= MOST_PROCESSES


@pytest.mark.parametrize("severity", SEVERITIES)
def test_its_plan_changes_nothing_and_survives_the_journal(
    severity: FaultSeverity, injector: Injector, tmp_path: Path, changes: list[str], other: int
) -> None:
    machine = Machine(scratch=tmp_path)
    target = Target(pids=(other,), url="http://127.0.0.1:8000", devices=(0, 1))
    if obstacles := injector.obstacles(target, machine):
        pytest.skip("; ".join(obstacles))
    steps = injector.plan(injector.levels.of(severity), target, machine)
    assert changes == []
    assert steps
    again = msgspec.json.decode(msgspec.json.encode(steps), type=list[Step])
    assert again == steps
    for step in steps:
        assert all(line.strip() for line in step.show())
        assert step.show(), step
        assert all(isinstance(claim, str) for claim in step.claims())
        if isinstance(step, Work):
            load(step.fault)
            assert step.count >= 1
