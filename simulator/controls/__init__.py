"""A negative control is one file here with one `Control`; the file's name is the control's."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from simulator.controls.base import Control

__all__ = ["Control", "available", "load"]


@cache
def available() -> tuple[str, ...]:
    """List the controls by looking at the files of this folder."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name != "base"))


def load(name: str) -> Control:
    """Give a control by name.

    Raises:
        ValueError: There is none of that name; the text lists those that there are.
    """
    if name not in available():
        raise ValueError(f"no control {name!r}: choose one of {', '.join(available())}")
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [
        one
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, Control) and one.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Control, found {len(classes)}")
    found: Control = classes[0]()
    return found
