"""Role ``store``: every record into ClickHouse, in batches; nothing is lost while it is away."""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

from schemas.records import Record
from schemas.settings import KafkaSettings
from schemas.topics import ITERATIONS, Topic
from schemas.topics import TOPICS as ALL_TOPICS
from streams.app import Worker, build_worker
from streams.config import StreamSettings
from streams.sinks.base import Rejected, Sink
from streams.sinks.clickhouse import ClickHouse, ClickHouseSettings, connect
from streams.sinks.retry import Backoff, write_until_done

log = logging.getLogger("latencyprism.store")

# Raw iterations are kept as batches.
TOPICS = {name: topic for name, topic in ALL_TOPICS.items() if topic is not ITERATIONS}


def build(
    kafka: KafkaSettings,
    stream: StreamSettings,
    settings: ClickHouseSettings,
    sink: Sink | None = None,
) -> Worker:
    """Build the worker; ``sink`` replaces ClickHouse in tests."""
    worker = build_worker("store", kafka, stream, TOPICS)
    password = os.environ.get("LATENCYPRISM_CLICKHOUSE_PASSWORD", "")
    target = sink or ClickHouse(lambda: connect(settings, password))
    # One insert at a time: a client of ClickHouse serves one query at once.
    turn = asyncio.Lock()

    async def write(records: Sequence[Record]) -> list[Rejected]:
        async with turn:
            return await write_until_done(target, records, Backoff(0.2, 30.0))

    for topic in TOPICS.values():
        _attach(worker, topic, write, settings)

    @worker.app.task
    async def open_early() -> None:
        # The tables exist from the start, so that a dashboard has something to query.
        await write([])

    @worker.app.on_before_shutdown.connect
    async def close(*_: Any, **__: Any) -> None:
        target.close()

    return worker


def _attach(worker: Worker, topic: Topic, write: Any, settings: ClickHouseSettings) -> None:
    @worker.app.agent(worker.topics[topic.name], name=f"store-{topic.name}")
    async def store(stream_: Any) -> None:
        taken = stream_.take_events(settings.flush_rows, within=settings.flush_seconds)
        async for events in taken:
            # An error that is not the sink's must not take the batch with it.
            try:
                await _store(worker, topic, write, events)
            except Exception as err:
                log.exception("A batch of %d messages failed.", len(events))
                for event in events:
                    await worker.bury(event, f"{type(err).__name__}: {err}")


async def _store(worker: Worker, topic: Topic, write: Any, events: list[Any]) -> None:
    pairs = [(event, await worker.read(event, topic.record)) for event in events]
    read = {id(record): event for event, record in pairs if record is not None}
    rejected = await write([record for _, record in pairs if record is not None])
    for one in rejected:
        await worker.bury(read[id(one.record)], f"ClickHouse refused the row: {one.error}")
