"""A fault is one file here with one `Injector`; the file's name is the fault's.

Files without one are what faults share; `simulator.injection` makes them go.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from functools import cache

from simulator.injection.base import Injector, Levels, Machine, Needs, Target

__all__ = ["Injector", "Levels", "Machine", "Needs", "Target", "available", "load"]


@cache
def available() -> tuple[str, ...]:
    """List the faults by looking at the files of this folder."""
    files = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    return tuple(name for name in files if _injectors(name))


def load(name: str) -> Injector:
    """Give a fault by name.

    Raises:
        ValueError: There is none of that name; the text lists those that there are.
    """
    classes = _injectors(name) if name.isidentifier() else []
    if not classes:
        raise ValueError(f"no fault {name!r}: choose one of {', '.join(available())}")
    if len(classes) != 1:
        raise TypeError(f"{name}.py must define exactly one Injector, found {len(classes)}")
    return classes[0]()


def _injectors(name: str) -> list[type[Injector]]:
    full_name = f"{__name__}.{name}"
    if importlib.util.find_spec(full_name) is None:
        return []
    module = importlib.import_module(full_name)
    return [
        one
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, Injector)
        and one.__module__ == full_name
        # What several share leaves something open.
        and not inspect.isabstract(one)
    ]
