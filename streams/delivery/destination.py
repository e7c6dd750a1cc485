"""One destination: what it is told, in what order, and how often it is tried."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from schemas.codec import DecodeError, decode, encode
from schemas.records import Notification
from streams.delivery.backlog import Backlog, Entry
from streams.delivery.counts import Counts
from streams.delivery.known import Known
from streams.delivery.post import NotTakenError, RefusedError
from streams.delivery.request import Requests
from streams.delivery.settings import DestinationSettings, NotifySettings
from streams.delivery.spool import Spool, SpoolFull
from streams.sinks.retry import Backoff

log = logging.getLogger("latencyprism.notify")

Bury = Callable[[Notification, str, str], None]
"""Takes a notification, the destination that it was for, and why it was given up."""

# Room for what comes while the oldest is being buried.
FULL_RATIO = 0.9
BURY_PAUSE_SECONDS = 5.0


class Destination:
    """Keep notifications until the receiver has taken or refused them, or they are pointless.

    Pointless is an incident that the receiver never heard of and that has long been over.

    `put` may be called by one thread while another calls `step`.

    Args:
        settings: This destination's.

        notify: The section that it is part of.

        bury: See `Bury`; it returns when the dead letter is safe, and raises where it is not.

        environment: Has the secrets.

        clock_seconds: Epoch time.

        monotonic_seconds: Time for pauses.
    """

    def __init__(
        self,
        settings: DestinationSettings,
        notify: NotifySettings,
        bury: Bury,
        environment: Mapping[str, str],
        clock_seconds: Callable[[], float] = time.time,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self._bury = bury
        self._clock_seconds = clock_seconds
        self._monotonic_seconds = monotonic_seconds
        self._requests = Requests(settings, notify, environment)
        self._known = Known()
        self._counts = Counts()
        self._lock = threading.Lock()

        def backoff() -> Backoff:
            return Backoff(notify.retry_first_seconds, notify.retry_most_seconds)

        self._make_backoff = backoff
        self._backoff: Backoff | None = None
        self._not_before = 0.0
        self._sent: deque[float] = deque(maxlen=settings.per_minute or 1)
        self._failing_since: float | None = None
        self._bury_not_before = float("-inf")
        self._backlog = Backlog(backoff)
        folder = Path(notify.spool_folder) / settings.name
        self._spool = Spool(folder, settings.spool_mib << 20, self._known.note)
        self._restore()

    def counts(self) -> Counts:
        """Give what became of the notifications."""
        with self._lock:
            return replace(
                self._counts, queued=len(self._backlog), unreadable=self._spool.unreadable
            )

    def put(self, notification: Notification) -> Entry | None:
        """Keep a notification, if it is for this destination and new; `sync` is to follow.

        Raises:
            SpoolFull: It could not be kept.
        """
        with self._lock:
            if not self._is_wanted(notification):
                return None
            try:
                entry = Entry.of(self._spool.append(encode(notification)), notification)
            except SpoolFull:
                self._counts.full += 1
                raise
            for overtaken in self._backlog.add(entry, entry.incident_id in self._known):
                self._counts.dropped += 1
                self._spool.remove(overtaken.number)
            return entry

    def sync(self, entry: Entry) -> None:
        """Let what was kept survive a power cut; meanwhile it may already be delivered.

        Raises:
            SpoolFull: The disk did not take it; it is not kept then.
        """
        try:
            with self._lock:
                descriptor = self._spool.duplicate()
            self._spool.sync(descriptor)
        except SpoolFull:
            with self._lock:
                self._counts.full += 1
                if self._backlog.forget(entry):
                    self._spool.remove(entry.number)
            raise

    def step(self) -> float | None:
        """Try one delivery, if one is due; give the seconds until the next, None for no telling."""
        self._make_room()
        with self._lock:
            now = self._monotonic_seconds()
            entry = self._backlog.take(now) if self._wait_seconds(now) <= 0 else None
            notification = self._read(entry) if entry is not None else None
        if entry is None or notification is None:
            return self._pause()
        self._sent.append(now)
        try:
            self._requests.post(notification, self._clock_seconds())
        except NotTakenError as err:
            self._not_taken(entry, err)
        except RefusedError as err:
            self._give_up([entry], str(err))
        except Exception as err:
            # A mistake of ours in one notification must not hold up the others.
            log.exception("%s: %s cannot be written.", self.name, entry.incident_id)
            self._give_up([entry], f"{type(err).__name__}: {err}")
        else:
            self._delivered(entry)
        return self._pause()

    def _make_room(self) -> None:
        with self._lock:
            crowded = self._spool.live_bytes > FULL_RATIO * self._spool.most_bytes
            if not crowded or self._monotonic_seconds() < self._bury_not_before:
                return
            oldest = self._backlog.oldest_incident()
        self._give_up(oldest, "its spool is full (spool_mib): the oldest had to go")

    def abort(self) -> None:
        """Break off the delivery that is under way."""
        self._requests.abort()

    def close(self) -> None:
        """Let go of connection and spool."""
        with self._lock:
            self._requests.close()
            self._spool.close()

    def _is_wanted(self, notification: Notification) -> bool:
        incident_id = notification.incident_id
        newest = self._backlog.newest_revision(incident_id)
        if self._known.has(notification) or notification.revision <= newest:
            return False
        told = incident_id in self._known or newest >= 0
        # Its cause or severity may have become another one since: its end is told all the same.
        if not (told or self.settings.wants(notification)):
            return False
        if notification.state == "resolved":
            return self.settings.send_resolved
        return self.settings.send_updates or notification.state == "firing" or not told

    def _restore(self) -> None:
        for note in self._spool.notes:
            try:
                self._known.read(note)
            except (ValueError, AttributeError):
                self._spool.set_aside(note, "damaged")
        self._spool.notes.clear()
        for number in self._spool.numbers:
            value = self._spool.read(number)
            try:
                notification = decode(Notification, value)
            except DecodeError as err:
                self._spool.set_aside(value, f"no notification ({err})")
                self._spool.remove(number)
                continue
            if self._known.has(notification):
                self._spool.remove(number)
                continue
            is_known = notification.incident_id in self._known
            for overtaken in self._backlog.add(Entry.of(number, notification), is_known):
                self._spool.remove(overtaken.number)
        if len(self._backlog):
            log.info("%s: %d from before wait in the spool.", self.name, len(self._backlog))

    def _read(self, entry: Entry) -> Notification:
        return decode(Notification, self._spool.read(entry.number))

    def _wait_seconds(self, now: float) -> float:
        """Give how long the destination as a whole is left in peace."""
        wait = self._not_before - now
        if self.settings.per_minute and len(self._sent) == self.settings.per_minute:
            wait = max(wait, self._sent[0] + 60 - now)
        return wait

    def _pause(self) -> float | None:
        with self._lock:
            now = self._monotonic_seconds()
            pause = self._backlog.pause(now)
            return None if pause is None else max(pause, self._wait_seconds(now), 0.0)

    def _delivered(self, entry: Entry) -> None:
        with self._lock:
            self._counts.delivered += 1
            self._backlog.delivered(entry)
            self._settle(entry)
            since, self._failing_since = self._failing_since, None
            self._backoff, self._not_before = None, 0.0
        if since is not None:
            seconds = self._monotonic_seconds() - since
            log.info("%s: Delivered after %.1f s of trying.", self.name, seconds)

    def _settle(self, entry: Entry) -> None:
        """Nothing more is done for an entry."""
        self._spool.remove(entry.number, self._known.settle(entry.incident_id, entry.revision))

    def _not_taken(self, entry: Entry, err: NotTakenError) -> None:
        self._wait(err.retry_after_seconds)
        with self._lock:
            self._counts.retried += 1
            now = self._monotonic_seconds()
            self._backlog.failed(entry, now, err.retry_after_seconds)
            said = self._failing_since is not None
            if not said:
                self._failing_since = now
            oldest_ns = int((self._clock_seconds() - self.settings.max_age_seconds) * 1e9)
            too_old = self._backlog.over_before(oldest_ns, self._known)
        if not said:
            log.warning("%s: %s. Kept and tried again.", self.name, err)
        if too_old:
            self._give_up(too_old, f"not delivered within the limit: {err}")

    def _wait(self, asked_seconds: float | None = None) -> None:
        """Leave the destination in peace for a while, longer each time."""
        with self._lock:
            self._backoff = self._backoff or self._make_backoff()
            pause = self._backoff.next_pause(asked_seconds) or 0.0
            self._not_before = self._monotonic_seconds() + pause

    def _give_up(self, entries: list[Entry], error: str) -> None:
        """Bury entries; one that could not be buried waits on, and so do those behind it."""
        for entry in entries:
            with self._lock:
                if not self._backlog.hold(entry):
                    continue
                notification = self._read(entry)
            try:
                self._bury(notification, self.name, error)
            except Exception as err:
                self._not_buried(entry, err)
                return
            with self._lock:
                self._counts.dead += 1
                self._backlog.remove([entry])
                self._settle(entry)

    def _not_buried(self, entry: Entry, err: Exception) -> None:
        with self._lock:
            now = self._monotonic_seconds()
            if now - self._bury_not_before > BURY_PAUSE_SECONDS:
                log.warning(
                    "%s: no dead letter could be written (%s). Kept for later.", self.name, err
                )
            self._backlog.failed(entry, now, None)
            self._bury_not_before = now + BURY_PAUSE_SECONDS
