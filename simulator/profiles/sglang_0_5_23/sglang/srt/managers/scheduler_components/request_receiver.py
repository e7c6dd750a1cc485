"""Where requests come in."""

from __future__ import annotations

from typing import Any


class SchedulerRequestReceiver:
    """Take requests at rank 0 and give them to all ranks."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def recv_requests(self) -> list[Any]:
        """Take what has come."""
        recv_reqs: list[Any] = self.scheduler.recv_requests()
        return recv_reqs
