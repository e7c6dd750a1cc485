"""Explain what was seen: why a batch took as long as it did, term by term.

'explain batch' prints one batch: what it had to do, what it should have taken and why, what it took
and how that was judged, with its phases, the counters beside it and the incident that it belongs
to. It is read from ClickHouse, or with --from from a recording that has results.
"""

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latencyprism.batches import NEAR_NS, Batches, Recorded, Seen, Wanted
from latencyprism.errors import CommandError, need
from latencyprism.times import moment_ns, shown, span_ns
from schemas.codec import encode
from schemas.recording import RecordingError
from schemas.records import Batch
from schemas.settings import read_settings, section

ENGINES_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be explained, and the flags of each."""
    subjects = parser.add_subparsers(metavar="WHAT", required=True, help="what to explain")
    batch = subjects.add_parser(
        "batch", help="one batch of an engine", description="Explain one batch of an engine."
    )
    _add_batch_arguments(batch)
    batch.set_defaults(explain=_explain_batch)


def run(arguments: argparse.Namespace) -> int:
    """Explain what was asked for."""
    status: int = arguments.explain(arguments)
    return status


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE", help="engine_id, as host:port")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "sequence", nargs="?", type=int, metavar="SEQUENCE", help="number of the batch"
    )
    which.add_argument(
        "--at",
        metavar="TIME",
        help="the batch that ran then, in ISO 8601 or seconds since the epoch",
    )
    which.add_argument(
        "--slowest",
        action="store_true",
        help="the one that took the most times its expected duration",
    )
    parser.add_argument(
        "--last",
        metavar="SPAN",
        help="the slowest of the engine's last 30s, 5m, 2h or 1d, from its newest batch back",
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="a recording (ClickHouse)"
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")


def _explain_batch(arguments: argparse.Namespace) -> int:
    from latencyprism.explained import lines_of

    wanted = wanted_of(arguments)
    try:
        with _batches(arguments) as batches:
            batch = batches.find(wanted)
            if batch is None:
                raise CommandError(_nothing(wanted, batches.seen(), arguments.source))
            if arguments.json:
                print(json.dumps(_plain(batch, batches), indent=2))
                return 0
            incident = batches.incident(batch.incident_id) if batch.incident_id else None
            print("\n".join(lines_of(batch, incident)))
    except RecordingError as err:
        raise CommandError(str(err)) from err
    return 0


def wanted_of(arguments: argparse.Namespace) -> Wanted:
    """Read which batch is asked for.

    Raises:
        CommandError: None is, or in two ways.
    """
    exact = arguments.sequence is not None or arguments.at is not None
    if not (exact or arguments.slowest or arguments.last):
        raise CommandError("which batch? Give its SEQUENCE, --at TIME, --slowest or --last 5m")
    if exact and arguments.last:
        raise CommandError("--last chooses the slowest: leave it out, or SEQUENCE and --at")
    return Wanted(
        engine_id=arguments.engine,
        sequence=arguments.sequence,
        at_ns=None if arguments.at is None else moment_ns(arguments.at, "--at"),
        last_ns=None if arguments.last is None else span_ns(arguments.last, "--last"),
    )


@contextmanager
def _batches(arguments: argparse.Namespace) -> Iterator[Batches]:
    if arguments.source is not None:
        if arguments.config is not None:
            raise CommandError("--config says where ClickHouse is: leave it out, or --from")
        yield Recorded(arguments.source)
        return
    need("clickhouse_connect", "stream")
    from latencyprism.stored import Stored
    from streams.sinks.base import SinkUnavailable
    from streams.sinks.clickhouse import ClickHouseSettings, connect

    store = section(read_settings(arguments.config), "store", ClickHouseSettings)
    try:
        client = connect(store, os.environ.get("LATENCYPRISM_CLICKHOUSE_PASSWORD", ""))
    except SinkUnavailable as err:
        raise CommandError(f"{err}; or give a recording with --from") from err
    try:
        yield Stored(client)
    finally:
        client.close()


def _nothing(wanted: Wanted, seen: dict[str, Seen], source: Path | None) -> str:
    if not seen and source is not None:
        return (
            f"{source} has no batches: record with the topic 'batches', or make them of its "
            f"iterations with 'latencyprism replay {source} --to OTHER'"
        )
    if not seen:
        return "ClickHouse has no batches yet: check that 'latencyprism stream all' runs"
    of_engine = seen.get(wanted.engine_id)
    if of_engine is None:
        known = [*seen]
        more = f" and {len(known) - ENGINES_SHOWN} more" if len(known) > ENGINES_SHOWN else ""
        return f"no engine {wanted.engine_id!r}: choose of {', '.join(known[:ENGINES_SHOWN])}{more}"
    there_are = (
        f"there are {of_engine.batches:,}, from {of_engine.first_sequence} to "
        f"{of_engine.last_sequence}, {shown(of_engine.begin_ns)} to {shown(of_engine.end_ns)}"
    )
    if wanted.at_ns is not None:
        near = f"within {NEAR_NS // 1_000_000_000} s of {shown(wanted.at_ns)}"
        return f"{wanted.engine_id} has no batch {near}: {there_are}; choose a time in there"
    return (
        f"{wanted.engine_id} has no batch {wanted.sequence}: {there_are}; choose another, or take "
        "--at TIME or --slowest"
    )


def _plain(batch: Batch, batches: Batches) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(encode(batch))
    if not batches.keeps_samples:
        # Unknown is never 0.
        for phase in plain["phases"]:
            del phase["samples"]
    return plain
