"""Feed a recorded stream through the present analysis, and compare what it says with another.

The same input gives the same output, byte by byte, however fast it runs. --compare tells, alert by
alert, what differs from the results in another recording: those of another version (replay there
with --to), or with 'recorded' those in the same stream. A replay learns its baselines anew, so the
first minutes differ from those of a worker that had learnt them before.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latencyprism.commands.record import (
    is_same_file,
    open_history,
    records_in,
    times_of,
    warn_of_unreadable,
)
from latencyprism.errors import CommandError, need
from latencyprism.logs import add_log_level, start_logging
from schemas.recording import RecordingError, RecordingWriter, seen_ns
from schemas.records import Engine, Record
from schemas.settings import read_settings
from schemas.topics import ALERTS, BATCHES, ENGINES, HOSTS, ITERATIONS, PROCESSES, XPUS

RECORDED = "recorded"
INPUTS = (ENGINES, HOSTS, PROCESSES, XPUS, ITERATIONS)
RESULTS = (BATCHES, ALERTS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a recording")
    parser.add_argument("--kafka", action="store_true", help="read from Kafka instead of a file")
    parser.add_argument(
        "--from", dest="begin", metavar="TIME", help="ISO 8601 or seconds since the epoch (all)"
    )
    parser.add_argument("--until", metavar="TIME", help="the end, likewise (all)")
    parser.add_argument(
        "--engine", action="append", metavar="ID", help="only this engine; may be repeated (all)"
    )
    parser.add_argument(
        "--speed", default="max", metavar="X", help="times as fast as it was, or 'max' (max)"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="write batches and alerts there")
    parser.add_argument(
        "--compare",
        metavar="OTHER",
        help=f"a recording with results, or '{RECORDED}' for those in the input",
    )
    parser.add_argument(
        "--fail-on-difference", action="store_true", help="exit status 1 where --compare finds one"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    add_log_level(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replay, print what came out, and tell the difference."""
    start_logging(arguments.log_level)
    _check(arguments)
    speed = speed_of(arguments.speed)
    need("river", "stream")
    from latencyprism.replayed import print_json, print_tables
    from streams.difference import compare
    from streams.outcome import Outcome
    from streams.replay import Replay

    there = Outcome()
    played = Replay(recorded=there.add if arguments.compare == RECORDED else None)
    try:
        with _sink(arguments.to) as write:
            played.play(_paced(_source(arguments), speed), write)
        if played.iterations == 0:
            raise CommandError(_no_iterations(arguments, played.others))
        if arguments.compare not in (None, RECORDED):
            for record in _chosen(records_in(Path(arguments.compare)), arguments):
                there.add(record)
    except RecordingError as err:
        raise CommandError(str(err)) from err
    difference = None
    if arguments.compare is not None:
        _check_results(there, arguments.compare)
        difference = compare(played.outcome, there, played.over_ns)
    show = print_json if arguments.json else print_tables
    show(played, difference)
    differs = difference is not None and not difference.equal
    return 1 if differs and arguments.fail_on_difference else 0


def speed_of(text: str) -> float | None:
    """Read --speed; None is as fast as possible.

    Raises:
        CommandError: It is no number above 0.
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not (math.isfinite(speed) and speed > 0):
        raise CommandError(f"--speed is {text!r}: give a number above 0, or 'max'")
    return speed


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.file is None) != arguments.kafka:
        raise CommandError("give either the FILE of a recording, or --kafka")
    if arguments.fail_on_difference and arguments.compare is None:
        raise CommandError("--fail-on-difference needs --compare with what to compare")
    if arguments.config is not None and not arguments.kafka:
        raise CommandError("--config is read with --kafka alone: leave one out, or give both")
    read = [arguments.file]
    if arguments.compare not in (None, RECORDED):
        read.append(Path(arguments.compare))
    if any(is_same_file(arguments.to, path) for path in read):
        raise CommandError(f"--to {arguments.to} would replace what is read: choose another file")


def _source(arguments: argparse.Namespace) -> Iterator[Record]:
    if not arguments.kafka:
        return _chosen(records_in(arguments.file), arguments)
    return _from_kafka(arguments)


def _chosen(records: Iterable[Record], arguments: argparse.Namespace) -> Iterator[Record]:
    """Give those of the wanted engines and time; the inventory of before is needed, too."""
    begin_ns, end_ns = _file_times(arguments)
    engine_ids = frozenset(arguments.engine or ())
    for record in records:
        if engine_ids and getattr(record, "engine_id", None) not in engine_ids:
            continue
        at_ns = seen_ns(record)
        if at_ns < end_ns and (at_ns >= begin_ns or isinstance(record, Engine)):
            yield record


def _file_times(arguments: argparse.Namespace) -> tuple[float, float]:
    begin_ns, end_ns = times_of(arguments)
    # A simulated stream may lie in the future: without --until it has no end.
    return begin_ns or 0, end_ns if arguments.until else math.inf


def _from_kafka(arguments: argparse.Namespace) -> Iterator[Record]:
    need("confluent_kafka", "collect")
    from streams.broker import BrokerError

    begin_ns, end_ns = times_of(arguments)
    history = open_history(
        read_settings(arguments.config),
        topics=(*INPUTS, *RESULTS) if arguments.compare == RECORDED else INPUTS,
        begin_ns=begin_ns,
        end_ns=end_ns,
        engine_ids=arguments.engine or (),
    )
    try:
        for found in history:
            yield found.record
    except BrokerError as err:
        raise CommandError(str(err)) from err
    warn_of_unreadable(history)


def _paced(records: Iterable[Record], speed: float | None) -> Iterator[Record]:
    """Let records come as far apart as they were, divided by the speed."""
    if speed is None:
        yield from records
        return
    first_ns: int | None = None
    began_at_seconds = time.monotonic()
    for record in records:
        # The inventory may be older than the stream, which begins later then.
        if not isinstance(record, Engine):
            at_ns = seen_ns(record)
            first_ns = at_ns if first_ns is None else first_ns
            due_seconds = (at_ns - first_ns) / 1e9 / speed
            time.sleep(max(began_at_seconds + due_seconds - time.monotonic(), 0.0))
        yield record


@dataclass(slots=True)
class _Sink:
    """Where results go; to nowhere without a path."""

    path: Path | None
    writer: RecordingWriter | None = None

    def __enter__(self) -> Callable[[Record], None] | None:
        if self.path is None:
            return None
        self.writer = RecordingWriter(self.path)
        return self.writer.write

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.writer is not None:
            self.writer.__exit__(kind, error, trace)


def _sink(path: Path | None) -> _Sink:
    return _Sink(path)


def _no_iterations(arguments: argparse.Namespace, others: set[str]) -> str:
    where = "Kafka" if arguments.kafka else str(arguments.file)
    if arguments.engine:
        return (
            f"{where} has no iterations of {', '.join(arguments.engine)} in this time: check "
            "--engine (host:port) by a replay without it"
        )
    known = f", though readings of {', '.join(sorted(others)[:5])}" if others else ""
    return (
        f"{where} has no iterations in this time{known}: choose another time, or record again "
        "with the topic 'iterations' while an agent watches an engine"
    )


def _check_results(there: Any, name: str) -> None:
    if there.verdicts or there.incidents:
        return
    source = "the input" if name == RECORDED else name
    raise CommandError(
        f"{source} has no batches and no alerts to compare with: record with the topics 'batches' "
        "and 'alerts', or make a recording of results by 'latencyprism replay FILE --to OTHER'"
    )
