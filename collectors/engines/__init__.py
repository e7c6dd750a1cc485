"""The serving frameworks that the agent can watch, one file each."""

from collectors.engines.base import Framework, available, find_engines, load

__all__ = ["Framework", "available", "find_engines", "load"]
