"""Whatever is killed, and whenever: the machine is afterwards what it was before."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import os
import random
import resource
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from schemas.records import Fault
from simulator.faults import Injector, Machine, Target, available, load
from simulator.injection.journal import Journal, Journals, boot_id, usual_folder
from simulator.injection.run import InjectionError, Refused, Running, injected, kept, recovered
from simulator.injection.steps import (
    Cgroup,
    Join,
    Pin,
    Post,
    Resume,
    Run,
    Scratch,
    Step,
    StepError,
    Work,
    Write,
    start_ticks_of,
    state_of,
)
from simulator.injection.undo import marked, recover

pytestmark = pytest.mark.process

FRONT = """
import sys
from pathlib import Path
import msgspec
from schemas.records import Fault
from simulator.injection.run import InjectionError, kept
from simulator.injection.steps import Step
fault = msgspec.json.decode(sys.argv[1], type=Fault)
steps = msgspec.json.decode(sys.argv[2], type=list[Step])
try:
    with kept(fault, steps, seconds=60, folder=Path(sys.argv[3])) as running:
        print(running.keeper_pid, *running.workers, flush=True)
        running.wait()
except InjectionError as err:
    print(err, flush=True)
"""


def make_fault() -> Fault:
    return Fault(
        fault_id=secrets.token_hex(16),
        name="test",
        kind="fault",
        state="begun",
        intensity=1.0,
        host="here",
        begin_ns=time.time_ns(),
    )


def is_running(pid: int) -> bool:
    found = state_of(pid)
    return found is not None and found.state not in "ZX"


def is_stopped(pid: int) -> bool:
    found = state_of(pid)
    return found is not None and found.state == "T"


def processes_of(fault_id: str) -> list[int]:
    """Give the keeper, the guard and the workers of an injection."""
    found = set(marked(fault_id))
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"simulator.injection.keeper" in words and fault_id.encode() in words:
                found.add(int(path.parent.name))
    return sorted(pid for pid in found if is_running(pid))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    path = tmp_path / "setting"
    path.write_text("before\n")
    return path


@pytest.fixture
def victim() -> Iterator[int]:
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process.pid
        process.kill()


@dataclasses.dataclass
class Front:
    """A process that injects, to be killed."""

    process: subprocess.Popen[bytes]
    fault_id: str
    folder: Path

    def begun(self) -> tuple[int, ...]:
        """Wait for the fault; give the pids of keeper and workers."""
        assert self.process.stdout is not None
        return tuple(map(int, self.process.stdout.readline().split()))

    def is_quiet(self) -> bool:
        """Whether nothing of it runs any more."""
        return not processes_of(self.fault_id)

    def journal(self) -> Journal | None:
        return Journals(self.folder).read(self.fault_id)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for pid in processes_of(self.fault_id):
            os.kill(pid, signal.SIGKILL)


def start_front(folder: Path, *steps: Step) -> Front:
    fault = make_fault()
    arguments = [msgspec.json.encode(one).decode() for one in (fault, steps)]
    process = subprocess.Popen(
        [sys.executable, "-c", FRONT, *arguments, str(folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    return Front(process, fault.fault_id, folder)


@pytest.fixture
def front(folder: Path, setting: Path) -> Iterator[Front]:
    """A front with a setting and a worker, under way."""
    one = start_front(
        folder, Write(path=str(setting), text="during"), Work(fault="cpu_squeeze", count=1)
    )
    yield one
    one.close()


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# What ends an injection.


def test_a_fault_lasts_as_long_as_the_block_and_leaves_nothing(folder: Path, setting: Path) -> None:
    told: list[Fault] = []
    steps: list[Step] = [
        Write(path=str(setting), text="between"),
        # Undone in the wrong order, "between" would stay.
        Write(path=str(setting), text="during"),
        Scratch(path=str(folder.parent / "latencyprism-files")),
        Work(fault="cpu_squeeze", count=2),
    ]
    before_ns = time.time_ns()
    with kept(make_fault(), steps, publish=told.append, folder=folder) as running:
        assert setting.read_text() == "during"
        assert (folder.parent / "latencyprism-files").is_dir()
        assert len(running.workers) == 2
        assert all(map(is_running, running.workers))
        assert not running.has_ended()
    assert setting.read_text() == "before\n"
    assert not (folder.parent / "latencyprism-files").exists()
    assert not processes_of(running.fault.fault_id)
    # Nor an end that somebody else would tell again.
    assert [path.name for path in folder.iterdir()] == ["lock"]

    begun, ended = told
    assert (begun.state, begun.end_ns, ended.state, ended.error) == ("begun", None, "ended", None)
    assert (begun.fault_id, begun.begin_ns) == (ended.fault_id, ended.begin_ns)
    assert ended.end_ns is not None
    assert begun.onset_ns is not None
    assert before_ns < begun.onset_ns < begun.begin_ns < ended.end_ns < time.time_ns()


def test_it_is_undone_when_its_time_is_over(folder: Path, setting: Path) -> None:
    steps: list[Step] = [Write(path=str(setting), text="during")]
    with kept(make_fault(), steps, seconds=0.3, folder=folder) as running:
        assert running.wait(20)
        assert setting.read_text() == "before\n"
        assert running.error is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_keeper_undoes_it(number: int, folder: Path, setting: Path) -> None:
    with kept(make_fault(), [Write(path=str(setting), text="during")], folder=folder) as running:
        os.kill(running.keeper_pid, number)
        assert running.wait(20)
    assert setting.read_text() == "before\n"
    assert not processes_of(running.fault.fault_id)


def test_a_step_that_fails_undoes_those_before_it(folder: Path, setting: Path) -> None:
    steps: list[Step] = [
        Write(path=str(setting), text="during"),
        Work(fault="cpu_squeeze"),
        Run(argv=("false",)),
        Scratch(path=str(folder.parent / "latencyprism-never")),
    ]
    told: list[Fault] = []
    fault = make_fault()
    with (
        pytest.raises(InjectionError, match="'false' ended with status 1"),
        kept(fault, steps, publish=told.append, folder=folder),
    ):
        pytest.fail("the block must not be entered")
    assert setting.read_text() == "before\n"
    assert not processes_of(fault.fault_id)
    # There was no fault, so there is no truth about it.
    assert told == []


def test_an_error_in_the_block_undoes_it_and_is_passed_on(folder: Path, setting: Path) -> None:
    steps: list[Step] = [Write(path=str(setting), text="during")]
    with pytest.raises(ZeroDivisionError), kept(make_fault(), steps, folder=folder):
        assert 1 / 0
    assert setting.read_text() == "before\n"


def test_truth_that_cannot_be_told_undoes_it(folder: Path, setting: Path) -> None:
    def refuse(_: Fault) -> None:
        raise ConnectionError("no broker")

    steps: list[Step] = [Write(path=str(setting), text="during")]
    with (
        pytest.raises(ConnectionError),
        kept(make_fault(), steps, publish=refuse, folder=folder),
    ):
        pytest.fail("the block must not be entered")
    assert setting.read_text() == "before\n"


def test_a_worker_that_dies_ends_it_and_is_told(folder: Path, setting: Path) -> None:
    steps: list[Step] = [
        Write(path=str(setting), text="during"),
        Work(fault="cpu_squeeze", count=2),
    ]

    def lose_a_worker() -> None:
        with kept(make_fault(), steps, folder=folder) as running:
            kill(running.workers[0])
            assert running.wait(20)
            assert setting.read_text() == "before\n"
            assert not any(map(is_running, running.workers))

    with pytest.raises(InjectionError, match="ended early with signal 9"):
        lose_a_worker()


def test_why_a_worker_could_not_begin_is_told(folder: Path) -> None:
    steps: list[Step] = [Work(fault="no_such_fault")]
    with (
        pytest.raises(InjectionError, match="no fault 'no_such_fault'"),
        kept(make_fault(), steps, folder=folder),
    ):
        pytest.fail("the block must not be entered")


def test_a_worker_keeps_one_cpu_busy_at_the_usual_priority(folder: Path) -> None:
    def stat(pid: int) -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

    with kept(make_fault(), [Work(fault="cpu_squeeze")], folder=folder) as running:
        [pid] = running.workers
        assert stat(pid)[16] == stat(os.getpid())[16]  # niceness
        assert stat(pid)[17] == "1"  # threads
        assert wait_until(lambda: int(stat(pid)[11]) >= 20)
        assert Path(f"/proc/{pid}/comm").read_text() == "fault-cpu_squee\n"


def test_a_worker_competes_as_a_session_of_its_own(folder: Path) -> None:
    with injected("cpu_squeeze", intensity=0.01, folder=folder) as running:
        (worker,) = running.workers
        assert os.getsid(worker) == worker


def test_whoever_feels_a_fault_of_the_host_is_everyone_on_it(folder: Path, victim: int) -> None:
    """The engine that it is aimed at is named only where no other can feel it."""
    hosts: list[Fault] = []
    own: list[Fault] = []
    with injected(
        "cpu_squeeze", intensity=0.01, engine_ids=("a:1",), folder=folder, publish=hosts.append
    ):
        pass
    with injected(
        "micro_stalls",
        severity="light",
        target=Target(pids=(victim,)),
        engine_ids=("a:1",),
        folder=folder,
        publish=own.append,
    ):
        pass
    assert {fault.engine_ids for fault in hosts} == {()}
    assert {fault.engine_ids for fault in own} == {("a:1",)}


@pytest.mark.parametrize("may_be_raised", [True, False])
def test_it_is_undone_though_its_workers_take_more_files_than_may_be_open(
    folder: Path, victim: int, may_be_raised: bool
) -> None:
    workers = Work(
        fault="hang", count=10, options={"pid": victim, "start_ticks": start_ticks_of(victim) or 0}
    )
    # To undo it takes files as well.
    run = Run(argv=("true",), undo_argv=("true",))
    front = start_front(folder, run, Resume(pid=victim), workers)
    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if may_be_raised else 20
        # Before it has started the keeper, which inherits that.
        resource.prlimit(front.process.pid, resource.RLIMIT_NOFILE, (20, hard))
        assert front.process.stdout is not None
        said = front.process.stdout.readline().decode()
        if may_be_raised:
            assert len(said.split()) == 1 + 10
        else:
            assert said.endswith("(Too many open files): choose a lower intensity\n")
        kill(front.process.pid)
        assert wait_until(lambda: front.is_quiet() and front.journal() is None)
        assert not is_stopped(victim)
    finally:
        front.close()


# What is killed.


def test_when_the_front_is_killed_the_keeper_undoes_it(front: Front, setting: Path) -> None:
    _, worker = front.begun()
    assert setting.read_text() == "during"
    kill(front.process.pid)
    assert wait_until(lambda: front.is_quiet() and front.journal() is None)
    assert setting.read_text() == "before\n"
    assert not is_running(worker)


def test_the_end_that_a_killed_front_did_not_tell_is_told_by_the_next(
    front: Front, folder: Path
) -> None:
    front.begun()
    kill(front.process.pid)
    front.process.wait()
    assert wait_until(lambda: front.is_quiet() and front.journal() is None)
    for expected in ([front.fault_id], []):
        told: list[Fault] = []
        with injected("cpu_squeeze", intensity=0.01, publish=told.append, folder=folder) as running:
            pass
        others = [one for one in told if one.fault_id != running.fault.fault_id]
        assert [one.fault_id for one in others] == expected
        assert all(one.state == "ended" and (one.end_ns or 0) > one.begin_ns for one in others)


def test_when_the_keeper_is_killed_it_is_undone_and_told(folder: Path, setting: Path) -> None:
    steps: list[Step] = [
        Write(path=str(setting), text="during"),
        Work(fault="cpu_squeeze", count=2),
    ]
    told: list[Fault] = []

    def lose_the_keeper() -> None:
        with kept(make_fault(), steps, publish=told.append, folder=folder) as running:
            kill(running.keeper_pid)
            assert running.wait(20)
            assert setting.read_text() == "before\n"
            assert not any(map(is_running, running.workers))
            assert not list(folder.glob("*.journal"))

    with pytest.raises(InjectionError, match="the keeper ended with signal 9"):
        lose_the_keeper()
    assert [one.state for one in told] == ["begun", "ended"]


def test_when_front_and_keeper_are_killed_the_guard_undoes_it(front: Front, setting: Path) -> None:
    keeper, worker = front.begun()
    kill(front.process.pid, keeper)
    assert wait_until(lambda: front.is_quiet() and front.journal() is None)
    assert setting.read_text() == "before\n"
    assert not is_running(worker)


def test_when_all_are_killed_at_once_the_next_injection_undoes_it(
    front: Front, setting: Path, folder: Path, tmp_path: Path
) -> None:
    front.begun()
    # The guard first: it acts as soon as the keeper is gone.
    [guard] = [
        pid
        for pid in processes_of(front.fault_id)
        if Path(f"/proc/{pid}/comm").read_text() == "fault-guard\n"
    ]
    kill(guard, *processes_of(front.fault_id), front.process.pid)
    assert wait_until(front.is_quiet)
    assert setting.read_text() == "during"
    assert front.journal() is not None

    other = tmp_path / "other"
    other.write_text("x")
    with kept(make_fault(), [Write(path=str(other), text="y")], folder=folder) as running:
        assert setting.read_text() == "before\n"
        assert running.notes == ["test had been left behind by a process that died: undone"]
    assert front.journal() is None


def test_workers_die_with_the_keeper_though_nobody_undoes(front: Front) -> None:
    keeper, worker = front.begun()
    # Not by its own doing: one that hangs has to die, too.
    os.kill(worker, signal.SIGSTOP)
    kill(*(pid for pid in processes_of(front.fault_id) if pid != worker), front.process.pid)
    assert wait_until(lambda: not is_running(keeper) and not is_running(worker))


KILLED = ("front", "keeper", "front keeper", "keeper guard", "front keeper guard", "worker")
ROUNDS = 12
AT_ONCE = 4


@dataclasses.dataclass
class Round:
    """One injection that is killed at some moment, and what it must leave."""

    front: Front
    setting: Path
    files: Path
    group: Path | None
    victim: subprocess.Popen[bytes]

    def kill(self, whom: str) -> None:
        pids = {"front": [self.front.process.pid], "keeper": [], "guard": [], "worker": []}
        for pid in processes_of(self.front.fault_id):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                pids[name.removeprefix("fault-") if name in GUARDS else "worker"].append(pid)
        kill(*(pid for who in reversed(whom.split()) for pid in pids[who]))

    def what_is_left(self) -> list[str]:
        found = []
        if self.setting.read_text() != "before\n":
            found.append(f"the setting is {self.setting.read_text()!r}")
        if self.files.exists():
            found.append("the folder is there")
        if self.group is not None and self.group.exists():
            found.append("the control group is there")
        if is_stopped(self.victim.pid):
            found.append("the process is stopped")
        if self.front.journal() is not None:
            found.append("the journal is there")
        return found


GUARDS = ("fault-keeper", "fault-guard")


def own_group(pid: int) -> Path | None:
    """Give the folder of a process's control group where we may make groups below it."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for mount in ("/sys/fs/cgroup", f"/sys/fs/cgroup/{controllers}"):
            folder = Path(mount) / path.lstrip("/")
            if (folder / "cgroup.procs").exists() and controllers in ("", "cpu"):
                probe = folder / f"latencyprism-probe-{secrets.token_hex(4)}"
                with contextlib.suppress(OSError):
                    probe.mkdir()
                    probe.rmdir()
                    return folder
    return None


