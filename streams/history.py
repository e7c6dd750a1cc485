"""Read a range of the topics back from Kafka, all partitions merged by time."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec import DecodeError, decode
from schemas.recording import seen_ns
from schemas.records import Fault, Record
from schemas.settings import KafkaSettings
from schemas.topics import Topic
from streams.broker import BrokerError

# Messages held over all partitions while the slowest of them is waited for.
HELD_MESSAGES = 100_000
FETCHED_MESSAGES = 1_000
# Kafka that answers nothing for so long is gone.
PATIENCE_SECONDS = 30.0
# How far the times within a partition may run back.
DISORDER_MS = 60_000
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Which part of which topics.

    Attributes:
        topics: Those to read; of a compacted one also the newest message per key before the range.

        begin_ms: First message by its time; None for all that there are.

        end_ms: Messages from here on are left out.

        engine_ids: Only what is about these engines; empty for all.

        seekable: Whether the broker can find an offset by time; the embedded one cannot.
    """

    topics: tuple[Topic, ...]
    begin_ms: int | None
    end_ms: int
    engine_ids: frozenset[str] = frozenset()
    seekable: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A record, and its bytes as they came."""

    topic: Topic
    record: Record
    value: bytes


@dataclass(slots=True)
class _Partition:
    topic: Topic
    number: int
    next_offset: int
    end_offset: int
    held: deque[tuple[int, Found]] = field(default_factory=deque)
    # Of a compacted topic: the newest record per key from before the range.
    before: dict[bytes, tuple[int, Found]] = field(default_factory=dict)
    paused: bool = False

    @property
    def done(self) -> bool:
        return self.next_offset >= self.end_offset


class History:
    """The records of a range in the order in which their senders knew them.

    Within a partition the order stays as it is. Memory is bounded: a partition that is ahead of the
    others is paused.

    Args:
        settings: Where Kafka is.

        wanted: What to read.

        on_progress: Called after each fetch with the number of messages read and of those there
            are.

    Attributes:
        unreadable: Messages that could not be decoded, by topic and reason.

        missing: Topics that the broker does not have.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        wanted: Range,
        on_progress: Callable[[int, int], None] = lambda read, total: None,
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._on_progress = on_progress
        self.unreadable: Counter[str] = Counter()
        self.missing: list[str] = []

    def __iter__(self) -> Iterator[Found]:
        """Read the range.

        Raises:
            BrokerError: Kafka does not answer.
        """
        consumer: Any = Consumer(
            self._settings.client_options()
            | {
                # A group is required, though nothing is committed to it.
                "group.id": "latencyprism-history",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # What is asked for is there; a partition that goes on should not wait for others.
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        try:
            yield from self._read(consumer)
        except KafkaException as err:
            raise self._gone(err.args[0].str()) from err
        finally:
            consumer.close()

    def _read(self, consumer: Any) -> Iterator[Found]:
        partitions = self._partitions(consumer)
        consumer.assign([_at(one) for one in partitions])
        total = sum(max(one.end_offset - one.next_offset, 0) for one in partitions)
        by_name = {(one.topic.name, one.number): one for one in partitions}
        most_held = max(HELD_MESSAGES // max(len(partitions), 1), FETCHED_MESSAGES)
        heads: list[tuple[int, int]] = []
        waiting = set(range(len(partitions)))
        while waiting or heads:
            for index in sorted(waiting):
                one = partitions[index]
                if one.done:
                    _release(one)
                if one.held:
                    heapq.heappush(heads, (one.held[0][0], index))
                if one.held or one.done:
                    waiting.discard(index)
            if waiting:
                self._fetch(consumer, by_name, most_held)
                self._on_progress(total - sum(_left(one) for one in partitions), total)
                continue
            if heads:
                _, index = heapq.heappop(heads)
                yield partitions[index].held.popleft()[1]
                waiting.add(index)

    def _partitions(self, consumer: Any) -> list[_Partition]:
        known = consumer.list_topics(timeout=ANSWER_SECONDS).topics
        found = []
        for topic in self._wanted.topics:
            if topic.name not in known:
                self.missing.append(topic.name)
                continue
            for number in sorted(known[topic.name].partitions):
                low, high = consumer.get_watermark_offsets(
                    TopicPartition(topic.name, number), timeout=ANSWER_SECONDS
                )
                found.append(_Partition(topic, number, low, high))
        if self._wanted.seekable:
            self._narrow(consumer, found)
        return found

    def _narrow(self, consumer: Any, partitions: list[_Partition]) -> None:
        """Begin where the range does, or up to one batch of the broker's before."""
        begin_ms = self._wanted.begin_ms
        if begin_ms is None:
            return
        # The inventory may be older than the range, and is needed to understand it.
        dated = [one for one in partitions if not one.topic.compacted]
        for offset, one in zip(_offsets_at(consumer, dated, begin_ms), dated, strict=True):
            one.next_offset = max(one.next_offset, offset) if offset >= 0 else one.end_offset

    def _fetch(
        self, consumer: Any, by_name: dict[tuple[str, int], _Partition], most_held: int
    ) -> None:
        """Wait for messages of partitions that have none, and keep what comes."""
        self._balance(consumer, by_name.values(), most_held)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            # It waits for so many, or for so long.
            messages = consumer.consume(FETCHED_MESSAGES, timeout=0.1)
            for message in messages:
                one = by_name[(message.topic(), message.partition())]
                self._keep(one, message)
            if messages:
                return
        raise self._gone(f"nothing came for {PATIENCE_SECONDS:.0f} s")

    def _balance(self, consumer: Any, partitions: Any, most_held: int) -> None:
        for one in partitions:
            place = TopicPartition(one.topic.name, one.number)
            if not one.paused and (one.done or len(one.held) > most_held):
                consumer.pause([place])
                one.paused = True
            elif one.paused and not one.done and len(one.held) < most_held // 4:
                consumer.resume([place])
                one.paused = False

    def _keep(self, one: _Partition, message: Any) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                one.next_offset = max(one.next_offset, message.offset())
                # Markers of transactions and compacted messages have offsets, but never come.
                if message.offset() >= one.end_offset:
                    one.next_offset = one.end_offset
            elif error.fatal():
                raise KafkaException(error)
            return
        if one.done or message.offset() < one.next_offset:
            return
        one.next_offset = message.offset() + 1
        if message.timestamp()[1] >= self._wanted.end_ms + DISORDER_MS:
            # Offsets by time may be early by a batch, which would cost the end of the range.
            one.next_offset = one.end_offset
        self._hold(one, message)

    def _hold(self, one: _Partition, message: Any) -> None:
        value = message.value()
        try:
            record: Record = decode(one.topic.record, value)
        except DecodeError as err:
            self.unreadable[f"{one.topic.name}: {err}"] += 1
            return
        if not _about(record, self._wanted.engine_ids):
            return
        held = (seen_ns(record), Found(one.topic, record, value))
        begin_ms, (_, at_ms) = self._wanted.begin_ms, message.timestamp()
        if at_ms >= self._wanted.end_ms:
            return
        if begin_ms is None or at_ms >= begin_ms:
            if one.before:
                _release(one)
            one.held.append(held)
        elif one.topic.compacted:
            one.before[message.key() or b""] = held

    def _gone(self, why: str) -> BrokerError:
        return BrokerError(
            f"Kafka at {self._settings.bootstrap_servers} does not answer ({why}): check [kafka] "
            "bootstrap_servers and that the broker runs"
        )


def _offsets_at(consumer: Any, partitions: Sequence[_Partition], at_ms: int) -> list[int]:
    """Give the offset of the first message at a time or later; negative where there is none."""
    if not partitions:
        return []
    asked = [TopicPartition(one.topic.name, one.number, at_ms) for one in partitions]
    answer = consumer.offsets_for_times(asked, timeout=ANSWER_SECONDS)
    found = {(one.topic, one.partition): one.offset for one in answer}
    return [found[(one.topic.name, one.number)] for one in partitions]


def _at(one: _Partition) -> TopicPartition:
    return TopicPartition(one.topic.name, one.number, one.next_offset)


def _left(one: _Partition) -> int:
    return max(one.end_offset - one.next_offset, 0)


def _release(one: _Partition) -> None:
    """Put the newest of before the range in front of it."""
    one.held.extendleft(sorted(one.before.values(), key=lambda held: held[0], reverse=True))
    one.before.clear()


def _about(record: Record, engine_ids: frozenset[str]) -> bool:
    if not engine_ids:
        return True
    if isinstance(record, Fault):
        # Without engines it is about the host, and so about each of them.
        return not record.engine_ids or not engine_ids.isdisjoint(record.engine_ids)
    return getattr(record, "engine_id", None) in engine_ids
