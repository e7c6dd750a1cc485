"""The host's accelerators: one worker process for each vendor, and whose each device is.

Nothing here waits for a driver: `Devices.readings` takes what the workers have written by now.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from collectors.config import CollectSettings
from collectors.discovery import PROC, EngineProcess
from collectors.xpu.base import Vendor, available, load
from collectors.xpu.child import Child, Command, State, worker_command
from collectors.xpu.owners import Owners, Share
from collectors.xpu.worker import Look
from schemas.records import XpuDevice, XpuProcess, XpuReading

AUTO = "auto"
DEVICE_FIELDS = tuple(one.name for one in fields(XpuDevice))


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorStatus:
    """How it goes with one vendor, for ``doctor`` and the health endpoint.

    Attributes:
        way: What is asked, as ``nvml``; None where nothing answers.

        state: ``starting``, ``working``, ``failing`` (tried again after a pause), ``paused``
            (tried again only every few minutes) or ``stopped``.

        text: A sentence: what is here, what is wrong, what a better way needs.

        experimental: Why this vendor's counters are not trusted yet; None where they are.

        timeouts: Looks that took too long, each the end of a worker.

        deaths: Workers that ended by themselves.

        undead: Killed workers that have not died: they hang in the driver.
    """

    vendor: str
    way: str | None
    state: State
    text: str
    devices: int = 0
    looks: int = 0
    timeouts: int = 0
    deaths: int = 0
    undead: int = 0
    experimental: str | None = None


@dataclass(slots=True)
class _Watched:
    vendor: Vendor
    child: Child
    owners: Owners
    shares: dict[str, dict[str, Share]] = field(default_factory=dict)


class Devices:
    """All accelerators of this host.

    Args:
        host: Name of this host in every record.

        settings: Section ``[collect]``.

        vendors: Instead of those that the settings name; for tests.

        command: Gives a worker's command line; for tests.

        proc: Root of the process file system.

        sys: Root of the system's device tree.

        clock: Seconds that only grow.

    Raises:
        LookupError: The settings name a vendor that does not exist.
    """

    def __init__(
        self,
        host: str,
        settings: CollectSettings,
        *,
        vendors: Sequence[Vendor] | None = None,
        command: Command = worker_command,
        proc: Path = PROC,
        sys: Path = Path("/sys"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        # Doctor and health ask from other threads than the agent's.
        self._lock = threading.Lock()
        chosen = chosen_vendors(settings.xpus, sys) if vendors is None else list(vendors)
        self._watched = [
            _Watched(
                vendor,
                Child(
                    vendor.name(),
                    settings.xpu_period_seconds,
                    settings.xpu_timeout_seconds,
                    command,
                    clock,
                ),
                Owners(vendor, proc, sys, clock),
            )
            for vendor in chosen
        ]

    def readings(self, engines: dict[str, EngineProcess]) -> list[XpuReading]:
        """Give each engine's copies of what was seen since the last call; never waits.

        Args:
            engines: The engines of this host by engine_id.
        """
        found: list[XpuReading] = []
        with self._lock:
            for watched in self._watched:
                watched.child.poll()
                if watched.child.newest is None:
                    watched.shares = {}
                for look in watched.child.take():
                    watched.shares = watched.owners.shares(engines, look.devices)
                    found += self._copies(look, watched.shares)
        return found

    def device_ids(self, pid: int) -> tuple[str, ...] | None:
        """Give the devices that a process of an engine uses; None where that is not known."""
        used = {
            device_id
            for watched in self._watched
            for by_device in watched.shares.values()
            for device_id, share in by_device.items()
            if pid in share.users
        }
        return tuple(sorted(used)) or None

    def devices_of(self, engine_id: str) -> tuple[str, ...]:
        """Give the devices that an engine uses, or may use."""
        return tuple(
            sorted(
                device_id
                for watched in self._watched
                for device_id in watched.shares.get(engine_id, ())
            )
        )

    def models_of(self, device_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Give the names of the models of these devices; an empty one where it is not told."""
        models = {
            device.device_id: device.model or ""
            for watched in self._watched
            if watched.child.newest is not None
            for device in watched.child.newest.devices
        }
        return tuple(models.get(device_id, "") for device_id in device_ids)

    def note(self, engine_id: str) -> str | None:
        """Say why an engine has no devices although the host has some; None where it has."""
        seen = [
            watched
            for watched in self._watched
            if engine_id in watched.shares and watched.child.newest and watched.child.newest.devices
        ]
        if not seen or any(watched.shares[engine_id] for watched in seen):
            return None
        names = ", ".join(watched.vendor.title for watched in seen)
        return (
            f"which of the host's accelerators ({names}) it uses is not known: run the agent as "
            "root or with SYS_PTRACE, in the host's PID namespace"
        )

    def status(self) -> list[VendorStatus]:
        """Say how it goes with each vendor."""
        return [_status(watched) for watched in self._watched]

    def wait(self, seconds: float) -> None:
        """Give the workers time to answer once; for ``doctor``, never for the agent."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._lock:
                for watched in self._watched:
                    watched.child.poll()
            if all(watched.child.state != "starting" for watched in self._watched):
                return
            time.sleep(0.05)

    def stop(self) -> None:
        """End all workers; one that hangs in the driver is left to it."""
        with self._lock:
            for watched in self._watched:
                watched.child.stop()

    def _copies(self, look: Look, shares: dict[str, dict[str, Share]]) -> list[XpuReading]:
        devices = {device.device_id: device for device in look.devices}
        return [
            reading_of(devices[device_id], share, engine_id, self._host, look)
            for engine_id, by_device in shares.items()
            for device_id, share in by_device.items()
        ]


def chosen_vendors(names: Sequence[str], sys: Path = Path("/sys")) -> list[Vendor]:
    """Make the vendors that the settings name; ``auto`` stands for those whose devices are here.

    Raises:
        LookupError: There is no such vendor; the text lists what there is.
    """
    chosen = {name: load(name) for name in names if name != AUTO}
    if AUTO in names:
        for name in available():
            vendor = load(name)
            # A mistake in one vendor's file must not keep the others from being read.
            with contextlib.suppress(Exception):
                if vendor.is_here(sys):
                    chosen.setdefault(name, vendor)
    return list(chosen.values())


def reading_of(
    device: XpuDevice, share: Share, engine_id: str, host: str, look: Look
) -> XpuReading:
    """Give one engine's copy of a look at a device, with the others on it told apart."""
    seen = {name: getattr(device, name) for name in DEVICE_FIELDS}
    # A list without the engine's own process is not the whole list.
    listed = device.processes if share.pids else None
    others = None if listed is None else [one for one in listed if one.pid not in share.pids]
    own = None if listed is None else [one for one in listed if one.pid in share.pids]
    return XpuReading(
        **seen,
        engine_id=engine_id,
        host=host,
        begin_ns=look.begin_ns,
        end_ns=look.end_ns,
        ranks=tuple(sorted(share.ranks)),
        engine_memory_used_bytes=_memory(own),
        others_memory_used_bytes=_memory(others),
        others=None if others is None else len(others),
    )


