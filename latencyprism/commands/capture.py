"""Look deep into one engine for some seconds: flame graphs, stack dumps, counters at full rate.

Of an engine on this host, the files are written here. With --remote the agent on the engine's host
is asked through Kafka, and its answer says where the files lie there. The engine is not stopped.
"""

import argparse
import math
import socket
import time
from pathlib import Path
from typing import Any

from latencyprism.engines import find_engine
from latencyprism.errors import CommandError, need
from latencyprism.logs import add_log_level, start_logging
from schemas.records import Capture
from schemas.settings import KafkaSettings, read_settings, section

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
    settings = read_settings(arguments.config)
    if arguments.remote:
        if arguments.engine is None:
            raise CommandError("--remote needs the engine_id, as host:port")
        kafka = section(settings, "kafka", KafkaSettings)
        done = _ask(kafka, arguments.engine, arguments.seconds)
    else:
        done = _take(settings, arguments)
    _show(done)
    return 0 if done.state == "done" else 1


def _take(settings: dict[str, Any], arguments: argparse.Namespace) -> Capture:
    import msgspec

    from collectors.capture import CaptureError, Target, make_base, prune, request, take
    from collectors.config import CollectSettings

    collect = section(settings, "collect", CollectSettings)
    if arguments.folder is not None:
        collect = msgspec.structs.replace(collect, capture_folder=str(arguments.folder.resolve()))
    host = collect.host or socket.gethostname()
    engine, framework = find_engine(
        collect, arguments.engine, host, ", or ask its host with --remote"
    )
    target = Target(f"{host}:{engine.name}", host, engine, framework)
    try:
        if arguments.folder is None:
            make_base(Path(collect.capture_folder))
        done = take(target, request(target.engine_id, arguments.seconds), collect)
    except CaptureError as err:
        raise CommandError(str(err)) from err
    prune(Path(collect.capture_folder), collect.capture_keep_bytes)
    return done


def _ask(kafka: KafkaSettings, engine_id: str, seconds: float) -> Capture:
    need("confluent_kafka", "collect")
    from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

    from collectors.capture import request
    from schemas.codec import encode
    from schemas.topics import CAPTURES, key_of

    asked = request(engine_id, seconds)
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
        return _await(consumer, asked, time.monotonic() + seconds + SLACK_SECONDS)
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

    console = Console()
    if done.state != "done":
        console.print(f"The capture failed: {done.error}", highlight=False)
        return
    console.print(
        f"Captured {done.engine_id} for {done.seconds:g} s on {done.host}, in {done.folder}:",
        highlight=False,
        soft_wrap=True,
    )
    for name, size in done.files.items():
        console.print(f"  {size:>10,}  {name}", highlight=False)
    if done.error:
        console.print(f"Missing: {done.error}", highlight=False, soft_wrap=True)
    console.print(
        "Open flamegraph-*.svg in a browser, speedscope-*.json at speedscope.app.", highlight=False
    )
