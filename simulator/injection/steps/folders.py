"""Folders of our own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from simulator.injection.steps.base import BaseStep, StepError, own, refuse_present


class Scratch(BaseStep, tag="scratch", frozen=True, kw_only=True):
    """A folder of our own for files; its name must begin with ``latencyprism-``."""

    path: str

    def prepare(self) -> Scratch:
        """See that it is not there: it would not be ours to remove."""
        refuse_present(self.path)
        return self

    def claims(self) -> tuple[str, ...]:
        """Name the folder."""
        return (os.path.realpath(self.path),)

    def do(self) -> None:
        """Make it."""
        try:
            Path(own(self.path)).mkdir(mode=0o700)
        except OSError as err:
            raise StepError(
                f"cannot make the folder {self.path} ({err.strerror}): choose another --scratch"
            ) from err

    def undo(self) -> None:
        """Remove it with all that is in it; the kernel keeps a file that is swapped to."""
        try:
            shutil.rmtree(own(self.path))
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
