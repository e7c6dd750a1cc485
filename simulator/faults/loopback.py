"""The loopback device of a network namespace, and what its kernel can do to it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import ClassVar

from simulator.injection.base import Injector, Machine, Needs, Target
from simulator.injection.steps import Qdisc, Step

PROBE_SECONDS = 10.0


class LoopbackFault(Injector):
    """A fault of the loopback traffic within the network namespace of the engine."""

    touches = (
        "delays or drops all loopback traffic in the network namespace of the engine: its clients "
        "there, and the sockets between its own processes"
    )
    # No counter that is read tells a slow network from a slow hand-over to the workers.
    causes = ("network_delay", "dispatch_slower")
    needs = Needs(root=True, tools=("tc", "nsenter", "unshare"), target=True)

    probe: ClassVar[tuple[str, ...]]
    """The discipline, as `tc` takes it, that the kernel has to know."""

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Refuse the host's own namespace, and a kernel without the discipline."""
        found = super().obstacles(target, machine)
        if found:
            return found
        namespace = namespace_of(target.pids[0], machine)
        if namespace is None:
            return [f"no process {target.pids[0]}: give the engine's with --pid"]
        if namespace in {namespace_of(1, machine), namespace_of("self", machine)}:
            found.append(
                f"process {target.pids[0]} shares the host's network namespace, or ours, so all "
                "loopback traffic there would suffer: start the engine in a container or with "
                "'ip netns exec', and this outside of it"
            )
        if machine.root == Path("/") and not kernel_has(self.probe):
            found.append(
                f"this kernel has no {self.probe[0]}: load it with 'modprobe sch_{self.probe[0]}'"
            )
        return found

    def qdisc(self, arguments: tuple[str, ...], target: Target, machine: Machine) -> list[Step]:
        """Put a discipline on the loopback device of the target."""
        namespace = namespace_of(target.pids[0], machine) if target.pids else None
        return [Qdisc(namespace=namespace or "net:[0]", arguments=arguments)]


def namespace_of(pid: int | str, machine: Machine) -> str | None:
    """Name the network namespace of a process, as ``net:[4026531840]``."""
    try:
        return os.readlink(machine.path(f"/proc/{pid}/ns/net"))
    except OSError:
        return None


@cache
def kernel_has(discipline: tuple[str, ...]) -> bool:
    """Try a discipline in a network namespace that exists for this trial only."""
    argv = ("unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", *discipline)
    try:
        done = subprocess.run(argv, capture_output=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
