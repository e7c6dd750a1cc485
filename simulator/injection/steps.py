"""What an injection does to a machine, as plain data that another process can undo.

A step is prepared (it remembers what it will change), written to the journal, done, and undone.
Undoing is idempotent, and harmless for a step that was never done: the process that did it may
have been killed in between.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

COMMAND_SECONDS = 20.0
HTTP_SECONDS = 30.0
OWN_PREFIX = "latencyprism-"
QDISC_HANDLE = "1a7e:"
# Of include/linux/sched.h.
PF_KTHREAD = 0x00200000


class StepError(Exception):
    """A step cannot be done, or not undone; the text ends with what to do."""


class _Step(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    def prepare(self) -> Any:
        """Give the step with what it needs to be undone."""
        return self

    def do(self) -> None:
        """Change the machine."""

    def undo(self) -> None:
        """Change it back; to do so twice, or without `do`, changes nothing more."""

    def claims(self) -> tuple[str, ...]:
        """Name the settings that it overwrites, which no two injections may at once."""
        return ()

    def show(self) -> tuple[str, ...]:
        """Give the lines of a dry run: what is done, and after ``undo:`` what undoes it."""
        raise NotImplementedError


class Run(_Step, tag="run", frozen=True, kw_only=True):
    """Run a command, and another one to undo it.

    Attributes:
        undo_argv: It has to bear that nothing was done.

        setting: Name of what it overwrites, if it overwrites something.

        ask_argv: A query about that, whose answer in the plan went into `undo_argv`.

        answer: That answer. If it is another one when the step begins, nothing is done: an
            injection that was under way, or left behind, has been undone in between.
    """

    argv: tuple[str, ...]
    undo_argv: tuple[str, ...] = ()
    setting: str | None = None
    ask_argv: tuple[str, ...] = ()
    answer: str = ""

    def prepare(self) -> Run:
        """See that what it will be undone to is what there is."""
        if self.ask_argv and _run(self.ask_argv).strip() != self.answer:
            raise StepError(
                f"'{' '.join(self.ask_argv)}' answers otherwise than it did for the plan, so that "
                "undoing would set an old value: run it again"
            )
        return self

    def claims(self) -> tuple[str, ...]:
        """Name the setting."""
        return () if self.setting is None else (self.setting,)

    def do(self) -> None:
        """Run the command."""
        _run(self.argv)

    def undo(self) -> None:
        """Run the command that undoes it."""
        if self.undo_argv:
            _run(self.undo_argv)

    def show(self) -> tuple[str, ...]:
        """Give both commands."""
        lines = (" ".join(self.argv),)
        return (*lines, f"undo: {' '.join(self.undo_argv)}") if self.undo_argv else lines


class Write(_Step, tag="write", frozen=True, kw_only=True):
    """Write a setting into a file of the kernel; undone by writing what was there before."""

    path: str
    text: str
    before: str | None = None

    def prepare(self) -> Write:
        """Remember what the file says now, unless the plan says what to write back."""
        if self.before is not None:
            return self
        try:
            before = Path(self.path).read_text(encoding="utf-8")
        except FileNotFoundError:
            # In a folder that an earlier step makes, and that goes with it.
            return self
        except OSError as err:
            raise StepError(f"cannot read {self.path} ({err.strerror}): run this as root") from err
        # A file of choices marks the one that holds: "always [madvise] never".
        chosen = re.search(r"\[(\S+)\]", before)
        return msgspec.structs.replace(self, before=chosen[1] if chosen else before)

    def do(self) -> None:
        """Write the new value."""
        try:
            _write(self.path, self.text)
        except OSError as err:
            raise StepError(
                f"cannot write {self.text!r} to {self.path} ({err.strerror}): run this as root, or "
                "give a value that the kernel takes"
            ) from err

    def undo(self) -> None:
        """Write the old value back; a file that is gone took it along."""
        if self.before is not None:
            with contextlib.suppress(FileNotFoundError):
                _write(self.path, self.before)

    def claims(self) -> tuple[str, ...]:
        """Name the file, whatever links lead to it."""
        return (os.path.realpath(self.path),)

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        before = "the value of before" if self.before is None else self.before.strip()
        return (f"echo {self.text} > {self.path}", f"undo: echo {before} > {self.path}")


class Cgroup(_Step, tag="cgroup", frozen=True, kw_only=True):
    """Make a control group of our own; its name must begin with ``latencyprism-``.

    Attributes:
        threaded: On version 2, of the kind that can be below a group with processes in it.
    """

    path: str
    threaded: bool = False

    def prepare(self) -> Cgroup:
        """See that it is not there: it would not be ours to remove."""
        _refuse_present(self.path)
        return self

    def claims(self) -> tuple[str, ...]:
        """Name the group."""
        return (os.path.realpath(self.path),)

    def do(self) -> None:
        """Make it."""
        try:
            Path(_own(self.path)).mkdir()
            if self.threaded:
                _write(f"{self.path}/cgroup.type", "threaded")
        except OSError as err:
            raise StepError(
                f"cannot make the control group {self.path} ({err.strerror}): run this as root, "
                "where the cgroup file system is writable"
            ) from err

    def undo(self) -> None:
        """Move whoever is in it to the group above, and remove it."""
        group = Path(_own(self.path))
        if not group.is_dir():
            return
        # The kernel lists no processes of a threaded group, only its threads.
        members = "cgroup.threads" if self.threaded else "cgroup.procs"
        for member in (group / members).read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                (group.parent / members).write_text(member, encoding="ascii")
        group.rmdir()

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        threaded = f" && echo threaded > {self.path}/cgroup.type" if self.threaded else ""
        return (f"mkdir {self.path}{threaded}", f"undo: rmdir {self.path}")


class Join(_Step, tag="join", frozen=True, kw_only=True):
    """Move a process into a control group; undone by moving it back."""

    pid: int
    path: str
    before: str
    start_ticks: int | None = None

    def prepare(self) -> Join:
        """Remember which process has this pid, and see that it is where the plan saw it."""
        prepared = msgspec.structs.replace(self, start_ticks=_known(self.pid))
        if self.pid not in _members(Path(self.before)):
            raise StepError(
                f"process {self.pid} is not in {self.before} any more, so that undoing would move "
                "it to the wrong group: run it again"
            )
        return prepared

    def do(self) -> None:
        """Move it."""
        try:
            _join(self.path, self.pid)
        except OSError as err:
            raise StepError(
                f"cannot move process {self.pid} into {self.path} ({err.strerror}): run this as "
                "root, and give the --pid of a process that runs"
            ) from err

    def undo(self) -> None:
        """Move it back with the children that it had in our group, if it still is the same one."""
        if self.start_ticks is None or start_ticks_of(self.pid) != self.start_ticks:
            return
        members = _members(Path(self.path))
        for pid in (self.pid, *(pid for pid in members if self.pid in ancestors_of(pid))):
            if pid in members:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    _join(self.before, pid)

    def claims(self) -> tuple[str, ...]:
        """Name the process: a group of ours within another one would keep that from going."""
        return (f"control group of process {self.pid}",)

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        return (
            f"echo {self.pid} > {self.path}/cgroup.procs",
            f"undo: echo {self.pid} > {self.before}/cgroup.procs",
        )


class Pin(_Step, tag="pin", frozen=True, kw_only=True):
    """Let all threads of a process run on some CPUs only.

    Attributes:
        before: Where each thread could run.

        children: Processes below it that were there already; they are left alone.
    """

    pid: int
    cpus: tuple[int, ...]
    before: dict[int, tuple[int, ...]] = {}
    children: tuple[int, ...] = ()
    start_ticks: int | None = None

    def prepare(self) -> Pin:
        """Remember where each thread may run."""
        start_ticks = _known(self.pid)
        children = tuple(sorted(_children(self.pid)))
        before = {}
        for thread in _threads(self.pid):
            with contextlib.suppress(ProcessLookupError):
                before[thread] = tuple(sorted(os.sched_getaffinity(thread)))
        return msgspec.structs.replace(
            self, before=before, children=children, start_ticks=start_ticks
        )

    def do(self) -> None:
        """Pin them."""
        self._place(dict.fromkeys(self.before, self.cpus), self.cpus)

    def undo(self) -> None:
        """Let each thread run where it could; what is new, child or thread, where the first can."""
        if not self.before or start_ticks_of(self.pid) != self.start_ticks:
            return
        usual = self.before.get(self.pid) or next(iter(self.before.values()))
        self._place(self.before, usual)
        seen = set(self.children)
        # A child may start another one before it is its turn.
        while new := _children(self.pid) - seen:
            for thread in (thread for pid in new for thread in _threads(pid)):
                with contextlib.suppress(ProcessLookupError):
                    # One that has chosen its CPUs itself keeps them.
                    if os.sched_getaffinity(thread) == set(self.cpus):
                        _set_cpus(thread, usual)
            seen |= new

    def claims(self) -> tuple[str, ...]:
        """Name the process."""
        return (f"CPUs of process {self.pid}",)

    def _place(self, wanted: dict[int, tuple[int, ...]], usual: tuple[int, ...]) -> None:
        placed: set[int] = set()
        # A thread that one of them starts meanwhile inherits its CPUs of before.
        while threads := set(_threads(self.pid)) - placed:
            for thread in threads:
                with contextlib.suppress(ProcessLookupError):
                    _set_cpus(thread, wanted.get(thread, usual))
            placed |= threads

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        cpus = ",".join(map(str, self.cpus))
        return (
            f"taskset --all-tasks --pid --cpu-list {cpus} {self.pid}",
            "undo: each thread, and what it has started meanwhile, back to the CPUs of before",
        )


class Resume(_Step, tag="resume", frozen=True, kw_only=True):
    """Nothing to do, but a SIGCONT in the end, for a process that a worker stops now and then."""

    pid: int
    start_ticks: int | None = None

    def prepare(self) -> Resume:
        """Remember which process has this pid; one that somebody has stopped is theirs."""
        state = state_of(self.pid)
        if state is not None and state.state == "T":
            raise StepError(
                f"process {self.pid} is stopped already, and would run afterwards: "
                f"'kill -CONT {self.pid}' first"
            )
        return msgspec.structs.replace(self, start_ticks=_known(self.pid))

    def undo(self) -> None:
        """Let it run."""
        if self.start_ticks is not None and start_ticks_of(self.pid) == self.start_ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)

    def show(self) -> tuple[str, ...]:
        """Say what the end will be."""
        return (f"undo: kill -CONT {self.pid}",)


class Post(_Step, tag="post", frozen=True, kw_only=True):
    """Turn knobs of the engine replica; undone by turning them to where they were.

    Attributes:
        url: Tells the knobs when it is asked (GET), and takes those to turn (POST).

        before: What it told of them.
    """

    url: str
    body: dict[str, float]
    before: dict[str, float] | None = None

    def prepare(self) -> Post:
        """Remember how far they are turned."""
        with self._explained("tell", list(self.body)):
            told = _ask(self.url)
            return msgspec.structs.replace(self, before={key: told[key] for key in self.body})

    def do(self) -> None:
        """Turn them."""
        with self._explained("take", self.body):
            _ask(self.url, self.body)

    def undo(self) -> None:
        """Turn them back; a replica that ended has nothing left to undo."""
        if self.before is None:
            return
        try:
            _ask(self.url, self.before)
        except OSError as err:
            if not isinstance(getattr(err, "reason", err), ConnectionError):
                raise StepError(
                    f"{self.url} did not take {self.before} ({err}): post it by hand, or start "
                    "the replica anew"
                ) from err

    def claims(self) -> tuple[str, ...]:
        """Name each of the settings there."""
        return tuple(f"{key} of {self.url}" for key in self.body)

    def show(self) -> tuple[str, ...]:
        """Give the commands that would do it."""
        first = f"curl -d '{msgspec.json.encode(self.body).decode()}' {self.url}"
        if self.before is None:
            return (first, "undo: the values of before")
        return (first, f"undo: curl -d '{msgspec.json.encode(self.before).decode()}' {self.url}")

    @contextlib.contextmanager
    def _explained(self, verb: str, what: object) -> Iterator[None]:
        try:
            yield
        except (OSError, LookupError, msgspec.MsgspecError) as err:
            raise StepError(
                f"{self.url} did not {verb} {what} ({err}): this fault is for the engine replica "
                "('latencyprism simulate engine'); check --url"
            ) from err


class Scratch(_Step, tag="scratch", frozen=True, kw_only=True):
    """A folder of our own for files; its name must begin with ``latencyprism-``."""

    path: str

    def prepare(self) -> Scratch:
        """See that it is not there: it would not be ours to remove."""
        _refuse_present(self.path)
        return self

    def claims(self) -> tuple[str, ...]:
        """Name the folder."""
        return (os.path.realpath(self.path),)

    def do(self) -> None:
        """Make it."""
        try:
            Path(_own(self.path)).mkdir(mode=0o700)
        except OSError as err:
            raise StepError(
                f"cannot make the folder {self.path} ({err.strerror}): choose another --scratch"
            ) from err

    def undo(self) -> None:
        """Remove it with all that is in it; the kernel keeps a file that is swapped to."""
        try:
            shutil.rmtree(_own(self.path))
        except FileNotFoundError:
            pass
        except OSError as err:
            raise StepError(
                f"{err.filename} cannot be removed ({err.strerror}): see whether it is in use, as "
                "/proc/swaps tells ('swapoff' ends that)"
            ) from err

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        return (f"mkdir {self.path}", f"undo: rm -r {self.path}")


class Qdisc(_Step, tag="qdisc", frozen=True, kw_only=True):
    """Shape the loopback traffic of a network namespace, by a discipline with a handle of ours.

    Attributes:
        namespace: As ``/proc/PID/ns/net`` names it.

        arguments: The discipline, as `tc` takes it.
    """

    namespace: str
    arguments: tuple[str, ...]

    def do(self) -> None:
        """Put it on the device; `tc` refuses where there is another one."""
        self._tc("add", *("handle", QDISC_HANDLE), *self.arguments)

    def undo(self) -> None:
        """Take it off; a namespace that is gone took it along, and another's is left alone."""
        with contextlib.suppress(LookupError):
            if f" {QDISC_HANDLE} root " in self._tc("show"):
                self._tc("del")

    def claims(self) -> tuple[str, ...]:
        """Name the device."""
        return (f"qdisc of lo in {self.namespace}",)

    def show(self) -> tuple[str, ...]:
        """Give the commands that would do it."""
        inside = f"tc qdisc {{}} dev lo root handle {QDISC_HANDLE}"
        return (
            f"{inside.format('add')} {' '.join(self.arguments)} (in {self.namespace})",
            f"undo: {inside.format('del')}",
        )

    def _tc(self, verb: str, *arguments: str) -> str:
        entrance = _in_namespace(self.namespace)
        if entrance is None:
            if verb == "add":
                raise StepError(f"{self.namespace} is gone: give the --pid of a running engine")
            raise LookupError(self.namespace)
        root = () if verb == "show" else ("root",)
        return _run(
            ("nsenter", f"--net={entrance}", "tc", "qdisc", verb, "dev", "lo", *root, *arguments)
        )


