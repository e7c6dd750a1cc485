"""One direction of the connection between the engine core and a worker."""

from __future__ import annotations

import select
from multiprocessing.connection import Connection
from typing import Any


class MessageQueue:
    """Pass pickled messages through a pipe; a reader sleeps while there is none.

    The real queue is a ring in shared memory whose readers spin. Ours sleeps, because
    a spinning engine core would take the machine away from the worker it waits for.
    """

    MAX_CHUNKS = 10

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._poller = select.poll()
        self._poller.register(connection.fileno(), select.POLLIN)
        # Position in the ring of the real queue: pairs the timelines of core and worker.
        self.current_idx = 0

    def enqueue(self, message: Any) -> None:
        """Send one message."""
        self._connection.send(message)
        self.current_idx = (self.current_idx + 1) % self.MAX_CHUNKS

    def dequeue(self, timeout: float | None = None) -> Any:
        """Wait for the next message, for at most `timeout` seconds if given."""
        self.acquire_read(timeout)
        message = self._connection.recv()
        self.current_idx = (self.current_idx + 1) % self.MAX_CHUNKS
        return message

    def acquire_read(self, timeout: float | None) -> None:
        """Sleep until there is something to read."""
        if not self._poller.poll(None if timeout is None else timeout * 1_000):
            raise TimeoutError

    def close(self) -> None:
        """Close this end; the other end sees the end of the stream."""
        self._connection.close()
