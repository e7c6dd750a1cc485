"""Name the cause of each public capture from its light counters alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.explain.captures import (
    SECOND_NS,
    CaptureError,
    Pair,
    Tick,
    find_pairs,
    read_capture,
)
from models.attribution import UNKNOWN, Attribution
from streams.explain import EvidenceKeeper
from streams.xpus import Accelerators

# What each scenario of the artifact injects, by a part of its name.
INJECTED = {
    "cpu_compute": "host_cpu_contention",
    "cpu_freq": "host_cpu_frequency",
    "gpu_instability": "accelerator_clock",
    "nvlink": "fabric_contention",
    "pcie": "pcie_contention",
    "cpu_swap": "memory_pressure",
    "gpu_preemption": "accelerator_contention",
    "gpu_swap": "accelerator_memory",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said of one comparison.

    Attributes:
        right: The cause that was injected; ``unknown`` for a control.
    """

    framework: str
    name: str
    right: str
    found: Attribution

    @property
    def is_right(self) -> bool:
        """Whether the right cause is named first."""
        return self.found.cause == self.right


def injected(name: str) -> str | None:
    """Give what a scenario injects, by its name."""
    return next((cause for part, cause in INJECTED.items() if part in name.lower()), None)


def judge_all(folder: Path) -> Iterator[Judged]:
    """Judge all pairs below a folder, then their normal captures' halves against each other.

    Raises:
        CaptureError: A capture cannot be read.
    """
    pairs = find_pairs(folder)
    if not pairs:
        raise CaptureError(f"no pair of normal and abnormal captures below {folder}")
    for pair in pairs:
        normal, abnormal = (read_capture(pair.folder / one) for one in ("normal", "abnormal"))
        right = injected(pair.name) or "?"
        yield Judged(pair.framework, pair.name, right, compared(normal, abnormal))
    for pair in pairs:
        yield from _controls(pair)


def compared(before: Sequence[Tick], during: Sequence[Tick]) -> Attribution:
    """Name what is the matter in some ticks compared with others, as the analysis does it."""
    keeper, accelerators = EvidenceKeeper(), Accelerators()
    keeper.watch_throttling(accelerators.throttle_reasons)
    # Captures may have been made in any order: time begins anew with the trouble.
    begin_ns = (len(before) + 1) * SECOND_NS
    for number, tick in enumerate(before):
        _take(keeper, accelerators, tick, (number + 1) * SECOND_NS)
    keeper.begin(begin_ns)
    for number, tick in enumerate(during):
        _take(keeper, accelerators, tick, begin_ns + (number + 1) * SECOND_NS)
    return keeper.attribute()


def _take(keeper: EvidenceKeeper, accelerators: Accelerators, tick: Tick, end_ns: int) -> None:
    host = replace(tick.host, begin_ns=end_ns - SECOND_NS, end_ns=end_ns)
    keeper.add_host(host, suspect=False)
    for xpu in tick.xpus:
        counters = accelerators.add(replace(xpu, begin_ns=end_ns, end_ns=end_ns))
        if counters is not None:
            keeper.add_counters(counters, end_ns, end_ns, suspect=False, kind="xpus")


def _controls(pair: Pair) -> Iterator[Judged]:
    ticks = read_capture(pair.folder / "normal")
    half = len(ticks) // 2
    for name, before, during in (
        ("first half, then second", ticks[:half], ticks[half:]),
        ("second half, then first", ticks[half:], ticks[:half]),
    ):
        found = compared(before, during)
        yield Judged(pair.framework, f"{pair.name}: {name}", UNKNOWN, found)
