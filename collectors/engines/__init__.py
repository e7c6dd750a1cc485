"""The serving frameworks that the agent can watch, one file each."""

from collectors.engines.base import Family, Framework, available, find_engines, load, load_file
from collectors.engines.described import DescriptionError

__all__ = [
    "DescriptionError",
    "Family",
    "Framework",
    "available",
    "find_engines",
    "load",
    "load_file",
]
