"""Build the Faust application of one worker role; nothing here runs at import.

Names on the wire are pinned (topics, tables, groups) and bytes go in and out untouched, so that
no module path of ours ever becomes part of the protocol.
"""

import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import faust
from faust.exceptions import PartitionsMismatch
from faust.transport.drivers import aiokafka as driver

from schemas.codec import DecodeError, dead_letter, decode, encode
from schemas.records import Record
from schemas.settings import KafkaSettings, kafka_credentials
from schemas.topics import DEADLETTERS, Topic, key_of, time_ms_of, topic_of
from streams.config import StreamSettings
from streams.single import SingleAssignor

log = logging.getLogger("latencyprism.stream")

R = TypeVar("R", bound=Record)

WorkerRole = Literal["analyze", "store", "notify"]
ROLES: tuple[WorkerRole, ...] = ("analyze", "store", "notify")
# Rows wait for company anyway, and fetching messages one by one costs the store worker half of its
# CPU. A fetch is answered after `fetch_wait_ms` at the latest.
FETCH_LEAST_BYTES: dict[WorkerRole, int] = {"analyze": 1, "store": 65_536, "notify": 1}


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer, with a fetch wait that can be set: Faust has 1.5 s written in.

    A real Kafka answers a waiting fetch at once; the embedded broker only when the wait is over.
    """

    fetch_wait_ms = 500
    fetch_least_bytes = 1
    single = False

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.fetch_wait_ms
        consumer._fetch_min_bytes = self.fetch_least_bytes
        if self.single:
            consumer._partition_assignment_strategy = [SingleAssignor()]
        return consumer


class _Consumer(driver.Consumer):
    """Faust's consumer, with two holes closed through which a restart or rebalance lost messages.

    Faust gives the consumer's thread the set of partitions to fetch and changes it meanwhile; once
    the tables are restored it is empty for a moment, which to aiokafka means all partitions, and
    what comes then is thrown away. And it resumes our topics before it moves to the committed
    offsets, so that a fetch in between may go on from somewhere else.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._held: set[Any] = set()

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        return await super()._getmany(set(active_partitions), timeout)

    def pause_partitions(self, tps: Any) -> None:
        """Stop reading from partitions."""
        self._held.difference_update(tps)
        super().pause_partitions(tps)

    def resume_partitions(self, tps: Any) -> None:
        """Read changelogs at once, our topics after the next `perform_seek`."""
        changelogs = {tp for tp in tps if self._is_changelog_tp(tp)}
        self._held.update(tp for tp in tps if tp not in changelogs)
        super().resume_partitions(changelogs)

    async def perform_seek(self) -> None:
        """Move to the committed offsets, then read our topics."""
        await super().perform_seek()
        held, self._held = self._held, set()
        super().resume_partitions(held)


def _transport(app: Any, **settings: Any) -> Any:
    """Make a transport whose consumer has these attributes of `_ConsumerThread`."""
    thread = type("ConsumerThread", (_ConsumerThread,), {"__module__": __name__, **settings})

    class Consumer(_Consumer):
        def _new_consumer_thread(self) -> Any:
            return thread(self, loop=self.loop, beacon=self.beacon)

    class Transport(driver.Transport):
        pass

    Transport.Consumer = Consumer
    return Transport(app.conf.broker_consumer, app)


@dataclass(frozen=True, slots=True)
class Worker:
    """One role's Faust application and what its agents need."""

    app: Any
    role: WorkerRole
    topics: dict[str, Any]

    async def send(self, record: Record) -> None:
        """Publish a record to its topic, keyed and stamped as the topic says."""
        await self._send(record)

    async def send_and_wait(self, record: Record) -> None:
        """Publish a record and wait until the brokers have it."""
        await (await self._send(record))

    async def _send(self, record: Record) -> Any:
        return await self.topics[topic_of(record).name].send(
            key=key_of(record), value=encode(record), timestamp=time_ms_of(record) / 1000
        )

    async def read(self, event: Any, record_type: type[R]) -> R | None:
        """Decode a message; one that cannot be read goes to the dead letters and gives None."""
        try:
            return decode(record_type, event.value)
        except DecodeError as err:
            await self.bury(event, str(err))
            return None

    def attach(self, topic: Topic, take: Callable[[Any], Awaitable[None]]) -> None:
        """Let ``take`` have each message of a topic, in order."""

        @self.app.agent(self.topics[topic.name], name=f"{self.role}-{topic.name}")
        async def agent(stream: Any) -> None:
            async for event in stream.events():
                await self.guard(event, take(event))

    async def guard(self, event: Any, step: Awaitable[None]) -> None:
        """Await one step for one message; an error buries the message and never stops the rest.

        Faust would restart the agent and count the message as done: lost without a trace.
        """
        try:
            await step
        except PartitionsMismatch as err:
            # No state could be kept: better no worker than one that forgets what it sees.
            await self.app.crash(err)
        except Exception as err:
            log.exception("%s failed on a message.", self.role)
            await self.bury(event, f"{type(err).__name__}: {err}")

    async def bury(self, event: Any, error: str) -> None:
        """Send a message to the dead-letter topic with the reason."""
        message = event.message
        if message.topic == DEADLETTERS.name:
            # A dead letter that cannot be read stays where it is; burying it again would circle.
            log.error("Dead letter %s[%d] is unreadable: %s", message.topic, message.offset, error)
            return
        log.warning(
            "%s[%d] offset %d cannot be read and goes to %s: %s",
            message.topic,
            message.partition,
            message.offset,
            DEADLETTERS.name,
            error,
        )
        await self.send(
            dead_letter(
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                key=event.key,
                value=event.value,
                place=self.role,
                error=error,
            )
        )


