"""The traffic of a network namespace."""

from __future__ import annotations

import contextlib
from pathlib import Path

from simulator.injection.steps.base import BaseStep, StepError
from simulator.injection.steps.settings import run_command

QDISC_HANDLE = "1a7e:"


class Qdisc(BaseStep, tag="qdisc", frozen=True, kw_only=True):
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
        return run_command(
            ("nsenter", f"--net={entrance}", "tc", "qdisc", verb, "dev", "lo", *root, *arguments)
        )


def _in_namespace(namespace: str) -> str | None:
    """Find a file by which a network namespace can be entered; None where it is gone."""
    for path in (*Path("/proc").glob("[0-9]*/ns/net"), *Path("/run/netns").glob("*")):
        with contextlib.suppress(OSError):
            if f"net:[{path.stat().st_ino}]" == namespace:
                return str(path)
    return None
