"""LatencyPrism as it is deployed: worker processes on a real Kafka, with their own database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.cimpl import Message

from collectors.publisher import KafkaPublisher
from schemas.records import Record
from schemas.settings import KafkaSettings
from schemas.topics import TOPICS, time_ms_of
from streams.broker import wait_for_topics
from tests.integration.kafka_server import KafkaServer
from tests.streams.feed import Feed

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0
ROLES = ("analyze", "store", "notify")

CONFIG = """\
[kafka]
bootstrap_servers = "{bootstrap}"
[stream]
application = "{application}"
checkpoint_batches = {checkpoint_batches}
data_dir = "{folder}/faust-{name}"
[store]
dsn = "chdb:///{folder}/clickhouse"
flush_seconds = 0.2
[notify]
url = "{url}"
allow_private = true
spool_folder = "{folder}/notify-{name}"
retry_first_seconds = 0.2
retry_most_seconds = 0.5
"""

READ = """\
import json, sys
import clickhouse_connect
client = clickhouse_connect.get_client(dsn="chdb:///" + sys.argv[1])
json.dump([client.query(sql).result_rows for sql in json.loads(sys.argv[2])], sys.stdout)
"""


def wait_until(what: str, true: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait for something; a failure of the test where it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.05)


def live_feed(engine_id: str, seed: int = 1) -> Feed:
    """Give a feed whose time is about now: Kafka refuses the future and deletes the past."""
    feed = Feed(seed=seed, engine_id=engine_id)
    feed.now_ns = time.time_ns() - 120_000_000_000
    feed.reading()  # From here on readings begin now.
    return feed


def settings_of(kafka: KafkaServer) -> KafkaSettings:
    """Give the section [kafka] for a server."""
    return KafkaSettings(bootstrap_servers=kafka.bootstrap)


def create_topics(kafka: KafkaServer) -> None:
    """Create our topics where they are missing."""
    wait_for_topics(settings_of(kafka), embedded=False)


@contextmanager
def publisher_to(kafka: KafkaServer) -> Iterator[KafkaPublisher]:
    """The agent's publisher; all that it took is on the broker at the end."""
    publisher = KafkaPublisher(settings_of(kafka), queue_records=100_000)
    try:
        yield publisher
    finally:
        left = publisher.close(30.0)
    assert (left, publisher.dropped) == (0, 0)


def publish(kafka: KafkaServer, records: Iterable[Record], *, live: bool = False) -> None:
    """Send records as the agent does and see them arrive.

    Args:
        kafka: Where to.

        records: In the order of their times.

        live: Let as much time pass between them as there lies between the times in them. Topics
            are read side by side: a cause that stands in host readings is found in live ones.
    """
    ahead_seconds: float | None = None
    with publisher_to(kafka) as publisher:
        for record in records:
            if live:
                at_seconds = time_ms_of(record) / 1000
                if ahead_seconds is None:
                    ahead_seconds = at_seconds - time.monotonic()
                time.sleep(max(at_seconds - ahead_seconds - time.monotonic(), 0.0))
            publisher.publish(record)


class TopicReader:
    """Read our topics from where they ended when this was made."""

    def __init__(self, kafka: KafkaServer, *topics: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": kafka.bootstrap, "group.id": "reader", "log_level": 0}
        )
        self.messages: list[Message] = []
        self._places = ends(self._consumer, topics)
        self._consumer.assign(self._places)

    def read(self) -> list[Message]:
        """Give all messages so far."""
        while new := self._consumer.consume(1000, timeout=0.1):
            for message in new:
                assert message.error() is None
            self.messages += new
        return self.messages

    def values(self, topic: str, **fields: object) -> list[dict[str, Any]]:
        """Give the records of a topic whose fields have these values."""
        found = [json.loads(one.value() or b"") for one in self.read() if one.topic() == topic]
        return [one for one in found if all(one[name] == fields[name] for name in fields)]

    def rewind(self) -> None:
        """Read from the beginning instead."""
        self._consumer.assign([TopicPartition(one.topic, one.partition, 0) for one in self._places])

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def ends(consumer: Consumer, topics: Iterable[str]) -> list[TopicPartition]:
    """Give the end of each partition."""
    metadata = consumer.list_topics(timeout=10).topics
    places = [TopicPartition(name, n) for name in topics for n in metadata[name].partitions]
    for place in places:
        _, place.offset = _watermarks(consumer, place)
    return places


