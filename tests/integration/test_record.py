"""`latencyprism record` from a real Kafka, which finds offsets by time and compacts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from latencyprism.__main__ import main
from schemas.codec import encode
from schemas.recording import read_recording, seen_ns
from schemas.records import Engine, Iteration, Record
from schemas.topics import key_of, time_ms_of, topic_of
from streams import history
from tests.integration.kafka_server import KafkaServer
from tests.streams.feed import SECOND_NS, Feed

pytestmark = pytest.mark.integration

ENGINES = ("host:1", "host:2", "host:3")


def stream(begin_ns: int) -> list[Record]:
    found: list[Record] = []
    for seed, engine_id in enumerate(ENGINES):
        feed = Feed(seed=seed, engine_id=engine_id)
        feed.now_ns = begin_ns
        found += [feed.engine(note="an older one"), feed.engine(), *feed.batches(2000)]
    return sorted(found, key=seen_ns)


def produce(bootstrap: str, records: list[Record]) -> None:
    # As the agent's: without it, what is sent again while a new topic finds its leader comes late.
    producer: Any = Producer(
        {"bootstrap.servers": bootstrap, "log_level": 0, "enable.idempotence": True}
    )
    for record in records:
        producer.produce(
            topic_of(record).name,
            key=key_of(record),
            value=encode(record),
            timestamp=time_ms_of(record),
        )
    assert producer.flush(20.0) == 0


def test_a_range_is_found_by_its_time(
    own_kafka: KafkaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "HELD_MESSAGES", 1)
    monkeypatch.setattr(history, "FETCHED_MESSAGES", 200)
    config, path = tmp_path / "latencyprism.toml", tmp_path / "recording.gz"
    config.write_text(f'[kafka]\nbootstrap_servers = "{own_kafka.bootstrap}"\npartitions = 3\n')
    assert main(["topics", "--create", "--config", str(config)]) == 0
    begin_ns = (time.time_ns() // SECOND_NS - 300) * SECOND_NS
    records = stream(begin_ns)
    produce(own_kafka.bootstrap, records)
    first_ms, last_ms = begin_ns // 1_000_000 + 3_000, begin_ns // 1_000_000 + 9_000

    arguments = ["record", "--to", str(path), "--config", str(config)]
    times = ["--from", str(first_ms / 1000), "--until", str(last_ms / 1000)]
    assert main([*arguments, *times]) == 0

    found = list(read_recording(path))
    assert [seen_ns(one) for one in found] == sorted(seen_ns(one) for one in found)
    for engine_id in ENGINES:
        assert [one for one in found if isinstance(one, Engine) and one.engine_id == engine_id] == [
            one
            for one in records
            if isinstance(one, Engine) and one.engine_id == engine_id and one.note is None
        ]
        assert [
            one for one in found if isinstance(one, Iteration) and one.engine_id == engine_id
        ] == [
            one
            for one in records
            if isinstance(one, Iteration)
            and one.engine_id == engine_id
            and first_ms <= time_ms_of(one) < last_ms
        ]

    assert main(arguments) == 0
    everything = list(read_recording(path))
    assert sorted(map(encode, everything)) == sorted(map(encode, records))
