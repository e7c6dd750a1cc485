"""The agent's publisher on a real Kafka that is not there yet, or not any more."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from collectors.publisher import IN_FLIGHT, KafkaPublisher
from schemas.topics import ITERATIONS
from tests.integration.conftest import new_server
from tests.integration.deployment import (
    TopicReader,
    create_topics,
    live_feed,
    settings_of,
    wait_until,
)
from tests.integration.kafka_server import KafkaServer

pytestmark = pytest.mark.integration


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "latencyprism.publisher"
    ]


def test_records_wait_for_a_broker_that_starts_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    feed = live_feed("early:8000")
    server = new_server(tmp_path / "kafka")
    publisher = KafkaPublisher(settings_of(server), queue_records=100_000)
    try:
        for record in feed.batches(500):
            publisher.publish(record)
        wait_until("complaint", lambda: len(lines(caplog)) > 0)
        time.sleep(3.0)
        assert len(lines(caplog)) == 1
        server.start()
        create_topics(server)
        reader = TopicReader(server, ITERATIONS.name)
        reader.rewind()
        wait_until("records", lambda: len(reader.values(ITERATIONS.name)) >= 500)
        wait_until("recovery", lambda: len(lines(caplog)) > 1)
        time.sleep(1.0)
        found = [one["sequence"] for one in reader.values(ITERATIONS.name)]
        reader.close()
    finally:
        left = publisher.close(10.0)
        server.stop()
    assert left == 0
    assert found == list(range(1, 501))
    complaint, recovery = lines(caplog)
    assert f"Kafka at {server.bootstrap} is not reachable" in complaint
    assert "takes records again; 0 were dropped meanwhile" in recovery


def test_an_idle_publisher_complains_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = new_server(tmp_path / "kafka")
    publisher = KafkaPublisher(settings_of(server), queue_records=100)
    wait_until("complaint", lambda: len(lines(caplog)) > 0)
    time.sleep(5.0)
    publisher.close(1.0)
    assert len(lines(caplog)) == 1


def test_the_oldest_go_where_the_broker_is_away_for_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = new_server(tmp_path / "kafka")
    feed = live_feed("overflow:8000")
    publisher = KafkaPublisher(settings_of(server), queue_records=1000)
    count = IN_FLIGHT + 1000 + 700
    try:
        for _ in range(count):
            publisher.publish(feed.batch()[0])
        assert publisher.dropped == 700
        server.start()
        create_topics(server)
        reader = TopicReader(server, ITERATIONS.name)
        reader.rewind()
        wait_until("records", lambda: len(reader.values(ITERATIONS.name)) >= count - 700)
        wait_until("recovery", lambda: len(lines(caplog)) > 1)
        found = [one["sequence"] for one in reader.values(ITERATIONS.name)]
        reader.close()
    finally:
        left = publisher.close(10.0)
        server.stop()
    assert (left, publisher.dropped) == (0, 700)
    # Those that librdkafka already had stay; of those that wait the oldest go.
    assert found == [*range(1, IN_FLIGHT + 1), *range(count - 1000 + 1, count + 1)]
    assert "700 were dropped meanwhile" in lines(caplog)[-1]


def test_all_that_waits_is_sent_at_the_end(kafka: KafkaServer) -> None:
    create_topics(kafka)
    feed = live_feed("closing:8000")
    records = [feed.batch()[0] for _ in range(3 * IN_FLIGHT)]
    reader = TopicReader(kafka, ITERATIONS.name)
    publisher = KafkaPublisher(settings_of(kafka), queue_records=len(records))
    for record in records:
        publisher.publish(record)
    assert publisher.close(30.0) == 0
    found = [one["sequence"] for one in reader.values(ITERATIONS.name, engine_id=feed.engine_id)]
    reader.close()
    assert found == list(range(1, len(records) + 1))


def test_a_topic_that_is_missing_is_no_crash(
    own_kafka: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    feed = live_feed("no-topic:8000")
    publisher = KafkaPublisher(settings_of(own_kafka), queue_records=1000)
    try:
        for record in feed.batches(10):
            publisher.publish(record)
            time.sleep(0.3)
        create_topics(own_kafka)
        reader = TopicReader(own_kafka, ITERATIONS.name)
        reader.rewind()
        wait_until("records", lambda: len(reader.values(ITERATIONS.name)) >= 10)
        reader.close()
    finally:
        left = publisher.close(10.0)
    assert (left, publisher.dropped) == (0, 0)
