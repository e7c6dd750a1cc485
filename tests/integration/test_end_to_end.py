"""All workers on a real Kafka: from what an agent publishes to receiver, topics and database."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from schemas import encode
from schemas.records import Iteration, Record
from schemas.topics import ALERTS, BATCHES, DEADLETTERS, HOSTS, ITERATIONS, key_of, time_ms_of
from tests.integration.deployment import Deployment, TopicReader, live_feed, publish, wait_until
from tests.integration.kafka_server import KafkaServer
from tests.streams.feed import Feed
from tests.streams.receiver import Delivery, Receiver

pytestmark = pytest.mark.integration

SLOW, FINE = "e2e-slow:8000", "e2e-fine:8000"
NORMAL, FAULT, CALM = 600, 200, 450

BROKEN: dict[str, tuple[str, bytes, str]] = {
    "malformed": (ITERATIONS.name, b"\xffgarbage", "not JSON: "),
    "unknown version": (
        ITERATIONS.name,
        b'{"schema":"iteration.v9"}',
        "unknown version 'iteration.v9': this reader knows iteration.v1",
    ),
    "wrong type": (
        ITERATIONS.name,
        encode(Feed(engine_id="e2e-broken").batch()[0]).replace(b'"rank":0', b'"rank":"0"'),
        "not a valid iteration.v1: Expected `int`, got `str`",
    ),
    "wrong record": (
        HOSTS.name,
        encode(Feed(engine_id="e2e-broken").batch()[0]),
        "schema is 'iteration.v1': this topic carries host.v1",
    ),
}


@dataclass(slots=True)
class Outcome:
    """What went in and what came out."""

    published: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    batches: list[dict[str, Any]] = field(default_factory=list)
    messages: list[tuple[str, bytes, bytes, int]] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    dead_rows: list[list[Any]] = field(default_factory=list)
    rows: dict[str, list[Any]] = field(default_factory=dict)
    incidents: list[list[Any]] = field(default_factory=list)
    status: int | None = None

    def told(self, engine_id: str) -> list[str]:
        """Give the states that were delivered about an engine."""
        return [
            one.alert["annotations"]["state"]
            for one in self.deliveries
            if one.alert["labels"]["engine_id"] == engine_id
        ]


def interleaved(*feeds: Iterator[Record]) -> Iterator[Record]:
    return (one for one in chain.from_iterable(zip_longest(*feeds)) if one is not None)


@pytest.fixture(scope="module")
def outcome(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The outcome of a slowdown of one engine beside one that is fine."""
    slow, fine = live_feed(SLOW), live_feed(FINE, seed=2)
    result = Outcome()
    with (
        Receiver() as receiver,
        Deployment(kafka, tmp_path_factory.mktemp("e2e"), "e2e", f"{receiver.address}/hook") as run,
    ):
        reader = TopicReader(
            kafka, ITERATIONS.name, BATCHES.name, HOSTS.name, ALERTS.name, DEADLETTERS.name
        )
        run.start("all")
        records: list[Record] = []

        def send(*new: Record, live: bool = False) -> None:
            records.extend(new)
            publish(kafka, new, live=live)

        send(slow.engine(), fine.engine())
        send(*interleaved(slow.batches(NORMAL), fine.batches(NORMAL)))
        wait_until("batches", lambda: len(reader.values(BATCHES.name)) >= 2 * NORMAL)
        send(
            *interleaved(slow.batches(FAULT, factor=1.6, others=0.9), fine.batches(FAULT)),
            live=True,
        )
        send(*interleaved(slow.batches(CALM), fine.batches(CALM)))
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        for topic, value, _ in BROKEN.values():
            producer.produce(topic, value, key=b"e2e-broken")
        assert producer.flush(10) == 0
        result.published = {encode(one): (key_of(one).decode(), time_ms_of(one)) for one in records}
        result.sent = Counter(one.engine_id for one in records if isinstance(one, Iteration))

        def all_out() -> bool:
            result.deliveries = list(receiver.deliveries)
            return (
                len(reader.values(BATCHES.name)) >= result.sent.total()
                and len(reader.values(DEADLETTERS.name)) >= len(BROKEN)
                and "resolved" in result.told(SLOW)
            )

        wait_until("end of the incident", all_out)
        run.wait_until_done("store", BATCHES.name, ALERTS.name, DEADLETTERS.name, HOSTS.name)
        result.status = run.stop("all")
        result.batches = reader.values(BATCHES.name)
        result.messages = [
            (str(m.topic()), m.key() or b"", m.value() or b"", m.timestamp()[1])
            for m in reader.read()
        ]
        reader.close()
        rows, result.incidents, result.dead_rows = run.query(
            "SELECT engine_id, count(), uniqExact(sequence), countIf(verdict = 'slow') "
            "FROM batches GROUP BY engine_id",
            "SELECT engine_id, state, cause, messages FROM incidents_view",
            "SELECT topic, place, error, value_base64 FROM deadletters FINAL",
        )
        result.rows = {row[0]: row[1:] for row in rows}
    return result


