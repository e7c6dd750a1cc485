"""The processing of results, where the scheduler waits for the device."""

from __future__ import annotations

from typing import Any


class SchedulerOutputProcessorMixin:
    """A part of the scheduler."""

    def process_batch_result_prefill(self, batch: Any, result: Any) -> None:
        """Take the first tokens."""
        result.copy_done.synchronize()
        self.stream_output(batch.reqs)

    def process_batch_result_decode(self, batch: Any, result: Any) -> None:
        """Take the next tokens."""
        result.copy_done.synchronize()
        self.stream_output(batch.reqs)

    def stream_output(self, reqs: list[Any]) -> int:
        """Send the tokens to nobody."""
        return len(reqs)
