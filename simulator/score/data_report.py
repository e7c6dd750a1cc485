"""The scores of recorded data sets as tables and as JSON."""

from __future__ import annotations

import orjson
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from simulator.score.confidence import Estimate
from simulator.score.disturb import SPIKE_EVERY
from simulator.score.paper import NORMAL_BATCHES, SLOW_BATCHES, PaperScore, TrialScore
from simulator.score.prequential import (
    AFTER_BATCHES,
    FIRST_BATCHES,
    OrderScore,
    PrequentialScore,
)
from simulator.score.report import NOTHING, percent, shown

DataScore = PaperScore | PrequentialScore


def render(score: DataScore) -> RenderableType:
    """Lay a score out as tables."""
    if isinstance(score, PaperScore):
        return Stack(_paper(score), *(Text(note) for note in (*_spikes(score), *score.notes)))
    return Stack(_orders(score), *(Text(note) for note in score.notes))


def to_json(score: DataScore) -> bytes:
    """Give everything as JSON; what is unknown is null."""
    name = "paper" if isinstance(score, PaperScore) else "prequential"
    return orjson.dumps(
        {"schema": "datascore.v1", "protocol_name": name, "score": score},
        option=orjson.OPT_INDENT_2,
    )


def title_of(score: PaperScore) -> str:
    """Say what was played, and what the figures are."""
    return f"{played(score)}; means over trials with 95 % intervals"


def played(score: PaperScore) -> str:
    """Say what was played."""
    protocol = score.protocol
    split = "rows shuffled" if protocol.split == "random" else "whole jobs held out"
    return (
        f"{NORMAL_BATCHES:,} healthy batches, then {SLOW_BATCHES} slow ones, {protocol.seeds} "
        f"times; {split}; {score.training:,} of {score.batches:,} batches ({score.jobs} jobs) "
        "learnt before"
    )


def slowdown(name: str) -> str:
    """Write the name of a disturbance."""
    return f"x{name}" if name[0].isdigit() else name


def _paper(score: PaperScore) -> Table:
    table = Table(title=title_of(score), title_justify="left")
    for name in ("slowdown", "strategy"):
        table.add_column(name)
    for name in ("precision", "recall", "F1", "false positives", "lag, batches", "missed"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, by_strategy in score.scores.items():
        for strategy, found in by_strategy.items():
            first = strategy == next(iter(by_strategy))
            table.add_row(slowdown(name) if first else "", strategy, *_trial_row(found))
        table.add_section()
    return table


def _spikes(score: PaperScore) -> tuple[str, ...]:
    """Say how many of the batches that a spike hit were flagged: the label is the window."""
    found = score.scores.get("spikes")
    if found is None:
        return ()
    shares = ", ".join(
        f"{name} {percent(Estimate(one.slowed_recall.value), 1)}" for name, one in found.items()
    )
    return (
        f"Of spikes all {SLOW_BATCHES} batches count as slow, of which one in {SPIKE_EVERY} is. Of "
        f"those alone were flagged: {shares}.",
    )


def _trial_row(found: TrialScore) -> tuple[str, ...]:
    return (
        shown(Estimate(found.precision.value)),
        shown(Estimate(found.recall.value)),
        shown(found.f1),
        percent(found.false_positive_rate),
        shown(found.lag, digits=1),
        f"{found.missed} of {found.trials}",
    )


def _orders(score: PrequentialScore) -> Table:
    table = Table(
        title=f"{score.batches:,} healthy batches of {score.jobs} jobs, each predicted and judged "
        "before it was learnt; 95 % intervals",
        title_justify="left",
    )
    table.add_column("order", no_wrap=True)
    afters = [f"within 10 %\nafter {after:,}" for after in AFTER_BATCHES]
    afters.append(f"within 10 %\nfirst {FIRST_BATCHES} of a job")
    wrong = ("false batches\nof 10,000", "false incidents\nin 10,000")
    for name in ("mean error", "median", *afters, *wrong):
        table.add_column(name, justify="right", no_wrap=True)
    for order in score.orders:
        table.add_row(*_order_row(order))
    if len(score.orders) > 2:
        table.add_section()
        table.add_row("their mean", *_mean_row(score))
    return table


def _order_row(order: OrderScore) -> tuple[str, ...]:
    return (
        order.name,
        NOTHING if order.mean_error is None else f"{100 * order.mean_error:.2f} %",
        NOTHING if order.median_error is None else f"{100 * order.median_error:.2f} %",
        *(percent(Estimate(order.within[str(after)].value), 1) for after in AFTER_BATCHES),
        percent(Estimate(order.within_new.value), 1),
        shown(order.false_points, digits=2),
        shown(order.false_incidents, digits=2),
    )


def _mean_row(score: PrequentialScore) -> tuple[str, ...]:
    means = score.mean_of_orders
    afters = [f"within_after_{after}" for after in AFTER_BATCHES]
    names = ("mean_error", "median_error", *afters, "within_new")
    digits = (2, 2, *(1 for _ in afters), 1)
    return (
        *(
            percent(Estimate(means[name].value), places)
            for name, places in zip(names, digits, strict=True)
        ),
        shown(means["false_points"], digits=2),
        shown(means["false_incidents"], digits=2),
    )
