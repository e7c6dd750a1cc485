"""How much memory the host has left, and whether it swaps."""

import os
from dataclasses import dataclass
from pathlib import Path

from collectors.host.files import read_text_or_none

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
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None


def parse_memory(meminfo: str, vmstat: str, page_bytes: int = PAGE_BYTES) -> Memory:
    """Read the texts of ``/proc/meminfo`` (kB) and ``/proc/vmstat`` (pages)."""
    kilobytes = {
        name: int(words[0])
        for name, words in _named(meminfo, ":").items()
        if words and words[0].isdigit()
    }
    pages = {
        name: int(words[0])
        for name, words in _named(vmstat, " ").items()
        if words and words[0].isdigit()
    }

    def scaled(value: int | None, unit: int) -> int | None:
        return None if value is None else value * unit

    return Memory(
        total_bytes=scaled(kilobytes.get("MemTotal"), 1024),
        available_bytes=scaled(kilobytes.get("MemAvailable"), 1024),
        swapped_in_bytes=scaled(pages.get("pswpin"), page_bytes),
        swapped_out_bytes=scaled(pages.get("pswpout"), page_bytes),
        major_faults=pages.get("pgmajfault"),
        swap_total_bytes=scaled(kilobytes.get("SwapTotal"), 1024),
        swap_free_bytes=scaled(kilobytes.get("SwapFree"), 1024),
    )


_WANTED = {
    "MemTotal",
    "MemAvailable",
    "SwapTotal",
    "SwapFree",
    "pswpin",
    "pswpout",
    "pgmajfault",
}


def _named(text: str, separator: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(separator)
        if name in _WANTED:
            found[name] = rest.split()
    return found


def read_memory(proc: Path = PROC) -> Memory:
    """Read the memory of the host; what a container hides of it is unknown."""
    meminfo = read_text_or_none(f"{proc}/meminfo")
    return parse_memory(meminfo or "", read_text_or_none(f"{proc}/vmstat") or "")
