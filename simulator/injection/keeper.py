"""The process that makes a fault, keeps it for its time, and undoes it whatever happens.

It gets a `Plan` as one line of JSON on standard input and says `Said` lines on standard output.
It undoes everything at the end of the time, on SIGTERM, SIGINT and SIGHUP, when the front that
started it goes away (its end of standard input closes), when a step fails and when a worker dies.
Each step is in the journal before it is done. A guard, which holds nothing but a handle on the
keeper, undoes from the journal at once if the keeper is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec

from schemas.records import Fault
from simulator.injection.journal import Journal, Journals, boot_id
from simulator.injection.steps import Step, StepError, Work, start_ticks_of
from simulator.injection.undo import MARK, recover, recover_locked, undo_all
from simulator.injection.worker import PARENT, PR_SET_NAME, READY, SECONDS

READY_SECONDS = 60.0
GRACE_SECONDS = 3.0
FILES = 4096
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the front asks for.

    Attributes:
        fault: The truth, as far as it is known.

        seconds: How long after all steps are done they are undone, if nothing else comes first.

        folder: Where the journals are.

        front_pid: Process that started the keeper.
    """

    fault: Fault
    seconds: float
    steps: tuple[Step, ...]
    folder: str
    front_pid: int


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper tells the front.

    Attributes:
        what: ``recovered`` an injection that was left behind, ``begun`` when all steps are done,
            ``ended`` when all are undone.

        error: Why it ended early or could not be undone.

        workers: Processes of the injection.

        onset_ns: When the first step was begun.
    """

    what: Literal["recovered", "begun", "ended"]
    at_ns: int
    error: str | None = None
    workers: tuple[int, ...] = ()
    onset_ns: int | None = None


class Stopped(Exception):
    """It is to end before all steps are done."""


class Keeper:
    """Make one fault and undo it."""

    def __init__(self, plan: Plan, journals: Journals) -> None:
        self.plan = plan
        self.journals = journals
        start_ticks = start_ticks_of(os.getpid())
        assert start_ticks is not None
        self.journal = Journal(
            fault_id=plan.fault.fault_id,
            name=plan.fault.name,
            keeper_pid=os.getpid(),
            keeper_start_ticks=start_ticks,
            front_pid=plan.front_pid,
            front_start_ticks=start_ticks_of(plan.front_pid),
            boot_id=boot_id(),
            claims=tuple(sorted({one for step in plan.steps for one in step.claims()})),
        )
        self.workers: list[subprocess.Popen[bytes]] = []
        self.handles: list[int] = []
        self.mail = Mail(plan.front_pid)
        self._onset_ns = 0

    def run(self) -> int:
        """Do it, wait, undo it."""
        error: str | None = None
        try:
            self._enter()
            self._onset_ns = time.time_ns()
            for step in self.plan.steps:
                self._do(step)
            self._begin()
            error = self._wait(time.monotonic() + self.plan.seconds)
        except Stopped:
            pass
        except StepError as err:
            error = str(err)
        except Exception as err:
            # Whatever it is, what was done has to be undone.
            error = f"{type(err).__name__}: {err}: please report this"
        left = self._undo()
        error = "; ".join(one for one in (error, left) if one is not None) or None
        say(Said(what="ended", at_ns=time.time_ns(), error=error))
        return 0 if error is None else 1

    def _begin(self) -> None:
        at_ns = time.time_ns()
        # Before it is told: whoever undoes this must know that it was there.
        truth = dataclasses.replace(self.plan.fault, begin_ns=at_ns, onset_ns=self._onset_ns)
        self.journal = msgspec.structs.replace(self.journal, truth=truth)
        self.journals.write(self.journal)
        pids = tuple(worker.pid for worker in self.workers)
        say(Said(what="begun", at_ns=at_ns, workers=pids, onset_ns=self._onset_ns))

    def _enter(self) -> None:
        """Undo what others left, and claim the settings."""
        with self.journals.locked():
            for undone in recover_locked(self.journals):
                say(Said(what="recovered", at_ns=time.time_ns(), error=str(undone)))
            for other in self.journals.all():
                both = set(other.claims) & set(self.journal.claims)
                if both:
                    raise StepError(
                        f"{sorted(both)[0]} is changed by {other.name} already, and each would "
                        "restore what the other has set: wait until that one is undone, or run "
                        "'latencyprism inject --undo' if nothing runs any more"
                    )
            self.journals.write(self.journal)

    def _do(self, step: Step) -> None:
        if self.mail.said():
            raise Stopped
        prepared = step.prepare()
        steps = (*self.journal.steps, prepared)
        self.journal = msgspec.structs.replace(self.journal, steps=steps)
        self.journals.write(self.journal)
        if isinstance(prepared, Work):
            self._start(prepared)
        else:
            prepared.do()

    def _start(self, work: Work) -> None:
        environment = os.environ | {
            PARENT: str(os.getpid()),
            SECONDS: str(READY_SECONDS + self.plan.seconds),
            # One process is to be one busy CPU, whatever arithmetic library it uses.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        deadline = time.monotonic() + READY_SECONDS
        for _ in range(work.count):
            if self.mail.said():
                raise Stopped
            try:
                worker = subprocess.Popen(
                    work.argv(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
                )
                self.workers.append(worker)
                self.handles.append(os.pidfd_open(worker.pid))
            except OSError as err:
                raise StepError(
                    f"no more than {len(self.workers)} processes can be started ({err.strerror}): "
                    "choose a lower intensity"
                ) from err
        for worker in self.workers[-work.count :]:
            self._await_ready(work.fault, worker, deadline)

    def _await_ready(self, fault: str, worker: subprocess.Popen[bytes], deadline: float) -> None:
        assert worker.stdout is not None
        ready = self.mail.wait([worker.stdout.fileno()], deadline)
        if self.mail.said():
            raise Stopped
        if not ready:
            raise StepError(
                f"a worker of {fault} was not under way after {READY_SECONDS:g} s: choose a lower "
                "intensity"
            )
        line = worker.stdout.readline()
        if line != READY:
            raise StepError(self._died(worker, line))

    def _wait(self, deadline: float) -> str | None:
        """Wait for the end; give an error if it comes because a worker died."""
        dead = self.mail.wait(self.handles, deadline)
        if self.mail.said() or not dead:
            return None
        worker = self.workers[self.handles.index(dead[0])]
        assert worker.stdout is not None
        return self._died(worker, worker.stdout.readline())

    def _died(self, worker: subprocess.Popen[bytes], said: bytes) -> str:
        try:
            status = worker.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            status = worker.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        why = said.decode(errors="replace").strip() or "no message: was memory short?"
        name = self.plan.fault.name
        return f"a worker of {name} ended early with {how} ({why}): mend that, run again"

    def _undo(self) -> str | None:
        for worker in self.workers:
            worker.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self.workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(deadline - time.monotonic(), 0.01))
            worker.kill()
        self._close()
        return undo_all(self.journals, self.journal)

    def _close(self) -> None:
        """Let go of the files of workers that have ended: to undo takes some, too."""
        for worker in self.workers:
            assert worker.stdout is not None
            worker.stdout.close()
        for handle in self.handles:
            os.close(handle)


class Mail:
    """What may end an injection early: a signal to the keeper, or the end of the front."""

    def __init__(self, front_pid: int) -> None:
        self._signalled = False
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        self._signals = reader
        self._front = os.pidfd_open(front_pid) if os.getppid() == front_pid else None
        if self._front is None:
            self._signalled = True

    def said(self) -> bool:
        """Say whether it is to end."""
        return self._signalled or bool(self._ready([], 0.0) & self._own())

    def wait(self, fds: list[int], deadline: float) -> list[int]:
        """Wait for one of these files, for mail or for the deadline; give the files, if any."""
        ready = self._ready(fds, max(deadline - time.monotonic(), 0.0))
        return [fd for fd in fds if fd in ready]

    def _own(self) -> set[int]:
        return {sys.stdin.fileno(), self._signals, *([] if self._front is None else [self._front])}

    def _ready(self, fds: list[int], seconds: float) -> set[int]:
        poll = select.poll()
        for fd in (*fds, *self._own()):
            poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(seconds * 1000)}

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signalled = True


def say(said: Said) -> None:
    """Tell the front, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(1, msgspec.json.encode(said) + b"\n")


