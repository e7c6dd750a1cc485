"""Run the agent: watch the engines on this host and publish what they do.

It reads only, attaches to any engine it finds and lets go when the engine ends. Stop it with
Ctrl-C or SIGTERM; the engine does not notice either way.
"""

import argparse
import contextlib
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
    from collectors.agent_health import describer
    from collectors.capture_requests import CaptureRequests
    from collectors.config import CollectSettings
    from collectors.health import HealthServer
    from collectors.publisher import KafkaPublisher, StreamPublisher

    settings = read_settings(arguments.config)
    collect = section(settings, "collect", CollectSettings)
    kafka_settings = section(settings, "kafka", KafkaSettings)
    kafka: KafkaPublisher | None = None
    lines = StreamPublisher(sys.stdout.buffer)
    if not arguments.stdout:
        need("confluent_kafka", "collect")
        kafka = KafkaPublisher(kafka_settings, collect.queue_records)
    try:
        agent = Agent(collect, kafka or lines, __version__)
    except (LookupError, ValueError) as err:
        raise CommandError(f"section [collect]: {err}") from err
    lines.on_closed = agent.stop
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: agent.stop())
    captures = None
    with contextlib.ExitStack() as services:
        if kafka is not None:
            services.callback(kafka.close)
        if kafka is not None and collect.captures:
            captures = CaptureRequests(
                kafka_settings, collect, kafka, agent.host, agent.find_target
            )
            captures.start()
            services.callback(captures.stop)
        if collect.health_listen:
            describe = describer(agent, __version__, kafka, captures)
            health = HealthServer(collect.health_listen, describe, lambda: agent.is_alive)
            health.start()
            services.callback(health.stop)
        agent.run(arguments.seconds)
    return 0
