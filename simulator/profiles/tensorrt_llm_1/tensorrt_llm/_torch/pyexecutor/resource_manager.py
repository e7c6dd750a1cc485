"""The accounts of memory."""

from __future__ import annotations

from typing import Any


class ResourceManager:
    """Keep no account."""

    def prepare_resources(self, scheduled_batch: Any) -> int:
        """Reserve memory."""
        return int(scheduled_batch.batch_size)

    def update_resources(self, scheduled_batch: Any) -> int:
        """Give back what is not needed."""
        return int(scheduled_batch.batch_size)
