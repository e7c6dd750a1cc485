"""The Kafka topics: one per record, named once and for all here."""

from dataclasses import dataclass

from schemas.records import (
    Acknowledgement,
    Alert,
    Batch,
    Capture,
    DeadLetter,
    Engine,
    Fault,
    HostReading,
    Iteration,
    Norms,
    Notification,
    ProcessReading,
    Record,
    Silence,
    XpuReading,
)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic and the contract of what is in it.

    Attributes:
        name: Name on the broker; the version at its end changes only with a break.

        record: The one record type it carries.

        key: The field whose value is the message key and so decides the partition. Topics that
            are joined share ``engine_id``.

        time: The field that becomes the message's timestamp (event time).

        retention_ms: How long messages are kept; ignored when compacted.

        compacted: Keep the newest message of each key forever.
    """

    name: str
    record: type[Record]
    key: str
    time: str
    retention_ms: int = DAY_MS
    compacted: bool = False


ITERATIONS = Topic(
    name="latencyprism.iterations.v1",
    record=Iteration,
    key="engine_id",
    time="begin_ns",
    retention_ms=6 * HOUR_MS,
)
PROCESSES = Topic(
    name="latencyprism.processes.v1", record=ProcessReading, key="engine_id", time="end_ns"
)
XPUS = Topic(name="latencyprism.xpus.v1", record=XpuReading, key="engine_id", time="end_ns")
HOSTS = Topic(name="latencyprism.hosts.v1", record=HostReading, key="engine_id", time="end_ns")
ENGINES = Topic(
    name="latencyprism.engines.v1", record=Engine, key="engine_id", time="at_ns", compacted=True
)
BATCHES = Topic(name="latencyprism.batches.v1", record=Batch, key="engine_id", time="end_ns")
ALERTS = Topic(
    name="latencyprism.alerts.v1",
    record=Alert,
    key="incident_id",
    time="at_ns",
    retention_ms=30 * DAY_MS,
)
NOTIFICATIONS = Topic(
    name="latencyprism.notifications.v1",
    record=Notification,
    key="incident_id",
    time="at_ns",
    retention_ms=30 * DAY_MS,
)
SILENCES = Topic(
    name="latencyprism.silences.v1",
    record=Silence,
    key="silence_id",
    time="at_ns",
    compacted=True,
)
ACKNOWLEDGEMENTS = Topic(
    name="latencyprism.acknowledgements.v1",
    record=Acknowledgement,
    key="incident_id",
    time="at_ns",
    compacted=True,
)
CAPTURES = Topic(
    name="latencyprism.captures.v1",
    record=Capture,
    key="engine_id",
    time="at_ns",
    retention_ms=7 * DAY_MS,
)
FAULTS = Topic(
    name="latencyprism.faults.v1",
    record=Fault,
    key="fault_id",
    time="begin_ns",
    retention_ms=30 * DAY_MS,
)
NORMS = Topic(
    name="latencyprism.norms.v1", record=Norms, key="engine_id", time="at_ns", compacted=True
)
DEADLETTERS = Topic(
    name="latencyprism.deadletters.v1",
    record=DeadLetter,
    key="topic",
    time="at_ns",
    retention_ms=7 * DAY_MS,
)

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        ITERATIONS,
        PROCESSES,
        XPUS,
        HOSTS,
        ENGINES,
        BATCHES,
        ALERTS,
        NOTIFICATIONS,
        SILENCES,
        ACKNOWLEDGEMENTS,
        CAPTURES,
        FAULTS,
        NORMS,
        DEADLETTERS,
    )
}

_BY_RECORD = {topic.record: topic for topic in TOPICS.values()}


def topic_of(record: Record) -> Topic:
    """Give the topic that carries records of this one's type."""
    try:
        return _BY_RECORD[type(record)]
    except KeyError:
        raise LookupError(
            f"no topic carries {type(record).__name__}: add one to schemas/topics.py"
        ) from None


def key_of(record: Record) -> bytes:
    """Give the message key of a record."""
    return str(getattr(record, topic_of(record).key)).encode()


def time_ms_of(record: Record) -> int:
    """Give the event time of a record in milliseconds, as Kafka wants it."""
    return int(getattr(record, topic_of(record).time)) // 1_000_000
