from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from schemas.codec import encode
from schemas.records import Norms
from schemas.settings import KafkaSettings
from schemas.topics import NORMS, key_of
from streams.broker import BrokerError
from streams.embedded import EmbeddedBroker
from streams.norms import NormsReader

pytestmark = pytest.mark.pipeline


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


def norms(number: int) -> Norms:
    return Norms(engine_id=f"host:{number}", at_ns=number, kind="a", batches=200, cells=())


def send(settings: KafkaSettings, records: list[Norms]) -> None:
    producer = Producer(settings.client_options())
    for record in records:
        producer.produce(NORMS.name, key=key_of(record), value=encode(record))
    producer.produce(NORMS.name, value=b"no norms")
    producer.flush(10)


def read(reader: NormsReader, count: int) -> list[Norms]:
    found: list[Norms] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        found += reader.read()
    return sorted(found, key=lambda one: one.at_ns)


def test_it_hears_all_partitions_from_their_beginning_and_goes_on(broker: EmbeddedBroker) -> None:
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap)
    broker.create_topics([NORMS.name])
    first, second = [norms(n) for n in range(20)], [norms(n) for n in range(20, 40)]
    send(settings, first)
    reader, other = NormsReader(settings), NormsReader(settings)
    assert read(reader, 20) == first
    send(settings, second)
    assert read(reader, 20) == second
    assert read(other, 40) == [*first, *second]


def test_a_broker_that_is_not_there_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.hearing.ANSWER_SECONDS", 0.3)
    reader = NormsReader(KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    with pytest.raises(BrokerError, match="does not answer"):
        reader.read()
