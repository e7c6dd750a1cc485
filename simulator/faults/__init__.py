"""A fault is one file here with one `Injector`; the file's name is the fault's."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from simulator.faults.base import Injector, Levels, Machine, Needs, Target

__all__ = ["Injector", "Levels", "Machine", "Needs", "Target", "available", "load"]

# What makes faults go, and is none.
MACHINERY = frozenset({"base", "steps", "keeper", "journal", "worker", "run", "accelerators"})


@cache
def available() -> tuple[str, ...]:
    """List the faults by looking at the files of this folder."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name not in MACHINERY))


def load(name: str) -> Injector:
    """Give a fault by name.

    Raises:
        ValueError: There is none of that name; the text lists those that there are.
    """
    if name not in available():
        raise ValueError(f"no fault {name!r}: choose one of {', '.join(available())}")
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [
        one
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, Injector) and one.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Injector, found {len(classes)}")
    found: Injector = classes[0]()
    return found
