"""Send records to Kafka without ever holding up whoever reads the engine.

Records wait in a bounded queue of our own in front of librdkafka's. While the broker is away
the newest are kept and the oldest dropped, and the count is reported.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from schemas.codec import encode
from schemas.records import Record
from schemas.settings import KafkaSettings, SettingsError
from schemas.topics import key_of, time_ms_of, topic_of

log = logging.getLogger("latencyprism.publisher")

# Messages inside librdkafka. Small, so that what is dropped is chosen here, by age.
IN_FLIGHT = 10_000


class Publisher(Protocol):
    """Takes records; must not block and must not raise."""

    @property
    def dropped(self) -> int:
        """Records that were lost so far."""
        ...

    def publish(self, record: Record) -> None:
        """Take a record to be sent as soon as possible."""
        ...


class RecordQueue:
    """A queue that drops its oldest record when full, and counts it.

    Args:
        capacity: Records kept.
    """

    def __init__(self, capacity: int) -> None:
        self._records: deque[Record] = deque()
        self._capacity = capacity
        self._filled = threading.Condition()
        self.dropped = 0

    def put(self, record: Record) -> None:
        """Add a record; the oldest goes where there is no room."""
        with self._filled:
            if len(self._records) >= self._capacity:
                self._records.popleft()
                self.dropped += 1
            self._records.append(record)
            self._filled.notify()

    def take(self, timeout_seconds: float) -> Record | None:
        """Remove the oldest record, waiting for one; None after the timeout."""
        with self._filled:
            if not self._records:
                self._filled.wait(timeout_seconds)
            return self._records.popleft() if self._records else None

    def __len__(self) -> int:
        """Records waiting."""
        with self._filled:
            return len(self._records)


class KafkaPublisher:
    """Publish to Kafka.

    A record goes straight to librdkafka on the caller's thread while that has room: another
    thread in between would cost more CPU than the sending. What finds no room waits in a queue
    of ours, which a thread empties when the broker is back.

    Args:
        settings: Where the brokers are.

        queue_records: Records kept while they are away, besides those inside librdkafka.

    Raises:
        SettingsError: A setting that Kafka's client does not take.
    """

    def __init__(self, settings: KafkaSettings, queue_records: int) -> None:
        from confluent_kafka import KafkaException, Producer

        self._kafka_error: type[Exception] = KafkaException
        self._servers = settings.bootstrap_servers
        self._queue = RecordQueue(queue_records)
        self._order = threading.Lock()
        self._stop = threading.Event()
        self._reachable = True
        self._dropped_before = 0
        self._refused: set[tuple[str, int]] = set()
        self.failed = 0
        options = settings.client_options() | {
            # One record is one batch of the engine: waiting to fill a message set would cost
            # more latency than the detection itself.
            "linger.ms": 0,
            # A retry must not overtake what was sent after it: a batch out of order is a batch
            # that the workers take for a repeated one.
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "none",
            "queue.buffering.max.messages": IN_FLIGHT,
            # Never: an outage may take longer than any limit, and the queue decides what goes.
            "message.timeout.ms": 0,
            # The Java and Faust clients' partitioner, so that joined topics agree.
            "partitioner": "murmur2_random",
            "socket.nagle.disable": True,
            "reconnect.backoff.max.ms": 1000,
            "delivery.report.only.error": True,
            "on_delivery": self._on_failed_delivery,
            "error_cb": self._on_error,
            "log_level": 0,
        }
        try:
            self._producer: Any = Producer(options)
        except KafkaException as err:
            raise SettingsError(f"section [kafka]: {err.args[0].str()}") from err
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records that were lost because the broker was away for too long."""
        return self._queue.dropped + self.failed

    @property
    def queued(self) -> int:
        """Records that wait, here or inside librdkafka."""
        return len(self._queue) + len(self._producer)

    def publish(self, record: Record) -> None:
        """Take a record; never blocks."""
        with self._order:
            # Those that wait go first.
            if len(self._queue) or not self._send(record):
                self._queue.put(record)

    def close(self, timeout_seconds: float = 5.0) -> int:
        """Send what waits, for so long; give the number of records that did not get out."""
        deadline = time.monotonic() + timeout_seconds
        self._stop.set()
        self._thread.join(timeout_seconds)
        # One round does not empty the queue where it holds more than may be in flight.
        while len(self._queue) and time.monotonic() < deadline:
            self._producer.poll(0.05)
            self._drain()
        left = int(self._producer.flush(max(deadline - time.monotonic(), 0.0))) + len(self._queue)
        if left:
            log.warning(
                "%d records were not sent: Kafka at %s did not take them.", left, self._servers
            )
        return left

    def _run(self) -> None:
        while not self._stop.is_set():
            # Serves callbacks, too; they would otherwise wait for the next record.
            self._producer.poll(0.2)
            self._drain()
            if not self._reachable and not len(self._producer) and not len(self._queue):
                self._look_for_brokers()
        self._drain()

    def _look_for_brokers(self) -> None:
        # Nothing waiting does not say that they are back: there may have been nothing to send.
        try:
            self._producer.list_topics(timeout=1.0)
        except self._kafka_error:
            return
        # Reports of broken connections from before come too late now.
        self._producer.poll(0.0)
        self._reachable = True
        log.warning(
            "Kafka at %s takes records again; %d were dropped meanwhile.",
            self._servers,
            self.dropped - self._dropped_before,
        )

    def _drain(self) -> None:
        while len(self._queue):
            if len(self._producer) >= IN_FLIGHT // 2:
                return
            with self._order:
                record = self._queue.take(0.0)
                if record is not None and not self._send(record):
                    self.failed += 1

    def _send(self, record: Record) -> bool:
        try:
            self._producer.produce(
                topic_of(record).name,
                value=encode(record),
                key=key_of(record),
                timestamp=time_ms_of(record),
            )
        except BufferError:
            return False
        except self._kafka_error as err:
            # A topic known to be missing, or no right to write to it.
            self._tell_refused(topic_of(record).name, err.args[0])
        return True

    def _on_failed_delivery(self, error: Any, message: Any) -> None:
        if error is None:
            return
        self._tell_refused(message.topic(), error)

    def _tell_refused(self, topic: str, error: Any) -> None:
        self.failed += 1
        refused = (topic, error.code())
        # During an outage the line about it says enough.
        if self._reachable and refused not in self._refused:
            self._refused.add(refused)
            log.error(
                "Kafka at %s did not take a record for topic %s (%s). It is dropped, as others "
                "like it will be without a word; 'latencyprism topics' shows what is missing.",
                self._servers,
                refused[0],
                error.str(),
            )

    def _on_error(self, error: Any) -> None:
        # Called for every broken connection; one line per outage is enough.
        if self._reachable and error.code() in _UNREACHABLE:
            self._reachable = False
            self._dropped_before = self.dropped
            log.error(
                "Kafka at %s is not reachable (%s). Records are kept and sent when it is back; "
                "check section [kafka].",
                self._servers,
                error.str(),
            )


# _TRANSPORT, _ALL_BROKERS_DOWN, _RESOLVE, _SSL, _AUTHENTICATION of librdkafka.
_UNREACHABLE = (-195, -187, -193, -181, -169)


class StreamPublisher:
    """Write records as JSON lines to a binary stream: what `collect --stdout` does.

    ``on_closed`` is called for each record that nobody reads any more.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.dropped = 0
        self.on_closed: Callable[[], None] = lambda: None

    def publish(self, record: Record) -> None:
        """Write one line; a reader that went away is no error of ours."""
        try:
            with self._lock:
                self._stream.write(encode(record) + b"\n")
                self._stream.flush()
        except (BrokenPipeError, ValueError):
            self.dropped += 1
            self.on_closed()


class MemoryPublisher:
    """Keep records in a list, for tests."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.dropped = 0

    def publish(self, record: Record) -> None:
        """Append the record."""
        self.records.append(record)
