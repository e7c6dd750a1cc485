"""What agents sent within a piece of time, put in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.codec import encode
from schemas.records import Record
from schemas.topics import key_of, time_ms_of, topic_of
from simulator.fleet.rows import Message, Rows, Writer

WINDOW_NS = 250_000_000
"""Time is simulated in pieces of this length; all that ends in one is put in order."""

Timed = tuple[int, Record]


@dataclass(slots=True)
class Window:
    """What agents sent within a piece of time.

    Attributes:
        rows: Iterations, in order.

        others: All other records with the time of each, in order.
    """

    end_ns: int
    rows: Rows
    others: list[Timed]


def records_in_order(window: Window, writer: Writer) -> list[Record]:
    """Give what was sent in a window."""
    iterations = writer.records(window.rows)
    return _merged(window.rows["at_ns"].tolist(), iterations, window.others)


def messages_in_order(window: Window, writer: Writer) -> list[Message]:
    """Give what was sent in a window as messages."""
    found = writer.messages(window.rows)
    found += [
        Message(topic_of(record).name, key_of(record), encode(record), time_ms_of(record), at_ns)
        for at_ns, record in window.others
    ]
    found.sort(key=_at)
    return found


def _merged(times: list[int], iterations: Sequence[Record], others: list[Timed]) -> list[Record]:
    timed: list[Timed] = [*zip(times, iterations, strict=True), *others]
    timed.sort(key=_first)
    return [record for _, record in timed]


def _first(timed: Timed) -> int:
    return timed[0]


def _at(message: Message) -> int:
    return message.at_ns
