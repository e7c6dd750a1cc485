"""Engines' objects are large; how Python stores attributes depends on how many there are."""

from __future__ import annotations

from typing import Any


def add_settings(owner: Any, count: int = 60) -> None:
    """Give an object as many attributes more as its original has settings and helpers."""
    for number in range(count):
        setattr(owner, f"setting_{number}", number)
