"""Hear what all engines say of themselves, whichever worker watches them."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from schemas.codec import DecodeError, decode
from schemas.records import Norms
from schemas.settings import KafkaSettings
from schemas.topics import NORMS
from streams.broker import BrokerError

log = logging.getLogger("latencyprism.analyze")

ANSWER_SECONDS = 10.0
MOST_MESSAGES = 500


class NormsReader:
    """Reads all partitions of the norms' topic, from its beginning.

    Each worker needs all of them, so no consumer group is joined and nothing is committed. (A
    Faust GlobalTable would do the same, but with more than one worker may recover for ever.)

    Args:
        settings: Where Kafka is.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: Any = None

    def read(self, timeout_seconds: float = 1.0) -> list[Norms]:
        """Wait so long for news; give what came.

        Raises:
            BrokerError: Kafka does not answer, or has no such topic. The next call tries again.
        """
        try:
            if self._consumer is None:
                self._consumer = self._open()
            # `consume` would wait for all of them, or for all of the time.
            first = self._consumer.poll(timeout_seconds)
            more = self._consumer.consume(MOST_MESSAGES, timeout=0) if first is not None else []
        except KafkaException as err:
            raise BrokerError(
                f"Kafka at {self._settings.bootstrap_servers} does not answer "
                f"({err.args[0].str()}): check [kafka] bootstrap_servers and that the broker runs"
            ) from err
        messages = [first, *more] if first is not None else []
        return [norms for message in messages if (norms := _norms_of(message)) is not None]

    def _open(self) -> Any:
        consumer: Any = Consumer(
            self._settings.client_options()
            | {
                # A group is required, though nothing is committed to it.
                "group.id": "latencyprism-norms",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        topic = consumer.list_topics(NORMS.name, timeout=ANSWER_SECONDS).topics[NORMS.name]
        if topic.error is not None:
            consumer.close()
            raise BrokerError(
                f"no topic {NORMS.name} ({topic.error.str()}): run 'latencyprism topics --create'"
            )
        consumer.assign(
            [TopicPartition(NORMS.name, one, OFFSET_BEGINNING) for one in topic.partitions]
        )
        return consumer


def _norms_of(message: Any) -> Norms | None:
    if message.error() is not None:
        return None
    try:
        return decode(Norms, message.value())
    except DecodeError as err:
        # The store puts it with the dead letters.
        log.debug("Norms at offset %d cannot be read: %s", message.offset(), err)
        return None
