"""The queue of requests that wait for a place in the batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from simulator.replica.vllm.v1.request import Request


class FCFSRequestQueue(deque[Request]):
    """First come, first served; a preempted request goes back to the front."""

    def add_request(self, request: Request) -> None:
        """Put a new request at the end."""
        self.append(request)

    def peek_request(self) -> Request:
        """Look at the next request without taking it."""
        return self[0]

    def pop_request(self) -> Request:
        """Take the next request."""
        return self.popleft()

    def prepend_request(self, request: Request) -> None:
        """Put a request back at the front."""
        self.appendleft(request)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Drop requests wherever they stand in the queue."""
        dropped = {request.request_id for request in requests}
        kept = [request for request in self if request.request_id not in dropped]
        self.clear()
        self.extend(kept)
