"""Which memory lies on which NUMA node: of the host, and of one process."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from collectors.host.files import read_text_or_none

PROC = Path("/proc")
SYS = Path("/sys")

# The kernel walks a process's page tables to answer, and holds up its memory mappings meanwhile:
# nothing to do to an engine whose memory is large.
MOST_RSS_BYTES = 4 << 30
MOST_SECONDS = 0.02
CHUNK_BYTES = 4096


def parse_cpu_list(text: str) -> set[int]:
    """Read a list of CPUs as the kernel writes it: ``0-3,8``."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def read_nodes(sys: Path = SYS) -> dict[int, set[int]]:
    """Give the CPUs of each node; empty where the kernel knows no nodes."""
    return {
        int(path.parent.name[4:]): parse_cpu_list(read_text_or_none(str(path)) or "")
        for path in (sys / "devices/system/node").glob("node[0-9]*/cpulist")
    }


def parse_foreign(text: str) -> int | None:
    """Give the pages that a node had to give away: ``numa_foreign`` of its ``numastat``."""
    match = re.search(r"^numa_foreign (\d+)$", text, re.MULTILINE)
    return None if match is None else int(match[1])


def read_foreign(nodes: dict[int, set[int]], sys: Path = SYS) -> int | None:
    """Give the pages since boot that lie on another node than was asked for."""
    total: int | None = None
    for node in nodes:
        text = read_text_or_none(f"{sys}/devices/system/node/node{node}/numastat")
        found = parse_foreign(text or "")
        if found is not None:
            total = (total or 0) + found
    return total


PAGES = re.compile(r"\bN(\d+)=(\d+)")
PAGE_KILOBYTES = re.compile(r"\bkernelpagesize_kB=(\d+)")


def parse_numa_maps(text: str) -> dict[int, int]:
    """Give kilobytes by node from the lines of ``/proc/<pid>/numa_maps``."""
    kilobytes: dict[int, int] = {}
    for line in text.splitlines():
        size = PAGE_KILOBYTES.search(line)
        for node, pages in PAGES.findall(line):
            # Before Linux 3.9 no line says how large its pages are; most are small.
            amount = int(pages) * (int(size[1]) if size else 4)
            kilobytes[int(node)] = kilobytes.get(int(node), 0) + amount
    return kilobytes


def local_ratio(kilobytes: dict[int, int], node: int) -> float | None:
    """Give the share of a process's memory that lies on a node."""
    total = sum(kilobytes.values())
    return kilobytes.get(node, 0) / total if total else None


def read_numa_maps(
    pid: int, proc: Path = PROC, clock: Callable[[], float] = time.monotonic
) -> str | None:
    """Read where a process's memory lies; None where that is refused or takes too long.

    It is read a page at a time: the kernel lets go of the process in between.
    """
    deadline = clock() + MOST_SECONDS
    parts: list[bytes] = []
    try:
        descriptor = os.open(f"{proc}/{pid}/numa_maps", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        while part := os.read(descriptor, CHUNK_BYTES):
            parts.append(part)
            if clock() > deadline:
                return None
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return b"".join(parts).decode(errors="replace")
