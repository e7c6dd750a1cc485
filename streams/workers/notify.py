"""Role ``notify``: alerts to the webhook, in order, each until it is taken."""

import logging
import os
import time
from typing import Any

from schemas.records import Alert
from schemas.settings import KafkaSettings
from schemas.topics import ALERTS
from streams.app import Worker, build_worker
from streams.config import StreamSettings
from streams.sinks.base import Sink, SinkUnavailable
from streams.sinks.retry import Backoff, write_until_done
from streams.sinks.webhook import Webhook, WebhookSettings

log = logging.getLogger("latencyprism.notify")


def build(
    kafka: KafkaSettings,
    stream: StreamSettings,
    settings: WebhookSettings,
    sink: Sink | None = None,
) -> Worker:
    """Build the worker; without a url alerts are only logged."""
    worker = build_worker("notify", kafka, stream, {ALERTS.name: ALERTS})
    target = sink
    if target is None and settings.url:
        target = Webhook(settings, os.environ.get("LATENCYPRISM_WEBHOOK_SECRET", ""))
    if target is None:
        log.warning("No webhook: set [notify] url. Alerts are logged here.")

    async def take(event: Any) -> None:
        alert = await worker.read(event, Alert)
        if alert is None:
            return
        log.info("%s %s: %s", alert.state, alert.incident_id, alert.summary)
        if target is None:
            return
        backoff = Backoff(
            settings.retry_first_seconds,
            settings.retry_most_seconds,
            # From when it was made, so that many alerts behind a dead receiver do not wait in turn.
            give_up_seconds=settings.give_up_seconds - (time.time_ns() - alert.at_ns) / 1e9,
        )
        try:
            rejected = await write_until_done(target, [alert], backoff)
        except SinkUnavailable as err:
            await worker.bury(event, f"not delivered within the limit: {err}")
            return
        for one in rejected:
            await worker.bury(event, one.error)

    worker.attach(ALERTS, take)
    return worker
