"""The account of which KV blocks belong to which request."""

from __future__ import annotations


class KVCacheManager:
    """Hand out KV blocks of a fixed number of tokens and take them back."""

    def __init__(self, *, num_blocks: int, block_size_tokens: int) -> None:
        self.num_blocks = num_blocks
        self.block_size_tokens = block_size_tokens
        self._free_block_ids = list(range(num_blocks - 1, -1, -1))
        self._blocks_of: dict[str, list[int]] = {}

    @property
    def usage_ratio(self) -> float:
        """Say how full the cache is, 0 to 1."""
        return 1.0 - len(self._free_block_ids) / self.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Count the blocks that nobody holds."""
        return len(self._free_block_ids)

    def block_ids(self, request_id: str) -> list[int]:
        """List the blocks of a request."""
        return list(self._blocks_of.get(request_id, ()))

    def allocate_slots(self, request_id: str, num_tokens: int) -> list[int] | None:
        """Give a request room for `num_tokens` in all; the new blocks, or None when full."""
        held = self._blocks_of.setdefault(request_id, [])
        missing = -(-num_tokens // self.block_size_tokens) - len(held)
        if missing > len(self._free_block_ids):
            return None
        new_block_ids = [self._free_block_ids.pop() for _ in range(missing)]
        held.extend(new_block_ids)
        return new_block_ids

    def free(self, request_id: str) -> None:
        """Take back every block of a request."""
        self._free_block_ids.extend(reversed(self._blocks_of.pop(request_id, [])))
