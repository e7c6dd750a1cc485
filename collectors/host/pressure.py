"""How long tasks waited for CPU, memory and disk (PSI)."""

from pathlib import Path

PROC = Path("/proc")


def parse_pressure_us(text: str) -> int:
    """Give the microseconds since boot in which some task waited."""
    for line in text.splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2])
    raise ValueError("no 'some' line in pressure file")


def read_pressure_us(resource: str, proc: Path = PROC) -> int | None:
    """Read ``cpu``, ``memory`` or ``io``; None where the kernel keeps no PSI (needs psi=1)."""
    try:
        return parse_pressure_us((proc / "pressure" / resource).read_text())
    except (OSError, ValueError):
        return None
