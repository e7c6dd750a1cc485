"""See what is wrong now, say that you take care of it, or silence what is known.

Incidents are read from Kafka, where acknowledgements and silences are written, too; with --api a
worker that listens there ([notify] listen) is asked instead.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from latencyprism.errors import CommandError, need
from latencyprism.times import shown, span_ns
from schemas.codec import encode
from schemas.records import Notification, Record, Silence
from schemas.settings import KafkaSettings, read_settings, section

if TYPE_CHECKING:
    from latencyprism.desks import Desk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be done, and the flags of each."""
    actions = parser.add_subparsers(metavar="WHAT", required=True, help="what to do")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        child = actions.add_parser(name, help=text[0].lower() + text[1:-1], description=text)
        child.add_argument("--json", action="store_true", help="print records as JSON")
        child.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
        child.add_argument("--api", metavar="URL", help="ask a worker, as http://127.0.0.1:9466")
        return child

    listing = action("list", "List the incidents that are open.")
    listing.set_defaults(act=_list)
    one = action("show", "Show an incident with its members.")
    one.add_argument("incident_id", metavar="ID", help="of the incident, or of a member's")
    one.set_defaults(act=_show)
    ack = action("ack", "Say that you take care of an incident: only its end is told then.")
    ack.add_argument("incident_id", metavar="ID", help="of the incident")
    ack.add_argument("--by", required=True, metavar="NAME", help="who does")
    ack.set_defaults(act=_acknowledge)
    silence = action("silence", "Keep incidents from being delivered for a while.")
    silence.add_argument(
        "--match",
        action="append",
        required=True,
        metavar="NAME=PATTERN",
        help="engine_id, host, model, framework, cause or severity and a shell pattern; repeat it "
        "for more, all of which must match",
    )
    silence.add_argument(
        "--for", dest="span", required=True, metavar="SPAN", help="how long: 30s, 5m, 2h or 1d"
    )
    silence.add_argument(
        "--reason",
        default="maintenance",
        help="maintenance, deployment, known or test (%(default)s)",
    )
    silence.add_argument("--by", metavar="NAME", help="who asks for it")
    silence.set_defaults(act=_silence)
    unsilence = action("unsilence", "End a silence.")
    unsilence.add_argument("silence_id", metavar="ID", help="of the silence")
    unsilence.set_defaults(act=_unsilence)
    silences = action("silences", "List the silences in force and to come.")
    silences.set_defaults(act=_silences)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    arguments.act(_desk(arguments), arguments)
    return 0


def _desk(arguments: argparse.Namespace) -> "Desk":
    from latencyprism.desks import ApiDesk, KafkaDesk

    if arguments.api is not None:
        return ApiDesk(arguments.api)
    need("confluent_kafka", "collect")
    return KafkaDesk(section(read_settings(arguments.config), "kafka", KafkaSettings))


def _list(desk: "Desk", arguments: argparse.Namespace) -> None:
    found = sorted(desk.incidents(), key=lambda one: -one.begin_ns)
    if arguments.json:
        return _print_json(list(found))
    print("\n".join(line for one in found for line in _lines(one)) or "No incident is open.")


def _show(desk: "Desk", arguments: argparse.Namespace) -> None:
    found = desk.incident(arguments.incident_id)
    if arguments.json:
        return _print_json(found)
    print("\n".join(_lines_of_one(found)))


def _acknowledge(desk: "Desk", arguments: argparse.Namespace) -> None:
    record = desk.acknowledge(arguments.incident_id, arguments.by)
    if arguments.json:
        return _print_json(record)
    print(f"{record.incident_id} is acknowledged by {record.by}: only its end is told.")


def _silence(desk: "Desk", arguments: argparse.Namespace) -> None:
    matchers = dict(_matcher(one) for one in arguments.match)
    if len(matchers) < len(arguments.match):
        raise CommandError("--match names something twice: give one pattern, or two silences")
    seconds = span_ns(arguments.span, "--for") / 1e9
    record = desk.silence(matchers, seconds, arguments.reason, arguments.by)
    if arguments.json:
        return _print_json(record)
    print(_line_of_silence(record))


def _unsilence(desk: "Desk", arguments: argparse.Namespace) -> None:
    record = desk.unsilence(arguments.silence_id)
    if arguments.json:
        return _print_json(record)
    print(f"{record.silence_id} is over.")


def _silences(desk: "Desk", arguments: argparse.Namespace) -> None:
    found = desk.silences()
    if arguments.json:
        return _print_json(list(found))
    print("\n".join(map(_line_of_silence, found)) or "Nothing is silenced.")


def _matcher(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not equals:
        raise CommandError(f"--match is {text!r}: give a name and a pattern, as host=h1")
    return name, pattern


def _lines(one: Notification) -> Iterator[str]:
    seconds = (time.time_ns() - one.begin_ns) / 1e9
    yield f"{one.incident_id}  {one.severity:6}  since {shown(one.begin_ns)} ({_span(seconds)})"
    yield f"    {one.summary}"
    if marks := ", ".join(_marks(one)):
        yield f"    {marks}"


def _lines_of_one(one: Notification) -> Iterator[str]:
    yield one.summary
    yield f"  to do      {one.next_step}"
    yield f"  state      {one.state}, {one.severity}, since {shown(one.begin_ns)}"
    if one.end_ns is not None:
        yield f"  over       {shown(one.end_ns)}"
    yield f"  cause      {one.cause}, {one.confidence:.0%} sure"
    if one.shared is not None:
        yield f"  shared     {one.shared}"
    if marks := ", ".join(_marks(one)):
        yield f"  told       {marks}"
    for member in one.members:
        ratio = "" if member.ratio is None else f" {member.ratio:.2f} times as slow"
        state = "over" if member.state == "resolved" else "open"
        about = f"{member.engine_id}{ratio}, {member.cause}, {state}"
        yield f"  member     {about} ({member.incident_id})"
    for link in one.captures:
        yield f"  {link.kind:10} {link.folder} on {link.host}"
    yield f"The numbers: latencyprism explain incident {one.alert.incident_id}"


def _marks(one: Notification) -> Iterator[str]:
    if one.acknowledged_by is not None:
        yield f"acknowledged by {one.acknowledged_by}"
    if one.silenced_by is not None:
        yield f"silenced by {one.silenced_by}"
    if one.flapping:
        yield "comes and goes"


def _line_of_silence(one: Silence) -> str:
    what = " and ".join(f"{name}={pattern}" for name, pattern in one.matchers.items())
    by = "" if one.by is None else f" by {one.by}"
    return f"{one.silence_id}  {what} until {shown(one.end_ns)} ({one.reason}{by})"


def _span(seconds: float) -> str:
    """Give a length of time in its largest unit.

    >>> _span(59), _span(150), _span(7300)
    ('59 s', '2 min', '2 h')
    """
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.0f} h"


def _print_json(found: Record | list[Record]) -> None:
    """Print a record, or records as a list."""
    many = found if isinstance(found, list) else [found]
    plain = [json.loads(encode(one)) for one in many]
    print(json.dumps(plain if isinstance(found, list) else plain[0], indent=2))
