"""A destination with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from schemas.records import Notification
from streams.delivery.destination import Destination
from tests.streams.delivery.notifications import Clock, settings
from tests.streams.receiver import Receiver


class Run:
    """A destination, what it buried, and its clock."""

    def __init__(self, receiver: Receiver, folder: Path, **changes: Any) -> None:
        self.clock = Clock()
        self.buried: list[tuple[str, str]] = []
        self.cannot_bury = False
        self._receiver = receiver
        self._folder = folder
        self._changes = changes
        self.destination = self._open()

    def _open(self) -> Destination:
        notify = settings(self._receiver, self._folder)
        [default] = notify.all_destinations({})
        return Destination(
            msgspec.structs.replace(default, **self._changes),
            notify,
            self._bury,
            {},
            self.clock,
            self.clock,
        )

    def restart(self) -> None:
        """End the worker and begin another one."""
        self.destination.close()
        self.destination = self._open()

    def put(self, *notifications: Notification) -> None:
        for one in notifications:
            self.destination.put(one)

    def run(self, seconds: float = 1e9) -> int:
        """Let so much time pass, or all that it takes; give the number of steps."""
        end = self.clock.now + seconds
        for steps in range(1, 10_000):
            pause = self.destination.step()
            if pause is None or self.clock.now + pause > end:
                self.clock.now = min(end, self.clock.now + 1e8)
                return steps
            self.clock.now += pause
        raise AssertionError("it goes round in circles")

    def _bury(self, what: Notification, destination: str, error: str) -> None:
        assert destination == self.destination.name
        if self.cannot_bury:
            raise RuntimeError("no Kafka")
        self.buried.append((f"{what.incident_id}-{what.revision}", error))


Make = Callable[..., Run]
