"""The stream workers as they run in production: processes, a broker, a receiver, a database.

One run is made for all tests here, and what it left behind is looked at afterwards.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from schemas import Batch, HostReading, encode
from schemas.records import Record
from schemas.topics import BATCHES, HOSTS, ITERATIONS, TOPICS, key_of, time_ms_of, topic_of
from tests.streams.feed import Feed
from tests.streams.receiver import Answer, Delivery, Receiver

pytest.importorskip("faust", reason="no faust: pip install 'latencyprism[stream]'")
pytest.importorskip("chdb", reason="no chDB: pip install 'latencyprism[demo]'")

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streams.embedded import PARTITIONS, EmbeddedBroker

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0
CONFIG = """\
[kafka]
bootstrap_servers = "{bootstrap}"
[stream]
embedded = true
fetch_wait_ms = 20
checkpoint_batches = 50
data_dir = "{folder}/faust"
[store]
dsn = "chdb:///{folder}/clickhouse"
flush_seconds = 0.2
[notify]
url = "{url}/hook"
allow_private = true
spool_folder = "{folder}/notify"
retry_first_seconds = 0.2
retry_most_seconds = 0.5
"""

STEADY = "host:1"
KILLED = "host:2"
STORED = [name for name in TOPICS if name != ITERATIONS.name]
NORMAL, SLOW, CALM = 600, 300, 500

BROKEN: dict[str, tuple[str, bytes]] = {
    "garbage": (ITERATIONS.name, b"\xffgarbage"),
    "empty": (ITERATIONS.name, b""),
    "unknown version": (ITERATIONS.name, b'{"schema":"iteration.v9"}'),
    "wrong record": (HOSTS.name, encode(Feed().batch()[0])),
    "wrong type": (
        ITERATIONS.name,
        encode(Feed().batch()[0]).replace(b'"sequence":1', b'"sequence":"1"'),
    ),
    "does not fit": (
        BATCHES.name,
        encode(
            Batch(
                engine_id="host:3",
                process_start_ns=1,
                sequence=1,
                begin_ns=1,
                end_ns=2,
                duration_ns=1,
                uncertainty_ns=1,
                source="counter",
                ranks=-1,
            )
        ),
    ),
}
REASONS = {
    "garbage": ("analyze", "not JSON: "),
    "empty": ("analyze", "empty message where iteration.v1 was expected"),
    "unknown version": ("analyze", "unknown version 'iteration.v9': this reader knows iteration"),
    "wrong record": ("analyze", "schema is 'iteration.v1': this topic carries host.v1"),
    "wrong type": ("analyze", "not a valid iteration.v1: Expected `int`, got `str`"),
    "does not fit": ("store", "ClickHouse refused the row: "),
}

READ = """\
import json, sys
import clickhouse_connect
client = clickhouse_connect.get_client(dsn="chdb:///" + sys.argv[1])
json.dump([client.query(sql).result_rows for sql in json.loads(sys.argv[2])], sys.stdout)
"""


@dataclass(slots=True)
class Outcome:
    """What a run left behind."""

    folder: Path
    deliveries: list[Delivery] = field(default_factory=list)
    published: dict[str, int] = field(default_factory=dict)
    refused_at_first: int = 0
    first_pid: int = 0
    second_pid: int = 0
    last_sequence_before_the_kill: int = 0
    status: int | None = None

    def query(self, *statements: str) -> list[list[list[Any]]]:
        """Ask the database, in a process of its own: this one has opened another folder."""
        done = subprocess.run(
            [sys.executable, "-c", READ, str(self.folder / "clickhouse"), json.dumps(statements)],
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[list[list[Any]]] = json.loads(done.stdout)
        return found

    def taken(self, engine_id: str) -> list[Delivery]:
        """Give the deliveries about an engine that were answered with 200."""
        return [
            one
            for one in self.deliveries
            if one.status == 200 and one.alert["labels"]["engine_id"] == engine_id
        ]


def states(deliveries: Iterable[Delivery]) -> Counter[str]:
    return Counter(one.alert["annotations"]["state"] for one in deliveries)


class Run:
    """One broker, one receiver, and the workers."""

    def __init__(self, broker: EmbeddedBroker, receiver: Receiver, folder: Path) -> None:
        self.receiver = receiver
        self.bootstrap = broker.bootstrap
        self.outcome = Outcome(folder)
        self.log = folder / "workers.log"
        config = folder / "latencyprism.toml"
        config.write_text(
            CONFIG.format(bootstrap=broker.bootstrap, folder=folder, url=receiver.address)
        )
        broker.create_topics(list(TOPICS))
        self._producer = Producer(
            {"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random"}
        )
        # Never subscribed: it only asks how far the store worker is.
        self._consumer = Consumer(
            {"bootstrap.servers": broker.bootstrap, "group.id": "latencyprism-store"}
        )
        with self.log.open("wb") as log:
            self.workers = subprocess.Popen(
                [sys.executable, "-P", "-m", "latencyprism", "stream", "all", "--config", config],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def publish(self, records: Iterable[Record]) -> None:
        """Send records as the agent does."""
        for record in records:
            name = topic_of(record).name
            self.publish_bytes(name, encode(record), key_of(record), time_ms_of(record))
            self.outcome.published[name] = self.outcome.published.get(name, 0) + 1
        assert self._producer.flush(10) == 0

    def publish_bytes(self, topic: str, value: bytes, key: bytes, time_ms: int = 0) -> None:
        """Send anything."""
        self._producer.produce(topic, value=value, key=key, timestamp=time_ms)
        self._producer.poll(0)

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        """Wait for something; tell what the workers said where it does not come."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not until():
            if time.monotonic() > deadline or self.workers.poll() is not None:
                said = self.log.read_text()[-5000:]
                raise AssertionError(f"no {what}; the workers said:\n{said}")
            time.sleep(0.05)

    def live(self, records: Iterable[Record]) -> None:
        """Send records as they come in life: a reading of the host after what it is about."""
        for record in records:
            if isinstance(record, HostReading):
                self.wait("judged batches", self.judged)
            self.publish([record])
        self.wait("judged batches", self.judged)

    def judged(self) -> bool:
        """Whether there is a batch for every iteration."""
        found = sum(self._end(BATCHES.name, number) for number in range(PARTITIONS))
        return found >= self.outcome.published[ITERATIONS.name]

    def _end(self, topic: str, partition: int) -> int:
        place = TopicPartition(topic, partition)
        _, end = self._consumer.get_watermark_offsets(place, timeout=10)
        return int(end)

    def told(self, engine_id: str, state: str) -> bool:
        """Whether the receiver took such an alert."""
        self.outcome.deliveries = list(self.receiver.deliveries)
        return states(self.outcome.taken(engine_id))[state] > 0

    def pid(self, role: str) -> int | None:
        """Give the process of a role."""
        children = Path(f"/proc/{self.workers.pid}/task/{self.workers.pid}/children").read_text()
        for pid in children.split():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            # Where setproctitle is installed Faust writes a title of its own.
            if role.encode() in line or f"latencyprism-{role}".encode() in b" ".join(line).split():
                return int(pid)
        return None

    def stored(self) -> bool:
        """Whether the store worker has committed all that there is."""
        places = [TopicPartition(name, n) for name in STORED for n in range(PARTITIONS)]
        try:
            committed = self._consumer.committed(places, timeout=10)
            # A partition without a commit has a negative offset.
            return all(
                max(one.offset, 0) >= self._end(one.topic, one.partition) for one in committed
            )
        except KafkaException:
            return False

    def stop(self) -> None:
        """End the workers as a supervisor does."""
        self.workers.send_signal(signal.SIGTERM)
        self.outcome.status = self.workers.wait(30)
        self.outcome.deliveries = list(self.receiver.deliveries)
        self._consumer.close()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """The outcome of a run: two engines, broken messages, a kill, an outage of the receiver."""
    with EmbeddedBroker() as broker, Receiver() as receiver:
        run = Run(broker, receiver, tmp_path_factory.mktemp("pipeline"))
        try:
            steady, killed = Feed(engine_id=STEADY), Feed(seed=2, engine_id=KILLED)
            run.publish([steady.engine(), killed.engine()])
            for topic, value in BROKEN.values():
                run.publish_bytes(topic, value, STEADY.encode())
            run.live(steady.batches(NORMAL))
            run.live(killed.batches(NORMAL))
            _slow_down_while_the_receiver_is_in_trouble(run, steady)
            _slow_down_while_the_worker_is_killed(run, killed)
            run.wait("stored rows", run.stored)
            run.stop()
        finally:
            # Not killed: its children would stay.
            run.workers.terminate()
            run.workers.wait(60)
        yield run.outcome