def start_round(number: int, tmp_path: Path) -> Round:
    place = tmp_path / str(number)
    place.mkdir()
    setting = place / "setting"
    setting.write_text("before\n")
    victim = subprocess.Popen(["sleep", "300"])
    steps: list[Step] = [Write(path=str(setting), text="during"), Resume(pid=victim.pid)]
    above = own_group(victim.pid)
    group = None if above is None else above / f"latencyprism-test-{secrets.token_hex(4)}"
    if group is not None:
        steps += [
            Cgroup(path=str(group)),
            Join(pid=victim.pid, path=str(group), before=str(above)),
        ]
    files = place / "latencyprism-files"
    steps += [
        Scratch(path=str(files)),
        Run(argv=("kill", "-STOP", str(victim.pid))),
        Work(fault="cpu_squeeze", count=1),
    ]
    return Round(start_front(place / "journals", *steps), setting, files, group, victim)


def test_killed_at_any_moment_it_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    """Unless keeper, guard and front all go at once, nobody has to run anything for that."""
    draw = random.Random(4)
    for first in range(0, ROUNDS, AT_ONCE):
        rounds = [start_round(number, tmp_path) for number in range(first, first + AT_ONCE)]
        moments = sorted((draw.uniform(0.1, 1.3), number) for number in range(AT_ONCE))
        begin = time.monotonic()
        try:
            for moment, number in moments:
                time.sleep(max(begin + moment - time.monotonic(), 0.0))
                whom = KILLED[(first + number) % len(KILLED)]
                rounds[number].kill(whom)
            for number, one in enumerate(rounds):
                whom = KILLED[(first + number) % len(KILLED)]
                # A worker may not have been there to be killed.
                kill(one.front.process.pid)
                one.front.process.wait()
                assert wait_until(one.front.is_quiet), whom
                if "front keeper guard" in whom:
                    recover(Journals(one.front.folder))
                assert one.what_is_left() == [], (whom, moments)
        finally:
            for one in rounds:
                one.front.close()
                one.victim.kill()
                one.victim.wait()


