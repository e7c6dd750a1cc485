"""Hear all that is in a topic, whichever worker wrote it: each worker, from the beginning."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from schemas.codec import DecodeError, decode
from schemas.records import Record
from schemas.settings import KafkaSettings
from schemas.topics import TOPICS, Topic
from streams.broker import BrokerError

log = logging.getLogger("latencyprism.stream")

ANSWER_SECONDS = 10.0
MOST_MESSAGES = 500


class Hearing:
    """Reads all partitions of some topics, from their beginning.

    Each worker needs all of them, so no consumer group is joined and nothing is committed. (A
    Faust GlobalTable would do the same, but with more than one worker may recover for ever.)

    Args:
        settings: Where Kafka is.

        topics: What to read.
    """

    def __init__(self, settings: KafkaSettings, topics: Iterable[Topic]) -> None:
        self._settings = settings
        self._topics = tuple(topics)
        self._consumer: Any = None
        # Where the next message of each partition is.
        self._places: dict[tuple[str, int], int] = {}

    def read(self, timeout_seconds: float = 1.0) -> list[Record]:
        """Wait so long for news; give what came.

        Raises:
            BrokerError: Kafka does not answer, or lacks a topic. The next call tries again.
        """
        try:
            if self._consumer is None:
                self._consumer = self._open()
            # `consume` would wait for all of them, or for all of the time.
            first = self._consumer.poll(timeout_seconds)
            more = self._consumer.consume(MOST_MESSAGES, timeout=0) if first is not None else []
        except KafkaException as err:
            raise self._unanswered(err) from err
        messages = [one for one in (first, *more) if one is not None and one.error() is None]
        for message in messages:
            self._places[message.topic(), message.partition()] = message.offset() + 1
        return [record for one in messages if (record := _record_of(one)) is not None]

    def ends(self) -> dict[tuple[str, int], int]:
        """Give where each partition ends now; to be called from the thread that reads.

        Raises:
            BrokerError: As `read`.
        """
        # A consumer of its own: a question of the one that reads waits behind each of its fetches.
        consumer = self._consumer_of_all()
        try:
            if self._consumer is None:
                self._consumer = self._open()
            return {place: _end(consumer, *place) for place in self._places}
        except KafkaException as err:
            raise self._unanswered(err) from err
        finally:
            consumer.close()

    def has_reached(self, ends: dict[tuple[str, int], int]) -> bool:
        """Tell whether all that was there when `ends` were asked for has been read."""
        return all(self._places.get(place, 0) >= end for place, end in ends.items())

    def close(self) -> None:
        """Leave the broker; the next `read` begins anew."""
        consumer, self._consumer = self._consumer, None
        self._places.clear()
        if consumer is not None:
            consumer.close()

    def _open(self) -> Any:
        consumer = self._consumer_of_all()
        places: list[TopicPartition] = []
        for name in (topic.name for topic in self._topics):
            topic = consumer.list_topics(name, timeout=ANSWER_SECONDS).topics[name]
            if topic.error is not None:
                consumer.close()
                raise BrokerError(
                    f"no topic {name} ({topic.error.str()}): run 'latencyprism topics --create'"
                )
            places += [TopicPartition(name, one, OFFSET_BEGINNING) for one in topic.partitions]
        self._places = {(one.topic, one.partition): 0 for one in places}
        consumer.assign(places)
        return consumer

    def _consumer_of_all(self) -> Any:
        return Consumer(
            self._settings.client_options()
            | {
                # A group is required, though nothing is committed to it.
                "group.id": "latencyprism-hearing",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )

    def _unanswered(self, err: KafkaException) -> BrokerError:
        return BrokerError(
            f"Kafka at {self._settings.bootstrap_servers} does not answer "
            f"({err.args[0].str()}): check [kafka] bootstrap_servers and that the broker runs"
        )


def _end(consumer: Any, topic: str, number: int) -> int:
    begin, end = consumer.get_watermark_offsets(
        TopicPartition(topic, number), timeout=ANSWER_SECONDS
    )
    # Where all messages have been deleted none is to be waited for.
    return 0 if begin == end else int(end)


def _record_of(message: Any) -> Record | None:
    try:
        return decode(TOPICS[message.topic()].record, message.value())
    except DecodeError as err:
        # The store puts it with the dead letters.
        log.debug("%s at offset %d cannot be read: %s", message.topic(), message.offset(), err)
        return None
