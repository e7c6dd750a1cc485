"""Inject a fault from a program: a context manager that starts a keeper and tells the truth."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from schemas.records import Fault, FaultSeverity
from simulator.faults import Injector, Machine, Target, load
from simulator.injection.journal import ENDED, Journals, usual_folder
from simulator.injection.keeper import Plan, Said
from simulator.injection.steps import Step, StepError
from simulator.injection.undo import ends_to_tell, recover, strange

USUAL_SECONDS = 60.0
MOST_SECONDS = 3600.0

Publish = Callable[[Fault], None]


class Refused(Exception):
    """The fault cannot be made here; nothing was changed. The text ends with what to do."""


class InjectionError(Exception):
    """The fault could not be made, kept up or undone. The text ends with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How hard; the severity is None where a number was asked for."""

    intensity: float
    severity: FaultSeverity | None = None


class Running:
    """A keeper, as the front sees it.

    Attributes:
        fault: The truth so far.

        workers: Processes of the injection.

        begun: It was there, if only for a moment.

        notes: What the keeper found and undid that others had left behind.
    """

    def __init__(self, fault: Fault, steps: Sequence[Step], seconds: float, folder: Path) -> None:
        self.fault = fault
        self.workers: tuple[int, ...] = ()
        self.notes: list[str] = []
        self.begun = False
        self._journals = Journals(folder)
        plan = Plan(
            fault=fault,
            seconds=seconds,
            steps=tuple(steps),
            folder=str(folder),
            front_pid=os.getpid(),
        )
        self._process = subprocess.Popen(
            # What follows the module is for whoever looks at the list of processes.
            (sys.executable, "-P", "-m", "simulator.injection.keeper", fault.name, fault.fault_id),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        # A keeper that died already is found out when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(plan) + b"\n")
            self._process.stdin.flush()

    @property
    def keeper_pid(self) -> int:
        """The process that keeps the fault."""
        return self._process.pid

    @property
    def error(self) -> str | None:
        """Why it could not be made, kept up or undone."""
        return self.fault.error

    def has_ended(self) -> bool:
        """Say whether all is undone already."""
        return self.wait(0.0)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the fault has ended by itself, and say whether it has."""
        if self.fault.state == "ended":
            return True
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], seconds)[0]:
            return False
        self._take_end()
        return True

    def start(self) -> None:
        """Wait until the fault is there.

        Raises:
            InjectionError: A step failed; those before it are undone.
        """
        said = self._listen()
        if said.what == "begun":
            self.begun = True
            self.workers = said.workers
            self.fault = replace(self.fault, begin_ns=said.at_ns, onset_ns=said.onset_ns)
            return
        self._ended(said)
        raise InjectionError(
            self.error or f"{self.fault.name} was stopped before it began: run it again"
        )

    def end(self) -> None:
        """Have it undone, and wait for that."""
        if self.fault.state == "ended":
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._take_end()

    def forget_end(self) -> None:
        """Let nobody else tell the end, for it was told."""
        self._journals.remove(self.fault.fault_id, ENDED)

    def _take_end(self) -> None:
        # Whoever gave up waiting for the beginning may hear of it now.
        while (said := self._listen()).what != "ended":
            pass
        self._ended(said)

    def _ended(self, said: Said) -> None:
        self.fault = replace(self.fault, state="ended", end_ns=said.at_ns, error=said.error)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _listen(self) -> Said:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            said = msgspec.json.decode(line, type=Said)
            if said.what != "recovered":
                return said
            self.notes.append(said.error or "")
        return self._undo_for_the_keeper()

    def _undo_for_the_keeper(self) -> Said:
        """Undo from the journal what a keeper left that was killed; its guard may be faster."""
        status = self._process.wait()
        left = [one.error for one in recover(self._journals, self.fault.fault_id) if one.error]
        how = f"signal {-status}" if status < 0 else f"status {status}"
        error = f"the keeper ended with {how}; its journal was undone: run it again"
        return Said(what="ended", at_ns=time.time_ns(), error="; ".join((*left[:1], error)))