def test_a_slowdown_is_told_once_and_ended_once(outcome: Outcome) -> None:
    told = Counter(outcome.told(SLOW))
    assert (told["firing"], told["resolved"]) == (1, 1)
    assert outcome.told(SLOW)[0] == "firing"
    assert outcome.told(SLOW)[-1] == "resolved"
    assert told["updated"] <= 2


def test_the_engine_beside_it_is_left_in_peace(outcome: Outcome) -> None:
    assert outcome.told(FINE) == []
    assert outcome.rows[FINE][2] == 0


def test_every_iteration_is_one_batch_and_one_row(outcome: Outcome) -> None:
    assert Counter(one["engine_id"] for one in outcome.batches) == outcome.sent
    expected = NORMAL + FAULT + CALM
    assert outcome.sent == {SLOW: expected, FINE: expected}
    for engine_id in (SLOW, FINE):
        assert outcome.rows[engine_id][:2] == [expected, expected]
    assert outcome.rows[SLOW][2] >= FAULT


def test_the_incident_is_stored_as_it_was_told(outcome: Outcome) -> None:
    [incident] = outcome.incidents
    assert incident[:3] == [SLOW, "resolved", "host_cpu_contention"]
    # Of updates that come within a second of each other one is told.
    assert incident[3] >= len(outcome.told(SLOW))


def test_what_the_agent_sends_is_keyed_by_engine_and_stamped_with_its_own_time(
    outcome: Outcome,
) -> None:
    found = {
        value: (key.decode(), at_ms)
        for topic, key, value, at_ms in outcome.messages
        if topic in (ITERATIONS.name, HOSTS.name) and key != b"e2e-broken"
    }
    assert found == {
        value: known for value, known in outcome.published.items() if b'"engine.v1"' not in value
    }


@pytest.mark.parametrize(
    ("topic", "key", "time"),
    [
        (BATCHES.name, "engine_id", "end_ns"),
        (ALERTS.name, "incident_id", "at_ns"),
        (DEADLETTERS.name, "topic", "at_ns"),
    ],
)
def test_what_the_workers_send_is_keyed_and_stamped_as_the_topic_says(
    outcome: Outcome, topic: str, key: str, time: str
) -> None:
    found = [message for message in outcome.messages if message[0] == topic]
    assert found
    for _, message_key, value, at_ms in found:
        record = orjson.loads(value)
        assert message_key.decode() == record[key]
        # A float of seconds is exact to less than a millisecond.
        assert abs(at_ms - record[time] // 1_000_000) <= 1


@pytest.mark.parametrize("kind", BROKEN)
def test_a_message_that_cannot_be_read_is_a_dead_letter_and_a_row(
    outcome: Outcome, kind: str
) -> None:
    topic, value, reason = BROKEN[kind]
    encoded = base64.b64encode(value).decode()
    letters = [one for one in outcome.messages if one[0] == DEADLETTERS.name]
    [letter] = [one for one in letters if encoded.encode() in one[2] and b'"analyze"' in one[2]]
    assert letter[1] == topic.encode()
    [row] = [row for row in outcome.dead_rows if row[1] == "analyze" and row[3] == encoded]
    assert row[0] == topic
    assert row[2].startswith(reason)


def test_nothing_else_is_a_dead_letter(outcome: Outcome) -> None:
    known = {base64.b64encode(value).decode() for _, value, _ in BROKEN.values()}
    assert {row[3] for row in outcome.dead_rows} == known


def test_the_workers_end_in_order(outcome: Outcome) -> None:
    assert outcome.status == 0
