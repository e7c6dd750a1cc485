"""Healthy batches, each predicted and judged before it is learnt: every alarm is false."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.detection.data import Data, load
from benchmarks.detection.report import Grid, Report, at_most, number, percent
from simulator.datasets import Row, job_of
from simulator.score import prequential
from simulator.score.prequential import AFTER_BATCHES, FIRST_BATCHES, FalseIncident, OrderScore

ORDERS = 5
# Of so many the raw rows are shown.
MOST_SHOWN = 20


def play(path: Path, seeds: int) -> Report:
    """Play the file in the order of time and with its jobs shuffled."""
    data = load(path)
    score = prequential.play(data.samples, min(ORDERS, seeds))
    incidents = [(order.name, one) for order in score.orders for one in order.incidents]
    shown = incidents[:MOST_SHOWN]
    notes = tuple(_argument(data, name, one) for name, one in shown)
    if len(incidents) > len(shown):
        notes += (f"{len(incidents) - len(shown)} more are not shown.",)
    return Report(
        (_orders(score.orders), *(_rows(data, name, one) for name, one in shown)),
        msgspec.to_builtins(score),
        notes,
    )


def _orders(orders: Sequence[OrderScore]) -> Grid:
    return Grid(
        "Healthy batches, predicted and judged before each is learnt",
        (
            *("order", "mean error", "median"),
            *(f"within 10 % after {after:,}" for after in AFTER_BATCHES),
            f"first {FIRST_BATCHES} of a job",
            *("false batches in 10,000", "false incidents", "in 10,000", "target 0"),
        ),
        [_order(order) for order in orders],
    )


def _order(order: OrderScore) -> list[str]:
    return [
        order.name,
        percent(order.mean_error),
        percent(order.median_error),
        *(percent(order.within[str(after)].value, 1) for after in AFTER_BATCHES),
        percent(order.within_new.value, 1),
        number(order.false_points.value),
        str(len(order.incidents)),
        number(order.false_incidents.value),
        at_most(len(order.incidents), 0),
    ]


def _rows(data: Data, order: str, incident: FalseIncident) -> Grid:
    return Grid(
        f"{order}: alarm of {incident.batches} batches in {incident.job}, {incident.reason}",
        (
            *("row", "job", "in batch", "mean input", "mean output", "decode", "prefill tokens"),
            *("took, ms", "expected, ms", "ratio", "gap before, ms"),
        ),
        [_row(data, number_, expected) for number_, expected in incident.around],
        words=2,
    )


def _row(data: Data, place: int, expected_ms: float | None) -> list[str]:
    row, workload = data.rows[place], data.samples[place].workload
    return [
        str(place),
        row.job,
        str(row.requests),
        f"{row.mean_input:g}",
        f"{row.mean_output:g}",
        str(workload.decode_requests),
        str(workload.prefill_tokens),
        number(row.duration_ms),
        number(expected_ms),
        number(row.duration_ms / expected_ms if expected_ms else None),
        number(gap_ms(data.rows, place)),
    ]


def gap_ms(rows: Sequence[Row], place: int) -> float | None:
    """Give the time since the batch before, of the same job."""
    row, before = rows[place], rows[place - 1]
    if place == 0 or before.job != row.job:
        return None
    return (row.begin_us - before.begin_us) / 1e3 - before.duration_ms


def _argument(data: Data, order: str, incident: FalseIncident) -> str:
    """Set the gaps and durations of the job beside those of jobs with as many requests."""
    own = [n for n, row in enumerate(data.rows) if row.job == incident.job]
    requests = job_of(incident.job).get("conc")
    others = [
        n
        for n, row in enumerate(data.rows)
        if job_of(row.job).get("conc") == requests and row.job != incident.job
    ]
    return (
        f"{order}, {incident.job}, row {incident.number}: between its batches lie "
        f"{number(_median_gap(data, own))} ms in the median and they take "
        f"{number(_median_ms(data, own))} ms; in other jobs of {requests} requests it is "
        f"{number(_median_gap(data, others))} ms and {number(_median_ms(data, others))} ms."
    )


def _median_gap(data: Data, places: Sequence[int]) -> float | None:
    gaps = [gap for place in places if (gap := gap_ms(data.rows, place)) is not None]
    return statistics.median(gaps) if gaps else None


def _median_ms(data: Data, places: Sequence[int]) -> float | None:
    return statistics.median(data.rows[n].duration_ms for n in places) if places else None
