"""Where the threads of a process run, and that it goes on."""

from __future__ import annotations

import contextlib
import os
import signal

import msgspec

from simulator.injection.steps.base import BaseStep, StepError
from simulator.injection.steps.process_state import (
    children_of,
    known_start_ticks,
    start_ticks_of,
    state_of,
    threads_of,
)


class Pin(BaseStep, tag="pin", frozen=True, kw_only=True):
    """Let all threads of a process run on some CPUs only.

    Attributes:
        before: Where each thread could run.

        children: Processes below it that were there already; they are left alone.
    """

    pid: int
    cpus: tuple[int, ...]
    before: dict[int, tuple[int, ...]] = msgspec.field(default_factory=dict)
    children: tuple[int, ...] = ()
    start_ticks: int | None = None

    def prepare(self) -> Pin:
        """Remember where each thread may run."""
        start_ticks = known_start_ticks(self.pid)
        children = tuple(sorted(children_of(self.pid)))
        before = {}
        for thread in threads_of(self.pid):
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
        while new := children_of(self.pid) - seen:
            for thread in (thread for pid in new for thread in threads_of(pid)):
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
        while threads := set(threads_of(self.pid)) - placed:
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


class Resume(BaseStep, tag="resume", frozen=True, kw_only=True):
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
        return msgspec.structs.replace(self, start_ticks=known_start_ticks(self.pid))

    def undo(self) -> None:
        """Let it run."""
        if self.start_ticks is not None and start_ticks_of(self.pid) == self.start_ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)

    def show(self) -> tuple[str, ...]:
        """Say what the end will be."""
        return (f"undo: kill -CONT {self.pid}",)


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
