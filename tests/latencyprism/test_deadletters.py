"""Dead letters, shown and sent again, on the embedded broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "confluent_kafka", reason="no Kafka client: pip install 'latencyprism[collect]'"
)

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from latencyprism.__main__ import main
from schemas.codec import MAX_BURIED_BYTES, dead_letter, encode
from schemas.records import AlertState, DeadLetter, Record
from schemas.topics import ALERTS, BATCHES, TOPICS, key_of, time_ms_of, topic_of
from streams.delivery import buried
from streams.embedded import PARTITIONS, EmbeddedBroker
from tests.schemas.samples import full
from tests.streams.delivery.notifications import keys, notification
from tests.streams.receiver import Answer, Receiver

pytestmark = pytest.mark.pipeline

Capture = pytest.CaptureFixture[str]
Say = Callable[..., tuple[int, list[str]]]
BATCH = full(BATCHES.record)
CONFIG = """\
[kafka]
bootstrap_servers = "{bootstrap}"
[stream]
embedded = true
[notify]
url = "{url}"
allow_private = true
spool_folder = "/nowhere"
"""


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        broker.create_topics(list(TOPICS))
        yield broker


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def say(broker: EmbeddedBroker, receiver: Receiver, tmp_path: Path, capsys: Capture) -> Say:
    """Give a function that runs the command and gives its status and what it printed."""
    config = tmp_path / "latencyprism.toml"
    config.write_text(CONFIG.format(bootstrap=broker.bootstrap, url=receiver.address))

    def run(*arguments: str) -> tuple[int, list[str]]:
        status = main(["deadletters", *arguments, "--config", str(config)])
        return status, capsys.readouterr().out.splitlines()

    return run


def produce(broker: EmbeddedBroker, *records: Record) -> None:
    producer: Any = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for one in records:
        producer.produce(
            topic_of(one).name, key=key_of(one), value=encode(one), timestamp=time_ms_of(one)
        )
    assert producer.flush(10) == 0


def read(broker: EmbeddedBroker, topic: str) -> list[Any]:
    consumer: Any = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "test", "log_level": 0}
    )
    places = [TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(PARTITIONS)]
    consumer.assign(places)
    try:
        ends = [consumer.get_watermark_offsets(one, timeout=10)[1] for one in places]
        found: list[Any] = []
        while len(found) < sum(ends):
            found += consumer.consume(100, timeout=0.1)
        return found
    finally:
        consumer.close()


def unreadable(**changes: Any) -> DeadLetter:
    """Give the dead letter of a batch that could be read all the same."""
    given: dict[str, Any] = {
        "topic": BATCHES.name,
        "partition": 2,
        "offset": 7,
        "key": key_of(BATCH),
        "value": encode(BATCH),
        "place": "store",
        "error": "ClickHouse refused the row",
        "at_ns": time.time_ns() - 60_000_000_000,
    }
    return dead_letter(**given | changes)


def undelivered(**changes: Any) -> DeadLetter:
    return buried(notification(**changes), "default", "https://h answered 400 Bad Request")


def test_they_are_listed_with_place_and_reason(broker: EmbeddedBroker, say: Say) -> None:
    produce(broker, unreadable(), undelivered())
    status, lines = say("list")
    assert status == 0
    assert "  store  latencyprism.batches.v1[2] offset 7  " in lines[0]
    assert lines[0].endswith(": ClickHouse refused the row")
    assert "  notify/default  latencyprism.notifications.v1  abc: https://h answered" in lines[1]
    assert lines[2] == "2 dead letters."


def test_a_notification_goes_to_its_receiver_once_under_its_key(
    broker: EmbeddedBroker, receiver: Receiver, say: Say
) -> None:
    produce(broker, undelivered(), undelivered(), undelivered(revision=1))
    status, lines = say("replay")
    assert status == 0
    assert sorted(keys(receiver)) == ["abc-0", "abc-1"]
    assert [line for line in lines if "delivered to 'default'" in line] == lines[:2]
    assert lines[2] == "2 sent again, 0 not."
    assert say("replay") == (0, ["0 sent again, 0 not."])
    assert say("list")[1] == ["0 dead letters."]
    assert len(receiver.deliveries) == 2
    assert say("replay", "--again")[1][-1] == "2 sent again, 0 not."
    assert len(receiver.deliveries) == 4


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("resolved", "OVERTAKEN: its incident is over since 2026-"),
        ("updated", "OVERTAKEN: its incident has gone on to revision 2 (updated) since 2026-"),
    ],
)
def test_what_is_no_longer_so_is_sent_only_if_asked_for(
    broker: EmbeddedBroker, receiver: Receiver, say: Say, state: AlertState, sentence: str
) -> None:
    newest = notification(revision=2, state=state)
    produce(broker, notification(), newest, notification(revision=1))
    produce(broker, undelivered(), buried(newest, "default", "why"), undelivered(incident_id="b"))
    produce(broker, notification("b"))
    status, lines = say("replay")
    assert status == 0
    assert sum(sentence in line for line in lines) == 1
    assert lines[-1] == "2 sent again, 0 not, 1 overtaken (--overtaken sends those, too)."
    assert sorted(keys(receiver)) == ["abc-2", "b-0"]
    assert say("replay", "--overtaken")[1][-1] == "1 sent again, 0 not."
    assert sorted(keys(receiver)) == ["abc-0", "abc-2", "b-0"]


def test_one_that_dies_again_is_shown_again(broker: EmbeddedBroker, say: Say) -> None:
    produce(broker, undelivered())
    assert say("replay")[0] == 0
    produce(broker, undelivered())
    assert say("list")[1][-1] == "1 dead letters."


def test_another_message_goes_to_its_topic_as_it_was(broker: EmbeddedBroker, say: Say) -> None:
    produce(broker, unreadable())
    status, lines = say("replay")
    assert (status, lines[-1]) == (0, "1 sent again, 0 not.")
    [message] = read(broker, BATCHES.name)
    assert (message.key(), message.value()) == (key_of(BATCH), encode(BATCH))
    assert message.timestamp()[1] == time_ms_of(BATCH)
    assert say("replay")[1] == ["0 sent again, 0 not."]


def test_what_would_fail_again_is_left_and_told(
    broker: EmbeddedBroker, receiver: Receiver, say: Say
) -> None:
    receiver.always = Answer(400)
    cut = b"x" * MAX_BURIED_BYTES
    produce(
        broker,
        undelivered(),
        buried(notification("other"), "gone", "why"),
        unreadable(value=b"garbage", offset=1),
        unreadable(value=cut, offset=2),
        unreadable(topic="somebody.elses", offset=3),
    )
    status, lines = say("replay")
    told = "\n".join(lines)
    assert status == 1
    assert lines[-1] == "0 sent again, 5 not."
    assert f"NOT SENT: {receiver.address} answered 400" in told
    assert "NOT SENT: no destination 'gone' is in [notify]; have: default" in told
    assert "NOT SENT: it still cannot be read: not JSON" in told
    assert "NOT SENT: it was cut after 300000 bytes" in told
    assert "NOT SENT: it is of no topic of ours" in told
    assert say("list")[1][-1] == "5 dead letters."
    assert read(broker, BATCHES.name) == []


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ([], 3),
        (["--place", "store"], 1),
        (["--place", "notify/default"], 1),
        (["--topic", "alerts"], 1),
        (["--topic", ALERTS.name], 1),
        (["--last", "30s"], 1),
        (["--place", "nowhere"], 0),
    ],
)
def test_they_are_chosen_by_place_topic_and_time(
    broker: EmbeddedBroker, say: Say, flags: list[str], count: int
) -> None:
    produce(broker, unreadable(), unreadable(topic=ALERTS.name, place="analyze"), undelivered())
    lines = say("list", *flags)[1]
    assert len(lines) == count + 1
    others = f", and {3 - count} others" if count < 3 else ""
    assert lines[-1] == f"{count} dead letters{others}."


def test_a_span_that_is_none_is_refused(say: Say, capsys: Capture, broker: EmbeddedBroker) -> None:
    produce(broker, unreadable())
    assert say("list", "--last", "soon")[0] == 2
