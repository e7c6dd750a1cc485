"""Carry out the captures that arrive on the captures topic for engines of this host."""

import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectors.capture import Target, take
from collectors.capture_files import CaptureError, make_base, prune
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
# Its beginning names the capture's folder.
CAPTURE_ID = re.compile(r"[0-9a-f]{8,64}")
MOST_REASON_LETTERS = 100
# Between two captures, so that nobody keeps an engine under py-spy for good.
PAUSE_SECONDS = 10.0
# After a failure of the listening itself; doubled each time.
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0
STOP_SECONDS = 10.0

FindTarget = Callable[[str], Target | None]


class CaptureRequests:
    """Listen for capture requests and carry them out, one at a time, in a thread of its own.

    Args:
        kafka: Where the topic is.

        settings: Limits, and the folder.

        publisher: Where the results go.

        host: Part of the consumer group's name: each host reads all requests.

        find_target: Gives an engine of this host by its id, else None; raises `CaptureError` for
            one that has ended.

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
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)
        self.done = 0
        self.failed = 0

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and break off a running capture; its files are written all the same."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def handle(self, asked: Capture) -> bool:
        """Carry out one request, if it is for an engine of this host and not known already.

        Gives whether the engine was looked into.
        """
        if asked.state != "requested" or asked.capture_id in self._known:
            return False
        try:
            target = self._find_target(asked.engine_id)
        except CaptureError as err:
            self._known.append(asked.capture_id)
            self._tell_failed(asked, str(err))
            return False
        if target is None:
            return False
        problem = problem_of(asked)
        if problem is not None:
            self._tell_failed(asked, problem)
            return False
        self._known.append(asked.capture_id)
        if time.time_ns() - asked.at_ns > OLDEST_SECONDS * 1e9:
            self._tell_failed(asked, "the request is too old: ask again")
            return False
        self._capture(target, asked)
        return True

    def _capture(self, target: Target, asked: Capture) -> None:
        reason = asked.reason[:MOST_REASON_LETTERS]
        log.info("Capturing %s for %g s (%r).", asked.engine_id, asked.seconds, reason)
        self._publisher.publish(
            replace(asked, state="running", at_ns=time.time_ns(), host=self._host)
        )
        folder = Path(self._settings.capture_folder)
        try:
            make_base(folder)
            done = take(target, asked, self._settings, self._stop)
        except CaptureError as err:
            self._tell_failed(asked, str(err))
        except Exception as err:
            log.exception("A capture of %s failed.", asked.engine_id)
            self._tell_failed(asked, f"{type(err).__name__}: {err}; see the agent's log")
        else:
            self.done += 1
            self._publisher.publish(done)
            log.info("Captured %s into %s.", asked.engine_id, done.folder)
        # What broke off may have left files, too.
        prune(folder, self._settings.capture_keep_bytes)

    def _tell_failed(self, asked: Capture, error: str) -> None:
        self.failed += 1
        log.error("No capture of %s: %s", asked.engine_id, error)
        # What cannot be written as JSON would keep the answer from its reader.
        asked = replace(asked, seconds=asked.seconds if math.isfinite(asked.seconds) else 0.0)
        self._publisher.publish(
            replace(asked, state="failed", at_ns=time.time_ns(), host=self._host, error=error)
        )

    def _run(self) -> None:
        consume: Callable[[], bytes | None] | None = None
        retry_seconds = FIRST_RETRY_SECONDS
        while not self._stop.is_set():
            try:
                consume = consume or self._consume or self._open()
                value = consume()
            except Exception as err:
                self._tell_once("Capture requests cannot be read; trying again", err)
                self._close()
                consume = None
                self._stop.wait(retry_seconds)
                retry_seconds = min(2 * retry_seconds, LAST_RETRY_SECONDS)
                continue
            retry_seconds = FIRST_RETRY_SECONDS
            if value is not None and self._take_message(value):
                self._stop.wait(PAUSE_SECONDS)
        self._close()

    def _take_message(self, value: bytes) -> bool:
        """Carry out what a message asks for; no message ends the listening."""
        try:
            asked = decode(Capture, value)
        except DecodeError as err:
            log.warning("A capture request cannot be read and is left out: %s", err)
            return False
        try:
            return self.handle(asked)
        except Exception as err:
            self._tell_once("A capture request was not carried out to its end", err)
            return True

    def _tell_once(self, what: str, err: Exception) -> None:
        text = f"{what}: {type(err).__name__}: {err}"
        if text not in self._said and len(self._said) < REMEMBERED:
            self._said.add(text)
            log.error("%s. Report it if it stays.", text, exc_info=err)

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            consumer.close()
        except Exception as err:
            self._tell_once("The consumer of capture requests cannot be closed", err)

    def _open(self) -> Callable[[], bytes | None]:
        from confluent_kafka import Consumer

        consumer: Any = Consumer(
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
        self._consumer = consumer
        consumer.subscribe([CAPTURES.name])

        def consume() -> bytes | None:
            message = consumer.poll(1.0)
            if message is None or message.error() is not None:
                return None
            value: bytes | None = message.value()
            return value

        return consume


def problem_of(asked: Capture) -> str | None:
    """Say what is wrong with a request, where something is: anybody may write to the topic."""
    if CAPTURE_ID.fullmatch(asked.capture_id) is None:
        return "its capture_id is not 8 to 64 of 0-9 and a-f: ask with 'latencyprism capture'"
    if not (math.isfinite(asked.seconds) and asked.seconds > 0):
        return f"it asks for {asked.seconds} s: ask for more than 0"
    if asked.compare_with is not None and CAPTURE_ID.fullmatch(asked.compare_with) is None:
        return "its compare_with is not 8 to 64 of 0-9 and a-f: name the capture_id of another one"
    return None
