"""A workload is one file here with a function `phases(duration_seconds, scale)`."""

from __future__ import annotations

import importlib
import pkgutil

from simulator.workloads.base import Phase, Workload

__all__ = ["Phase", "Workload", "available", "build"]


def available() -> tuple[str, ...]:
    """List the workloads by looking at the files of this folder."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name != "base"))


def build(name: str, *, duration_seconds: float, scale: float = 1.0) -> Workload:
    """Lay a workload out over a duration; `scale` multiplies its concurrency or rate."""
    if name not in available():
        raise ValueError(f"no workload {name!r}: choose one of {', '.join(available())}")
    if duration_seconds <= 0 or scale <= 0:
        raise ValueError(
            f"duration is {duration_seconds} s and scale is {scale}: give numbers above 0"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    phases: tuple[Phase, ...] = module.phases(duration_seconds, scale)
    return Workload(name=name, summary=(module.__doc__ or "").strip(), phases=phases)
