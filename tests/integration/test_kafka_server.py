from __future__ import annotations

import time

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.integration.kafka_server import KafkaServer

pytestmark = pytest.mark.integration


def create_topic(server: KafkaServer, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        created.result(timeout=10)


def produce(server: KafkaServer, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap})
    for value in values:
        producer.produce(topic, value, key=b"engine")
    assert producer.flush(10) == 0


def consume(server: KafkaServer, topic: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": f"read-{topic}-{count}",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([topic])
        values: list[bytes] = []
        deadline = time.monotonic() + 20
        while len(values) < count and time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is not None:
                assert message.error() is None
                value = message.value()
                assert isinstance(value, bytes)
                values.append(value)
        return values
    finally:
        consumer.close()


def test_what_is_produced_is_consumed_in_order(kafka: KafkaServer) -> None:
    create_topic(kafka, "roundtrip", 3)
    values = [b"%d" % number for number in range(100)]
    produce(kafka, "roundtrip", values)
    assert consume(kafka, "roundtrip", 100) == values


def test_a_topic_nobody_created_does_not_appear(kafka: KafkaServer) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert admin.list_topics("nobody-made-me", timeout=10).topics["nobody-made-me"].error
    assert "nobody-made-me" not in admin.list_topics(timeout=10).topics


def test_messages_survive_a_kill_and_a_restart(own_kafka: KafkaServer) -> None:
    create_topic(own_kafka, "durable", 1)
    produce(own_kafka, "durable", [b"before"])
    before = own_kafka.bootstrap
    own_kafka.kill()
    own_kafka.restart()
    assert own_kafka.bootstrap == before
    produce(own_kafka, "durable", [b"after"])
    assert consume(own_kafka, "durable", 2) == [b"before", b"after"]
