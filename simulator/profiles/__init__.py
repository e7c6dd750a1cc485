"""Profiles are small processes that look from outside like one version family of an engine.

They need nothing but a bare CPython (3.8 or newer), so that an observer can be tried on every
interpreter that can be had. What runs in them says so by its imports: only the standard library.
"""

from __future__ import annotations

from pathlib import Path


def available() -> list[str]:
    """Give the names of all profiles, from the folders beside this file."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/profile.py"))
