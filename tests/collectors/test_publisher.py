"""Records on their way out: order, what is dropped when there is no room, and what is said."""

from __future__ import annotations

import io
import logging
import os
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from collectors.publisher import KafkaPublisher, MemoryPublisher, RecordQueue, StreamPublisher
from schemas.codec import decode
from schemas.records import Iteration
from schemas.settings import KafkaSettings, SettingsError


def iteration(sequence: int) -> Iteration:
    return Iteration(
        engine_id="h:1",
        process_start_ns=1,
        sequence=sequence,
        begin_ns=1,
        end_ns=2,
        uncertainty_ns=0,
        source="counter",
    )


def take_all(queue: RecordQueue) -> list[int]:
    taken = []
    while (record := queue.take(0.0)) is not None:
        assert isinstance(record, Iteration)
        taken.append(record.sequence)
    return taken


def test_records_leave_in_the_order_they_came() -> None:
    queue = RecordQueue(10)
    for sequence in range(5):
        queue.put(iteration(sequence))
    assert len(queue) == 5
    assert take_all(queue) == [0, 1, 2, 3, 4]
    assert queue.dropped == 0


def test_a_full_queue_drops_the_oldest_and_counts_them() -> None:
    queue = RecordQueue(3)
    for sequence in range(7):
        queue.put(iteration(sequence))
    assert queue.dropped == 4
    assert take_all(queue) == [4, 5, 6]


def test_an_empty_queue_gives_none_after_the_wait_and_a_record_ends_the_wait() -> None:
    queue = RecordQueue(3)
    assert queue.take(0.01) is None
    timer = threading.Timer(0.05, queue.put, [iteration(1)])
    timer.start()
    assert queue.take(30.0) == iteration(1)
    timer.join()


def test_no_record_is_lost_between_threads() -> None:
    queue = RecordQueue(100_000)

    def put_many() -> None:
        for sequence in range(500):
            queue.put(iteration(sequence))

    threads = [threading.Thread(target=put_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(take_all(queue)) == sorted(list(range(500)) * 4)


def test_a_stream_gets_one_json_line_for_each_record() -> None:
    stream = io.BytesIO()
    publisher = StreamPublisher(stream)
    for sequence in (1, 2):
        publisher.publish(iteration(sequence))
    lines = stream.getvalue().splitlines()
    assert [decode(Iteration, line).sequence for line in lines] == [1, 2]


def test_a_reader_that_went_away_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb", buffering=0) as stream:
        StreamPublisher(stream).publish(iteration(1))
    StreamPublisher(stream).publish(iteration(2))


def test_memory_keeps_everything() -> None:
    publisher = MemoryPublisher()
    publisher.publish(iteration(1))
    assert publisher.records == [iteration(1)]


# What follows talks to librdkafka, with no broker behind it.


@pytest.fixture
def nowhere() -> KafkaSettings:
    pytest.importorskip("confluent_kafka", reason="pip install 'latencyprism[collect]'")
    return KafkaSettings(bootstrap_servers="127.0.0.1:1")


@pytest.fixture
def silent(nowhere: KafkaSettings) -> Iterator[KafkaSettings]:
    """A port that takes the connection and never answers, so that librdkafka waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield KafkaSettings(bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}")


def error(code: int, text: str) -> Any:
    return SimpleNamespace(code=lambda: code, str=lambda: text)


def message(topic: str) -> Any:
    return SimpleNamespace(topic=lambda: topic)


def test_a_setting_that_the_client_refuses_is_an_error_of_the_settings(
    nowhere: KafkaSettings,
) -> None:
    with pytest.raises(SettingsError, match=r"section \[kafka\]: .*ssl\.ca\.location"):
        KafkaPublisher(KafkaSettings(security_protocol="ssl", ca_path="/no/such/file"), 100)


def test_brokers_that_are_away_are_one_line_and_no_record_is_dropped_for_it(
    nowhere: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = KafkaPublisher(nowhere, 100)
    for sequence in range(5):
        publisher.publish(iteration(sequence))
    # Several attempts to connect happen meanwhile.
    threading.Event().wait(2.5)
    assert publisher.dropped == 0
    assert publisher.close(timeout_seconds=0.2) == 5
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "Kafka at 127.0.0.1:1 is not reachable" in errors[0].getMessage()
    assert "5 records were not sent" in caplog.text
    assert "takes records again" not in caplog.text


def test_nothing_to_send_does_not_mean_that_the_brokers_are_back(
    nowhere: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = KafkaPublisher(nowhere, 100)
    threading.Event().wait(2.5)
    assert publisher.close(timeout_seconds=0.2) == 0
    assert caplog.text.count("not reachable") == 1
    assert "takes records again" not in caplog.text


@pytest.mark.parametrize("code", [-169, -181, -187, -193, -195])
def test_a_refused_login_is_told_like_an_outage(
    silent: KafkaSettings, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    publisher = KafkaPublisher(silent, 100)
    publisher._on_error(error(code, "SASL authentication failed"))
    publisher._on_error(error(code, "SASL authentication failed"))
    publisher.close(timeout_seconds=0.1)
    assert caplog.text.count("SASL authentication failed") == 1
    assert "check section [kafka]" in caplog.text


def test_a_record_that_a_topic_refuses_is_counted_and_told_once_for_each_topic(
    silent: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = KafkaPublisher(silent, 100)
    publisher._on_failed_delivery(None, message("a"))
    for topic in ("a", "a", "b"):
        publisher._on_failed_delivery(error(3, "Unknown topic"), message(topic))
    assert publisher.dropped == 3
    publisher.close(timeout_seconds=0.1)
    assert caplog.text.count("Unknown topic") == 2
    assert "latencyprism topics" in caplog.text
