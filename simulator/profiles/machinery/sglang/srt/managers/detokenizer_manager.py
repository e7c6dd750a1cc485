"""The process that turns tokens into text; here it has nothing to do."""

from __future__ import annotations

import queue
from typing import NoReturn


class DetokenizerManager:
    """Wait for tokens."""

    def __init__(self) -> None:
        self.recv_from_scheduler: queue.Queue[object] = queue.Queue()

    def event_loop(self) -> NoReturn:
        """Wait for ever."""
        while True:
            self.recv_from_scheduler.get()


def run_detokenizer_process() -> None:
    """Live as the detokenizer."""
    DetokenizerManager().event_loop()
