"""Look deep into one engine for some seconds: flame graphs, stack dumps, counters at full rate.

Of an engine on this host, the files are written here. With --remote the agent on the engine's host
is asked through Kafka, and its answer says where the files lie there. The engine is not stopped.
With --compare-with what has changed since an earlier capture on that host is drawn, too.
"""

import argparse
import functools
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latencyprism.engines import find_engine
from latencyprism.errors import CommandError, need
from latencyprism.logs import add_log_level, start_logging
from schemas.records import Capture
from schemas.settings import KafkaSettings, read_settings, section

MOST_SHOWN = 10
# Beyond the capture itself: stacks are written, and the agent has to notice the request.
SLACK_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "engine",
        nargs="?",
        help="engine_id (host:port), port or pid; may be left out where one engine runs",
    )
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="(%(default)s)")
    parser.add_argument(
        "--compare-with",
        metavar="ID",
        help="draw what changed since this capture, by its capture_id or the end of its folder's "
        "name; one of an incident shows the trouble",
    )
    parser.add_argument("--folder", type=Path, help="where to write; default by [collect]")
    parser.add_argument(
        "--remote", action="store_true", help="ask the agent on the engine's host, through Kafka"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    add_log_level(parser)


def run(arguments: argparse.Namespace) -> int:
    """Take the capture and print what is in it."""
    start_logging(arguments.log_level)
    if not (math.isfinite(arguments.seconds) and arguments.seconds > 0):
        raise CommandError(f"--seconds is {arguments.seconds:g}: give a number above 0")
    _check_id(arguments.compare_with)
    settings = read_settings(arguments.config)
    if arguments.remote:
        if arguments.engine is None:
            raise CommandError("--remote needs the engine_id, as host:port")
        kafka = section(settings, "kafka", KafkaSettings)
        done = _ask(kafka, arguments)
    else:
        done = _take(settings, arguments)
    _show(done)
    return 0 if done.state == "done" else 1


def _check_id(capture_id: str | None) -> None:
    if capture_id is None:
        return
    from collectors.capture_requests import CAPTURE_ID

    if CAPTURE_ID.fullmatch(capture_id) is None:
        raise CommandError(
            f"--compare-with is {capture_id!r}: give 8 to 64 of 0-9 and a-f, the capture_id of an "
            "earlier capture or the end of its folder's name"
        )


def _take(settings: dict[str, Any], arguments: argparse.Namespace) -> Capture:
    import msgspec

    from collectors.capture import Target, request, take
    from collectors.capture_files import CaptureError, find_capture, make_base, prune
    from collectors.config import CollectSettings

    collect = section(settings, "collect", CollectSettings)
    if arguments.folder is not None:
        collect = msgspec.structs.replace(collect, capture_folder=str(arguments.folder.resolve()))
    host = collect.host or socket.gethostname()
    engine, framework = find_engine(
        collect, arguments.engine, host, ", or ask its host with --remote"
    )
    target = Target(f"{host}:{engine.name}", host, engine, framework)
    base, earlier = Path(collect.capture_folder), arguments.compare_with
    if earlier is not None and find_capture(base, earlier) is None:
        raise CommandError(
            f"there is no capture {earlier} in {base} to compare with: list that folder, or name "
            "with --folder the one that it lies in"
        )
    asked = request(target.engine_id, arguments.seconds, compare_with=earlier)
    try:
        if arguments.folder is None:
            make_base(base)
        done = take(target, asked, collect)
    except CaptureError as err:
        raise CommandError(str(err)) from err
    prune(base, collect.capture_keep_bytes)
    return done


def _ask(kafka: KafkaSettings, arguments: argparse.Namespace) -> Capture:
    need("confluent_kafka", "collect")
    from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

    from collectors.capture import request
    from schemas.codec import encode
    from schemas.topics import CAPTURES, key_of

    asked = request(arguments.engine, arguments.seconds, compare_with=arguments.compare_with)
    options = kafka.client_options() | {"log_level": 0}
    consumer: Any = Consumer(options | {"group.id": f"latencyprism-{asked.capture_id}"})
    try:
        found = consumer.list_topics(CAPTURES.name, timeout=10).topics[CAPTURES.name]
        consumer.assign(
            [TopicPartition(CAPTURES.name, one, OFFSET_END) for one in found.partitions]
        )
        # Only from the first poll on is the end of the topic known to the consumer.
        consumer.poll(1.0)
        producer: Any = Producer(options)
        producer.produce(CAPTURES.name, key=key_of(asked), value=encode(asked))
        if producer.flush(10.0):
            raise CommandError(
                f"Kafka at {kafka.bootstrap_servers} did not take the request: check [kafka]"
            )
        return _await(consumer, asked, time.monotonic() + asked.seconds + SLACK_SECONDS)
    except CommandError:
        raise
    except Exception as err:
        raise CommandError(
            f"Kafka at {kafka.bootstrap_servers} cannot be asked ({err}): check section [kafka], "
            "and create the topics with 'latencyprism topics'"
        ) from err
    finally:
        consumer.close()


def _await(consumer: Any, asked: Capture, deadline: float) -> Capture:
    from schemas.codec import DecodeError, decode

    while time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None or message.error() is not None:
            continue
        try:
            answer = decode(Capture, message.value())
        except DecodeError:
            continue
        if answer.capture_id == asked.capture_id and answer.state in ("done", "failed"):
            return answer
    raise CommandError(
        f"no agent answered for {asked.engine_id}: check the engine_id (host:port), "
        "and that the agent runs there with [collect] captures = true"
    )


def _show(done: Capture) -> None:
    from rich.console import Console

    # As it is: an error may name a section as [collect], which would be taken for a style.
    say = functools.partial(Console().print, highlight=False, markup=False, soft_wrap=True)
    if done.state != "done":
        say(f"The capture failed: {done.error}")
        return
    say(f"Captured {done.engine_id} for {done.seconds:g} s on {done.host}, in {done.folder}:")
    for name, size in done.files.items():
        say(f"  {size:>10,}  {name}")
    if done.error:
        say(f"Missing: {done.error}")
    if "difference.json" in done.files:
        _show_difference(say, Path(done.folder or "") / "difference.json")
    say("Open flamegraph-*.svg in a browser, speedscope-*.json at speedscope.app.")


def _show_difference(say: Callable[[str], None], path: Path) -> None:
    """Print the functions that grew most; of a capture on another host the files are there."""
    from collectors.difference import first_of_alike, read_difference

    try:
        difference = read_difference(path)
    except (OSError, ValueError):
        return
    grown = first_of_alike(one for one in difference.functions if one.growth > 0)
    since = f"against capture {difference.reference.capture_id[:8]}"
    if not grown:
        say(f"No function takes clearly more of the time {since}.")
        return
    say(f"More of the time {since} (difference.svg draws it):")
    for one, more in grown[:MOST_SHOWN]:
        place = f"{one.process} and {more} more" if more else one.process
        say(
            f"  {100 * one.own_share_reference:5.1f} % to {100 * one.own_share_during:5.1f} %  "
            f"{place}: {one.name} ({one.file}:{one.line})"
        )
