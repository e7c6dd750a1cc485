"""What a sink is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import Record


class SinkUnavailable(RuntimeError):
    """The destination cannot take anything now; the same records are to be tried again.

    Args:
        message: What is wrong and what to do.

        retry_after_seconds: What the destination asked for, if it did.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that the destination will never take, and why."""

    record: Record
    error: str


class Sink(ABC):
    """Write records to one destination.

    Called from a worker thread, never twice at once. Writing the same records again must be
    harmless: delivery from Kafka is at least once.
    """

    @abstractmethod
    def write(self, records: Sequence[Record]) -> list[Rejected]:
        """Write all records and give those that will never fit, to be dead-lettered.

        Raises:
            SinkUnavailable: Nothing is known to be written; try all of them again later.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the destination; may be called twice."""
