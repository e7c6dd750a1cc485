"""A score as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from simulator.score.confidence import Estimate
from simulator.score.match import Outcome
from simulator.score.metrics import Group, Score, right_first, right_in_three

NOTHING = "–"
# Of a long list the first ones say enough; JSON has them all.
NOTES_SHOWN = 12


Writer = Callable[[Group], str]

POINTS: dict[str, Writer] = {
    "batch precision": lambda group: shown(group.points.precision, digits=4),
    "batch recall": lambda group: shown(group.points.recall, digits=4),
    "batch F1": lambda group: shown(group.points.f1, digits=4),
    "batch false positives": lambda group: percent(group.points.false_positive_rate, 3),
    "judged batches": lambda group: percent(group.points.coverage, 1),
}
INCIDENTS: dict[str, Writer] = {
    "faults found, per engine": lambda group: (
        f"{group.incidents.found} of {group.incidents.expected} (faults: {group.incidents.faults})"
    ),
    "incident precision": lambda group: shown(group.incidents.precision),
    "incident recall": lambda group: shown(group.incidents.recall),
    "incident F1": lambda group: shown(group.incidents.f1),
    "incidents per fault found": lambda group: shown(
        Estimate(group.incidents.incidents_per_found), digits=2
    ),
    "duplicates": lambda group: str(group.incidents.duplicates),
    "covered by an older one": lambda group: str(group.incidents.covered),
    "false incidents": lambda group: str(group.incidents.false),
    "of them drift": lambda group: str(group.incidents.drift_mistaken),
    "false / engine-week": lambda group: (
        f"{shown(group.incidents.false_per_engine_week, digits=2)} "
        f"(in {group.incidents.engine_weeks * 168:.2f} engine-hours)"
    ),
}
LAGS: dict[str, Writer] = {
    "lag p50, batches": lambda group: shown(group.lag.batches_p50, digits=1),
    "lag p90, batches": lambda group: shown(group.lag.batches_p90, digits=1),
    "lag p50, ms": lambda group: shown(group.lag.ms_p50, digits=1),
    "lag p90, ms": lambda group: shown(group.lag.ms_p90, digits=1),
    "batch to alert p50, ms": lambda group: shown(group.lag.delivery_ms_p50, digits=1),
    "batch to alert p99, ms": lambda group: shown(group.lag.delivery_ms_p99, digits=1),
}
CAUSES: dict[str, Writer] = {
    "right cause first": lambda group: percent(group.causes.right_first, 1),
    "at firing": lambda group: percent(group.causes.right_at_firing, 1),
    "in the top three": lambda group: percent(group.causes.right_in_three, 1),
    "cause unknown": lambda group: percent(group.causes.unknown, 1),
    "right first, of all faults": lambda group: percent(group.causes.right_first_of_all, 1),
    "in the top three, of all": lambda group: percent(group.causes.right_in_three_of_all, 1),
}


def render(score: Score) -> RenderableType:
    """Lay a score out as tables, for `rich.print` or a console."""
    parts: list[RenderableType] = [_heading(score), _whole(score)]
    if score.by_fault:
        parts += [_faults("Faults", score.by_fault), _faults("Severity", score.by_severity)]
    if score.by_workload:
        parts.append(_workloads(score.by_workload))
    if score.batches:
        parts.append(_controls(score.by_control))
    return Stack(*parts, *(Text(note) for note in _notes(score)))


def to_json(score: Score) -> bytes:
    """Give everything as JSON; what is unknown is null."""
    plain = {
        "schema": "score.v1",
        "options": score.options,
        "begin_ns": score.begin_ns,
        "end_ns": score.end_ns,
        "engines": score.engines,
        "batches": score.batches,
        "faults": score.faults,
        "controls": score.controls,
        "overall": score.overall,
        "material": score.material,
        "by_fault": score.by_fault,
        "by_severity": score.by_severity,
        "by_fault_and_severity": score.by_fault_and_severity,
        "by_workload": score.by_workload,
        "by_control": score.by_control,
        "outcomes": [_outcome(one) for one in score.outcomes],
        "false_incidents": [
            {
                "incident_id": one.incident.incident_id,
                "engine_id": one.incident.engine_id,
                "fired_ns": one.incident.fired_ns,
                "end_ns": one.incident.end_ns,
                "cause": one.incident.causes[0],
                "control": one.control,
                "bucket": one.bucket,
            }
            for one in score.false
        ],
        "notes": score.notes,
    }
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2)


def shown(estimate: Estimate, unit: str = "", digits: int = 3) -> str:
    """Write a figure with its interval."""
    if estimate.value is None:
        return NOTHING
    value = f"{estimate.value:.{digits}f}{unit}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def percent(estimate: Estimate, digits: int = 2) -> str:
    """Write a share in percent with its interval."""
    value, low, high = (
        None if one is None else 100 * one for one in (estimate.value, estimate.low, estimate.high)
    )
    return shown(Estimate(value, low, high, estimate.n), " %", digits)


def _heading(score: Score) -> str:
    options = score.options
    hours = (score.end_ns - score.begin_ns) / 3.6e12
    return (
        f"{score.batches:,} batches of {score.engines} engines over {hours:.2f} h; "
        f"{score.faults} faults, {score.controls} controls. Intervals are 95 %. "
        f"Guard {options.guard_ns / 1e6:g} ms; grace {options.grace_ns / 1e9:g} s or "
        f"{options.grace_batches} batches, at most {options.grace_most_ns / 1e9:g} s."
    )


def _whole(score: Score) -> Table:
    table = Table(title="All, and those that users feel", title_justify="left")
    ratio = score.options.material_ratio
    for name in ("", "all faults", f"faults that slow batches by {ratio:g} and more"):
        table.add_column(name)
    is_known = score.material.incidents.expected > 0
    for section in (POINTS, INCIDENTS, LAGS, CAUSES):
        for name, write in section.items():
            table.add_row(
                name, write(score.overall), write(score.material) if is_known else NOTHING
            )
        table.add_section()
    return table


def _faults(title: str, groups: Mapping[str, Group]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("name", no_wrap=True)
    for name in ("found", "recall", "of batches", "effect", "true", "lag p50", "ms p50"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("right first", "top 3", "unknown"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("named most")
    for name, group in groups.items():
        table.add_row(name, *_fault_row(group))
    return table


def _fault_row(group: Group) -> Iterable[str]:
    incidents, lag, causes = group.incidents, group.lag, group.causes
    yield f"{incidents.found}/{incidents.expected}"
    yield shown(incidents.recall, digits=2)
    yield shown(Estimate(group.points.recall.value), digits=2)
    yield _times(group.effect.measured)
    yield _times(group.effect.true_ratio)
    yield shown(Estimate(lag.batches_p50.value), digits=1)
    yield shown(Estimate(lag.ms_p50.value), digits=0)
    yield shown(causes.right_first, digits=2)
    yield shown(Estimate(causes.right_in_three.value), digits=2)
    yield shown(Estimate(causes.unknown.value), digits=2)
    yield ", ".join(f"{cause} {count}" for cause, count in list(causes.named.items())[:1])


def _times(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"x{ratio:.2f}"


def _workloads(groups: Mapping[str, Group]) -> Table:
    table = Table(title="Batch size", title_justify="left")
    table.add_column("requests")
    for name in ("batches", "precision", "recall", "F1", "false positives", "found", "false"):
        table.add_column(name, justify="right")
    for name, group in groups.items():
        points, incidents = group.points, group.incidents
        table.add_row(
            name,
            f"{points.coverage.n:,}",
            shown(points.precision),
            shown(points.recall),
            shown(points.f1),
            percent(points.false_positive_rate),
            f"{incidents.found}/{incidents.expected}",
            str(incidents.false),
        )
    return table


def _controls(groups: Mapping[str, Group]) -> Table:
    table = Table(title="Where nothing was wrong", title_justify="left")
    table.add_column("control")
    for name in ("batches", "false batches", "false incidents", "engine-hours", "per engine-week"):
        table.add_column(name, justify="right")
    for name, group in groups.items():
        points, incidents = group.points, group.incidents
        table.add_row(
            name,
            f"{points.fp + points.tn:,}",
            percent(points.false_positive_rate, 3),
            str(incidents.false),
            f"{incidents.engine_weeks * 168:.2f}",
            shown(incidents.false_per_engine_week, digits=1),
        )
    return table


def _notes(score: Score) -> Iterable[str]:
    yield from score.notes[:NOTES_SHOWN]
    if len(score.notes) > NOTES_SHOWN:
        yield f"{len(score.notes) - NOTES_SHOWN} more notes are in the JSON."
    if score.by_fault:
        yield (
            "Precision and F1 belong to the whole: a false alarm is of no fault. Batches in a row "
            "are alike, so intervals over batches are too narrow; those of F1 and of the lag draw "
            "whole faults, and those of found faults and causes are of as many as there are faults."
        )


def _outcome(one: Outcome) -> dict[str, Any]:
    incident, fault = one.incident, one.fault
    return {
        "fault_id": fault.fault_id,
        "name": fault.name,
        "severity": fault.severity,
        "intensity": fault.intensity,
        "engine_id": one.engine_id,
        "begin_ns": one.begin_ns,
        "end_ns": one.end_ns,
        "status": one.status,
        "duplicates": one.duplicates,
        "incident_id": incident.incident_id if incident else None,
        "fired_ns": incident.fired_ns if incident else None,
        "lag_batches": one.lag_batches,
        "lag_ns": one.lag_ns,
        "since_begin_ns": one.since_begin_ns,
        "delivery_ns": one.delivery_ns,
        "effect": one.effect,
        "true_ratio": fault.true_ratio,
        "bucket": one.bucket,
        "causes": sorted(one.causes),
        "cause_at_firing": next(iter(incident.causes_at_firing), None) if incident else None,
        "cause": incident.causes[0] if incident else None,
        "other_causes": incident.causes[1:] if incident else (),
        "right_first": right_first(one) if incident else None,
        "right_in_three": right_in_three(one) if incident else None,
    }
