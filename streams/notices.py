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
        # How many times the partitions were lost: what was begun before must not go on.
        self._losses = 0
        self.has_heard = False
        """Whether all is known that was told before this worker began."""
        self._ends: dict[tuple[str, int], int] | None = None
        # Alerts that are in no notification yet.
        self._held: list[Any] = []
        # What was decided and is not on the brokers.
        self._untold: list[Notification] = []
        self._handing = asyncio.Lock()
        self._handed: OrderedDict[tuple[str, int], None] = OrderedDict()

    def begin(self) -> None:
        """Get all partitions: alerts are for this worker from now on."""
        self._active, self._ends = True, None

    def end(self) -> None:
        """Lose them: what is held comes again, here or elsewhere."""
        self._active, self._ends = False, None
        self._losses += 1
        self._ready.clear()
        self._held.clear()

    async def take_alert(self, event: Any) -> None:
        """Take in an alert, once all is known that was told before."""
        alert = await self._worker.read(event, Alert)
        if alert is None:
            return
        while not await self._add(alert):
            await self._ready.wait()

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
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def tick(self) -> None:
        """Let time pass."""
        if not self._ready.is_set():
            return
        async with self._turn:
            # The partitions may be lost by now.
            if not self._ready.is_set():
                return
            now_ns = self._clock_ns()
            if await self._tell(self.correlator.tick(now_ns)):
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
        # What was decided must get out: the next step builds on it.
        while True:
            # Who gives up waiting must not cancel what Faust is about to report on.
            if await asyncio.shield(self._published(record)):
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _published(self, record: Record) -> bool:
        try:
            await self._worker.send_and_wait(record)
        except Exception as err:
            log.warning("Kafka does not take %s (%s). Trying again.", record.schema, err)
            return False
        return True

    def _hear(self, record: Record) -> None:
        if isinstance(record, Capture):
            self._captures.hear(record)
        if isinstance(record, Notification):
            self._untold = [one for one in self._untold if not _has_overtaken(record, one)]
        if isinstance(record, Notification | Silence | Acknowledgement | Capture | Engine):
            self.correlator.hear(record)

    async def _catch_up(self, hearing: Hearing) -> None:
        """Be ready once all has been heard that was told before the alerts became ours."""
        if self._ends is None:
            before = self._active, self._losses
            ends = await asyncio.to_thread(hearing.ends)
            # What another worker told while we asked would be missing.
            self._ends = ends if before == (self._active, self._losses) else None
        elif hearing.has_reached(self._ends):
            self._ends, self.has_heard = None, True
            if self._active:
                self._ready.set()
                log.info("%d incidents are open.", len(self.correlator.incidents()))

    async def _add(self, alert: Alert) -> bool:
        """Take in an alert, if it is for this worker now; tell whether it was."""
        async with self._turn:
            if not self._ready.is_set():
                return False
            now_ns = self._clock_ns()
            if await self._tell(self.correlator.add(alert, now_ns)):
                for capture in self._captures.add(alert, now_ns):
                    await self.publish(capture)
            return True

    async def _tell(self, notifications: list[Notification]) -> bool:
        """Publish what was decided and hand it over; tell whether the alerts are still ours.

        What a worker that loses them has not published it tells when it has them again, unless
        another did so.
        """
        losses = self._losses
        for one in notifications:
            log.info("%s %s: %s", one.state, one.incident_id, one.summary)
        self._untold += notifications
        while self._untold and losses == self._losses:
            notification = self._untold[0]
            if not await self._published(notification):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            del self._untold[0]
            if losses == self._losses and self._is_next(notification):
                await self._hand_over(notification)
        return losses == self._losses

    def _is_next(self, notification: Notification) -> bool:
        """Tell whether the destinations have all that was told of the incident before.

        Else it is handed over when it comes from Kafka: in order, for what is overtaken is dropped.
        """
        incident_id, revision = _name(notification)
        return revision == 0 or (incident_id, revision - 1) in self._handed

    async def _hand_over(self, notification: Notification) -> bool:
        """Give a notification to the destinations, once; tell whether they have it."""
        name = _name(notification)
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
        if self.correlator.unsaid or self._untold:
            return
        for event in self._held:
            event.ack()
        self._held.clear()


def _name(notification: Notification) -> tuple[str, int]:
    return notification.incident_id, notification.revision


def _has_overtaken(heard: Notification, untold: Notification) -> bool:
    """Tell whether somebody told as much of an incident as is still to be told."""
    return heard.incident_id == untold.incident_id and heard.revision >= untold.revision


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
