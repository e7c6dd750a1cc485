"""The sampler."""

from __future__ import annotations


class Sampler:
    """Choose tokens."""

    def forward(self, num_tokens: int) -> int:
        """Spend a moment."""
        total = 0
        for number in range(num_tokens):
            total += number
        return total