def allow_files() -> None:
    """Open as many files as all workers take: two each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES:
        # Unlimited is a negative number.
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if hard < 0 else min(FILES, hard), hard))


def start_guard(journals: Journals, fault_id: str) -> int:
    """Fork a process that undoes from the journal at once if this one is killed; give its pid."""
    pidfd = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid:
        os.close(pidfd)
        return pid
    try:
        os.setsid()
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # The front must see the end of our pipe when the keeper's end closes.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"fault-guard", 0, 0, 0)
        select.select([pidfd], [], [])
        for undone in recover(journals, fault_id):
            sys.stderr.write(f"latencyprism inject: {undone}\n")
            sys.stderr.flush()
    finally:
        os._exit(0)


def main() -> int:
    """Keep one injection."""
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        # The front ended before it had said what it wants.
        return 1
    plan = msgspec.json.decode(line, type=Plan)
    try:
        journals = Journals(Path(plan.folder))
    except StepError as err:
        say(Said(what="ended", at_ns=time.time_ns(), error=str(err)))
        return 1
    allow_files()
    guard_pid = start_guard(journals, plan.fault.fault_id)
    # Inherited by all that we start; not by the guard, which has begun already.
    os.environ[MARK] = plan.fault.fault_id
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"fault-keeper", 0, 0, 0)
    status = Keeper(plan, journals).run()
    # Only now: where the keeper breaks, the guard has to do its work.
    os.kill(guard_pid, signal.SIGKILL)
    os.waitpid(guard_pid, 0)
    return status


if __name__ == "__main__":
    sys.exit(main())
