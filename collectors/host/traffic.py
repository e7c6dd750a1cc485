"""What the host's disks and network carried since boot, and what the network can carry."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from collectors.host.files import read_int, read_text, read_text_or_none

PROC = Path("/proc")
SYS = Path("/sys")
SECTOR_BYTES = 512
# Held by memory or by files: what they carry is memory, or the disk's below them.
NOT_DISKS = ("loop", "ram", "zram")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disks:
    """Bytes since boot over some disks, and how long each had work."""

    read_bytes: int = 0
    written_bytes: int = 0
    busy_ms: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes since boot, over all whole disks and all network devices; None for what is hidden.

    ``disk_busy_ms`` is the time in which each disk had work.
    """

    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    disk_busy_ms: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Names of what is counted: nothing twice.

    ``disks`` is None where the kernel hides them, ``links`` where no network device is one of
    hardware, as inside a container.
    """

    disks: frozenset[str] | None = None
    links: frozenset[str] | None = None


def parse_disks(text: str, disks: Collection[str]) -> Disks:
    """Add up the named disks of ``/proc/diskstats``; kernels before 2.6 have fewer columns."""
    read = written = 0
    busy_ms: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[2] in disks:
            read += int(fields[5]) * SECTOR_BYTES
            written += int(fields[9]) * SECTOR_BYTES
            if len(fields) > 12:
                busy_ms[fields[2]] = int(fields[12])
    return Disks(read_bytes=read, written_bytes=written, busy_ms=busy_ms)


def parse_interfaces(text: str, links: Collection[str] | None = None) -> tuple[int, int]:
    """Give bytes received and sent from ``/proc/net/dev``: of some links, or all but loopback."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        name, fields = name.strip(), rest.split()
        counted = name != "lo" if links is None else name in links
        if counted and len(fields) > 8:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


def find_devices(sys: Path = SYS) -> Devices:
    """Give whole disks that lie on no other disk, and network devices of hardware.

    What passes a volume on two disks, or a bridge, would be counted again on what is below it.
    """
    blocks = _names(f"{sys}/block")
    disks = {
        name
        for name in blocks or ()
        if not name.startswith(NOT_DISKS) and not _names(f"{sys}/block/{name}/slaves")
    }
    links = {
        name
        for name in _names(f"{sys}/class/net") or ()
        if os.path.exists(f"{sys}/class/net/{name}/device")
    }
    return Devices(
        disks=None if blocks is None else frozenset(disks),
        links=frozenset(links) if links else None,
    )


def _names(folder: str) -> list[str] | None:
    try:
        return os.listdir(folder)
    except OSError:
        return None


def read_traffic(proc: Path = PROC, sys: Path = SYS, devices: Devices | None = None) -> Traffic:
    """Read disks and network."""
    devices = find_devices(sys) if devices is None else devices
    disks, network = _read_disks(proc, devices), _read_interfaces(proc, devices)
    return Traffic(
        disk_read_bytes=None if disks is None else disks.read_bytes,
        disk_written_bytes=None if disks is None else disks.written_bytes,
        network_received_bytes=None if network is None else network[0],
        network_sent_bytes=None if network is None else network[1],
        disk_busy_ms={} if disks is None else disks.busy_ms,
    )


def _read_disks(proc: Path, devices: Devices) -> Disks | None:
    try:
        text = read_text(f"{proc}/diskstats")
        return None if devices.disks is None else parse_disks(text, devices.disks)
    except (OSError, ValueError):
        return None


def _read_interfaces(proc: Path, devices: Devices) -> tuple[int, int] | None:
    try:
        return parse_interfaces(read_text(f"{proc}/net/dev"), devices.links)
    except (OSError, ValueError):
        return None


def read_link_bytes_per_second(sys: Path = SYS) -> float | None:
    """Give the capacity of the fastest link that is up, or None where no driver tells it.

    Links of hardware only: a virtual one reports a number that nothing limits it to.
    """
    fastest: float | None = None
    for name in find_devices(sys).links or ():
        folder = f"{sys}/class/net/{name}"
        # Some drivers never say "up"; one that is down says so.
        if (read_text_or_none(f"{folder}/operstate") or "").strip() not in ("up", "unknown"):
            continue
        megabits = read_int(f"{folder}/speed")
        if megabits is not None and megabits > 0:
            fastest = max(fastest or 0.0, megabits * 1e6 / 8)
    return fastest
