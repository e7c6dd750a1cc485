"""Memory, by ``/proc/meminfo`` and by the control groups that we are in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from simulator.faults import cgroups
from simulator.injection.base import Machine


def read_bytes(name: str, machine: Machine) -> int | None:
    """Give a number of the host's; None where it has none of that name."""
    return _number(f"{name}:", machine.path("/proc/meminfo"), unit_bytes=1024)


def allowed_bytes(machine: Machine) -> int:
    """Give how much memory we may have: the host's, or less where a control group says so."""
    return min([machine.memory_bytes, *(limit for _, limit in _limits(machine))])


def available_bytes(machine: Machine) -> int | None:
    """Give how much is left of it, the cache's share included; None where that is unknown."""
    left = [limit - _held_bytes(folder) for folder, limit in _limits(machine)]
    host = read_bytes("MemAvailable", machine)
    return min([*left, *([] if host is None else [host])], default=None)


def _limits(machine: Machine) -> Iterator[tuple[Path, int]]:
    """Give the groups with a limit, from ours up, and it."""
    own = cgroups.find_group("self", "memory", machine)
    if own is None:
        return
    name = "memory.limit_in_bytes" if own.version == 1 else "memory.max"
    for folder in (own.folder, *own.folder.parents):
        text = _read(folder / name).strip()
        # Else it is "max", or the group has no such limit.
        if text.isdigit():
            yield folder, int(text)
        if folder == own.top:
            return


def _held_bytes(group: Path) -> int:
    """Give what a group's processes hold; its cache can be dropped."""
    texts = (_read(group / name).strip() for name in ("memory.current", "memory.usage_in_bytes"))
    used = next((int(text) for text in texts if text.isdigit()), 0)
    stat = group / "memory.stat"
    cached = _number("file", stat) or _number("total_cache", stat) or 0
    return max(0, used - cached)


def _number(name: str, path: Path, unit_bytes: int = 1) -> int | None:
    lines = (line.split() for line in _read(path).splitlines())
    return next((int(one[1]) * unit_bytes for one in lines if one[:1] == [name]), None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
