"""Undo injections: those of this process at their end, and those whose keeper died."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from schemas.records import Fault
from simulator.injection.journal import ENDED, Journal, Journals, boot_id
from simulator.injection.steps import Scratch, Step, StepError

MARK = "LATENCYPRISM_FAULT_ID"
"""In the environment of all processes that an injection starts, and of those that they start."""

PAUSES_SECONDS = (0.1, 0.5, 2.0)
END_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """An injection that somebody else had left behind.

    As a text it says what became of it.

    Attributes:
        error: What could not be undone, and what to do by hand; None if all is as it was.
    """

    fault_id: str
    name: str
    error: str | None = None

    def __str__(self) -> str:
        return self.error or f"{self.name} had been left behind by a process that died: undone"


def undo_all(journals: Journals, journal: Journal) -> str | None:
    """End the injection's processes, undo its steps in reverse order, and forget it.

    What cannot be undone stays in the journal; the text says what it is and what to do by hand.
    """
    ended = end_marked(journal.fault_id)
    left: list[Step] = []
    errors = [] if ended is None else [ended]
    for step in reversed(_worth_undoing(journal)):
        error = _undo(step)
        if error is not None:
            left.insert(0, step)
            errors.append(error)
    if not errors:
        if journal.truth is not None:
            _keep_end(journals, journal, journal.truth)
        journals.remove(journal.fault_id)
        return None
    journals.write(msgspec.structs.replace(journal, steps=tuple(left)))
    return (
        f"{journal.name} could not be undone: {'; '.join(errors)}. Do so by hand, or run "
        f"'latencyprism inject --undo' again; until then it is in {journals.path(journal.fault_id)}"
    )


def _keep_end(journals: Journals, journal: Journal, truth: Fault) -> None:
    """Write down that it is over: whoever should tell so may be dead."""
    ended = replace(truth, state="ended", end_ns=time.time_ns())
    # On a full disk it is better lost than its journal kept, to be undone once more.
    with contextlib.suppress(OSError):
        journals.write(msgspec.structs.replace(journal, steps=(), claims=(), truth=ended), ENDED)


def ends_to_tell(journals: Journals) -> list[Fault]:
    """Give the ends of those injections whose front died before it had told them."""
    ended = [journal for journal in journals.all(ENDED) if not journal.is_told()]
    return [journal.truth for journal in ended if journal.truth is not None]


def strange(journals: Journals) -> list[str]:
    """Say which journals nobody can act on, and what to do about each by hand."""
    return [
        f"{path} is broken, not yours, or of another version: run that version's 'latencyprism "
        "inject --undo', or undo by hand the steps in it, last one first; then remove it"
        for path in journals.strange()
    ]


def recover(journals: Journals, fault_id: str | None = None) -> list[Undone]:
    """Undo what processes left behind that died: one injection, or all of this user."""
    with journals.locked():
        return recover_locked(journals, fault_id)


def recover_locked(journals: Journals, fault_id: str | None = None) -> list[Undone]:
    """Do so where the folder is locked already."""
    found = journals.all() if fault_id is None else [journals.read(fault_id)]
    if fault_id is not None and found == [None]:
        # Its keeper may have been killed while it wrote the first line.
        journals.remove(fault_id)
    return [
        Undone(fault_id=journal.fault_id, name=journal.name, error=undo_all(journals, journal))
        for journal in found
        if journal is not None and not journal.is_kept()
    ]


def end_marked(fault_id: str) -> str | None:
    """Kill the injection's processes and wait until they are gone; say so if they are not.

    A worker that stops processes, or a command under way, must not act after the undo.
    """
    deadline = time.monotonic() + END_SECONDS
    while pids := marked(fault_id):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return f"processes {pids} do not end: kill -9 {' '.join(map(str, pids))}"
        time.sleep(0.01)
    return None


def marked(fault_id: str) -> list[int]:
    """Find the living processes that bear the injection's mark."""
    mark = f"{MARK}={fault_id}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            # Empty for a zombie, refused for processes of others.
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


def _worth_undoing(journal: Journal) -> Sequence[Step]:
    if journal.boot_id == boot_id():
        return journal.steps
    # Settings went with the old kernel; what they are now is somebody else's wish.
    return [step for step in journal.steps if isinstance(step, Scratch)]


def _undo(step: Step) -> str | None:
    error: Exception = StepError("not tried")
    for pause_seconds in (*PAUSES_SECONDS, None):
        try:
            step.undo()
        except (StepError, OSError) as err:
            error = err
        else:
            return None
        if pause_seconds is not None:
            time.sleep(pause_seconds)
    by_hand = [line for line in step.show() if line.startswith("undo:")]
    return f"{error} ({'; '.join(by_hand) or 'it has no undo'})"
