"""Which batch is meant, and what those who keep batches can be asked.

They are a recording (`latencyprism.recorded`) and ClickHouse (`latencyprism.stored`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from schemas.incidents import Incident
from schemas.records import Batch

# A batch this far from the time that was asked for is another one.
NEAR_NS = 60_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which batch of an engine: by sequence, by time, or else the slowest.

    Attributes:
        at_ns: The batch that ran at this time, or the one nearest to it.

        last_ns: Only those that began so long before the end of the engine's newest one.
    """

    engine_id: str
    sequence: int | None = None
    at_ns: int | None = None
    last_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The batches that there are of one engine."""

    batches: int
    first_sequence: int
    last_sequence: int
    begin_ns: int
    end_ns: int


class Batches(Protocol):
    """Where batches are kept.

    Attributes:
        keeps_samples: Whether phases have their number of samples; else it is 0.
    """

    keeps_samples: bool

    def find(self, wanted: Wanted) -> Batch | None:
        """Give the batch, with all that was told of it since; None where there is none."""
        ...

    def incident(self, incident_id: str) -> Incident | None:
        """Give an incident; None where its alerts are not kept."""
        ...

    def seen(self) -> dict[str, Seen]:
        """Give what there is by engine."""
        ...


def distance_ns(batch: Batch, at_ns: int) -> int:
    """Give how long a batch ended before a moment or began after it; 0 where it ran then."""
    return max(batch.begin_ns - at_ns, at_ns - batch.end_ns, 0)