def _slow_down_while_the_receiver_is_in_trouble(run: Run, feed: Feed) -> None:
    run.receiver.always = Answer(500)
    run.live(feed.batches(SLOW, factor=1.6, others=0.85))
    run.wait("retries", lambda: len(run.receiver.deliveries) >= 3)
    run.outcome.refused_at_first = len(run.receiver.deliveries)
    run.receiver.always = Answer(200)
    run.wait("alert", lambda: run.told(STEADY, "firing"))
    run.publish(feed.batches(CALM))
    run.wait("end of the incident", lambda: run.told(STEADY, "resolved"))


def _slow_down_while_the_worker_is_killed(run: Run, feed: Feed) -> None:
    run.live(feed.batches(SLOW // 2, factor=1.6, others=0.85))
    run.wait("alert", lambda: run.told(KILLED, "firing"))
    run.outcome.first_pid = run.pid("analyze") or 0
    run.outcome.last_sequence_before_the_kill = feed.sequence
    os.kill(run.outcome.first_pid, signal.SIGKILL)
    run.publish(feed.batches(SLOW // 2, factor=1.6, others=0.85))
    run.publish(feed.batches(CALM))
    run.wait("end of the incident after the kill", lambda: run.told(KILLED, "resolved"))
    run.outcome.second_pid = run.pid("analyze") or 0


def test_a_slowdown_is_one_firing_and_one_resolved_alert_with_its_cause(outcome: Outcome) -> None:
    taken = outcome.taken(STEADY)
    found = states(taken)
    assert (found["firing"], found["resolved"]) == (1, 1)
    assert found["updated"] <= 2
    resolved = taken[-1].alert
    assert resolved["status"] == "resolved"
    assert resolved["annotations"]["cause"] == "host_cpu_contention"
    assert float(resolved["annotations"]["slowdown_ratio"]) == pytest.approx(1.6, rel=0.05)
    assert len({one.alert["fingerprint"] for one in taken}) == 1


def test_an_alert_that_the_receiver_could_not_take_comes_again_and_is_taken_once(
    outcome: Outcome,
) -> None:
    refused = outcome.deliveries[: outcome.refused_at_first]
    assert {one.status for one in refused} == {500}
    assert len({one.headers["Idempotency-Key"] for one in refused}) == 1
    keys = [one.headers["Idempotency-Key"] for one in outcome.taken(STEADY)]
    assert keys[0] == refused[0].headers["Idempotency-Key"]
    assert len(keys) == len(set(keys))


def test_a_worker_that_was_killed_is_started_again(outcome: Outcome) -> None:
    assert outcome.first_pid
    assert outcome.second_pid not in (0, outcome.first_pid)


def test_an_incident_goes_on_where_its_worker_was_killed(outcome: Outcome) -> None:
    taken = outcome.taken(KILLED)
    assert len({one.alert["labels"]["incident_id"] for one in taken}) == 1
    keys = {one.headers["Idempotency-Key"]: one for one in taken}
    found = states(keys.values())
    assert (found["firing"], found["resolved"]) == (1, 1)
    assert len({one.alert["fingerprint"] for one in taken}) == 1


def test_a_worker_that_was_killed_remembers_the_engine(outcome: Outcome) -> None:
    before = outcome.last_sequence_before_the_kill
    [found] = outcome.query(
        "SELECT verdict, count() FROM batches_view "
        f"WHERE engine_id = '{KILLED}' AND sequence > {before} GROUP BY verdict"
    )
    counts = dict(found)
    assert "unknown" not in counts
    assert counts["slow"] >= SLOW // 2
    assert sum(counts.values()) == SLOW // 2 + CALM


def test_every_batch_is_one_row(outcome: Outcome) -> None:
    expected = NORMAL + SLOW + CALM
    [found] = outcome.query(
        "SELECT engine_id, count(), uniqExact(sequence), min(sequence), max(sequence) "
        "FROM batches_view GROUP BY engine_id ORDER BY engine_id"
    )
    assert found == [[name, expected, expected, 1, expected] for name in (STEADY, KILLED)]


def test_every_reading_and_engine_is_one_row(outcome: Outcome) -> None:
    hosts, engines = outcome.query(
        "SELECT count() FROM hosts FINAL", "SELECT engine_id, state FROM engines_view ORDER BY 1"
    )
    assert hosts == [[outcome.published[HOSTS.name]]]
    assert engines == [[STEADY, "running"], [KILLED, "running"]]


def test_the_incidents_are_stored_with_their_causes(outcome: Outcome) -> None:
    [found] = outcome.query("SELECT engine_id, state, cause FROM incidents_view ORDER BY engine_id")
    assert found == [[name, "resolved", "host_cpu_contention"] for name in (STEADY, KILLED)]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_message_that_cannot_be_used_is_a_dead_letter_with_the_reason(
    outcome: Outcome, kind: str
) -> None:
    topic, value = BROKEN[kind]
    encoded = base64.b64encode(value).decode()
    place, reason = REASONS[kind]
    [found] = outcome.query(
        "SELECT place, error, key_base64 FROM deadletters FINAL "
        f"WHERE topic = '{topic}' AND value_base64 = '{encoded}' ORDER BY place"
    )
    by_place = {row[0]: row[1:] for row in found}
    assert by_place[place][0].startswith(reason)
    assert base64.b64decode(by_place[place][1]) == STEADY.encode()


def test_nothing_else_is_a_dead_letter(outcome: Outcome) -> None:
    [found] = outcome.query("SELECT count(DISTINCT (topic, value_base64)) FROM deadletters FINAL")
    assert found == [[len(BROKEN)]]


def test_the_workers_end_in_order_when_they_are_told_to(outcome: Outcome) -> None:
    assert outcome.status == 0
