"""Find the plug-ins of a folder: one file each, the file's name is the plug-in's name."""

from importlib import import_module
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def names_in(folder: Path) -> list[str]:
    """Give the names of all plug-ins, from the files of their folder."""
    return sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem != "base")


def plugin(name: str, folder: Path, package: str, kind: str, registry: dict[str, type[T]]) -> T:
    """Make the plug-in of that name.

    Args:
        name: Of its file.

        folder: Where the files are; ``package`` is what they are imported from.

        kind: What such a plug-in is called.

        registry: Where its class enters itself when the file is imported.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    known = names_in(folder)
    if name not in known:
        raise LookupError(f"unknown {kind} {name!r}; have: {', '.join(known)}")
    import_module(f"{package}.{name}")
    return registry[name]()
