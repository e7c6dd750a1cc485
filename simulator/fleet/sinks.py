"""Where the messages of a simulated fleet go: a file, Kafka, or a function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from schemas.recording import RecordingWriter
from schemas.settings import KafkaSettings, SettingsError
from simulator.fleet.rows import Message

# Messages inside librdkafka; where it has no room, the simulation waits.
IN_FLIGHT = 100_000
SERVE_EVERY = 1000
FLUSH_SECONDS = 60.0


class SinkError(Exception):
    """Messages did not get where they should; the text ends with what to do."""


class Sink(ABC):
    """Takes messages in the order of their time; every one arrives, or `close` says not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    @abstractmethod
    def send(self, message: Message) -> None:
        """Take a message; may wait for room."""

    def close(self) -> None:  # noqa: B027 - some hold nothing
        """Get out what is left.

        Raises:
            SinkError: Not all of it got out.
        """

    def discard(self) -> None:  # noqa: B027 - some hold nothing
        """Give up: what is left may be lost."""


class Callback(Sink):
    """Hand each message to a function."""

    def __init__(self, function: Callable[[Message], object]) -> None:
        self._function = function

    def send(self, message: Message) -> None:
        """Call the function."""
        self._function(message)


class Recording(Sink):
    """Write a recording.

    Args:
        path: Written anew; a name that ends in ``.gz`` is compressed.

    Raises:
        RecordingError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._writer = RecordingWriter(path)

    def send(self, message: Message) -> None:
        """Append the message."""
        self._writer.write_encoded(message.topic, message.value)

    def close(self) -> None:
        """Give the file its name."""
        self._writer.close()

    def discard(self) -> None:
        """Remove what was written."""
        self._writer.discard()


class Kafka(Sink):
    """Produce to the topics, stamped with the time of the event.

    Args:
        settings: Where the brokers are.

        make_producer: Makes the client; a parameter for tests.

    Raises:
        SettingsError: A setting that Kafka's client does not take.
    """

    def __init__(
        self, settings: KafkaSettings, make_producer: Callable[[dict[str, Any]], Any] | None = None
    ) -> None:
        from confluent_kafka import KafkaException, Producer

        self._servers = settings.bootstrap_servers
        self._failures: list[str] = []
        self._failed = 0
        self._sent = 0
        options: dict[str, Any] = settings.client_options() | {
            "linger.ms": 5,
            "enable.idempotence": True,
            "queue.buffering.max.messages": IN_FLIGHT,
            # The Java and Faust clients' partitioner, so that joined topics agree.
            "partitioner": "murmur2_random",
            "delivery.report.only.error": True,
            "on_delivery": self._on_failed_delivery,
            "log_level": 0,
        }
        try:
            self._producer: Any = (make_producer or Producer)(options)
        except KafkaException as err:
            raise SettingsError(f"section [kafka]: {err.args[0].str()}") from err

    def send(self, message: Message) -> None:
        """Produce the message; wait while the client has no room.

        Raises:
            SinkError: The broker refuses messages.
        """
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    timestamp=message.time_ms,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
                self._check()
        self._sent += 1
        if self._sent % SERVE_EVERY == 0:
            self._producer.poll(0)
            self._check()

    def close(self) -> None:
        """Wait until the broker has all of it."""
        left = self._producer.flush(FLUSH_SECONDS)
        self._check()
        if left:
            raise SinkError(
                f"{left} of {self._sent} messages are still not at {self._servers} after "
                f"{FLUSH_SECONDS:g} s: see whether the broker is up"
            )

    def discard(self) -> None:
        """Drop what the client still has."""
        self._producer.purge()

    def _on_failed_delivery(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failed += 1
            if len(self._failures) < 3:
                self._failures.append(f"{message.topic()}: {error.str()}")

    def _check(self) -> None:
        if self._failed:
            raise SinkError(
                f"{self._servers} did not take {self._failed} messages "
                f"({'; '.join(self._failures)}): check the broker and 'latencyprism topics'"
            )