def test_a_process_that_is_stopped_again_and_again_runs_in_the_end(
    folder: Path, victim: int
) -> None:
    """The worker must be gone before the process is told to run."""
    machine, target = Machine(), Target(pids=(victim,))
    if "micro_stalls" not in available():
        pytest.skip("no fault micro_stalls")
    for _ in range(3):
        with (
            contextlib.suppress(InjectionError),
            injected("micro_stalls", target=target, machine=machine, folder=folder) as running,
        ):
            assert wait_until(lambda: is_stopped(victim))
            kill(running.keeper_pid)
            assert running.wait(20)
            assert not is_stopped(victim)
            assert not any(map(is_running, running.workers))


# Journals.


def left_behind(folder: Path, *steps: Step, boot: str | None = None) -> Journal:
    """Write the journal of a process that died."""
    with subprocess.Popen(["true"]) as process:
        ticks = start_ticks_of(process.pid)
    journal = Journal(
        fault_id=secrets.token_hex(16),
        name="test",
        keeper_pid=process.pid,
        keeper_start_ticks=ticks or 1,
        boot_id=boot or boot_id(),
        claims=tuple(one for step in steps for one in step.claims()),
        steps=steps,
    )
    Journals(folder).write(journal)
    return journal


def test_what_lives_is_left_alone(folder: Path, setting: Path) -> None:
    with kept(make_fault(), [Write(path=str(setting), text="during")], folder=folder):
        assert recover(Journals(folder)) == []
        assert setting.read_text() == "during"


