"""Record the stream from Kafka into a file, to replay and to score it later.

All that is known of the engines in a time is written in the order in which it was seen: what the
agents sent, and with it the batches, alerts and the truth about injected faults. With --seconds the
time begins now; a time that is not over yet is waited for, and Ctrl-C ends the waiting.
A baseline is learnt at the beginning of a replay: begin some minutes before what matters.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latencyprism.errors import CommandError, need
from latencyprism.logs import add_log_level, start_logging
from latencyprism.times import moment_ns, shown
from schemas.recording import read_recording
from schemas.records import Record
from schemas.settings import KafkaSettings, read_settings, section
from schemas.topics import (
    ALERTS,
    BATCHES,
    ENGINES,
    FAULTS,
    HOSTS,
    ITERATIONS,
    PROCESSES,
    TOPICS,
    XPUS,
    Topic,
)

USUAL = (ENGINES, HOSTS, XPUS, PROCESSES, FAULTS, ITERATIONS, BATCHES, ALERTS)
# Messages travel: what happened before the end arrives a moment after it.
TRAVEL_SECONDS = 1.0
PROGRESS_SECONDS = 2.0
REASONS_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="where to write; NAME.gz is compressed"
    )
    parser.add_argument(
        "--from",
        dest="begin",
        metavar="TIME",
        help="ISO 8601, seconds since the epoch, 'beginning' or 'now' (beginning; with "
        "--seconds: now)",
    )
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--until", metavar="TIME", help="the end, likewise (now)")
    ends.add_argument("--seconds", type=float, metavar="S", help="the end, so long after --from")
    parser.add_argument(
        "--engine", action="append", metavar="ID", help="only this engine; may be repeated (all)"
    )
    parser.add_argument(
        "--topics",
        nargs="+",
        metavar="TOPIC",
        help=f"({' '.join(short(topic) for topic in USUAL)})",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    add_log_level(parser)


def run(arguments: argparse.Namespace) -> int:
    """Wait for the end of the time, write the file and say what is in it."""
    start_logging(arguments.log_level)
    need("confluent_kafka", "collect")
    from streams.broker import BrokerError

    if arguments.to is None:
        raise CommandError("where to? Give --to with the name of a file, as --to stream.jsonl.gz")
    topics = tuple(topic_named(name) for name in arguments.topics or ()) or USUAL
    begin_ns, end_ns = times_of(arguments)
    history = open_history(
        read_settings(arguments.config),
        topics=topics,
        begin_ns=begin_ns,
        end_ns=_wait(end_ns),
        engine_ids=arguments.engine or (),
    )
    try:
        counts = _write(history, arguments.to)
    except BrokerError as err:
        raise CommandError(str(err)) from err
    _show(arguments.to, counts, history)
    return 0


def short(topic: Topic) -> str:
    """Give a topic's name without prefix and version."""
    return topic.name.split(".")[1]


def topic_named(name: str) -> Topic:
    """Find a topic by its name or its short one.

    Raises:
        CommandError: There is none.
    """
    for topic in TOPICS.values():
        if name in (topic.name, short(topic)):
            return topic
    known = " ".join(short(topic) for topic in TOPICS.values())
    raise CommandError(f"no topic {name!r}: choose of {known}")


def times_of(arguments: argparse.Namespace) -> tuple[int | None, int]:
    """Give begin and end of the range; no begin is all that there is.

    Raises:
        CommandError: A time cannot be read, or the end is before the begin.
    """
    now_ns = time.time_ns()
    seconds = arguments.seconds if "seconds" in arguments else None
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise CommandError(f"--seconds is {seconds:g}: give a number above 0")
    begin = arguments.begin or ("beginning" if seconds is None else "now")
    if begin == "beginning":
        if seconds is not None:
            raise CommandError("--seconds needs a time to count from: give --from a time or 'now'")
        begin_ns = None
    else:
        begin_ns = now_ns if begin == "now" else moment_ns(begin, "--from")
    end_ns = now_ns
    if seconds is not None and begin_ns is not None:
        end_ns = begin_ns + round(seconds * 1e9)
    elif arguments.until not in (None, "now"):
        end_ns = moment_ns(arguments.until, "--until")
    if begin_ns is not None and end_ns <= begin_ns:
        raise CommandError(
            f"the time ends {shown(end_ns)} and begins {shown(begin_ns)}: give --until a later "
            "time, or --seconds"
        )
    return begin_ns, end_ns


