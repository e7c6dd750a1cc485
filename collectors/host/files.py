"""Small files of the kernel, read at the price of three system calls."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")

# What one read may bring; the kernel gives at most a page of most of these files at a time.
CHUNK_BYTES = 65_536


def read_text(path: str) -> str:
    """Read a file of ``/proc`` or ``/sys``; `pathlib` takes five times as long.

    Raises:
        OSError: It is not there, may not be read, or the kernel has no answer now.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, CHUNK_BYTES)
        if data:
            parts = [data]
            # A long file comes in pieces, and a piece may be short long before the end.
            while more := os.read(descriptor, CHUNK_BYTES):
                parts.append(more)
            data = b"".join(parts)
    finally:
        os.close(descriptor)
    return data.decode(errors="replace")


def read_text_or_none(path: str) -> str | None:
    """Read a file, or give None where that is refused."""
    try:
        return read_text(path)
    except OSError:
        return None


def read_int(path: str) -> int | None:
    """Read a file that holds one whole number; None where it holds anything else."""
    text = (read_text_or_none(path) or "").strip()
    try:
        return int(text)
    except ValueError:
        return None


class Seldom(Generic[Value]):
    """A value that changes seldom and is read again once it is old.

    Args:
        read: Gives the value.

        period_ns: Its age at which it is read again.
    """

    def __init__(self, read: Callable[[], Value], period_ns: int) -> None:
        self._read = read
        self._period_ns = period_ns
        self._known: tuple[int, Value] | None = None

    def at(self, now_ns: int) -> Value:
        """Give the value, at most so old; a clock that was set back counts as a long time."""
        if self._known is None or not 0 <= now_ns - self._known[0] < self._period_ns:
            self._known = (now_ns, self._read())
        return self._known[1]
