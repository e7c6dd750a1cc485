"""Talk to the brokers before Faust does: are they there, and do our topics exist."""

import logging
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.settings import KafkaSettings
from schemas.topics import TOPICS, Topic

log = logging.getLogger("latencyprism.broker")

ANSWER_SECONDS = 5.0


class BrokerError(RuntimeError):
    """The brokers do not answer or refuse; the text says what to do."""


def admin_client(settings: KafkaSettings) -> Any:
    """Make an admin client that keeps quiet: what goes wrong is raised."""
    options: dict[str, Any] = {**settings.client_options(), "log_level": 0}
    return AdminClient(options)


def existing_partitions(admin: Any, settings: KafkaSettings) -> dict[str, int]:
    """Give the number of partitions of each topic on the brokers.

    Raises:
        BrokerError: They do not answer.
    """
    try:
        metadata = admin.list_topics(timeout=ANSWER_SECONDS)
    except KafkaException as err:
        raise BrokerError(
            f"Kafka at {settings.bootstrap_servers} does not answer ({err.args[0].str()}): check "
            "[kafka] bootstrap_servers and that the broker runs"
        ) from err
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def create_topics(admin: Any, topics: list[Topic], settings: KafkaSettings) -> None:
    """Create topics with the partitions, copies and retention that they ask for.

    Raises:
        BrokerError: The brokers refuse.
    """
    if not topics:
        return
    futures = admin.create_topics(
        [
            NewTopic(
                topic.name,
                num_partitions=settings.partitions,
                replication_factor=settings.replication,
                config={"cleanup.policy": "compact"}
                if topic.compacted
                else {"retention.ms": str(topic.retention_ms)},
            )
            for topic in topics
        ]
    )
    for name, future in futures.items():
        try:
            future.result(timeout=30)
        except KafkaException as err:
            if err.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BrokerError(
                    f"{name} cannot be created: {err.args[0].str()}; with fewer brokers than "
                    "[kafka] replication lower it, else ask for the right to create topics"
                ) from err


def wait_for_topics(settings: KafkaSettings, *, embedded: bool) -> dict[str, int]:
    """Wait until the brokers answer, create what is missing, give each topic's partitions.

    Says so once when it has to wait.
    """
    admin = admin_client(settings)
    waiting = False
    while True:
        try:
            found = existing_partitions(admin, settings)
            missing = [topic for name, topic in TOPICS.items() if name not in found]
            if embedded:
                # The embedded broker makes a topic when it is asked about it by name.
                for topic in missing:
                    admin.list_topics(topic.name, timeout=ANSWER_SECONDS)
            else:
                create_topics(admin, missing, settings)
            if missing:
                # A new topic takes a moment to be known to all brokers.
                time.sleep(0.2)
                continue
        except BrokerError as err:
            if not waiting:
                log.warning("%s. Waiting for it.", err)
                waiting = True
            time.sleep(1.0)
            continue
        if waiting:
            log.info("Kafka at %s answers.", settings.bootstrap_servers)
        return found
