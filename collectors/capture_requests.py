"""Carry out the captures that arrive on the captures topic for engines of this host."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectors.capture import CaptureError, Target, prune, take
from collectors.config import CollectSettings
from collectors.publisher import Publisher
from schemas.codec import DecodeError, decode
from schemas.records import Capture
from schemas.settings import KafkaSettings
from schemas.topics import CAPTURES

log = logging.getLogger("latencyprism.captures")

# A request that lay about while no agent ran is about a moment that is over.
OLDEST_SECONDS = 120.0
REMEMBERED = 256

FindTarget = Callable[[str], Target | None]


class CaptureRequests:
    """Listen for capture requests and carry them out, one at a time, in a thread of its own.

    Args:
        kafka: Where the topic is.

        settings: Limits, and the folder.

        publisher: Where the results go.

        host: Part of the consumer group's name: each host reads all requests.

        find_target: Gives an engine of this host by its id, else None.

        consume: Gives one message's value or None; a parameter for tests.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: CollectSettings,
        publisher: Publisher,
        host: str,
        find_target: FindTarget,
        consume: Callable[[], bytes | None] | None = None,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._publisher = publisher
        self._host = host
        self._find_target = find_target
        self._consume = consume
        self._consumer: Any = None
        self._stop = threading.Event()
        self._known: deque[str] = deque(maxlen=REMEMBERED)
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)
        self.done = 0
        self.failed = 0

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and break off a running capture; its files are written all the same."""
        self._stop.set()
        self._thread.join(30.0)

    def handle(self, asked: Capture) -> None:
        """Carry out one request, if it is for an engine of this host and not known already."""
        if asked.state != "requested" or asked.capture_id in self._known:
            return
        target = self._find_target(asked.engine_id)
        if target is None:
            return
        self._known.append(asked.capture_id)
        if time.time_ns() - asked.at_ns > OLDEST_SECONDS * 1e9:
            self._tell_failed(asked, "the request is too old: ask again")
            return
        log.info("Capturing %s for %g s (%s).", asked.engine_id, asked.seconds, asked.reason)
        self._publisher.publish(
            replace(asked, state="running", at_ns=time.time_ns(), host=self._host)
        )
        try:
            done = take(target, asked, self._settings, self._stop)
        except CaptureError as err:
            self._tell_failed(asked, str(err))
            return
        except Exception as err:
            log.exception("A capture of %s failed.", asked.engine_id)
            self._tell_failed(asked, f"{type(err).__name__}: {err}; see the agent's log")
            return
        self.done += 1
        self._publisher.publish(done)
        log.info("Captured %s into %s.", asked.engine_id, done.folder)
        prune(Path(self._settings.capture_folder), self._settings.capture_keep_bytes)

    def _tell_failed(self, asked: Capture, error: str) -> None:
        self.failed += 1
        log.error("No capture of %s: %s", asked.engine_id, error)
        self._publisher.publish(
            replace(asked, state="failed", at_ns=time.time_ns(), host=self._host, error=error)
        )

    def _run(self) -> None:
        consume = self._consume or self._open()
        try:
            while not self._stop.is_set():
                value = consume()
                if value is None:
                    continue
                try:
                    asked = decode(Capture, value)
                except DecodeError as err:
                    log.warning("A capture request cannot be read and is left out: %s", err)
                    continue
                self.handle(asked)
        finally:
            if self._consumer is not None:
                self._consumer.close()

    def _open(self) -> Callable[[], bytes | None]:
        from confluent_kafka import Consumer

        self._consumer = Consumer(
            self._kafka.client_options()
            | {
                "group.id": f"latencyprism-captures-{self._host}",
                "auto.offset.reset": "latest",
                "enable.auto.commit": True,
                # A request may wait a moment; a host asks the broker ten times a minute.
                "fetch.wait.max.ms": 5000,
                "log_level": 0,
            },
            error_cb=lambda error: log.debug("captures: %s", error),
        )
        self._consumer.subscribe([CAPTURES.name])

        def consume() -> bytes | None:
            message = self._consumer.poll(1.0)
            if message is None or message.error() is not None:
                return None
            value: bytes | None = message.value()
            return value

        return consume
