"""A request within a batch."""

from __future__ import annotations

from simulator.profiles.machinery.traffic import Request


class FutureRequestState:
    """What a request will be after the batch; without a dictionary, as the original."""

    __slots__ = ("complete_blocks", "has_new_token", "query_length", "state")

    def __init__(self, state: Request, has_new_token: bool, query_length: int) -> None:
        self.state = state
        self.has_new_token = has_new_token
        self.complete_blocks: dict[str, int] = {}
        self.query_length = query_length