class Work(_Step, tag="work", frozen=True, kw_only=True):
    """Processes of our own that load the machine: `Injector.work` of a fault, in each of them.

    They die with the process that started them, however it ends, so nothing else undoes them.

    Attributes:
        fault: Name of the fault.

        count: How many processes.

        options: What `Injector.work` gets.
    """

    fault: str
    count: int = 1
    options: dict[str, float | str | list[int]] = {}

    def argv(self) -> tuple[str, ...]:
        """Give the command of one of them."""
        options = msgspec.json.encode(self.options).decode()
        return (sys.executable, "-P", "-m", "simulator.injection.worker", self.fault, options)

    def show(self) -> tuple[str, ...]:
        """Give the command and how it ends."""
        return (f"{self.count} x {' '.join(self.argv())}", "undo: kill them")


Step: TypeAlias = Run | Write | Cgroup | Join | Pin | Resume | Post | Scratch | Qdisc | Work


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """A line of ``/proc/PID/stat``, as far as it is of use here.

    Attributes:
        state: One letter; T for one that was stopped, Z for one that ended and was not asked
            after.

        is_of_kernel: It is a thread of the kernel.

        start_ticks: When it started, in clock ticks after boot. With the pid it names a process.
    """

    state: str
    parent_pid: int
    is_of_kernel: bool
    start_ticks: int


