"""What a fault is: what it needs and touches, how it is made on a real machine, how it looks in a
simulation.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from schemas.records import FaultSeverity
from simulator.fleet.effect import Effect
from simulator.injection.steps import Step, ancestors_of, state_of

Vendor = Literal["nvidia", "amd"]

# The first one that is installed is used: rocm-smi is older, and amd-smi replaces it.
VENDOR_TOOLS: dict[Vendor, tuple[str, ...]] = {
    "nvidia": ("nvidia-smi",),
    "amd": ("amd-smi", "rocm-smi"),
}
# What a container lets run is often some thousands. Heavy levels reach it on 256 CPUs.
MOST_PROCESSES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What must be there before a fault can be made.

    Attributes:
        root: The steps need root.

        tools: Programs on the PATH.

        modules: Python modules.

        files: Paths that must exist.

        vendors: Accelerators of one of these vendors.

        replica: Only the engine replica can do this to itself.

        target: Processes of an engine; never the first one, the kernel's, ours or those above us.
    """

    root: bool = False
    tools: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    vendors: tuple[Vendor, ...] = ()
    replica: bool = False
    target: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The intensities behind the three severities."""

    light: float
    medium: float
    heavy: float

    def of(self, severity: FaultSeverity) -> float:
        """Give the intensity of a severity."""
        found: float = getattr(self, severity)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom it is aimed at.

    Attributes:
        pids: Processes of the engine, the one that iterates first; empty for the host as a whole.

        url: Address of the engine's API.

        devices: Indices of accelerators, as the vendor's tool counts them.
    """

    pids: tuple[int, ...] = ()
    url: str | None = None
    devices: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a fault may ask about the machine before it plans.

    Attributes:
        cpus: CPUs that we may run on.

        root: Where the file systems /proc and /sys hang.

        uid: User that runs us.

        which: Finds a program.

        has_module: Says whether a Python module is installed.

        memory_bytes: Memory of the host.

        scratch: Folder for files; those of a fault go into one of its own below.
    """

    cpus: tuple[int, ...] = field(default_factory=lambda: tuple(sorted(os.sched_getaffinity(0))))
    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    which: Callable[[str], str | None] = shutil.which
    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None
    memory_bytes: int = field(
        default_factory=lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    scratch: Path = Path("/var/tmp")

    def path(self, name: str) -> Path:
        """Give an absolute path as it is on this machine."""
        return self.root / name.lstrip("/")

    def vendor(self, among: tuple[Vendor, ...]) -> Vendor | None:
        """Give the first of these vendors whose tool is here."""
        return next((one for one in among if any(map(self.which, VENDOR_TOOLS[one]))), None)


class Injector(ABC):
    """A fault: one file in `simulator/faults` with one subclass.

    `plan` says what would be done and changes nothing; the keeper does it, and undoes it whatever
    happens. `work` is what the plan's `Work` processes run. `effect` is the same fault in a
    simulated fleet, from what was measured on real machines where that is known.
    """

    summary: ClassVar[str]
    """One sentence for ``latencyprism inject --list``."""

    touches: ClassVar[str]
    """What it changes and whom else on the machine it slows, for the person who decides."""

    causes: ClassVar[tuple[str, ...]]
    """Right answers to why, best first; names of `schemas.causes`."""

    unit: ClassVar[str]
    """What the intensity counts."""

    levels: ClassVar[Levels]
    """Light, medium and heavy in that unit."""

    needs: ClassVar[Needs] = Needs()

    intermittent: ClassVar[bool] = False
    """Only some batches are hit."""

    limits: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    """Lowest and highest intensity that may be asked for."""

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say why it cannot be made here; each sentence ends with what to do. Empty if it can."""
        return missing_needs(self.needs, target, machine)

    def is_host_wide(self, intensity: float) -> bool:
        """Tell whether every engine on the host feels it, whomever it is aimed at."""
        aimed = self.needs.target or self.needs.replica or bool(self.needs.vendors)
        return bool(self.effect(intensity).host) and not aimed

    @abstractmethod
    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Lay out the steps; they are done in order and undone in reverse."""

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Load the machine in a process of its own until ``running()`` is false.

        Ask at least ten times a second. Call nothing that outlives the process.
        """
        raise NotImplementedError(f"{type(self).__name__} starts no workers")

    @abstractmethod
    def effect(self, intensity: float) -> Effect:
        """Describe it for the simulation."""


def missing_needs(needs: Needs, target: Target, machine: Machine) -> list[str]:
    """Say what of the needs is not there, and what to do about each."""
    found = []
    if needs.root and machine.uid != 0:
        found.append("it needs root: run it with sudo")
    found += [
        f"{tool} is not installed: install the package that brings it"
        for tool in needs.tools
        if machine.which(tool) is None
    ]
    found += [
        f"the Python module {module} is not installed: pip install it into this environment"
        for module in needs.modules
        if not machine.has_module(module)
    ]
    found += [
        f"{path} is not there: this kernel or machine does not offer it; choose another fault"
        for path in needs.files
        if not machine.path(path).exists()
    ]
    if needs.vendors and machine.vendor(needs.vendors) is None:
        tools = " or ".join(tool for vendor in needs.vendors for tool in VENDOR_TOOLS[vendor])
        found.append(f"no {tools} here: run it on a machine with such an accelerator")
    if needs.replica and target.url is None:
        found.append(
            "only the engine replica can do this: start one with 'latencyprism simulate engine' "
            "and give its address with --url"
        )
    if needs.target and not target.pids:
        found.append("it is aimed at an engine: give its processes with --pid")
    if needs.target:
        found += [text for pid in target.pids if (text := _unfit(pid, machine)) is not None]
    return found


def _unfit(pid: int, machine: Machine) -> str | None:
    """Say why a process must not be slowed, or cannot be."""
    advice = "give the engine's processes with --pid"
    state = state_of(pid, machine.path("/proc"))
    if state is None:
        return f"there is no process {pid}: {advice}"
    if pid == 1 or state.is_of_kernel:
        return f"process {pid} is the system's first, or a thread of the kernel: {advice}"
    if pid in (os.getpid(), *ancestors_of(os.getpid())):
        return f"process {pid} is this one, or one that started it: {advice}"
    if machine.uid not in (0, machine.path(f"/proc/{pid}").stat().st_uid):
        return f"process {pid} belongs to another user: run it as that user, or with sudo"
    return None


def processes_for(per_cpu: float, cpus: int) -> int:
    """Give how many processes make so many per CPU: one at least, and no more than is sane."""
    return min(max(1, round(per_cpu * cpus)), MOST_PROCESSES)
