"""How long tasks waited for CPU, memory and disk (PSI)."""

from dataclasses import dataclass
from pathlib import Path

from collectors.host.files import read_text_or_none

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Pressure:
    """Microseconds since boot in which some task waited, and in which all did.

    ``full_us`` is None where the kernel keeps none: of the CPU before Linux 5.13.
    """

    some_us: int | None = None
    full_us: int | None = None


def parse_pressure(text: str) -> Pressure:
    """Read ``/proc/pressure/cpu``, ``memory`` or ``io``."""
    totals: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        total = rest.rpartition("total=")[2]
        if total.isdigit():
            totals[name] = int(total)
    return Pressure(totals.get("some"), totals.get("full"))


def read_pressure(resource: str, proc: Path = PROC) -> Pressure:
    """Read ``cpu``, ``memory`` or ``io``; unknown where the kernel keeps no PSI (needs psi=1)."""
    # A kernel that was built with PSI and booted without opens the file and refuses to read it.
    return parse_pressure(read_text_or_none(f"{proc}/pressure/{resource}") or "")
