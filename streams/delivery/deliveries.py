"""Notifications to all destinations, each at its own pace."""

import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from schemas.records import Notification
from streams.delivery.backlog import Entry
from streams.delivery.counts import Counts
from streams.delivery.destination import Bury, Destination
from streams.delivery.settings import NotifySettings
from streams.delivery.spool import SpoolFull

log = logging.getLogger("latencyprism.notify")

STOP_SECONDS = 3.0
# A step that failed by a mistake of ours is not made again at once.
MISHAP_SECONDS = 5.0


class Deliveries:
    """A spool and a thread for each destination: one that is dead delays no other.

    Args:
        settings: Section ``[notify]``; without a url or destination nothing is made or done.

        bury: Called with what was given up, its destination and the reason, from that one's thread.
            Must return when the dead letter is safe and raise where it is not: it is kept then.

        environment: Has the secrets.

    Raises:
        ValueError: A destination cannot be delivered to, or its spool cannot be used; the text says
            what to do.
    """

    def __init__(
        self, settings: NotifySettings, bury: Bury, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._lanes: list[_Lane] = []
        wanted = settings.all_destinations(environment)
        try:
            for one in wanted:
                self._lanes.append(_Lane(Destination(one, settings, bury, environment)))
        except ValueError:
            self.stop()
            raise
        if wanted:
            _tell_of_left_ones(Path(settings.spool_folder), {one.name for one in wanted})
        for lane in self._lanes:
            lane.start()

    def put(self, notification: Notification) -> None:
        """Keep a notification for each destination that it is for; waits for no receiver.

        It is on the disk when this returns. What is silenced is for nobody.

        Raises:
            SpoolFull: A destination could not keep it. Put the same one again until that returns;
                those that have it do not take it twice.
        """
        if notification.silenced_by is not None:
            return
        full: SpoolFull | None = None
        kept: list[tuple[Destination, Entry]] = []
        for lane in self._lanes:
            try:
                entry = lane.put(notification)
            except SpoolFull as err:
                full = err
            else:
                kept += [(lane.destination, entry)] if entry is not None else []
        # The threads deliver meanwhile.
        for destination, entry in kept:
            try:
                destination.sync(entry)
            except SpoolFull as err:
                full = err
        if full is not None:
            raise full

    def stop(self) -> None:
        """Stop delivering, within a few seconds; what is left waits in the spool.

        What is put from now on is not kept, which `put` says.
        """
        for lane in self._lanes:
            lane.begin_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for lane in self._lanes:
            lane.stop(max(deadline - time.monotonic(), 0.1))

    def counts(self) -> dict[str, Counts]:
        """Give what became of the notifications, by destination."""
        return {lane.destination.name: lane.destination.counts() for lane in self._lanes}


class _Lane:
    """A destination and its thread."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"deliver-{destination.name}", daemon=True
        )

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def put(self, notification: Notification) -> Entry | None:
        """Keep a notification, and wake the thread where there is something new."""
        entry = self.destination.put(notification)
        if entry is not None:
            self._news.set()
        return entry

    def begin_to_stop(self) -> None:
        """Let the thread end."""
        self._stopping.set()
        self.destination.abort()
        self._news.set()

    def stop(self, timeout_seconds: float) -> None:
        """Wait for the thread to end."""
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        if not self._thread.is_alive():
            self.destination.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            try:
                pause = self.destination.step()
            except Exception:
                log.exception("%s: a delivery failed by a mistake of ours.", self.destination.name)
                pause = MISHAP_SECONDS
            if not self._stopping.is_set():
                self._news.wait(pause)


def _tell_of_left_ones(folder: Path, names: set[str]) -> None:
    """Say where something waits for a destination that is no more."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in names and any(path.glob("[0-9]*.log")):
            log.warning(
                "%s may hold notifications for %r, which is no destination any more: name it in "
                "[notify] destinations again, or remove the folder.",
                path,
                path.name,
            )
