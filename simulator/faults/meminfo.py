"""The host's memory, by ``/proc/meminfo``."""

from __future__ import annotations

from simulator.faults.base import Machine


def read_bytes(name: str, machine: Machine) -> int | None:
    """Give a number of it; None where it has none of that name."""
    try:
        lines = machine.path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(f"{name}:"))
    return next((int(words[1]) << 10 for words in found), None)
