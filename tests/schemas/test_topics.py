from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from schemas.records import DeadLetter, Workload
from schemas.topics import TOPICS, Topic, key_of, time_ms_of, topic_of
from tests.schemas.samples import MOMENT_NS, full

# Written out on purpose: other teams' readers depend on these, letter by letter.
CONTRACT = {
    "latencyprism.iterations.v1": ("iteration.v1", "engine_id", "begin_ns", False),
    "latencyprism.processes.v1": ("process.v1", "engine_id", "end_ns", False),
    "latencyprism.xpus.v1": ("xpu.v1", "engine_id", "end_ns", False),
    "latencyprism.hosts.v1": ("host.v1", "engine_id", "end_ns", False),
    "latencyprism.engines.v1": ("engine.v1", "engine_id", "at_ns", True),
    "latencyprism.batches.v1": ("batch.v1", "engine_id", "end_ns", False),
    "latencyprism.alerts.v1": ("alert.v1", "incident_id", "at_ns", False),
    "latencyprism.notifications.v1": ("notification.v1", "incident_id", "at_ns", False),
    "latencyprism.silences.v1": ("silence.v1", "silence_id", "at_ns", True),
    "latencyprism.acknowledgements.v1": ("acknowledgement.v1", "incident_id", "at_ns", True),
    "latencyprism.captures.v1": ("capture.v1", "engine_id", "at_ns", False),
    "latencyprism.faults.v1": ("fault.v1", "fault_id", "begin_ns", False),
    "latencyprism.norms.v1": ("norms.v1", "engine_id", "at_ns", True),
    "latencyprism.deadletters.v1": ("deadletter.v1", "topic", "at_ns", False),
}
JOINED = ("iterations", "processes", "xpus", "hosts", "engines", "captures", "norms")


def test_names_and_contracts_of_the_topics_do_not_change() -> None:
    assert {
        topic.name: (full(topic.record).schema, topic.key, topic.time, topic.compacted)
        for topic in TOPICS.values()
    } == CONTRACT


@pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS)
def test_key_and_time_are_fields_of_the_record(topic: Topic) -> None:
    types = {field.name: field.type for field in dataclasses.fields(topic.record)}
    assert (types[topic.key], types[topic.time]) == (str, int)


@pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS)
def test_a_record_finds_its_topic_key_and_time(topic: Topic) -> None:
    record: Any = dataclasses.replace(full(topic.record), **{topic.key: "ä:1"})
    assert topic_of(record) is topic
    assert key_of(record) == "ä:1".encode()
    assert time_ms_of(record) == MOMENT_NS // 1_000_000


def test_topics_that_are_joined_share_their_key() -> None:
    joined = [TOPICS[f"latencyprism.{name}.v1"] for name in JOINED]
    assert {topic.key for topic in joined} == {"engine_id"}


def test_each_topic_carries_a_record_of_its_own() -> None:
    assert len({topic.record for topic in TOPICS.values()}) == len(TOPICS)


def test_what_no_topic_carries_is_refused() -> None:
    stray: Any = Workload()
    with pytest.raises(LookupError, match=r"no topic carries Workload: add one to schemas/topics"):
        topic_of(stray)


def test_dead_letters_are_kept_for_a_week_and_alerts_for_a_month() -> None:
    day_ms = 86_400_000
    assert topic_of(full(DeadLetter)).retention_ms == 7 * day_ms
    assert TOPICS["latencyprism.alerts.v1"].retention_ms == 30 * day_ms
