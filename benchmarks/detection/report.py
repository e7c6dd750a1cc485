"""What a part of the benchmark found: tables of text, and the figures behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Grid:
    """One table; columns of numbers stand on the right.

    Attributes:
        words: How many columns at the left hold words.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What one part found.

    Attributes:
        figures: All of it as plain data.

        notes: What a reader has to know, in sentences.
    """

    grids: tuple[Grid, ...]
    figures: Any = None
    notes: tuple[str, ...] = field(default=())


def render(report: Report) -> RenderableType:
    """Lay a report out."""
    return Group(*map(_table, report.grids), *map(Text, report.notes))


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """Write a number, or a dash where there is none."""
    return NOTHING if value is None else f"{value:,.{digits}f}{unit}"


def percent(value: float | None, digits: int = 2) -> str:
    """Write a share in percent."""
    return number(None if value is None else 100 * value, digits, " %")


def at_least(value: float | None, target: float) -> str:
    """Say whether a target was met.

    >>> at_least(0.99, 0.9), at_least(0.8, 0.9), at_least(None, 0.9)
    ('met', 'missed', 'missed')
    """
    return "met" if value is not None and value >= target else "missed"


def at_most(value: float | None, target: float) -> str:
    """Say whether a target was met."""
    return "met" if value is not None and value <= target else "missed"


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left")
    for place, name in enumerate(grid.columns):
        table.add_column(name, justify="left" if place < grid.words else "right")
    for row in grid.rows:
        table.add_row(*row)
    return table
