"""Show the Kafka topics, and create those that are missing (--create).

Without --create nothing is changed; the exit status is 1 if a topic is missing.
"""

import argparse
from pathlib import Path

from latencyprism.errors import CommandError, need
from schemas.settings import KafkaSettings, read_settings, section
from schemas.topics import TOPICS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    parser.add_argument("--create", action="store_true", help="create the missing topics")


def run(arguments: argparse.Namespace) -> int:
    """List each topic with its key, partitions and state."""
    need("confluent_kafka", "collect")
    from streams.broker import BrokerError, admin_client, create_topics, existing_partitions

    settings = section(read_settings(arguments.config), "kafka", KafkaSettings)
    admin = admin_client(settings)
    try:
        found = existing_partitions(admin, settings)
        missing = [topic for name, topic in TOPICS.items() if name not in found]
        if arguments.create:
            create_topics(admin, missing, settings)
            found |= dict.fromkeys((topic.name for topic in missing), settings.partitions)
    except BrokerError as err:
        raise CommandError(str(err)) from err
    for name, topic in TOPICS.items():
        state = f"{found[name]} partitions" if name in found else "missing: run with --create"
        print(f"{name:32} key {topic.key:12} {state}")
    return 0 if all(name in found for name in TOPICS) else 1