def _watermarks(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=10)
        except KafkaException:
            # A topic that was made just now has no leader for a moment.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Deployment:
    """Workers that share a configuration and begin where the topics end now.

    Args:
        kafka: The broker; our topics are created where they are missing.

        folder: For configuration, logs and database.

        name: Makes groups and state topic of their own.

        url: Of the webhook receiver.

        checkpoint_batches: Few, so that a short test has checkpoints.

        notify: More lines for section [notify].
    """

    def __init__(
        self,
        kafka: KafkaServer,
        folder: Path,
        name: str,
        url: str = "",
        checkpoint_batches: int = 50,
        notify: str = "",
    ) -> None:
        self.kafka = kafka
        self.folder = folder
        self.application = f"test-{name}"
        self.url = url
        self.checkpoint_batches = checkpoint_batches
        self.notify = notify
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        create_topics(kafka)
        for role in ROLES:
            with self._consumer(role) as consumer:
                consumer.commit(offsets=ends(consumer, TOPICS), asynchronous=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self.workers):
            self.stop(name)
        if error is not None:
            for path in self.logs:
                error.add_note(f"{path.name} ends with:\n{path.read_text()[-6000:]}")

    @property
    def logs(self) -> list[Path]:
        """What the workers wrote."""
        return sorted(self.folder.glob("*.log"))

    def start(self, role: str, name: str = "", partitions: int = 4) -> subprocess.Popen[bytes]:
        """Start a worker and return when it reads this many partitions of each of its topics."""
        name = name or role
        config = self.folder / f"{name}.toml"
        config.write_text(
            CONFIG.format(
                bootstrap=self.kafka.bootstrap,
                application=self.application,
                folder=self.folder,
                name=name,
                url=self.url,
                checkpoint_batches=self.checkpoint_batches,
            )
            + self.notify
        )
        before = self.said(name).count(" is ready with ")
        with (self.folder / f"{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "latencyprism", "stream", role, "--config", config],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        self.workers[name] = worker
        count = len(ROLES) if role == "all" else 1
        wait_until(
            f"{name} that is ready",
            lambda: self.said(name).count(" is ready with ") >= before + count,
        )
        return worker

    def said(self, name: str) -> str:
        """Give what a worker wrote so far."""
        log = self.folder / f"{name}.log"
        return log.read_text() if log.exists() else ""

    def kill(self, name: str) -> None:
        """End a worker at once."""
        worker = self.workers.pop(name)
        worker.kill()
        worker.wait()

    def stop(self, name: str) -> int:
        """End a worker as a supervisor does; give its status."""
        worker = self.workers.pop(name)
        worker.send_signal(signal.SIGTERM)
        try:
            return worker.wait(30)
        finally:
            worker.kill()
            worker.wait()

    def wait_until_done(self, role: str, *topics: str) -> None:
        """Wait until a role has committed all that is in these topics."""

        def done() -> bool:
            with self._consumer(role) as consumer:
                places = ends(consumer, topics)
                committed = consumer.committed(places, timeout=10)
            return all(now.offset >= end.offset for now, end in zip(committed, places, strict=True))

        wait_until(f"{role} that is done", done)

    def query(self, *statements: str) -> list[list[list[Any]]]:
        """Ask the database once the store worker is gone, in a process of its own."""
        assert "store" not in self.workers
        assert "all" not in self.workers
        done = subprocess.run(
            [sys.executable, "-c", READ, str(self.folder / "clickhouse"), json.dumps(statements)],
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[list[list[Any]]] = json.loads(done.stdout)
        return found

    @contextmanager
    def _consumer(self, role: str) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "group.id": f"{self.application}-{role}",
                "log_level": 0,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()
