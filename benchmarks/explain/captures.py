"""Read the light counters of captures with and without a fault, as the paper's artifact has them.

A pair is a folder with ``normal`` and ``abnormal``, each with a ``counters.csv`` or
``counters.csv.gz`` of ``counter_name,timestamp,value``: microseconds, about one value a second, and
of all devices of the host without their numbers. Which device is the engine's own follows from its
processes' memory.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from schemas.records import HostReading, XpuReading

SECOND_NS = 1_000_000_000
# Not told by the captures: NVIDIA A100 80 GB on PCIe 4 x16.
HIGHEST_CLOCK_MHZ = 1410.0
MEMORY_BYTES = 80 * 2**30
PCIE_BYTES_PER_SECOND = 31.5e9
FABRIC_BYTES_PER_SECOND = 300e9
# A device whose cores have work for this share of the time is in use.
IN_USE = 0.3
NAMES = ("counters.csv", "counters.csv.gz")

Values = dict[str, list[float]]


class CaptureError(ValueError):
    """A capture cannot be read; the text ends with what to do."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What was read within one second: of the host, and of each of the engine's devices."""

    host: HostReading
    xpus: tuple[XpuReading, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two captures of one engine, without and with a fault."""

    framework: str
    name: str
    folder: Path


def find_pairs(folder: Path) -> list[Pair]:
    """Find all pairs below a folder."""
    found = [
        normal.parent
        for normal in sorted(folder.glob("**/normal"))
        if _file(normal) is not None and _file(normal.parent / "abnormal") is not None
    ]
    return [Pair(one.parent.name, one.name, one) for one in found]


def read_capture(folder: Path) -> list[Tick]:
    """Read the ticks of one capture, in the order of time.

    Raises:
        CaptureError: There is no file, or nothing in it that is known.
    """
    path = _file(folder)
    if path is None:
        raise CaptureError(f"no {NAMES[0]} in {folder}: give a folder of captures")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            seconds = _by_second(csv.DictReader(file))
    except (OSError, KeyError, TypeError, ValueError) as err:
        raise CaptureError(
            f"cannot read {path} ({err}): columns counter_name, timestamp and value are needed"
        ) from err
    found = [tick for second in sorted(seconds) if (tick := _tick(second, seconds[second]))]
    if not found:
        raise CaptureError(f"no host_cpu_usage in {path}: nothing to judge by")
    return found


def _file(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def _by_second(rows: csv.DictReader[str]) -> dict[int, Values]:
    found: dict[int, Values] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        second = round(float(row["timestamp"]) / 1e6)
        found[second][row["counter_name"]].append(float(row["value"]))
    return found


def _tick(second: int, values: Values) -> Tick | None:
    if not values.get("host_cpu_usage"):
        return None
    end_ns = second * SECOND_NS
    clocks = values.get("cpu_frequency")
    # An engine's own share is not told apart; it is 2 to 4 % of these hosts, and steady.
    host = HostReading(
        engine_id="capture",
        host="capture",
        begin_ns=end_ns - SECOND_NS,
        end_ns=end_ns,
        cpu_count=1,
        others_cpu_ratio=median(values["host_cpu_usage"]) / 100,
        cpu_frequency_hz=median(clocks) * 1e6 if clocks else None,
    )
    return Tick(host, tuple(_xpus(end_ns, values)))


def _xpus(end_ns: int, values: Values) -> Iterator[XpuReading]:
    own_bytes = _own_bytes(values)
    used = values.get("gpu_mem_used", [])
    # What the driver keeps on a device that nobody uses.
    idle_bytes = min(used, default=0.0)
    own = _own_devices(used, own_bytes, idle_bytes)
    pcie, fabric = (_link_rate(values, names) for names in (("pcie",), ("link",)))
    for rank, place in enumerate(own):
        others = used[place] - own_bytes[min(rank, len(own_bytes) - 1)] - idle_bytes
        yield XpuReading(
            engine_id="capture",
            host="capture",
            begin_ns=end_ns,
            end_ns=end_ns,
            device_id=f"own-{rank}",
            vendor="nvidia",
            utilization_ratio=_of(values, "gpu_usage", place, 0.01),
            core_clock_hz=_of(values, "gpu_sm_frequency", place, 1e6),
            core_clock_max_hz=HIGHEST_CLOCK_MHZ * 1e6,
            memory_total_bytes=MEMORY_BYTES,
            memory_used_bytes=round(used[place]),
            others_memory_used_bytes=round(max(others, 0.0)),
            pcie_sent_bytes_per_second=pcie,
            pcie_capacity_bytes_per_second=PCIE_BYTES_PER_SECOND,
            fabric_sent_bytes_per_second=fabric,
            fabric_capacity_bytes_per_second=FABRIC_BYTES_PER_SECOND,
        )


def _own_bytes(values: Values) -> list[float]:
    """Give the device memory of each of the engine's processes; each has a device of its own."""
    names = [name for name in values if name.startswith("process_gpu_mem_usage_")]
    return sorted((values[name][0] for name in names), reverse=True)


def _own_devices(used: list[float], own_bytes: list[float], idle_bytes: float) -> list[int]:
    """Find the engine's devices: they hold its memory and what the driver keeps, hardly more."""
    chosen: list[int] = []
    for own in own_bytes:
        left = [place for place in range(len(used)) if place not in chosen and used[place] >= own]
        if left:
            chosen.append(min(left, key=lambda place: used[place] - own - idle_bytes))
    return chosen


def _link_rate(values: Values, kinds: tuple[str, ...]) -> float | None:
    """Give the busiest rate over the devices in use; these counters come in an order of their own.

    Both ways count where both are told.
    """
    found: list[float] = []
    cores = values.get("gpu_sm_util", [])
    for kind in kinds:
        for way in ("transmit", "receive"):
            rates = values.get(f"gpu_{kind}_{way}", [])
            alike = len(rates) == len(cores)
            busy = [rate for rate, core in zip(rates, cores, strict=False) if core >= IN_USE]
            found += busy if alike and busy else rates
    return max(found, default=None)


def _of(values: Values, name: str, place: int, factor: float) -> float | None:
    found = values.get(name, [])
    return found[place] * factor if place < len(found) else None