def test_a_pid_that_another_process_has_now_keeps_nothing(folder: Path, setting: Path) -> None:
    journal = left_behind(folder, Write(path=str(setting), text="x", before="old"))
    Journals(folder).write(msgspec.structs.replace(journal, keeper_pid=os.getpid()))
    [undone] = recover(Journals(folder))
    assert undone.error is None
    assert setting.read_text() == "old"


def test_after_a_reboot_only_files_are_undone(folder: Path, setting: Path, tmp_path: Path) -> None:
    files = tmp_path / "latencyprism-files"
    files.mkdir()
    left_behind(
        folder,
        Write(path=str(setting), text="x", before="of another kernel"),
        Scratch(path=str(files)),
        boot="another",
    )
    recover(Journals(folder))
    assert setting.read_text() == "before\n"
    assert not files.exists()
    assert not list(folder.glob("*.journal"))


def test_what_cannot_be_undone_is_told_and_kept(
    folder: Path, setting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.injection.undo.PAUSES_SECONDS", (0.0, 0.0))
    stays = Run(argv=("true",), undo_argv=("false",))
    journal = left_behind(folder, Write(path=str(setting), text="x", before="old"), stays)
    [undone] = recover(Journals(folder))
    assert undone.error is not None
    assert "undo: false" in undone.error
    assert "latencyprism inject --undo" in undone.error
    # The others are undone, once.
    assert setting.read_text() == "old"
    kept_journal = Journals(folder).read(journal.fault_id)
    assert kept_journal is not None
    assert kept_journal.steps == (stays,)


def test_an_undo_that_fails_at_first_is_tried_again(folder: Path, tmp_path: Path) -> None:
    script = "test -e first || { touch first; exit 1; }"
    undo = ("sh", "-c", f"cd {tmp_path}; {script}")
    left_behind(folder, Run(argv=("true",), undo_argv=undo))
    [undone] = recover(Journals(folder))
    assert undone.error is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_journal_of_somebody_else_is_never_acted_on(folder: Path, setting: Path) -> None:
    journal = left_behind(folder, Write(path=str(setting), text="x", before="theirs"))
    os.chown(Journals(folder).path(journal.fault_id), 12345, 12345)
    assert recover(Journals(folder)) == []
    assert setting.read_text() == "before\n"
    assert len(Journals(folder).strange()) == 1


@pytest.mark.parametrize("text", ["", '{"version": 2, "steps": []}', "no journal"])
def test_a_journal_that_cannot_be_read_is_told_of(folder: Path, text: str) -> None:
    Journals(folder)
    path = folder / "0.journal"
    path.write_text(text)
    path.chmod(0o600)
    (note,) = recovered(folder)
    assert str(path) in note
    assert "undo by hand" in note
    assert path.read_text() == text


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(StepError, match="only you can write to"):
        Journals(folder)


def test_a_journal_that_is_a_link_is_not_followed(folder: Path, setting: Path) -> None:
    journal = left_behind(folder, Write(path=str(setting), text="x", before="old"))
    path = Journals(folder).path(journal.fault_id)
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")
    assert recover(Journals(folder)) == []
    assert setting.read_text() == "before\n"


def test_journals_are_private(folder: Path) -> None:
    journal = left_behind(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Journals(folder).path(journal.fault_id).stat().st_mode & 0o777 == 0o600
    assert usual_folder().name.startswith("latencyprism")


def test_two_injections_may_not_change_one_setting(
    folder: Path, setting: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(setting)
    with kept(make_fault(), [Write(path=str(setting), text="first")], folder=folder):
        with (
            pytest.raises(InjectionError, match="is changed by test already"),
            kept(make_fault(), [Write(path=str(link), text="second")], folder=folder),
        ):
            pytest.fail("the block must not be entered")
        assert setting.read_text() == "first"
    assert setting.read_text() == "before\n"


def test_two_injections_of_load_may_go_on_at_once(folder: Path) -> None:
    steps: list[Step] = [Work(fault="cpu_squeeze")]
    with (
        kept(make_fault(), steps, folder=folder) as first,
        kept(make_fault(), steps, folder=folder) as second,
    ):
        assert all(map(is_running, first.workers + second.workers))


# Steps.


def test_an_undone_write_gives_back_every_byte_and_the_choice_that_held(setting: Path) -> None:
    for text, undone in (("1\n", "1\n"), ("", ""), ("always [madvise] never\n", "madvise")):
        setting.write_text(text)
        step = Write(path=str(setting), text="7").prepare()
        step.do()
        assert setting.read_text() == "7"
        step.undo()
        step.undo()
        assert setting.read_text() == undone


def test_a_write_makes_no_file(tmp_path: Path) -> None:
    step = Write(path=str(tmp_path / "typo"), text="7").prepare()
    with pytest.raises(StepError, match="run this as root, or give a value"):
        step.do()
    step.undo()
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("kind", [Scratch, Cgroup])
def test_a_folder_that_was_there_is_nobodys_to_remove(
    kind: type[Scratch] | type[Cgroup], folder: Path, tmp_path: Path
) -> None:
    present = tmp_path / "latencyprism-mine"
    present.mkdir()
    (present / "file").touch()
    with (
        pytest.raises(InjectionError, match="is there already"),
        kept(make_fault(), [kind(path=str(present))], folder=folder),
    ):
        pytest.fail("the block must not be entered")
    assert (present / "file").exists()


@pytest.mark.parametrize("kind", [Scratch, Cgroup])
def test_only_folders_of_ours_are_removed(
    kind: type[Scratch] | type[Cgroup], tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    for act in (kind.prepare, kind.do, kind.undo):
        with pytest.raises(StepError, match="must begin with latencyprism-"):
            act(kind(path=str(tmp_path / "precious")))  # type: ignore[arg-type]
    assert (tmp_path / "precious").is_dir()


def test_pinned_threads_get_their_own_cpus_back(victim: int) -> None:
    cpus = tuple(sorted(os.sched_getaffinity(victim)))
    step = Pin(pid=victim, cpus=cpus[:1]).prepare()
    step = msgspec.json.decode(msgspec.json.encode(step), type=Pin)
    step.do()
    assert os.sched_getaffinity(victim) == set(cpus[:1])
    step.undo()
    step.undo()
    assert os.sched_getaffinity(victim) == set(cpus)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_a_child_of_a_pinned_process_gets_its_cpus_back_unless_it_has_chosen_them() -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    script = "sleep 300 & echo $!; read x; sleep 300 & echo $!; (sleep 300 & echo $!; wait) & wait"
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        chosen = int(process.stdout.readline())
        os.sched_setaffinity(chosen, cpus[:1])
        step = Pin(pid=process.pid, cpus=cpus[:1]).prepare()
        step = msgspec.json.decode(msgspec.json.encode(step), type=Pin)
        step.do()
        process.stdin.write("\n")
        process.stdin.flush()
        new = [int(process.stdout.readline()) for _ in range(2)]
        pinned = [os.sched_getaffinity(pid) for pid in new]
        os.sched_setaffinity(new[1], cpus[1:2])
        step.undo()
        step.undo()
        undone = [os.sched_getaffinity(pid) for pid in (process.pid, *new, chosen)]
        kill(chosen, *new, process.pid)
    assert pinned == [set(cpus[:1])] * 2
    assert undone == [set(cpus), set(cpus), set(cpus[1:2]), set(cpus[:1])]


def test_a_process_that_its_owner_has_stopped_stays_so(folder: Path, victim: int) -> None:
    os.kill(victim, signal.SIGSTOP)
    assert wait_until(lambda: is_stopped(victim))
    with (
        pytest.raises(InjectionError, match="is stopped already"),
        kept(make_fault(), [Resume(pid=victim)], folder=folder),
    ):
        pytest.fail("the block must not be entered")
    assert is_stopped(victim)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can swap")
def test_a_folder_whose_file_is_swapped_to_stays(tmp_path: Path) -> None:
    step = Scratch(path=str(tmp_path / "latencyprism-swap")).prepare()
    step.do()
    file = str(Path(step.path) / "swap")
    for command in (("fallocate", "-l", "1M"), ("chmod", "600"), ("mkswap", "-q"), ("swapon",)):
        if subprocess.run([*command, file], capture_output=True, check=False).returncode:
            pytest.skip(f"{command[0]} does not work here")
    try:
        with pytest.raises(StepError, match="'swapoff' ends that"):
            step.undo()
        assert Path(file).exists()
    finally:
        subprocess.run(["swapoff", file], check=True)
    step.undo()
    assert not Path(step.path).exists()


def test_a_pid_that_belongs_to_another_process_now_is_left_alone(victim: int) -> None:
    os.kill(victim, signal.SIGSTOP)
    assert wait_until(lambda: is_stopped(victim))
    Resume(pid=victim, start_ticks=1).undo()
    assert is_stopped(victim)
    cpus = os.sched_getaffinity(victim)
    Pin(pid=victim, cpus=(0,), before={victim: (0,)}, start_ticks=1).undo()
    assert os.sched_getaffinity(victim) == cpus
    os.kill(victim, signal.SIGCONT)


@pytest.mark.parametrize("step", [Resume(pid=2**22 - 1), Pin(pid=2**22 - 1, cpus=(0,))])
def test_a_process_that_is_not_there_is_named(step: Resume | Pin) -> None:
    with pytest.raises(StepError, match="there is no process 4194303: give the --pid"):
        step.prepare()
    step.undo()


@pytest.fixture
def home() -> Iterator[Path]:
    """A control group of the test's own."""
    above = own_group(os.getpid())
    if above is None:
        pytest.skip("no control groups can be made here: run it as root")
    path = above / f"latencyprism-test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    kill(*map(int, (path / "cgroup.procs").read_text().split()))
    assert wait_until(lambda: not (path / "cgroup.procs").read_text())
    path.rmdir()


@pytest.fixture
def parent(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in that group that starts a child, and says its pid, when it gets a line."""
    command = ["sh", "-c", "read x; sleep 300 & echo $!; wait"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        (home / "cgroup.procs").write_text(str(process.pid))
        yield process
        process.kill()


def test_children_go_back_with_the_process_that_was_moved(
    folder: Path, home: Path, parent: subprocess.Popen[str]
) -> None:
    """To the group that it came from, which need not be the one above ours."""
    assert parent.stdin is not None
    assert parent.stdout is not None
    group = home.with_name(f"latencyprism-test-{secrets.token_hex(4)}")
    steps: list[Step] = [
        Cgroup(path=str(group)),
        Join(pid=parent.pid, path=str(group), before=str(home)),
    ]
    with kept(make_fault(), steps, folder=folder):
        parent.stdin.write("\n")
        parent.stdin.flush()
        both = {str(parent.pid), parent.stdout.readline().strip()}
        inside = set((group / "cgroup.procs").read_text().split())
    found = set((home / "cgroup.procs").read_text().split())
    # Wherever they are: the fixture ends what is in the group that they came from.
    kill(*map(int, both))
    assert inside == found == both
    assert not group.exists()


def test_a_replica_that_ended_has_nothing_to_undo() -> None:
    Post(url="http://127.0.0.1:1/x", body={"ratio": 0.5}, before={"ratio": 1.0}).undo()


def test_a_replica_that_refuses_the_undo_is_told_of() -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(500)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request).start()
        url = f"http://127.0.0.1:{server.server_port}/x"
        with pytest.raises(StepError, match="post it by hand"):
            Post(url=url, body={"ratio": 0.5}, before={"ratio": 1.0}).undo()


# What is asked for.


def test_more_than_an_hour_no_time_or_too_hard_is_refused() -> None:
    for seconds in (0.0, -1.0, 3601.0, float("nan"), float("inf")):
        with (
            pytest.raises(Refused, match="is not allowed: give"),
            injected("cpu_squeeze", seconds=seconds),
        ):
            pytest.fail("the block must not be entered")
    with pytest.raises(Refused, match=r"give 0\.01 to 8"), injected("cpu_squeeze", intensity=9):
        pytest.fail("the block must not be entered")


def test_obstacles_are_all_told(folder: Path) -> None:
    machine = Machine(has_module=lambda _: False)
    with (
        pytest.raises(Refused, match="numpy is not installed"),
        injected("cpu_squeeze", machine=machine, folder=folder),
    ):
        pytest.fail("the block must not be entered")


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), ValueError("odd"), IndexError("no")])
def test_a_fault_without_a_plan_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> list[Step]:
        raise error

    for plan, told in ((fail, f"{error}"), (lambda *_: [], "nothing that it could change")):
        monkeypatch.setattr(type(load("cpu_squeeze")), "plan", plan)
        with (
            pytest.raises(Refused, match=f"{told}.*: .*choose another fault"),
            injected("cpu_squeeze", folder=folder),
        ):
            pytest.fail("the block must not be entered")


def test_the_truth_says_what_the_fault_declares(folder: Path) -> None:
    told: list[Fault] = []
    with injected(
        "cpu_squeeze",
        severity="light",
        publish=told.append,
        folder=folder,
        host="h",
    ) as running:
        assert isinstance(running, Running)
    squeeze: Injector = load("cpu_squeeze")
    ended = told[-1]
    assert (ended.severity, ended.intensity) == ("light", squeeze.levels.light)
    assert (ended.causes, ended.kind) == (squeeze.causes, "fault")
    assert ended.host == "h"
