"""One direction between the core and a worker."""

from __future__ import annotations

import multiprocessing
from typing import Any


class MessageQueue:
    """Pass messages through a pipe; the real ring in shared memory has readers that spin."""

    MAX_CHUNKS = 10

    def __init__(self) -> None:
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)
        self.current_idx = 0

    def enqueue(self, message: Any) -> None:
        """Send one message."""
        self._writer.send(message)
        self.current_idx = (self.current_idx + 1) % self.MAX_CHUNKS

    def dequeue(self) -> Any:
        """Wait for the next message."""
        self.acquire_read()
        message = self._reader.recv()
        self.current_idx = (self.current_idx + 1) % self.MAX_CHUNKS
        return message

    def acquire_read(self) -> None:
        """Sleep until there is something to read."""
        while not self._reader.poll(60.0):
            continue
