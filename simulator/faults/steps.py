"""What an injection does to a machine, as plain data that another process can undo.

A step is prepared (it remembers what it will change), written to the journal, done, and undone.
Undoing is idempotent, and harmless for a step that was never done: the process that did it may
have been killed in between.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

COMMAND_SECONDS = 20.0
HTTP_SECONDS = 30.0
OWN_PREFIX = "latencyprism-"


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

    def show(self) -> tuple[str, ...]:
        """Give the lines of a dry run: what is done, and after ``undo:`` what undoes it."""
        raise NotImplementedError


class Run(_Step, tag="run", frozen=True, kw_only=True):
    """Run a command, and another one to undo it."""

    argv: tuple[str, ...]
    undo_argv: tuple[str, ...] = ()

    def do(self) -> None:
        """Run the command."""
        _run(self.argv)

    def undo(self) -> None:
        """Run the command that undoes it; it has to bear that nothing was done."""
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
        """Remember what the file says now."""
        try:
            before = Path(self.path).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            # In a folder that an earlier step makes, and that goes with it.
            return self
        except OSError as err:
            raise StepError(f"cannot read {self.path} ({err.strerror}): run this as root") from err
        return msgspec.structs.replace(self, before=before)

    def do(self) -> None:
        """Write the new value."""
        try:
            Path(self.path).write_text(self.text, encoding="ascii")
        except OSError as err:
            raise StepError(
                f"cannot write {self.text!r} to {self.path} ({err.strerror}): run this as root, or "
                "give a value that the kernel takes"
            ) from err

    def undo(self) -> None:
        """Write the old value back."""
        if self.before is not None and Path(self.path).exists():
            Path(self.path).write_text(self.before, encoding="ascii")

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        before = "the value of before" if self.before is None else self.before
        return (f"echo {self.text} > {self.path}", f"undo: echo {before} > {self.path}")


class Cgroup(_Step, tag="cgroup", frozen=True, kw_only=True):
    """Make a control group of our own; its name must begin with ``latencyprism-``."""

    path: str

    def do(self) -> None:
        """Make it."""
        try:
            Path(_own(self.path)).mkdir()
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
        for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                (group.parent / "cgroup.procs").write_text(pid, encoding="ascii")
        group.rmdir()

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        return (f"mkdir {self.path}", f"undo: rmdir {self.path}")


class Join(_Step, tag="join", frozen=True, kw_only=True):
    """Move a process into a control group; undone by moving it back."""

    pid: int
    path: str
    before: str
    start_ticks: int | None = None

    def prepare(self) -> Join:
        """Remember which process has this pid."""
        return msgspec.structs.replace(self, start_ticks=start_ticks_of(self.pid))

    def do(self) -> None:
        """Move it."""
        _join(self.path, self.pid)

    def undo(self) -> None:
        """Move it back, if it still is the same process and in our group."""
        if start_ticks_of(self.pid) not in (None, self.start_ticks):
            return
        with contextlib.suppress(StepError, ProcessLookupError, FileNotFoundError):
            _join(self.before, self.pid)

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        return (
            f"echo {self.pid} > {self.path}/cgroup.procs",
            f"undo: echo {self.pid} > {self.before}/cgroup.procs",
        )


class Pin(_Step, tag="pin", frozen=True, kw_only=True):
    """Let all threads of a process run on some CPUs only."""

    pid: int
    cpus: tuple[int, ...]
    before: dict[int, tuple[int, ...]] = {}
    start_ticks: int | None = None

    def prepare(self) -> Pin:
        """Remember where each thread may run."""
        before = {}
        for thread in _threads(self.pid):
            with contextlib.suppress(ProcessLookupError):
                before[thread] = tuple(sorted(os.sched_getaffinity(thread)))
        return msgspec.structs.replace(self, before=before, start_ticks=start_ticks_of(self.pid))

    def do(self) -> None:
        """Pin them."""
        for thread in _threads(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, self.cpus)

    def undo(self) -> None:
        """Let each thread run where it could; a new one where the first one can."""
        if start_ticks_of(self.pid) != self.start_ticks or not self.before:
            return
        usual = self.before.get(self.pid) or next(iter(self.before.values()))
        for thread in _threads(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, self.before.get(thread, usual))

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        cpus = ",".join(map(str, self.cpus))
        return (
            f"taskset --all-tasks --pid --cpu-list {cpus} {self.pid}",
            "undo: each thread back to the CPUs that it had",
        )


class Resume(_Step, tag="resume", frozen=True, kw_only=True):
    """Nothing to do, but a SIGCONT in the end, for a process that a worker stops now and then."""

    pid: int
    start_ticks: int | None = None

    def prepare(self) -> Resume:
        """Remember which process has this pid."""
        return msgspec.structs.replace(self, start_ticks=start_ticks_of(self.pid))

    def undo(self) -> None:
        """Let it run."""
        if self.start_ticks is not None and start_ticks_of(self.pid) == self.start_ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)

    def show(self) -> tuple[str, ...]:
        """Say what the end will be."""
        return (f"undo: kill -CONT {self.pid}",)


class Post(_Step, tag="post", frozen=True, kw_only=True):
    """Post JSON to the engine replica, and other JSON to undo it."""

    url: str
    body: dict[str, float]
    undo_body: dict[str, float]

    def do(self) -> None:
        """Post it."""
        try:
            _post(self.url, self.body)
        except OSError as err:
            raise StepError(
                f"{self.url} did not take {self.body} ({err}): this fault is for the engine "
                "replica ('latencyprism simulate engine'); check --url"
            ) from err

    def undo(self) -> None:
        """Post what undoes it; a replica that ended has nothing left to undo."""
        with contextlib.suppress(OSError):
            _post(self.url, self.undo_body)

    def show(self) -> tuple[str, ...]:
        """Give the commands that would do it."""
        bodies = (msgspec.json.encode(body).decode() for body in (self.body, self.undo_body))
        first, last = (f"curl -d '{body}' {self.url}" for body in bodies)
        return (first, f"undo: {last}")


class Scratch(_Step, tag="scratch", frozen=True, kw_only=True):
    """A folder of our own for files; its name must begin with ``latencyprism-``."""

    path: str

    def do(self) -> None:
        """Make it."""
        try:
            Path(_own(self.path)).mkdir(mode=0o700)
        except OSError as err:
            raise StepError(
                f"cannot make the folder {self.path} ({err.strerror}): choose another --scratch"
            ) from err

    def undo(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(_own(self.path), ignore_errors=True)

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        return (f"mkdir {self.path}", f"undo: rm -r {self.path}")


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
        return (sys.executable, "-P", "-m", "simulator.faults.worker", self.fault, options)

    def show(self) -> tuple[str, ...]:
        """Give the command and how it ends."""
        return (f"{self.count} x {' '.join(self.argv())}", "undo: kill them")


Step: TypeAlias = Run | Write | Cgroup | Join | Pin | Resume | Post | Scratch | Work


def start_ticks_of(pid: int) -> int | None:
    """Give when a process started, in clock ticks after boot; None where there is none.

    With the pid it names a process for good.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def _own(path: str) -> str:
    if not Path(path).name.startswith(OWN_PREFIX):
        raise StepError(f"{path} is not ours: its name must begin with {OWN_PREFIX}")
    return path


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _join(group: str, pid: int) -> None:
    try:
        Path(group, "cgroup.procs").write_text(str(pid), encoding="ascii")
    except OSError as err:
        raise StepError(
            f"cannot move process {pid} into {group} ({err.strerror}): run this as root"
        ) from err


def _run(argv: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise StepError(f"'{' '.join(argv)}' failed ({err}): run it by hand to see why") from err
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise StepError(
            f"'{' '.join(argv)}' ended with status {done.returncode}"
            f"{f' ({said[-1]})' if said else ''}: run it by hand to see why"
        )


def _post(url: str, body: dict[str, float]) -> None:
    request = urllib.request.Request(
        url, data=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as response:
        response.read()
