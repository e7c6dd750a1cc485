"""Settings of the machine: by a command that knows them, or by a file of the kernel."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import msgspec

from simulator.injection.steps.base import BaseStep, StepError

COMMAND_SECONDS = 20.0


class Run(BaseStep, tag="run", frozen=True, kw_only=True):
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
        if self.ask_argv and run_command(self.ask_argv).strip() != self.answer:
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
        run_command(self.argv)

    def undo(self) -> None:
        """Run the command that undoes it."""
        if self.undo_argv:
            run_command(self.undo_argv)

    def show(self) -> tuple[str, ...]:
        """Give both commands."""
        lines = (" ".join(self.argv),)
        return (*lines, f"undo: {' '.join(self.undo_argv)}") if self.undo_argv else lines


class Write(BaseStep, tag="write", frozen=True, kw_only=True):
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
            write_file(self.path, self.text)
        except OSError as err:
            raise StepError(
                f"cannot write {self.text!r} to {self.path} ({err.strerror}): run this as root, or "
                "give a value that the kernel takes"
            ) from err

    def undo(self) -> None:
        """Write the old value back; a file that is gone took it along."""
        if self.before is not None:
            with contextlib.suppress(FileNotFoundError):
                write_file(self.path, self.before)

    def claims(self) -> tuple[str, ...]:
        """Name the file, whatever links lead to it."""
        return (os.path.realpath(self.path),)

    def show(self) -> tuple[str, ...]:
        """Give the line of shell that would do it."""
        before = "the value of before" if self.before is None else self.before.strip()
        return (f"echo {self.text} > {self.path}", f"undo: echo {before} > {self.path}")


def run_command(argv: tuple[str, ...]) -> str:
    """Run a command to its end and give what it printed."""
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


def write_file(path: str, text: str) -> None:
    """Write a text into a file that is there."""
    # Not made where it is not there, and in one piece, as the kernel's files want it.
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        if text:
            os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
