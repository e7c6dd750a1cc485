"""Role ``notify``: alerts become incidents that people are told of, once and at the right place.

One worker at a time has all alerts, for an incident may have any engines as members; others stand
by. Every worker serves the API, where one is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from schemas.records import Notification
from schemas.settings import KafkaSettings
from schemas.topics import ACKNOWLEDGEMENTS, ALERTS, CAPTURES, NOTIFICATIONS, SILENCES
from streams.app import Worker, build_worker
from streams.capture_policy import CapturePolicy, CaptureSettings
from streams.config import StreamSettings
from streams.correlate import Correlator
from streams.delivery import Deliveries, NotifySettings, buried
from streams.notices import Desk, attach

log = logging.getLogger("latencyprism.notify")

TOPICS = {
    topic.name: topic for topic in (ALERTS, NOTIFICATIONS, SILENCES, ACKNOWLEDGEMENTS, CAPTURES)
}
BURY_SECONDS = 10.0


def build(
    kafka: KafkaSettings,
    stream: StreamSettings,
    settings: NotifySettings,
    captures: CaptureSettings,
) -> Worker:
    """Build the worker; without a destination incidents are only published and logged.

    Raises:
        ValueError: A destination or the address of the API cannot be used.
    """
    worker = build_worker("notify", kafka, stream, TOPICS, single=True)
    graves = Graves(worker)
    deliveries = Deliveries(settings, graves.bury)
    correlator = Correlator(settings.group_seconds, settings.flap_count, settings.flap_seconds)
    desk = Desk(worker, correlator, CapturePolicy(captures), deliveries)
    attach(desk, worker, kafka)
    if not (settings.url or settings.destinations):
        log.warning("No destination: set [notify] url. Incidents are logged here.")
    if settings.listen:
        _serve(desk, worker, settings.listen)

    @worker.app.task
    async def open_graves() -> None:
        graves.loop = asyncio.get_running_loop()

    @worker.app.on_before_shutdown.connect
    async def stop(*_: Any, **__: Any) -> None:
        # In a thread: what is given up meanwhile is buried by this loop.
        await asyncio.to_thread(deliveries.stop)

    return worker


class Graves:
    """Publishes dead letters for the threads that deliver.

    Args:
        worker: Publishes.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.loop: asyncio.AbstractEventLoop | None = None

    def bury(self, notification: Notification, destination: str, error: str) -> None:
        """Publish a dead letter and wait until it is safe.

        Raises:
            RuntimeError: The worker does not run yet, or any more.
            TimeoutError: Kafka does not take it.
        """
        if self.loop is None:
            raise RuntimeError("the worker does not run yet: the notification stays in the spool")
        letter = buried(notification, destination, error)
        sent = asyncio.run_coroutine_threadsafe(self._worker.send_and_wait(letter), self.loop)
        try:
            sent.result(BURY_SECONDS)
        except TimeoutError:
            sent.cancel()
            raise


def _serve(desk: Desk, worker: Worker, listen: str) -> None:
    from streams.workers.notify_api import Api, api_token, parse_listen

    token = api_token()
    address = parse_listen(listen, token)
    api = Api(desk.correlator, desk.publish, address, token, lambda: desk.has_heard)

    @worker.app.task
    async def serve() -> None:
        await api.start()

    @worker.app.on_before_shutdown.connect
    async def stop(*_: Any, **__: Any) -> None:
        await api.stop()
