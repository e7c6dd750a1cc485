"""Recording from a broker, here the embedded one; it cannot look an offset up by time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "confluent_kafka", reason="no Kafka client: pip install 'latencyprism[collect]'"
)
pytest.importorskip("river", reason="no river: pip install 'latencyprism[stream]'")

from confluent_kafka import Producer

from latencyprism.__main__ import main
from latencyprism.commands import record as record_command
from latencyprism.commands import replay as replay_command
from schemas.codec import encode
from schemas.recording import read_recording, seen_ns
from schemas.records import Engine, Iteration, Record
from schemas.topics import HOSTS, ITERATIONS, TOPICS, key_of, time_ms_of, topic_of
from streams import history
from streams.embedded import EmbeddedBroker
from streams.offline import Offline
from tests.streams.feed import BEGIN_NS, Feed

pytestmark = pytest.mark.pipeline

ENGINES = ("host:1", "host:2", "host:3")


def records() -> list[Record]:
    """Give what agents and workers wrote about some engines, in the order of time."""
    found: list[Record] = []
    for seed, engine_id in enumerate(ENGINES):
        feed, offline = Feed(seed=seed, engine_id=engine_id), Offline()
        one = [feed.engine(), *feed.batches(400), *feed.batches(50, factor=2.0, others=0.8)]
        found += one
        found += [result for record in one for result in offline.feed(record)]
    return sorted(found, key=seen_ns)


RECORDS = records()


def produce(bootstrap: str, sent: Sequence[Record]) -> None:
    producer: Any = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for record in sent:
        producer.produce(
            topic_of(record).name,
            key=key_of(record),
            value=encode(record),
            timestamp=time_ms_of(record),
        )
    assert producer.flush(20.0) == 0


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        broker.create_topics([*TOPICS])
        produce(broker.bootstrap, RECORDS)
        producer: Any = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        producer.produce(ITERATIONS.name, key=b"host:1", value=b"\xff")
        producer.produce(HOSTS.name, key=b"host:1", value=None)
        assert producer.flush(20.0) == 0
        yield broker.bootstrap


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # Handlers of this process belong to pytest.
    for command in (record_command, replay_command):
        monkeypatch.setattr(command, "start_logging", lambda _: None)


@pytest.fixture
def config(bootstrap: str, tmp_path: Path) -> Path:
    return write_config(bootstrap, tmp_path)


def write_config(bootstrap: str, folder: Path) -> Path:
    path = folder / "latencyprism.toml"
    path.write_text(f'[kafka]\nbootstrap_servers = "{bootstrap}"\n[stream]\nembedded = true\n')
    return path


def recorded(config: Path, *options: str) -> list[Record]:
    path = config.parent / "recording.gz"
    arguments = ["record", "--to", str(path), "--config", str(config), "--until", "4000000000"]
    assert main([*arguments, *options]) == 0
    return list(read_recording(path))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # The streams of these tests lie in the future.
    monkeypatch.setattr(time, "sleep", lambda _: None)


def by_engine(found: Sequence[Record], engine_id: str, kind: type[Any]) -> list[Record]:
    return [
        one for one in found if isinstance(one, kind) and getattr(one, "engine_id", 0) == engine_id
    ]


def test_all_that_is_in_kafka_is_written_in_the_order_of_time(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = recorded(config)
    assert sorted(map(encode, found)) == sorted(map(encode, RECORDS))
    moments = [seen_ns(one) for one in found]
    assert moments == sorted(moments)
    told = capsys.readouterr()
    assert f"{len(RECORDS):,} records in " in told.out
    assert f"left out 1 unreadable: {ITERATIONS.name}: not JSON" in told.err
    assert f"left out 1 unreadable: {HOSTS.name}: empty message" in told.err


def test_little_memory_changes_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "HELD_MESSAGES", 1)
    monkeypatch.setattr(history, "FETCHED_MESSAGES", 20)
    assert sorted(map(encode, recorded(config))) == sorted(map(encode, RECORDS))


def test_engines_and_topics_can_be_chosen(config: Path) -> None:
    found = recorded(
        config, "--engine", "host:2", "--topics", "iterations", "latencyprism.engines.v1"
    )
    assert found == [
        one for one in RECORDS if isinstance(one, Iteration | Engine) and one.engine_id == "host:2"
    ]


def test_a_range_has_the_inventory_of_before(config: Path) -> None:
    begin_ns = BEGIN_NS + 2_000_000_000
    found = recorded(config, "--from", str(begin_ns / 1e9))
    assert {one.engine_id for one in found if isinstance(one, Engine)} == {*ENGINES}
    for engine_id in ENGINES:
        assert by_engine(found, engine_id, Iteration) == [
            one
            for one in by_engine(RECORDS, engine_id, Iteration)
            if time_ms_of(one) >= begin_ns // 1_000_000
        ]


def test_a_range_without_records_leaves_no_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.parent / "recording"
    arguments = ["record", "--to", str(path), "--config", str(config), "--engine", "host:7"]
    assert main([*arguments, "--until", "4000000000"]) == 2
    assert "nothing to record (2 messages are unreadable): choose" in capsys.readouterr().err
    assert [*config.parent.iterdir()] == [config]


def test_a_recording_replays_to_what_the_workers_said(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(config)
    path = str(config.parent / "recording.gz")
    assert main(["replay", path, "--compare", "recorded", "--fail-on-difference"]) == 0
    assert "Both say the same." in capsys.readouterr().out


def test_kafka_replays_to_the_same_bytes_as_its_recording(config: Path) -> None:
    recorded(config)
    folder = config.parent
    end = ["--until", "4000000000", "--to"]
    assert main(["replay", str(folder / "recording.gz"), *end, str(folder / "one")]) == 0
    kafka = ["replay", "--kafka", "--config", str(config), *end, str(folder / "two")]
    assert main(kafka) == 0
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()


def test_no_broker_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(history, "ANSWER_SECONDS", 0.5)
    config = write_config("127.0.0.1:1", tmp_path)
    assert main(["record", "--to", str(tmp_path / "out"), "--config", str(config)]) == 2
    assert "check [kafka] bootstrap_servers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--topics", "dreams"], "no topic 'dreams': choose of iterations"),
        (["--seconds", "0"], "--seconds is 0: give a number above 0"),
        (["--seconds", "1", "--from", "beginning"], "give --from a time or 'now'"),
        (["--from", "now", "--until", "now"], "give --until a later time"),
        (["--from", "noon"], "--from is 'noon': give a time as"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], what: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.parent / "out"
    assert main(["record", "--to", str(path), "--config", str(config), *arguments]) == 2
    assert what in capsys.readouterr().err
    assert not path.exists()


def test_a_recording_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record"]) == 2
    assert "Give --to with the name of a file" in capsys.readouterr().err


def test_a_time_that_is_not_over_is_waited_for(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    arguments = ["record", "--to", str(config.parent / "out"), "--config", str(config)]
    assert main([*arguments, "--seconds", "60"]) in (0, 2)
    (seconds,) = slept
    assert 59 < seconds <= 60 + record_command.TRAVEL_SECONDS
    assert "Ctrl-C ends it now" in capsys.readouterr().err
