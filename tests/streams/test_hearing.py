from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from schemas.codec import encode
from schemas.records import Acknowledgement, Record
from schemas.settings import KafkaSettings
from schemas.topics import ACKNOWLEDGEMENTS, SILENCES, key_of
from streams.embedded import EmbeddedBroker
from streams.hearing import Hearing

pytestmark = pytest.mark.pipeline


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        running.create_topics([ACKNOWLEDGEMENTS.name, SILENCES.name])
        yield running


def said(number: int) -> Acknowledgement:
    return Acknowledgement(incident_id=f"i{number}", at_ns=number, by="ada")


def send(settings: KafkaSettings, records: list[Acknowledgement]) -> None:
    producer = Producer(settings.client_options())
    for record in records:
        producer.produce(ACKNOWLEDGEMENTS.name, key=key_of(record), value=encode(record))
    assert producer.flush(10) == 0


def read_to(hearing: Hearing, ends: dict[tuple[str, int], int]) -> list[Record]:
    found: list[Record] = []
    deadline = time.monotonic() + 20
    while not hearing.has_reached(ends) and time.monotonic() < deadline:
        found += hearing.read(0.1)
    return found


def test_it_knows_when_all_that_was_there_has_been_heard(broker: EmbeddedBroker) -> None:
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap)
    hearing = Hearing(settings, (ACKNOWLEDGEMENTS, SILENCES))
    # Topics without a message are heard already.
    assert hearing.has_reached(hearing.ends())
    send(settings, [said(number) for number in range(900)])
    ends = hearing.ends()
    assert not hearing.has_reached(ends)
    assert len(read_to(hearing, ends)) == 900
    hearing.close()
    assert len(read_to(hearing, hearing.ends())) == 900
    hearing.close()
