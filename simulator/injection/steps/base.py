"""What every step is, and the names by which we know what is ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

OWN_PREFIX = "latencyprism-"


class StepError(Exception):
    """A step cannot be done, or not undone; the text ends with what to do."""


class BaseStep(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What is prepared, done and undone."""

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


def own(path: str) -> str:
    """Give the path of something of ours; refuse any other name."""
    if not Path(path).name.startswith(OWN_PREFIX):
        raise StepError(f"{path} is not ours: its name must begin with {OWN_PREFIX}")
    return path


def refuse_present(path: str) -> None:
    """Refuse what is there already."""
    if os.path.lexists(own(path)):
        raise StepError(f"{path} is there already: remove it if nothing needs it, and run it again")
