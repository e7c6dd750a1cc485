"""A score as one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulator.score.metrics import Group, Score
from simulator.score.scoring import NORMAL, SEVERITIES

HOUR_NS = 3.6e12
COLOURS = ("#2a6f97", "#bb3e03", "#6a994e", "#7b2cbf", "#555555")
RED, GREY = "#c1121f", "#b8c4d0"
# One row per fault needs so much height.
ROW_INCHES = 0.36


def draw(score: Score, path: Path) -> None:
    """Draw recall and right causes by fault and severity, the lags, and what was false.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(score.by_fault), 3)
    figure = Figure(figsize=(13, 4.6 + ROW_INCHES * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(ROW_INCHES * rows + 0.7, 3.4))
    _heat(
        figure.add_subplot(grid[0, 0]),
        score,
        "Faults found, per engine (share, number of faults)",
        lambda group: (group.incidents.recall.value, group.incidents.recall.n),
    )
    _heat(
        figure.add_subplot(grid[0, 1]),
        score,
        "Right cause first, of those found",
        lambda group: (group.causes.right_first.value, group.causes.right_first.n),
    )
    _lags(figure.add_subplot(grid[1, 0]), score)
    _false(figure.add_subplot(grid[1, 1]), score)
    figure.suptitle(
        f"batches: {score.batches:,}   engines: {score.engines}   faults: {score.faults}   "
        f"controls: {score.controls}"
    )
    figure.savefig(path, dpi=130)


def empty(axes: Any, text: str) -> None:
    """Say in the place of a chart why there is none."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#555555")
    axes.set_xticks([])
    axes.set_yticks([])


def _heat(
    axes: Any, score: Score, title: str, value_of: Callable[[Group], tuple[float | None, int]]
) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    names = list(score.by_fault_and_severity)
    if not names:
        empty(axes, "no fault in the recording")
        return
    severities = [one for one in SEVERITIES if one in score.by_severity]
    cells = [
        [value_of(found[one]) if one in found else (None, 0) for one in severities]
        for found in score.by_fault_and_severity.values()
    ]
    shares = [[math.nan if value is None else value for value, _ in row] for row in cells]
    axes.imshow(shares, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.65)
    axes.set_xticks(range(len(severities)), severities)
    axes.set_yticks(range(len(names)), names)
    axes.set_facecolor("#eeeeee")
    for y, row in enumerate(cells):
        for x, (value, n) in enumerate(row):
            text = "–" if value is None else f"{value:.2f} ({n})"
            axes.text(x, y, text, ha="center", va="center", fontsize=9)


def _lags(axes: Any, score: Score) -> None:
    axes.set_title(
        "From the end of the fault's first batch to the incident", loc="left", fontsize=11
    )
    found = [one for one in score.outcomes if one.found]
    if not found:
        empty(axes, "no fault was found")
        return
    for severity, colour in zip(SEVERITIES, COLOURS, strict=False):
        lags = sorted(
            max(one.lag_ns or 0, 0) / 1e6
            for one in found
            if (one.fault.severity or "number") == severity
        )
        if lags:
            shares = [(place + 1) / len(lags) for place in range(len(lags))]
            # From the axis on, so that a single fault is a line too.
            axes.step(
                [lags[0], *lags],
                [0.0, *shares],
                where="post",
                color=colour,
                label=f"{severity} ({len(lags)})",
            )
            axes.plot(lags, shares, ".", color=colour, markersize=4)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("lag, ms")
    axes.set_ylabel("share of the faults found")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)


def _false(axes: Any, score: Score) -> None:
    rate = score.overall.incidents.false_per_engine_week
    weeks = score.overall.incidents.engine_weeks
    told = "" if rate.value is None else f"\n{_number(rate.value)} per engine-week"
    if rate.low is not None and rate.high is not None:
        told += f" [{_number(rate.low)}, {_number(rate.high)}]"
    axes.set_title(
        f"False incidents: {len(score.false)} in {weeks * 168:.3g} engine-hours{told}",
        loc="left",
        fontsize=11,
    )
    names = [NORMAL, *sorted({name for name, _, _ in score.control_spans})]
    if not score.batches:
        empty(axes, "no judged batches")
        return
    hours = (score.end_ns - score.begin_ns) / HOUR_NS
    scale, unit = (1.0, "h") if hours >= 2 else (60.0, "min") if hours >= 1 / 30 else (3600.0, "s")

    def at(moment_ns: int) -> float:
        return (moment_ns - score.begin_ns) / HOUR_NS * scale

    axes.barh(0, hours * scale, height=0.5, color="#e8edf2")
    for name, begin_ns, end_ns in score.control_spans:
        axes.barh(
            names.index(name), at(end_ns) - at(begin_ns), left=at(begin_ns), height=0.5, color=GREY
        )
    for one in score.false:
        axes.plot(
            at(one.incident.fired_ns), names.index(one.control or NORMAL), "x", color=RED, ms=8
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, hours * scale)
    axes.set_xlabel(f"time, {unit} (bars: controls; crosses: false incidents)")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def of_values(values: Sequence[float | None]) -> list[float]:
    """Give values with gaps where they are unknown."""
    return [math.nan if value is None else value for value in values]
