"""The processing of results, where the scheduler waits for the device."""

from __future__ import annotations

from typing import Any


class SchedulerBatchResultProcessor:
    """Take the tokens of a batch."""

    def process_batch_result_prefill(self, batch: Any, result: Any) -> int:
        """Take the first tokens."""
        result.copy_done.synchronize()
        return len(batch.reqs)

    def process_batch_result_decode(self, batch: Any, result: Any) -> int:
        """Take the next tokens."""
        result.copy_done.synchronize()
        return len(batch.reqs)
