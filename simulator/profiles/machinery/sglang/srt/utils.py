"""Helpers of the runtime."""

from __future__ import annotations

from typing import Any


def broadcast_pyobj(data: list[Any], rank: int, channels: list[Any]) -> list[Any]:
    """Send a list from rank 0 to the others; they wait for it."""
    if rank == 0:
        for channel in channels:
            channel.writer.send(data)
        return data
    received: list[Any] = channels[rank - 1].reader.recv()
    return received
