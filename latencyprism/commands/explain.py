"""Explain what was seen: a batch, an incident, or where an engine's time went.

'explain incident' prints what an incident was and why, for a reader who was asleep a minute ago;
'explain incidents' lists the newest. 'explain range' prints where the time of an engine went: what
its work explains, what it does not, and which incident that was. 'explain batch' prints one batch:
what it had to do, what it should have taken and why, what it took and how that was judged.
All is read from ClickHouse, or with --recording from a recording that has results.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from latencyprism.batches import NEAR_NS, Batches, Seen, Wanted
from latencyprism.errors import CommandError, need
from latencyprism.recorded import Recorded
from latencyprism.spans import Asked, Spans
from latencyprism.times import moment_ns, shown, span_ns
from latencyprism.told import Incidents
from schemas.codec import encode
from schemas.incidents import Incident
from schemas.recording import RecordingError
from schemas.records import Batch
from schemas.settings import read_settings, section

ENGINES_SHOWN = 10
INCIDENTS_SHOWN = 5
INCIDENTS_LISTED = 20


class Kept(Batches, Incidents, Spans, Protocol):
    """Where all is kept that can be explained."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be explained, and the flags of each."""
    subjects = parser.add_subparsers(metavar="WHAT", required=True, help="what to explain")
    for name, text, declare, explain in (
        ("incident", "one incident", _add_incident_arguments, _explain_incident),
        ("incidents", "list the newest incidents", _add_incidents_arguments, _list_incidents),
        ("range", "where an engine's time went", _add_range_arguments, _explain_range),
        ("batch", "one batch of an engine", _add_batch_arguments, _explain_batch),
    ):
        subject = subjects.add_parser(name, help=text, description=f"{text.capitalize()}.")
        declare(subject)
        subject.add_argument(
            "--recording", dest="source", type=Path, metavar="FILE", help="a recording (ClickHouse)"
        )
        subject.add_argument("--json", action="store_true", help="print all of it as JSON")
        subject.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
        subject.set_defaults(explain=explain)


def run(arguments: argparse.Namespace) -> int:
    """Explain what was asked for."""
    try:
        with _kept(arguments) as kept:
            lines: Iterable[str] = arguments.explain(arguments, kept)
            print("\n".join(lines))
    except RecordingError as err:
        raise CommandError(str(err)) from err
    return 0


def _add_incident_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "incident", metavar="ID", help="its id, or as much of it as is needed to tell it apart"
    )


def _add_incidents_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", nargs="?", metavar="ENGINE", help="only of this engine (all)")
    parser.add_argument(
        "--most", type=int, default=INCIDENTS_LISTED, metavar="N", help="how many (%(default)s)"
    )


def _add_range_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE", help="engine_id, as host:port")
    begins = parser.add_mutually_exclusive_group(required=True)
    begins.add_argument(
        "--from", dest="begin", metavar="TIME", help="in ISO 8601 or seconds since the epoch"
    )
    begins.add_argument(
        "--last", metavar="SPAN", help="the last 30s, 5m, 2h or 1d, from its newest batch back"
    )
    parser.add_argument(
        "--to", "--until", dest="end", metavar="TIME", help="likewise (its newest batch)"
    )


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


def _explain_incident(arguments: argparse.Namespace, kept: Kept) -> Iterator[str]:
    from latencyprism.explained.incident import lines_of, plain_of

    incident_id = _incident_id(arguments.incident, kept)
    told = kept.told(incident_id)
    if told is None:
        raise CommandError(_no_incident(incident_id, kept.newest(INCIDENTS_SHOWN)))
    config = "" if arguments.config is None else str(arguments.config)
    if arguments.json:
        yield json.dumps(plain_of(told, config), indent=2)
        return
    yield from lines_of(told, config=config, width=_width())


def _list_incidents(arguments: argparse.Namespace, kept: Kept) -> Iterator[str]:
    from latencyprism.explained.incident import row_of
    from latencyprism.explained.span import plain_of_incident
    from latencyprism.explained.words import columns

    if arguments.most < 1:
        raise CommandError(f"--most is {arguments.most}: give a number above 0")
    found = kept.newest(arguments.most, arguments.engine)
    if arguments.json:
        yield json.dumps([plain_of_incident(one) for one in found], indent=2)
        return
    if not found:
        of = "" if arguments.engine is None else f" of {arguments.engine}"
        yield f"No incident{of} is kept here."
    yield from (text for _, text in columns("", [row_of(one) for one in found]))


def _explain_range(arguments: argparse.Namespace, kept: Kept) -> Iterator[str]:
    from latencyprism.explained.span import lines_of, plain_of

    asked = asked_of(arguments)
    span = kept.span(asked)
    if span is None:
        raise CommandError(_nothing_in(asked, kept.seen(), arguments.source))
    if arguments.json:
        worst = [_plain(one, kept) for one in span.worst]
        yield json.dumps(plain_of(span) | {"worst": worst}, indent=2)
        return
    yield from lines_of(span, _width())


