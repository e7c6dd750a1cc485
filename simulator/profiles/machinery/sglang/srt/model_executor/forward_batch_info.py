"""What a forward pass is for."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Any


class ForwardMode(IntEnum):
    """The kinds that these profiles run, numbered as in SGLang."""

    EXTEND = auto()
    DECODE = auto()
    MIXED = auto()
    IDLE = auto()

    def is_extend(self) -> bool:
        """Say whether prompts are read."""
        return self in (ForwardMode.EXTEND, ForwardMode.MIXED)

    def is_decode(self) -> bool:
        """Say whether each request gets one token."""
        return self == ForwardMode.DECODE


class ForwardBatch:
    """A batch as the model sees it."""

    @classmethod
    def init_new(cls, batch: Any) -> ForwardBatch:
        """Make one; a sum that the scheduler left open is put into the scheduler's batch."""
        if batch.seq_lens_sum is None:
            batch.seq_lens_sum = sum(request.num_computed_tokens for request in batch.reqs)
        return cls()
