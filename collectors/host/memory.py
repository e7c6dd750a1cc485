"""How much memory the host has left, and whether it swaps."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes now, and bytes and faults since boot."""

    total_bytes: int | None
    available_bytes: int | None
    swapped_in_bytes: int | None
    swapped_out_bytes: int | None
    major_faults: int | None


def parse_memory(meminfo: str, vmstat: str, page_bytes: int = PAGE_BYTES) -> Memory:
    """Read the texts of ``/proc/meminfo`` (kB) and ``/proc/vmstat`` (pages)."""
    kilobytes = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in meminfo.splitlines())
        if rest.split()
    }
    pages = {
        name: int(value)
        for name, _, value in (line.partition(" ") for line in vmstat.splitlines())
        if value.isdigit()
    }

    def scaled(value: int | None, unit: int) -> int | None:
        return None if value is None else value * unit

    return Memory(
        total_bytes=scaled(kilobytes.get("MemTotal"), 1024),
        available_bytes=scaled(kilobytes.get("MemAvailable"), 1024),
        swapped_in_bytes=scaled(pages.get("pswpin"), page_bytes),
        swapped_out_bytes=scaled(pages.get("pswpout"), page_bytes),
        major_faults=pages.get("pgmajfault"),
    )


def read_memory(proc: Path = PROC) -> Memory:
    """Read the memory of the host."""
    return parse_memory((proc / "meminfo").read_text(), (proc / "vmstat").read_text())