def open_history(
    settings: dict[str, Any],
    *,
    topics: tuple[Topic, ...],
    begin_ns: int | None,
    end_ns: int,
    engine_ids: Any,
) -> Any:
    """Prepare to read a range from Kafka, with its progress on stderr."""
    from streams.config import StreamSettings
    from streams.history import History, Range

    wanted = Range(
        topics=topics,
        begin_ms=None if begin_ns is None else begin_ns // 1_000_000,
        end_ms=-(-end_ns // 1_000_000),
        engine_ids=frozenset(engine_ids),
        seekable=not section(settings, "stream", StreamSettings).embedded,
    )
    return History(section(settings, "kafka", KafkaSettings), wanted, Progress())


class Progress:
    """Says on stderr how far the reading is, now and then."""

    def __init__(self) -> None:
        self._said_at_seconds = time.monotonic()

    def __call__(self, read: int, total: int) -> None:
        """Take note of a fetch."""
        now_seconds = time.monotonic()
        if now_seconds - self._said_at_seconds >= PROGRESS_SECONDS:
            self._said_at_seconds = now_seconds
            print(f"read {read:,} of {total:,} messages", file=sys.stderr)


def _wait(end_ns: int) -> int:
    """Sleep until a moment is over; give it, or the present one where somebody pressed Ctrl-C."""
    left_seconds = (end_ns - time.time_ns()) / 1e9
    if left_seconds <= 0:
        return end_ns
    print(
        f"waiting {left_seconds:.0f} s for the end, {shown(end_ns)}; Ctrl-C ends it now",
        file=sys.stderr,
    )
    try:
        time.sleep(left_seconds + TRAVEL_SECONDS)
    except KeyboardInterrupt:
        return min(end_ns, time.time_ns())
    return end_ns


def _write(history: Any, path: Path) -> Counter[str]:
    from schemas.recording import RecordingError, RecordingWriter

    counts: Counter[str] = Counter()
    try:
        with RecordingWriter(path) as writer:
            for found in history:
                writer.write_encoded(found.topic.name, found.value)
                counts[found.topic.name] += 1
            if not counts:
                raise CommandError(
                    f"nothing to record{_left_out(history)}: choose another time or engine, and "
                    "check that agents write to this Kafka ('latencyprism topics')"
                )
    except RecordingError as err:
        raise CommandError(str(err)) from err
    return counts


def _left_out(history: Any) -> str:
    unreadable = sum(history.unreadable.values())
    reasons = [f"{unreadable:,} messages are unreadable"] if unreadable else []
    if history.missing:
        reasons.append(f"the broker has no {' and no '.join(history.missing)}")
    return f" ({'; '.join(reasons)})" if reasons else ""


def _show(path: Path, counts: Counter[str], history: Any) -> None:
    warn_of_unreadable(history)
    for name in history.missing:
        print(f"The broker has no {name}: create it with 'latencyprism topics'.", file=sys.stderr)
    for name, count in sorted(counts.items()):
        print(f"{name:32} {count:>12,}")
    size = f", {path.stat().st_size / 1e6:,.1f} MB" if path.is_file() else ""
    print(f"{counts.total():,} records in {path}{size}")


def records_in(path: Path) -> Iterator[Record]:
    """Read a recording, and say on stderr what of it was left out.

    Raises:
        RecordingError: It is none.
    """
    skipped: Counter[str] = Counter()
    yield from read_recording(path, skipped)
    for reason, count in skipped.items():
        print(f"{path}: left out {count:,} x {reason}", file=sys.stderr)


def is_same_file(one: Path | None, other: Path | None) -> bool:
    """Tell whether two names are of the same file, however they are written."""
    if one is None or other is None:
        return False
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def warn_of_unreadable(history: Any) -> None:
    """Say on stderr which messages could not be decoded."""
    for reason, count in history.unreadable.most_common(REASONS_SHOWN):
        print(f"left out {count:,} unreadable: {reason}", file=sys.stderr)
    more = len(history.unreadable) - REASONS_SHOWN
    if more > 0:
        print(f"and {more} more reasons", file=sys.stderr)