def state_of(pid: int, proc: Path = Path("/proc")) -> ProcessState | None:
    """Read the state of a process; None where there is none."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return ProcessState(
        state=fields[0],
        parent_pid=int(fields[1]),
        is_of_kernel=bool(int(fields[6]) & PF_KTHREAD),
        start_ticks=int(fields[19]),
    )


def ancestors_of(pid: int) -> list[int]:
    """Give the processes above one, the nearest first."""
    found: list[int] = []
    state = state_of(pid)
    while state is not None and state.parent_pid not in (0, *found):
        found.append(state.parent_pid)
        state = state_of(state.parent_pid)
    return found


def start_ticks_of(pid: int) -> int | None:
    """Give when a process started, in clock ticks after boot; None where there is none."""
    found = state_of(pid)
    return None if found is None else found.start_ticks


def _own(path: str) -> str:
    if not Path(path).name.startswith(OWN_PREFIX):
        raise StepError(f"{path} is not ours: its name must begin with {OWN_PREFIX}")
    return path


def _refuse_present(path: str) -> None:
    if os.path.lexists(_own(path)):
        raise StepError(f"{path} is there already: remove it if nothing needs it, and run it again")


def _known(pid: int) -> int:
    start_ticks = start_ticks_of(pid)
    if start_ticks is None:
        raise StepError(f"there is no process {pid}: give the --pid of one that runs")
    return start_ticks


def _write(path: str, text: str) -> None:
    # Not made where it is not there, and in one piece, as the kernel's files want it.
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        if text:
            os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _set_cpus(thread: int, cpus: tuple[int, ...]) -> None:
    try:
        os.sched_setaffinity(thread, cpus)
    except ProcessLookupError:
        raise
    except OSError as err:
        raise StepError(
            f"thread {thread} cannot be put on the CPUs {cpus} ({err.strerror}): run this as its "
            "owner or as root, with CPUs that are online"
        ) from err


def _members(group: Path) -> set[int]:
    """Give the processes of a group, and of a threaded one the threads, which bear their pids."""
    for name in ("cgroup.procs", "cgroup.threads"):
        with contextlib.suppress(OSError):
            return set(map(int, (group / name).read_text(encoding="ascii").split()))
    return set()


def _children(pid: int) -> set[int]:
    """Give the processes below one, whatever started them in between."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return {one for one in pids if pid in ancestors_of(one)}


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _in_namespace(namespace: str) -> str | None:
    """Find a file by which a network namespace can be entered; None where it is gone."""
    for path in (*Path("/proc").glob("[0-9]*/ns/net"), *Path("/run/netns").glob("*")):
        with contextlib.suppress(OSError):
            if f"net:[{path.stat().st_ino}]" == namespace:
                return str(path)
    return None


def _join(group: str, pid: int) -> None:
    Path(group, "cgroup.procs").write_text(str(pid), encoding="ascii")


def _run(argv: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise StepError(f"'{' '.join(argv)}' failed ({err}): run it by hand to see why") from err
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise StepError(
            f"'{' '.join(argv)}' ended with status {done.returncode}"
            f"{f' ({said[-1]})' if said else ''}: run it by hand to see why"
        )
    return done.stdout


def _ask(url: str, body: dict[str, float] | None = None) -> dict[str, float]:
    data = None if body is None else msgspec.json.encode(body)
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as response:
        return msgspec.json.decode(response.read(), type=dict[str, float])
