"""The score of a recorded data set as one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator.score.confidence import Estimate
from simulator.score.data_report import DataScore, slowdown, title_of
from simulator.score.paper import PaperScore, TrialScore
from simulator.score.picture import COLOURS, empty, of_values
from simulator.score.prequential import AFTER_BATCHES, PrequentialScore


def draw(score: DataScore, path: Path) -> None:
    """Draw the figures of each strategy by slowdown, or those of each order.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(score.orders) if isinstance(score, PrequentialScore) else 0
    figure = Figure(figsize=(13, 2.5 + 0.4 * rows if rows else 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    if isinstance(score, PaperScore):
        _paper(figure, score)
    else:
        _prequential(figure, score)
    figure.savefig(path, dpi=130)


def _paper(figure: Any, score: PaperScore) -> None:
    (f1, recall), (false, lag) = figure.subplots(2, 2)
    _by_slowdown(f1, "F1", score, lambda found: found.f1)
    _by_slowdown(recall, "Recall", score, lambda found: found.recall)
    _by_slowdown(lag, "Lag, batches (of what was found)", score, lambda found: found.lag)
    for axes in (f1, recall):
        axes.set_ylim(-0.02, 1.03)
    lag.set_yscale("symlog", linthresh=1)
    lag.set_ylim(bottom=0)
    f1.legend(fontsize=9, loc="lower center", ncols=3)
    _false_rates(false, score)
    figure.suptitle(title_of(score), fontsize=11)


def _false_rates(axes: Any, score: PaperScore) -> None:
    """The healthy batches come first, so that it is the same for each slowdown."""
    by_strategy = next(iter(score.scores.values()))
    rates = [found.false_positive_rate for found in by_strategy.values()]
    places = range(len(rates))
    colours = [COLOURS[place % len(COLOURS)] for place in places]
    values = of_values([one.value for one in rates])
    axes.bar(places, [100 * one for one in values], color=colours, width=0.5)
    low = of_values([one.value if one.low is None else one.low for one in rates])
    high = of_values([one.value if one.high is None else one.high for one in rates])
    axes.vlines(places, [100 * one for one in low], [100 * one for one in high], color="black")
    axes.set_xticks(places, list(by_strategy))
    axes.set_ylim(bottom=0)
    axes.set_title("Healthy batches called slow, in percent", loc="left", fontsize=11)
    axes.grid(alpha=0.3, axis="y")


def _by_slowdown(
    axes: Any, title: str, score: PaperScore, value_of: Callable[[TrialScore], Estimate]
) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    names = list(score.scores)
    strategies = score.protocol.strategies
    for place, strategy in enumerate(strategies):
        found = [value_of(score.scores[name][strategy]) for name in names]
        values = of_values([one.value for one in found])
        low = of_values([one.value if one.low is None else one.low for one in found])
        high = of_values([one.value if one.high is None else one.high for one in found])
        # Side by side, for equal figures would hide each other.
        x = [at + 0.15 * (place - (len(strategies) - 1) / 2) for at in range(len(names))]
        colour = COLOURS[place % len(COLOURS)]
        axes.vlines(x, low, high, color=colour, alpha=0.6)
        axes.plot(x, values, "o", color=colour, label=strategy, markersize=5, clip_on=False)
    axes.set_xticks(range(len(names)), [slowdown(name) for name in names], rotation=30)
    axes.set_xlim(-0.6, len(names) - 0.4)
    for edge in range(1, len(names)):
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
    axes.grid(alpha=0.3, axis="y")


def _prequential(figure: Any, score: PrequentialScore) -> None:
    left, right = figure.subplots(1, 2)
    names = [order.name for order in score.orders]
    for after, colour in zip(AFTER_BATCHES, COLOURS, strict=False):
        shares = of_values([order.within[str(after)].value for order in score.orders])
        left.plot(
            [100 * one for one in shares],
            range(len(names)),
            "o",
            color=colour,
            label=f"after {after:,} batches",
        )
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_title("Batches predicted within 10 %, in percent", loc="left", fontsize=11)
    left.grid(alpha=0.3)
    left.legend(fontsize=9)
    found = [order.false_incidents for order in score.orders]
    if not any(one.value is not None for one in found):
        empty(right, "no batch was judged")
        return
    right.hlines(
        range(len(names)),
        of_values([one.low for one in found]),
        of_values([one.high for one in found]),
        color=COLOURS[0],
    )
    right.plot(of_values([one.value for one in found]), range(len(names)), "o", color=COLOURS[0])
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set_xlim(left=0)
    right.set_title("False incidents per 10,000 batches", loc="left", fontsize=11)
    right.grid(alpha=0.3)
    figure.suptitle(f"{score.batches:,} healthy batches of {score.jobs} jobs", fontsize=11)
