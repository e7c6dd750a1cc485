"""Run the agent: watch the engines on this host and publish what they do.

It reads only, attaches to any engine it finds and lets go when the engine ends. Stop it with
Ctrl-C or SIGTERM; the engine does not notice either way.
"""

import argparse
import signal
import sys
from pathlib import Path

from latencyprism import __version__
from latencyprism.errors import CommandError, need
from latencyprism.logs import add_log_level, start_logging
from schemas.settings import KafkaSettings, read_settings, section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    parser.add_argument(
        "--stdout", action="store_true", help="print records as JSON lines instead of sending them"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long")
    add_log_level(parser)


def run(arguments: argparse.Namespace) -> int:
    """Watch until told to stop."""
    start_logging(arguments.log_level)
    need("prometheus_client", "collect")
    from collectors.agent import Agent
    from collectors.config import CollectSettings
    from collectors.publisher import KafkaPublisher, StreamPublisher

    settings = read_settings(arguments.config)
    collect = section(settings, "collect", CollectSettings)
    kafka_settings = section(settings, "kafka", KafkaSettings)
    kafka: KafkaPublisher | None = None
    if not arguments.stdout:
        need("confluent_kafka", "collect")
        kafka = KafkaPublisher(kafka_settings, collect.queue_records)
    publisher = kafka if kafka is not None else StreamPublisher(sys.stdout.buffer)
    try:
        agent = Agent(collect, publisher, __version__)
    except LookupError as err:
        raise CommandError(f"section [collect]: engines: {err}") from err
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: agent.stop())
    agent.run(arguments.seconds)
    if kafka is not None:
        kafka.close()
    return 0