def _memory(processes: Sequence[XpuProcess] | None) -> int | None:
    """Add up what processes hold; None where one of them does not tell."""
    if processes is None:
        return None
    known = [one.memory_used_bytes for one in processes if one.memory_used_bytes is not None]
    return sum(known) if len(known) == len(processes) else None


def _status(watched: _Watched) -> VendorStatus:
    child, newest = watched.child, watched.child.newest
    working = child.state == "working"
    devices = len(newest.devices) if newest is not None else 0
    title = watched.vendor.title
    if working:
        text = f"{devices} {'device' if devices == 1 else 'devices'} of {title} by {child.tool}"
        if not devices:
            text += ": in a container, pass the device files on to it"
    elif child.state == "starting":
        text = f"{title}: waiting for the first answer"
    elif child.state == "stopped":
        text = f"{title}: stopped"
    else:
        text = f"{title}: {child.error}"
    better = [f"{name} ({why})" for name, why in (child.closed | child.avoided).items()]
    if better and working:
        text += f"; not open, though better: {', '.join(better)}"
    return VendorStatus(
        vendor=watched.vendor.name(),
        way=child.tool if working else None,
        state=child.state,
        text=text,
        devices=devices,
        looks=child.looks,
        timeouts=child.timeouts,
        deaths=child.deaths,
        undead=child.undead,
        experimental=watched.vendor.experimental,
    )
