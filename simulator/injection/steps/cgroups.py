"""Control groups of our own, and processes in them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from simulator.injection.steps.base import BaseStep, StepError, own, refuse_present
from simulator.injection.steps.process_state import (
    ancestors_of,
    known_start_ticks,
    start_ticks_of,
)
from simulator.injection.steps.settings import write_file


class Cgroup(BaseStep, tag="cgroup", frozen=True, kw_only=True):
    """Make a control group of our own; its name must begin with ``latencyprism-``.

    Attributes:
        threaded: On version 2, of the kind that can be below a group with processes in it.
    """

    path: str
    threaded: bool = False

    def prepare(self) -> Cgroup:
        """See that it is not there: it would not be ours to remove."""
        refuse_present(self.path)
        return self

    def claims(self) -> tuple[str, ...]:
        """Name the group."""
        return (os.path.realpath(self.path),)

    def do(self) -> None:
        """Make it."""
        try:
            Path(own(self.path)).mkdir()
            if self.threaded:
                write_file(f"{self.path}/cgroup.type", "threaded")
        except OSError as err:
            raise StepError(
                f"cannot make the control group {self.path} ({err.strerror}): run this as root, "
                "where the cgroup file system is writable"
            ) from err

    def undo(self) -> None:
        """Move whoever is in it to the group above, and remove it."""
        group = Path(own(self.path))
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


class Join(BaseStep, tag="join", frozen=True, kw_only=True):
    """Move a process into a control group; undone by moving it back."""

    pid: int
    path: str
    before: str
    start_ticks: int | None = None

    def prepare(self) -> Join:
        """Remember which process has this pid, and see that it is where the plan saw it."""
        prepared = msgspec.structs.replace(self, start_ticks=known_start_ticks(self.pid))
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


def _members(group: Path) -> set[int]:
    """Give the processes of a group, and of a threaded one the threads, which bear their pids."""
    for name in ("cgroup.procs", "cgroup.threads"):
        with contextlib.suppress(OSError):
            return set(map(int, (group / name).read_text(encoding="ascii").split()))
    return set()


def _join(group: str, pid: int) -> None:
    Path(group, "cgroup.procs").write_text(str(pid), encoding="ascii")
