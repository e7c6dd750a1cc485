"""What the host's disks and network carried since boot."""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes since boot, over all whole disks and all interfaces but loopback."""

    disk_read_bytes: int
    disk_written_bytes: int
    network_received_bytes: int
    network_sent_bytes: int


def parse_disks(text: str, disks: set[str]) -> tuple[int, int]:
    """Give bytes read and written of the named disks from ``/proc/diskstats``."""
    read = written = 0
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[2] in disks:
            read += int(fields[5]) * SECTOR_BYTES
            written += int(fields[9]) * SECTOR_BYTES
    return read, written


def parse_interfaces(text: str) -> tuple[int, int]:
    """Give bytes received and sent from ``/proc/net/dev``, loopback left out."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() != "lo" and len(fields) > 8:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


def read_traffic(proc: Path = PROC, sys: Path = Path("/sys")) -> Traffic | None:
    """Read disks and network; None where the kernel hides them."""
    try:
        # /sys/block lists whole disks, so that partitions are not counted twice.
        disks = {path.name for path in (sys / "block").iterdir()}
        read, written = parse_disks((proc / "diskstats").read_text(), disks)
        received, sent = parse_interfaces((proc / "net/dev").read_text())
    except (OSError, ValueError):
        return None
    return Traffic(
        disk_read_bytes=read,
        disk_written_bytes=written,
        network_received_bytes=received,
        network_sent_bytes=sent,
    )