def _explain_batch(arguments: argparse.Namespace, kept: Kept) -> Iterator[str]:
    from latencyprism.explained.batch import lines_of

    wanted = wanted_of(arguments)
    batch = kept.find(wanted)
    if batch is None:
        raise CommandError(_nothing(wanted, kept.seen(), arguments.source))
    if arguments.json:
        yield json.dumps(_plain(batch, kept), indent=2)
        return
    incident = kept.incident(batch.incident_id) if batch.incident_id else None
    yield from lines_of(batch, incident)


def _incident_id(given: str, kept: Kept) -> str:
    """Give the one id that begins so.

    Raises:
        CommandError: None does, or more than one.
    """
    found = kept.ids(given)
    if given in found or len(found) == 1:
        return given if given in found else found[0]
    if not found:
        raise CommandError(_no_incident(given, kept.newest(INCIDENTS_SHOWN)))
    more = " ..." if len(found) > INCIDENTS_SHOWN else ""
    raise CommandError(
        f"{given!r} begins the ids of several incidents: give more of one of "
        f"{', '.join(found[:INCIDENTS_SHOWN])}{more}"
    )


def _no_incident(given: str, newest: list[Incident]) -> str:
    if not newest:
        return f"no incident {given!r}: there are none here yet"
    told = "; ".join(
        f"{one.incident_id} ({one.engine_id}, {one.cause}, {shown(one.begin_ns)})" for one in newest
    )
    return (
        f"no incident {given!r}: choose of the newest, {told}; 'latencyprism explain incidents' "
        "lists more"
    )


def asked_of(arguments: argparse.Namespace) -> Asked:
    """Read which time is asked for.

    Raises:
        CommandError: It ends before it begins.
    """
    begin_ns = None if arguments.begin is None else moment_ns(arguments.begin, "--from")
    end_ns = None if arguments.end is None else moment_ns(arguments.end, "--to")
    if begin_ns is not None and end_ns is not None and end_ns <= begin_ns:
        raise CommandError(
            f"--to {arguments.end} is not after --from {arguments.begin}: turn them round"
        )
    return Asked(
        engine_id=arguments.engine,
        begin_ns=begin_ns,
        end_ns=end_ns,
        last_ns=None if arguments.last is None else span_ns(arguments.last, "--last"),
    )


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
def _kept(arguments: argparse.Namespace) -> Iterator[Kept]:
    if arguments.source is not None:
        if arguments.config is not None:
            raise CommandError("--config says where ClickHouse is: leave it out, or --recording")
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
        raise CommandError(f"{err}; or give a recording with --recording") from err
    try:
        yield Stored(client)
    finally:
        client.close()


def _nothing(wanted: Wanted, seen: dict[str, Seen], source: Path | None) -> str:
    of_engine = _seen_of(wanted.engine_id, seen, source)
    there_are = _there_are(of_engine)
    if wanted.at_ns is not None:
        near = f"within {NEAR_NS // 1_000_000_000} s of {shown(wanted.at_ns)}"
        return f"{wanted.engine_id} has no batch {near}: {there_are}; choose a time in there"
    return (
        f"{wanted.engine_id} has no batch {wanted.sequence}: {there_are}; choose another, or take "
        "--at TIME or --slowest"
    )


def _nothing_in(asked: Asked, seen: dict[str, Seen], source: Path | None) -> str:
    there_are = _there_are(_seen_of(asked.engine_id, seen, source))
    return f"{asked.engine_id} has no batch in that time: {there_are}; choose a time in there"


def _seen_of(engine_id: str, seen: dict[str, Seen], source: Path | None) -> Seen:
    """Give what there is of an engine.

    Raises:
        CommandError: Nothing; the text says what else there is.
    """
    if not seen and source is not None:
        raise CommandError(
            f"{source} has no batches: record with the topic 'batches', or make them of its "
            f"iterations with 'latencyprism replay {source} --to OTHER'"
        )
    if not seen:
        raise CommandError(
            "ClickHouse has no batches yet: check that 'latencyprism stream all' runs"
        )
    if engine_id not in seen:
        known = [*seen]
        more = f" and {len(known) - ENGINES_SHOWN} more" if len(known) > ENGINES_SHOWN else ""
        raise CommandError(
            f"no engine {engine_id!r}: choose of {', '.join(known[:ENGINES_SHOWN])}{more}"
        )
    return seen[engine_id]


def _there_are(seen: Seen) -> str:
    return (
        f"there are {seen.batches:,}, from {seen.first_sequence} to {seen.last_sequence}, "
        f"{shown(seen.begin_ns)} to {shown(seen.end_ns)}"
    )


def _width() -> int | None:
    """Give how wide the terminal is; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _plain(batch: Batch, batches: Batches) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(encode(batch))
    if not batches.keeps_samples:
        # Unknown is never 0.
        for phase in plain["phases"]:
            del phase["samples"]
    return plain
