"""Print what a replay gave, for people and as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from latencyprism.times import shown
from schemas.incidents import Incident
from streams.difference import Difference, Pair
from streams.outcome import Outcome
from streams.replay import Replay

VERDICTS = ("normal", "drift", "slow", "unknown")
ENGINES_SHOWN = 20
INCIDENTS_SHOWN = 40
FILE_COLUMNS = 140


def print_json(played: Replay, difference: Difference | None) -> None:
    """Print one JSON object."""
    outcome = played.outcome
    result: dict[str, Any] = {
        "records": played.records,
        "iterations": played.iterations,
        "batches": len(outcome.verdicts),
        "seconds": round(played.seconds, 3),
        "verdicts": {engine: dict(found) for engine, found in outcome.counts().items()},
        "incidents": [_plain_incident(one) for one in outcome.incidents.values()],
    }
    if difference is not None:
        result["difference"] = _plain(difference)
    print(json.dumps(result, indent=2))


def print_tables(played: Replay, difference: Difference | None) -> None:
    """Print tables."""
    from rich.console import Console

    # Nobody wants a file or a pipe to be cut at 80 columns.
    console = Console(
        highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else FILE_COLUMNS
    )
    outcome = played.outcome
    incidents = [*outcome.incidents.values()]
    console.print(_engines(outcome))
    if incidents:
        console.print(_incidents("Incidents", incidents))
    else:
        console.print("No incident.")
    batches = len(outcome.verdicts)
    console.print(
        f"{batches:,} batches and {len(incidents):,} incidents of {played.records:,} "
        f"records in {played.seconds:.1f} s ({batches / max(played.seconds, 1e-9):,.0f} batches/s)"
    )
    if difference is not None:
        _print_difference(console, difference)


def _engines(outcome: Outcome) -> Any:
    counts = outcome.counts()
    incidents = [engine_id for engine_id, _ in outcome.incidents]
    table = _table("Batches", "engine", "batches", *VERDICTS, "incidents")
    most_first = sorted(counts, key=lambda one: (-incidents.count(one), -counts[one]["slow"], one))
    for engine_id in most_first[:ENGINES_SHOWN]:
        found = counts[engine_id]
        numbers = [found.total(), *(found[verdict] for verdict in VERDICTS)]
        table.add_row(
            engine_id, *(f"{number:,}" for number in numbers), str(incidents.count(engine_id))
        )
    if len(counts) > ENGINES_SHOWN:
        table.caption = f"and {len(counts) - ENGINES_SHOWN:,} more engines; --json has them all"
    return table


def _incidents(title: str, incidents: list[Incident]) -> Any:
    table = _table(title, "engine", "incident", "begin", "seconds", "ratio", "alerts", "cause")
    for one in incidents[:INCIDENTS_SHOWN]:
        seconds = "open" if one.end_ns is None else f"{(one.end_ns - one.begin_ns) / 1e9:.1f}"
        table.add_row(
            one.engine_id,
            one.incident_id,
            shown(one.begin_ns),
            seconds,
            f"{one.ratio:.2f}",
            str(one.alerts),
            one.cause,
        )
    if len(incidents) > INCIDENTS_SHOWN:
        table.caption = f"and {len(incidents) - INCIDENTS_SHOWN:,} more; --json has them all"
    return table


def _print_difference(console: Any, difference: Difference) -> None:
    changed = [pair for pair in difference.pairs if not pair.equal]
    console.print(
        f"\nCompared: {len(difference.pairs)} incidents in both ({len(changed)} of them changed), "
        f"{len(difference.only_here)} only here, {len(difference.only_there)} only there."
    )
    if changed:
        console.print(_pairs(changed))
    if difference.only_here:
        console.print(_incidents("Only here", difference.only_here))
    if difference.only_there:
        console.print(_incidents("Only there", difference.only_there))
    if difference.verdicts:
        console.print(_confusion(difference))
    if difference.batches_only_here or difference.batches_only_there:
        console.print(
            f"{difference.batches_only_here:,} batches are only here, "
            f"{difference.batches_only_there:,} only there."
        )
    console.print("Both say the same." if difference.equal else "They differ.")


def _pairs(pairs: list[Pair]) -> Any:
    table = _table("Changed", "engine", "incident", "cause there", "cause here", "begin", "told")
    for pair in pairs[:INCIDENTS_SHOWN]:
        table.add_row(
            pair.here.engine_id,
            pair.here.incident_id,
            pair.there.cause,
            pair.here.cause if pair.cause_changed else "the same",
            f"{pair.begin_shift_ns / 1e6:+,.1f} ms ({pair.begin_shift_batches:+d} batches)",
            f"{pair.fired_shift_ns / 1e6:+,.1f} ms",
        )
    if len(pairs) > INCIDENTS_SHOWN:
        table.caption = f"and {len(pairs) - INCIDENTS_SHOWN:,} more; --json has them all"
    return table


def _confusion(difference: Difference) -> Any:
    table = _table("Batches: verdict there (down) and here", "there", *VERDICTS)
    for there in VERDICTS:
        table.add_row(there, *(f"{difference.verdicts[there, here]:,}" for here in VERDICTS))
    return table


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption_justify="left")
    texts = {"engine", "incident", "begin", "cause", "cause there", "cause here", "there"}
    for column in columns:
        table.add_column(column, justify="left" if column in texts else "right", overflow="fold")
    return table


def _plain_incident(one: Incident) -> dict[str, Any]:
    return asdict(one) | {"cause": one.cause}


def _plain(difference: Difference) -> dict[str, Any]:
    return {
        "equal": difference.equal,
        "pairs": [
            asdict(pair)
            | {"here": _plain_incident(pair.here), "there": _plain_incident(pair.there)}
            | {"cause_changed": pair.cause_changed, "equal": pair.equal}
            for pair in difference.pairs
        ],
        "only_here": [_plain_incident(one) for one in difference.only_here],
        "only_there": [_plain_incident(one) for one in difference.only_there],
        "verdicts": [
            {"there": there, "here": here, "batches": count}
            for (there, here), count in sorted(difference.verdicts.items())
        ],
        "batches_only_here": difference.batches_only_here,
        "batches_only_there": difference.batches_only_there,
    }
