"""Tell people: alerts in, notifications published and delivered, whichever worker does it.

The topics are the memory. What was told is heard again by a worker that starts or stands by; an
alert counts as read only once a notification that has it is on the brokers; a notification counts
as read only once it was handed to the deliveries. So a crash repeats, and loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from schemas.records import (
    Acknowledgement,
    Alert,
    Capture,
    Engine,
    Notification,
    Record,
    Silence,
)
from schemas.settings import KafkaSettings
from schemas.topics import ACKNOWLEDGEMENTS, ALERTS, CAPTURES, ENGINES, NOTIFICATIONS, SILENCES
from streams.app import Worker
from streams.broker import BrokerError
from streams.capture_policy import CapturePolicy
from streams.correlate import Correlator
from streams.correlated import is_delivered
from streams.hearing import Hearing

log = logging.getLogger("latencyprism.notify")

HEARD = (NOTIFICATIONS, SILENCES, ACKNOWLEDGEMENTS, CAPTURES, ENGINES)
# Between two attempts to read or publish while the brokers are away.
RETRY_SECONDS = 1.0
# What waits for its second is told at most so much later.
TICK_SECONDS = 0.25
MOST_HANDED = 10_000


class Destinations(Protocol):
    """Where notifications are delivered."""

    def put(self, notification: Notification) -> None:
        """Take one, for good: it is on a disk when this returns.

        Raises:
            OSError: It cannot be kept; the same one comes again.
        """


class Desk:
    """What one worker does with alerts, with the time and with what other workers tell.

    Args:
        worker: Publishes.

        correlator: Makes notifications.

        captures: Decides what is captured.

        destinations: Deliver.

        clock_ns: Epoch time.
    """

    def __init__(
        self,
        worker: Worker,
        correlator: Correlator,
        captures: CapturePolicy,
        destinations: Destinations,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._worker = worker
        self.correlator = correlator
        self._captures = captures
        self._destinations = destinations
        self._clock_ns = clock_ns
        self._turn = asyncio.Lock()
        self._ready = asyncio.Event()
        self._active = False
        self.has_heard = False
        """Whether all is known that was told before this worker began."""
        self._ends: dict[tuple[str, int], int] | None = None
        # Alerts that are in no notification yet.
        self._held: list[Any] = []
        self._handing = asyncio.Lock()
        self._handed: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._unhanded: set[tuple[str, int]] = set()

    def begin(self) -> None:
        """Get all partitions: alerts are for this worker from now on."""
        self._active, self._ends = True, None

    def end(self) -> None:
        """Lose them: what is held comes again, here or elsewhere."""
        self._active, self._ends = False, None
        self._ready.clear()
        self._held.clear()
        self._unhanded.clear()

    async def take_alert(self, event: Any) -> None:
        """Take in an alert, once all is known that was told before."""
        alert = await self._worker.read(event, Alert)
        if alert is None:
            return
        await self._ready.wait()
        async with self._turn:
            now_ns = self._clock_ns()
            for notification in self.correlator.add(alert, now_ns):
                await self._tell(notification)
            for capture in self._captures.add(alert, now_ns):
                await self.publish(capture)

    def hold(self, event: Any) -> None:
        """Count an alert as read once it is told."""
        self._held.append(event)
        self._release()

    async def take_notification(self, event: Any) -> None:
        """Deliver what was published; what this worker published it has delivered already."""
        notification = await self._worker.read(event, Notification)
        if notification is None:
            return
        while True:
            if await self._hand_over(notification):
                break
            await asyncio.sleep(RETRY_SECONDS)
        self._unhanded.discard((notification.incident_id, notification.revision))

    async def tick(self) -> None:
        """Let time pass."""
        if not self._ready.is_set():
            return
        async with self._turn:
            now_ns = self._clock_ns()
            for notification in self.correlator.tick(now_ns):
                await self._tell(notification)
            for capture in self._captures.tick(now_ns):
                await self.publish(capture)
            self._release()

    async def hear(self, kafka: KafkaSettings, should_stop: Callable[[], bool]) -> None:
        """Hear what is told, for ever: this worker may be the next that goes on with it."""
        hearing = Hearing(kafka, HEARD)
        while not should_stop():
            waits = not (self._ready.is_set() if self._active else self.has_heard)
            try:
                # In a thread, for it waits; what it gives is taken in here, between two alerts.
                records = await asyncio.to_thread(hearing.read, 0.05 if waits else 0.5)
                async with self._turn:
                    for record in records:
                        self._hear(record)
                if waits:
                    await self._catch_up(hearing)
            except BrokerError as err:
                log.warning("Incidents cannot be read: %s. Trying again.", err)
                await asyncio.sleep(RETRY_SECONDS)

    async def publish(self, record: Record) -> None:
        """Publish a record, however long that takes."""
        while True:
            try:
                return await self._worker.send_and_wait(record)
            except Exception as err:
                # What was decided must get out: the next step builds on it.
                log.warning("Kafka does not take %s (%s). Trying again.", record.schema, err)
                await asyncio.sleep(RETRY_SECONDS)

    def _hear(self, record: Record) -> None:
        if isinstance(record, Capture):
            self._captures.hear(record)
        if isinstance(record, Notification | Silence | Acknowledgement | Capture | Engine):
            self.correlator.hear(record)

    async def _catch_up(self, hearing: Hearing) -> None:
        """Be ready once all has been heard that was told before the alerts became ours."""
        if self._ends is None:
            active = self._active
            ends = await asyncio.to_thread(hearing.ends)
            # What another worker told while we asked would be missing.
            self._ends = ends if active == self._active else None
        elif hearing.has_reached(self._ends):
            self._ends, self.has_heard = None, True
            if self._active:
                self._ready.set()
                log.info("%d incidents are open.", len(self.correlator.incidents()))

    async def _tell(self, notification: Notification) -> None:
        log.info("%s %s: %s", notification.state, notification.incident_id, notification.summary)
        await self.publish(notification)
        # What could not be handed over comes again from Kafka, and first: in order.
        if self._unhanded or not await self._hand_over(notification):
            self._unhanded.add((notification.incident_id, notification.revision))

    async def _hand_over(self, notification: Notification) -> bool:
        """Give a notification to the destinations, once; tell whether they have it."""
        name = notification.incident_id, notification.revision
        async with self._handing:
            if name in self._handed:
                return True
            try:
                if is_delivered(notification):
                    # In a thread, for it is on a disk when this is done.
                    await asyncio.to_thread(self._destinations.put, notification)
            except OSError as err:
                log.warning("%s is kept on Kafka until it can be delivered: %s", name[0], err)
                return False
            self._handed[name] = None
            if len(self._handed) > MOST_HANDED:
                self._handed.popitem(last=False)
            return True

    def _release(self) -> None:
        if self.correlator.unsaid:
            return
        for event in self._held:
            event.ack()
        self._held.clear()


def attach(desk: Desk, worker: Worker, kafka: KafkaSettings) -> None:
    """Let a desk have the alerts, the time and the topics that a worker reads."""
    app = worker.app

    @app.agent(worker.topics[ALERTS.name], name=f"{worker.role}-{ALERTS.name}")
    async def take_alerts(stream: Any) -> None:
        async for event in stream.noack().events():
            await worker.guard(event, desk.take_alert(event))
            desk.hold(event)

    worker.attach(NOTIFICATIONS, desk.take_notification)

    @app.on_partitions_revoked.connect
    async def end(*_: Any, **__: Any) -> None:
        desk.end()

    @app.on_partitions_assigned.connect
    async def begin(_app: Any, assigned: Any, **_: Any) -> None:
        desk.end()
        if assigned:
            desk.begin()

    @app.timer(TICK_SECONDS, name="tick")
    async def tick() -> None:
        await desk.tick()

    @app.task
    async def hear() -> None:
        await desk.hear(kafka, lambda: bool(app.should_stop))