def build_worker(
    role: WorkerRole,
    kafka: KafkaSettings,
    stream: StreamSettings,
    topics: dict[str, Topic],
    *,
    single: bool = False,
) -> Worker:
    """Make the application of one role; the role's agents are attached by `streams.workers`.

    Args:
        role: Which one; it becomes part of the consumer group.

        kafka: Where the brokers are.

        stream: How to read.

        topics: Those that the role reads or writes.

        single: One worker of the role has all partitions; others stand by.
    """
    folder = stream.folder(role)
    folder.mkdir(parents=True, exist_ok=True)
    app: Any = faust.App(
        f"{stream.application}-{role}",
        broker=[f"kafka://{server}" for server in kafka.bootstrap_servers.split(",")],
        broker_credentials=_credentials(kafka),
        store="memory://",
        datadir=str(folder),
        web_enabled=False,
        key_serializer="raw",
        value_serializer="raw",
        topic_allow_declare=not stream.embedded,
        # Faust's own leader topic serves a feature that we do not use.
        topic_disable_leader=True,
        topic_replication_factor=stream.changelog_replicas,
        table_standby_replicas=0,
        stream_wait_empty=False,
        broker_commit_interval=0.5,
        # Faust's 60 s would leave a dead worker's engines unwatched for as long.
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.5,
        producer_linger=0.0,
        producer_acks=-1,
        producer_max_request_size=4_000_000,
        worker_redirect_stdouts=False,
        consumer_auto_offset_reset="earliest",
    )
    app.transport = _transport(
        app,
        fetch_wait_ms=stream.fetch_wait_ms,
        fetch_least_bytes=FETCH_LEAST_BYTES[role],
        single=single,
    )

    @app.on_partitions_assigned.connect
    async def ready(_app: Any, assigned: Any, **_: Any) -> None:
        log.info("%s is ready with %d partitions.", role, len(assigned))

    declared = {
        name: app.topic(
            name,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=kafka.partitions,
        )
        for name in {*topics, DEADLETTERS.name}
    }
    return Worker(app, role, declared)


def _credentials(kafka: KafkaSettings) -> Any:
    protocol = kafka.security_protocol
    if protocol == "plaintext":
        return None
    context = None
    if protocol in ("ssl", "sasl_ssl"):
        context = ssl.create_default_context(cafile=kafka.ca_path or None)
    if protocol == "ssl":
        return faust.SSLCredentials(context)
    username, password = kafka_credentials()
    return faust.SASLCredentials(
        username=username,
        password=password,
        mechanism=kafka.sasl_mechanism,
        ssl_context=context,
    )


class _Runner(faust.Worker):
    """Faust's worker without its title, which tells of a web server that is not there."""

    def _setproctitle(self, info: str, *, ident: str = "") -> None:
        pass


def run_worker(worker: Worker) -> None:
    """Run until SIGTERM or SIGINT; logging is the caller's."""
    quieten()
    runner = _Runner(
        worker.app, override_logging=False, quiet=True, redirect_stdouts=False, loglevel="ERROR"
    )
    runner.spinner = None
    runner.execute_from_commandline()


class _Seldom(logging.Filter):
    """Let one record of a kind through every 10 s: an outage is told, not counted.

    While a broker is away aiokafka writes some 80 lines a second.
    """

    PERIOD_SECONDS = 10.0
    # What a fresh Kafka answers to the first use of offsets; it is there a moment later.
    HARMLESS = ("GroupCoordinatorNotAvailableError",)

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is printed."""
        if any(text in record.getMessage() for text in self.HARMLESS):
            return False
        kind = (record.name, str(record.msg))
        now = time.monotonic()
        if now - self._last.get(kind, -self.PERIOD_SECONDS) < self.PERIOD_SECONDS:
            return False
        self._last[kind] = now
        return True


def quieten() -> None:
    """Keep what the libraries log to what an operator can use."""
    seldom = _Seldom()
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not _foreign(record.name) or seldom.filter(record))
    for name in FOREIGN_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs a traceback for each row that does not fit; we dead-letter the row with the reason.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)


# Our subclasses of Faust's classes log under the name of this module; we ourselves do not.
FOREIGN_LOGGERS = ("faust", "mode", "aiokafka", "kafka", "asyncio", __name__)


def _foreign(name: str) -> bool:
    return name.startswith(FOREIGN_LOGGERS)
