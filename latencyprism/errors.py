"""Mistakes of a user or of the surroundings: printed as one line that ends with what to do."""

import importlib
from types import ModuleType


class CommandError(Exception):
    """The command cannot do what it was asked to."""


def need(module: str, extra: str) -> ModuleType:
    """Import a module that an extra brings.

    Raises:
        CommandError: It is not installed; the text has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        missing = err.name or module
        raise CommandError(
            f"this command needs {missing}, which is not installed: "
            f"pip install 'latencyprism[{extra}]'"
        ) from err
