"""Captures without a broker: requests that are fed by hand."""

from __future__ import annotations

import time
from pathlib import Path

from collectors.capture import Target
from collectors.capture_requests import CaptureRequests
from collectors.config import CollectSettings
from collectors.publisher import MemoryPublisher
from collectors.stacks import AttachRefused, Sampler
from schemas.records import Capture
from schemas.settings import KafkaSettings


def refuse(*_: object, **__: object) -> Sampler:
    raise AttachRefused("give it SYS_PTRACE")


def settings_of(folder: Path, **more: float) -> CollectSettings:
    return CollectSettings(capture_folder=str(folder), host="h", **more)  # type: ignore[arg-type]


class Requests:
    """The listener, fed by hand."""

    def __init__(self, target: Target | None, folder: Path) -> None:
        self.publisher = MemoryPublisher()
        self.messages: list[bytes | Exception] = []
        self.listener = CaptureRequests(
            KafkaSettings(),
            settings_of(folder),
            self.publisher,
            "h",
            lambda engine_id: target if target and engine_id == target.engine_id else None,
            consume=self._consume,
        )

    def _consume(self) -> bytes | None:
        if self.messages:
            message = self.messages.pop(0)
            if isinstance(message, Exception):
                raise message
            return message
        time.sleep(0.01)
        return None

    @property
    def captures(self) -> list[Capture]:
        return [one for one in list(self.publisher.records) if isinstance(one, Capture)]