@contextlib.contextmanager
def injected(
    name: str,
    *,
    severity: FaultSeverity | None = None,
    intensity: float | None = None,
    target: Target | None = None,
    seconds: float = USUAL_SECONDS,
    machine: Machine | None = None,
    publish: Publish | None = None,
    engine_ids: tuple[str, ...] = (),
    host: str | None = None,
    folder: Path | None = None,
    most_seconds: float = MOST_SECONDS,
) -> Iterator[Running]:
    """Make a fault for the length of the block, and for at most so many seconds.

    Args:
        name: Of the fault.

        severity: How hard; medium if neither this nor `intensity` is given.

        intensity: The same as a number, in the fault's unit.

        target: Whom it is aimed at.

        seconds: It is undone after this time even if the block goes on.

        machine: What the fault may know about the machine.

        publish: Gets the truth when the fault is there, and again when it is undone. If it raises,
            the fault is undone and the error passed on. Before that it gets the ends of injections
            whose front was killed, so that no truth stays open but after a reboot.

        engine_ids: Engines that it is aimed at. A fault of the whole host names none: all on it
            should feel it.

        host: Name of this host in the truth.

        folder: Where the journals are.

        most_seconds: More than this is refused.

    Raises:
        Refused: It cannot be made here; nothing was changed.

        InjectionError: It could not be made, kept up or undone.
    """
    injector = load(name)
    folder = folder or usual_folder()
    # Before the plan: it looks at what is there.
    notes = recovered(folder)
    if publish is not None:
        tell_ends(folder, publish)
    target = target or Target()
    machine = machine or Machine()
    strength = strength_of(injector, severity, intensity)
    refuse_long(seconds, most_seconds)
    if obstacles := injector.obstacles(target, machine):
        raise Refused("; ".join(obstacles))
    fault = Fault(
        fault_id=uuid.uuid4().hex,
        name=name,
        kind="fault",
        state="begun",
        intensity=strength.intensity,
        severity=strength.severity,
        host=host or socket.gethostname(),
        begin_ns=time.time_ns(),
        causes=injector.causes,
        engine_ids=() if injector.is_host_wide(strength.intensity) else engine_ids,
        pids=target.pids,
        intermittent=injector.intermittent,
    )
    steps = lay_out(injector, strength, target, machine)
    with kept(fault, steps, seconds=seconds, publish=publish, folder=folder) as running:
        running.notes[:0] = notes
        yield running


@contextlib.contextmanager
def kept(
    fault: Fault,
    steps: Sequence[Step],
    *,
    seconds: float = USUAL_SECONDS,
    publish: Publish | None = None,
    folder: Path | None = None,
) -> Iterator[Running]:
    """Do these steps for the length of the block, and for at most so many seconds."""
    publish = publish or (lambda _: None)
    try:
        running = Running(fault, steps, seconds, folder or usual_folder())
    except StepError as err:
        raise Refused(str(err)) from err
    try:
        running.start()
        publish(running.fault)
        yield running
    finally:
        running.end()
        if running.begun:
            publish(running.fault)
            running.forget_end()
    if running.error:
        raise InjectionError(running.error)


def recovered(folder: Path) -> list[str]:
    """Undo what injections left behind whose processes died; say what was found.

    Raises:
        Refused: The folder of the journals cannot be used.
    """
    try:
        journals = Journals(folder)
        return [*map(str, recover(journals)), *strange(journals)]
    except StepError as err:
        raise Refused(str(err)) from err


def tell_ends(folder: Path, publish: Publish) -> None:
    """Tell the ends of injections whose front was killed before it could do so."""
    journals = Journals(folder)
    for fault in ends_to_tell(journals):
        publish(fault)
        journals.remove(fault.fault_id, ENDED)


def strength_of(
    injector: Injector, severity: FaultSeverity | None, intensity: float | None
) -> Strength:
    """Give how hard the fault is to be.

    Raises:
        Refused: The number is beyond the fault's limits.
    """
    if intensity is None:
        severity = severity or "medium"
        return Strength(intensity=injector.levels.of(severity), severity=severity)
    low, high = injector.limits
    if not low <= intensity <= high:
        raise Refused(
            f"intensity {intensity:g} is beyond its limits: give {low:g} to {high:g} "
            f"({injector.unit})"
        )
    return Strength(intensity=intensity)


def lay_out(injector: Injector, strength: Strength, target: Target, machine: Machine) -> list[Step]:
    """Give the fault's steps.

    Raises:
        Refused: It has none here.
    """
    try:
        steps = injector.plan(strength.intensity, target, machine)
    except StepError as err:
        raise Refused(str(err)) from err
    except (OSError, LookupError, ValueError) as err:
        raise Refused(
            f"it has no plan here ({type(err).__name__}: {err}): see that the engine's processes "
            "still run, and choose another fault if they do"
        ) from err
    if not steps:
        raise Refused("there is nothing that it could change here: choose another fault")
    return steps


def refuse_long(seconds: float, most_seconds: float = MOST_SECONDS) -> None:
    """Refuse a time that is none, or longer than it should be.

    Raises:
        Refused: It is.
    """
    if not 0 < seconds <= most_seconds:
        raise Refused(
            f"{seconds:g} s is not allowed: give more than 0 and at most {most_seconds:g} s"
        )
