"""Run a simulated fleet into a file, into Kafka or nowhere: see ``--help``."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from schemas.recording import RecordingError
from schemas.settings import KafkaSettings, SettingsError, read_settings, section
from simulator.fleet import presets
from simulator.fleet.episodes import Episode, parse_episodes, random_episodes
from simulator.fleet.fleet import BEGIN_NS, Fleet
from simulator.fleet.rows import Message
from simulator.fleet.setting import Setting
from simulator.fleet.sinks import Callback, Kafka, Recording, Sink, SinkError

KAFKA = "kafka"
# No message is held back for less.
LEAST_PAUSE_SECONDS = 0.002
EPISODES_SHOWN = 20


@dataclass(slots=True)
class Done:
    """What a run sent."""

    messages: Counter[str]
    sent_bytes: int
    wall_seconds: float
    cpu_seconds: float
    most_late_seconds: float


def build_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="latencyprism simulate fleet",
        description="Simulate engines that exist only as the records that agents would have sent.",
        epilog="The same seed gives the same bytes, whatever the speed.",
    )
    parser.add_argument("--engines", type=int, default=8, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=300.0, metavar="S", help="simulated time (%(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--preset",
        default="a100_vllm",
        metavar="NAME[,NAME]",
        help=f"what the engines are, in equal parts: {', '.join(presets.available())} "
        "(%(default)s)",
    )
    parser.add_argument(
        "--faults",
        default="",
        metavar="LIST",
        help="name:severity@begin-end[/engines], by commas: cpu_squeeze:heavy@120-150/0-7",
    )
    parser.add_argument(
        "--controls", default="", metavar="LIST", help="likewise, without a severity"
    )
    parser.add_argument(
        "--random-faults",
        nargs="?",
        const="",
        metavar="NAMES",
        help="let some of these (all) happen on each host now and then, decided by the seed",
    )
    parser.add_argument(
        "--to", metavar="FILE|kafka", help="where the records go; NAME.gz is compressed (nowhere)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    speeds = parser.add_mutually_exclusive_group()
    speeds.add_argument(
        "--speed", type=float, metavar="X", help="so many times real time (as fast as possible)"
    )
    speeds.add_argument("--real-time", action="store_true", help="the same as --speed 1")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


def settings_of(names: str, engines: int) -> list[Setting]:
    """Give the engines' settings, in equal parts of the presets.

    Raises:
        ValueError: No such preset, or no engine.
    """
    if engines < 1:
        raise ValueError(f"--engines is {engines}: give 1 or more")
    chosen = [presets.load(name.strip()) for name in names.split(",")]
    return [chosen[row * len(chosen) // engines] for row in range(engines)]


def episodes_of(given: argparse.Namespace, fleet_hosts: list[list[int]]) -> list[Episode]:
    """Give what shall happen.

    Raises:
        ValueError: Something that cannot be read, or does not exist.
    """
    faults, controls = parse_episodes(given.faults), parse_episodes(given.controls)
    for episode, wanted, other in [
        *((one, "fault", "--controls") for one in faults),
        *((one, "control", "--faults") for one in controls),
    ]:
        if episode.kind != wanted:
            raise ValueError(f"{episode.name} is a {episode.kind}: give it with {other}")
    found = [*faults, *controls]
    for episode in found:
        if episode.end_seconds > given.seconds:
            raise ValueError(
                f"{episode.name} ends after {episode.end_seconds:g} s, the simulation after "
                f"{given.seconds:g} s: give --seconds {episode.end_seconds:g} or more"
            )
    if given.random_faults is not None:
        names = [name.strip() for name in given.random_faults.split(",") if name.strip()]
        found += random_episodes(given.seed, fleet_hosts, given.seconds, names)
    return found


def paced(
    messages: Iterator[Message], begin_ns: int, speed: float
) -> Iterator[tuple[Message, float]]:
    """Give each message when its time has come, and how many seconds too late."""
    began = now = time.monotonic()
    for message in messages:
        due = began + (message.at_ns - begin_ns) / 1e9 / speed
        if due > now:
            now = time.monotonic()
            if due > now + LEAST_PAUSE_SECONDS:
                time.sleep(due - now)
                now = time.monotonic()
        yield message, max(now - due, 0.0)


def run(fleet: Fleet, seconds: float, speed: float | None, sink: Sink) -> Done:
    """Simulate into a sink."""
    counts: Counter[str] = Counter()
    sent_bytes, most_late = 0, 0.0
    wall, cpu = time.monotonic(), time.process_time()
    messages = fleet.messages(seconds)
    timed: Iterator[tuple[Message, float]] = (
        ((message, 0.0) for message in messages)
        if speed is None
        else paced(messages, fleet.begin_ns, speed)
    )
    for message, late in timed:
        sink.send(message)
        counts[message.topic] += 1
        sent_bytes += len(message.value)
        most_late = max(most_late, late)
    return Done(counts, sent_bytes, time.monotonic() - wall, time.process_time() - cpu, most_late)


def begin_of(to: str | None, seconds: float, speed: float | None) -> int:
    """Give the time that the simulation begins: Kafka forgets what is too old."""
    if to != KAFKA and speed is None:
        return BEGIN_NS
    now_ns = time.time_ns()
    return now_ns if speed is not None else now_ns - int(seconds * 1e9)


def open_sink(given: argparse.Namespace) -> Sink:
    """Open where the records go.

    Raises:
        SettingsError: The configuration cannot be used.
        RecordingError: The file cannot be written.
    """
    if given.to is None:
        return Callback(lambda message: None)
    if given.to == KAFKA:
        return Kafka(section(read_settings(given.config), KAFKA, KafkaSettings))
    return Recording(Path(given.to))


def summary_of(given: argparse.Namespace, fleet: Fleet, done: Done) -> dict[str, object]:
    """Give what a run did, as plain data."""
    return {
        "engines": len(fleet.places),
        "hosts": len(fleet.hosts),
        "simulated_seconds": given.seconds,
        "seed": given.seed,
        "begin_ns": fleet.begin_ns,
        "to": given.to,
        "iterations": fleet.iterations,
        "preemptions": fleet.preemptions,
        "messages": dict(sorted(done.messages.items())),
        "bytes": done.sent_bytes,
        "wall_seconds": round(done.wall_seconds, 3),
        "cpu_seconds": round(done.cpu_seconds, 3),
        "most_late_seconds": round(done.most_late_seconds, 3),
        "episodes": [fault_row(fault) for fault in fleet.truth],
    }


def fault_row(fault: object) -> dict[str, object]:
    """Give what is shown of an episode."""
    return {
        name: getattr(fault, name)
        for name in ("name", "kind", "severity", "intensity", "host", "true_ratio")
    }


def show(summary: dict[str, object], fleet: Fleet, console: Console) -> None:
    """Print tables."""
    table = Table(title="Simulated fleet", title_justify="left", show_header=False)
    for name, value in summary.items():
        if not isinstance(value, dict | list):
            table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    for topic, count in fleet_topics(summary).items():
        table.add_row(topic, str(count))
    console.print(table)
    if not fleet.truth:
        return
    truth = Table(title="Truth", title_justify="left")
    for heading in ("what", "kind", "how hard", "host", "engines", "from", "to", "true ratio"):
        truth.add_column(heading)
    for fault in fleet.truth[:EPISODES_SHOWN]:
        ended_ns = fault.end_ns or fault.begin_ns
        truth.add_row(
            fault.name,
            fault.kind,
            fault.severity or f"{fault.intensity:g}",
            fault.host,
            str(len(fault.engine_ids)),
            f"{(fault.begin_ns - fleet.begin_ns) / 1e9:.1f} s",
            f"{(ended_ns - fleet.begin_ns) / 1e9:.1f} s",
            "-" if fault.true_ratio is None else f"{fault.true_ratio:.3f}",
        )
    console.print(truth)
    if len(fleet.truth) > EPISODES_SHOWN:
        console.print(f"and {len(fleet.truth) - EPISODES_SHOWN} more: --json has all")


def fleet_topics(summary: dict[str, object]) -> dict[str, object]:
    """Give the numbers of messages by topic."""
    found = summary["messages"]
    return dict(found) if isinstance(found, dict) else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    speed = 1.0 if given.real_time else given.speed
    try:
        if not (math.isfinite(given.seconds) and given.seconds > 0):
            raise ValueError(f"--seconds is {given.seconds:g}: give more than 0, and an end")
        if speed is not None and not speed > 0:
            raise ValueError(f"--speed is {speed:g}: give more than 0")
        settings = settings_of(given.preset, given.engines)
        hosts = Fleet(settings).hosts
        fleet = Fleet(
            settings,
            episodes_of(given, hosts),
            seed=given.seed,
            begin_ns=begin_of(given.to, given.seconds, speed),
        )
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(open_sink(given))
            done = run(fleet, given.seconds, speed, sink)
    except (ValueError, SettingsError, RecordingError, SinkError) as err:
        sys.stderr.write(f"latencyprism simulate fleet: {err}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    summary = summary_of(given, fleet, done)
    if given.json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        show(summary, fleet, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
