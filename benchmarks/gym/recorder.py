"""Write down what goes over the broker while the gym runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from schemas.codec import DecodeError, decode
from schemas.recording import RecordingWriter
from schemas.records import Alert, Record
from schemas.topics import ALERTS, BATCHES, ENGINES, HOSTS, ITERATIONS, PROCESSES, TOPICS, XPUS
from streams.embedded import PARTITIONS

RECORDED = (ITERATIONS, HOSTS, PROCESSES, XPUS, ENGINES, BATCHES, ALERTS)


class Recorder:
    """Follow the topics of an embedded broker into a recording, on a thread.

    Args:
        bootstrap: The broker.

        path: Of the recording.
    """

    def __init__(self, bootstrap: str, path: Path) -> None:
        self._bootstrap = bootstrap
        self._writer = RecordingWriter(path)
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.counts: dict[str, int] = {}
        self.unreadable = 0
        self.error: str | None = None
        self.open_incidents: set[str] = set()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and close the file.

        Raises:
            RuntimeError: Something was not written down, so a score would not be of what happened.
        """
        self._stop.set()
        self._thread.join(10.0)
        self._writer.close()
        if self.error is not None:
            raise RuntimeError(f"the recorder stopped early ({self.error}): run it again")
        if self.unreadable:
            raise RuntimeError(f"{self.unreadable} messages were unreadable: see the dead letters")

    def write(self, record: Record) -> None:
        """Add a record that is not on the broker, as the truth about a fault."""
        with self._turn:
            self._writer.write(record)

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as err:
            self.error = f"{type(err).__name__}: {err}"

    def _follow(self) -> None:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer: Any = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "gym-recorder",
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        consumer.assign(
            [
                TopicPartition(topic.name, partition, OFFSET_BEGINNING)
                for topic in RECORDED
                for partition in range(PARTITIONS)
            ]
        )
        while not self._stop.is_set():
            for message in consumer.consume(500, timeout=0.2):
                if message.error() is None:
                    self._take(message.topic(), message.value())
        consumer.close()

    def _take(self, topic: str, value: bytes) -> None:
        try:
            record = decode(TOPICS[topic].record, value)
        except DecodeError:
            self.unreadable += 1
            return
        self.write(record)
        self.counts[topic] = self.counts.get(topic, 0) + 1
        if isinstance(record, Alert):
            if record.state == "resolved":
                self.open_incidents.discard(record.incident_id)
            else:
                self.open_incidents.add(record.incident_id)
