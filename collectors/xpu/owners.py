"""Tell which engine, and which rank of it, uses which accelerator, from three witnesses.

Best first: the vendor's list of processes on each device; the device files that a process has
open; the environment variables by which it was given some devices only. The last two say what a
process may use, so they name a rank only where they leave a single device.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collectors.discovery import PROC, EngineProcess, read_process
from collectors.xpu.base import Vendor
from schemas.records import XpuDevice

# A process opens its devices when it starts and keeps them.
REMEMBERED_SECONDS = 30.0
MOST_ANCESTORS = 8
# A process table entry, with its environment and open files, is read for engines only.
MOST_ENVIRON_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class Witness:
    """What a process's open files and environment say of the devices that it may use.

    ``visible`` are the words of its variables, as ``0`` or ``GPU-5269b708``; None where it has
    no such variable. ``in_container`` says that indices among them may be the container's own.
    """

    files: frozenset[str] = frozenset()
    visible: tuple[str, ...] | None = None
    in_container: bool = False
    pids: frozenset[int] = frozenset()


@dataclass(slots=True)
class Share:
    """One engine's part in one device.

    ``pids`` are its processes as the vendor lists them, ``users`` those that are known to use
    the device, by our own count.
    """

    pids: set[int] = field(default_factory=set)
    users: set[int] = field(default_factory=set)
    ranks: set[int] = field(default_factory=set)


def parse_environ(data: bytes, names: Iterable[str]) -> tuple[str, ...] | None:
    """Give the words of the named variables in ``/proc/<pid>/environ``; of others nothing.

    The first name that is there counts: a framework's own variable stands before a runtime's.
    """
    found: dict[str, str] = {}
    wanted = {name.encode(): name for name in names}
    for entry in data.split(b"\0"):
        key, equals, value = entry.partition(b"=")
        if equals and key in wanted:
            found[wanted[key]] = value.decode(errors="replace")
    for name in names:
        words = [word.strip() for word in re.split(r"[,;]", found.get(name, "all"))]
        if words != ["all"]:
            return tuple(word for word in words if word)
    return None


def parse_nspid(text: str) -> tuple[int, ...]:
    """Give a process's pids from ``/proc/<pid>/status``, ours first, its own namespace's last."""
    match = re.search(r"^NSpid:\s*(.*)$", text, re.MULTILINE)
    return tuple(int(word) for word in match[1].split()) if match is not None else ()


def read_witness(pid: int, vendor: Vendor, proc: Path, sys: Path) -> Witness:
    """Read what a process shows; what may not be read is empty."""
    folder = proc / str(pid)
    targets: list[str] = []
    try:
        for entry in os.scandir(folder / "fd"):
            try:
                targets.append(os.readlink(entry.path))
            except OSError:
                continue
    except OSError:
        pass
    try:
        with (folder / "environ").open("rb") as environ:
            visible = parse_environ(environ.read(MOST_ENVIRON_BYTES), vendor.visible_variables)
    except OSError:
        visible = None
    try:
        pids = parse_nspid((folder / "status").read_text())
    except (OSError, ValueError):
        pids = ()
    files = vendor.device_files([path for path in targets if path.startswith("/dev/")], sys, proc)
    return Witness(frozenset(files), visible, len(pids) > 1, frozenset(pids))


def may_use(witness: Witness, devices: Sequence[XpuDevice]) -> set[str]:
    """Give the devices that a process may use, by its open files and its environment."""
    by_file = {
        device.device_id
        for device in devices
        if device.pci_address in witness.files or str(device.device_index) in witness.files
    }
    if witness.visible is None:
        return by_file
    by_variable = {
        device.device_id
        for device in devices
        if any(_means(word, device, witness.in_container) for word in witness.visible)
    }
    return (by_file & by_variable) or by_file or by_variable


def _means(word: str, device: XpuDevice, in_container: bool) -> bool:
    index = re.fullmatch(r"(\d+)(?:\.\d+)?", word)
    if index is not None:
        # In a container the runtime counts from 0 whatever devices it was given.
        return not in_container and int(index[1]) == device.device_index
    # Runtimes take the beginning of an id, too.
    return len(word) >= 8 and device.device_id.lower().startswith(word.lower())


class Owners:
    """Tell who uses a vendor's devices; what a process shows is read again every half minute.

    Args:
        vendor: Whose devices.

        proc: Root of the process file system.

        sys: Root of the system's device tree.

        clock: Seconds that only grow.
    """

    def __init__(
        self,
        vendor: Vendor,
        proc: Path = PROC,
        sys: Path = Path("/sys"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vendor = vendor
        self._proc = proc
        self._sys = sys
        self._clock = clock
        self._witnesses: dict[tuple[int, int], Witness] = {}
        self._forget_at = 0.0

    def shares(
        self, engines: dict[str, EngineProcess], devices: Sequence[XpuDevice]
    ) -> dict[str, dict[str, Share]]:
        """Give each engine's share of each device that it uses, by engine and device."""
        if self._clock() >= self._forget_at:
            self._witnesses.clear()
            self._forget_at = self._clock() + REMEMBERED_SECONDS
        found: dict[str, dict[str, Share]] = {name: {} for name in engines}
        self._by_process_list(engines, devices, found)
        for name, engine in engines.items():
            if not found[name]:
                self._by_witness(engine, devices, found[name])
        if len(engines) == 1 and not any(found.values()) and not _lists_processes(devices):
            # Who else would it be for?
            found[next(iter(engines))] = {device.device_id: Share() for device in devices}
        return found

    def _by_process_list(
        self,
        engines: dict[str, EngineProcess],
        devices: Sequence[XpuDevice],
        found: dict[str, dict[str, Share]],
    ) -> None:
        owner_of = {pid: name for name, engine in engines.items() for pid in engine.roles}
        listed = {process.pid for device in devices for process in device.processes or ()}
        real = {pid: self._real(pid, engines, owner_of) for pid in listed}
        for device in devices:
            for process in device.processes or ():
                pid, name = real[process.pid]
                if name is None:
                    continue
                share = found[name].setdefault(device.device_id, Share())
                share.pids.add(process.pid)
                share.users.add(pid)
                if (rank := engines[name].rank_of.get(pid)) is not None:
                    share.ranks.add(rank)

    def _real(
        self, pid: int, engines: dict[str, EngineProcess], owner_of: dict[int, str]
    ) -> tuple[int, str | None]:
        """Give a listed process's pid as we see it, and whose engine's it is."""
        if pid in owner_of:
            return pid, owner_of[pid]
        process = read_process(pid, self._proc)
        if process is None:
            # The tool may have told the pid of the process's own namespace.
            for name, engine in engines.items():
                for own in engine.roles:
                    if pid in self._witness(engine, own).pids:
                        return own, name
            return pid, None
        for _ in range(MOST_ANCESTORS):
            if process.parent_pid in owner_of:
                return pid, owner_of[process.parent_pid]
            process = read_process(process.parent_pid, self._proc)
            if process is None:
                break
        return pid, None

    def _by_witness(
        self, engine: EngineProcess, devices: Sequence[XpuDevice], found: dict[str, Share]
    ) -> None:
        for pid in engine.roles:
            allowed = may_use(self._witness(engine, pid), devices)
            rank = engine.rank_of.get(pid)
            for device_id in allowed:
                share = found.setdefault(device_id, Share())
                if len(allowed) == 1:
                    share.users.add(pid)
                    share.ranks |= set() if rank is None else {rank}

    def _witness(self, engine: EngineProcess, pid: int) -> Witness:
        # The core's start tells a pid that was given to another process later.
        key = (pid, engine.core.start_ticks)
        if key not in self._witnesses:
            self._witnesses[key] = read_witness(pid, self._vendor, self._proc, self._sys)
        return self._witnesses[key]


def _lists_processes(devices: Sequence[XpuDevice]) -> bool:
    """Whether the vendor's own list says who is on the devices, and so who is not."""
    return any(device.processes for device in devices)
