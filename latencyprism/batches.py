"""Find one batch of an engine: in a recording here, in ClickHouse by `latencyprism.stored`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latencyprism.commands.record import records_in
from schemas.incidents import Incident, fold
from schemas.recording import read_recording
from schemas.records import Alert, Batch

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


class Recorded:
    """The batches in a recording; it is read anew for each question, so that memory stays small.

    Args:
        path: The file.
    """

    keeps_samples = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, wanted: Wanted) -> Batch | None:
        """Give the batch.

        Raises:
            RecordingError: The file is no recording.
        """
        since_ns = None
        if wanted.last_ns is not None:
            ends_ns = (batch.end_ns for batch in self._of(wanted.engine_id))
            since_ns = max(ends_ns, default=0) - wanted.last_ns
        best: Batch | None = None
        for batch in self._of(wanted.engine_id):
            if since_ns is not None and batch.begin_ns < since_ns:
                continue
            if best is not None and _key(batch) == _key(best):
                best = max(best, batch, key=lambda one: one.revision)
            elif _fits(batch, wanted) and (
                best is None or _rank(batch, wanted) > _rank(best, wanted)
            ):
                best = batch
        return best

    def incident(self, incident_id: str) -> Incident | None:
        """Give an incident by its alerts."""
        alerts = [
            record
            for record in read_recording(self._path)
            if isinstance(record, Alert) and record.incident_id == incident_id
        ]
        return fold(alerts) if alerts else None

    def seen(self) -> dict[str, Seen]:
        """Give what there is by engine."""
        found: dict[str, Seen] = {}
        for batch in read_recording(self._path):
            if not isinstance(batch, Batch) or batch.revision > 0:
                continue
            known = found.get(batch.engine_id) or Seen(
                batches=0,
                first_sequence=batch.sequence,
                last_sequence=batch.sequence,
                begin_ns=batch.begin_ns,
                end_ns=batch.end_ns,
            )
            found[batch.engine_id] = Seen(
                batches=known.batches + 1,
                first_sequence=min(known.first_sequence, batch.sequence),
                last_sequence=max(known.last_sequence, batch.sequence),
                begin_ns=min(known.begin_ns, batch.begin_ns),
                end_ns=max(known.end_ns, batch.end_ns),
            )
        return found

    def _of(self, engine_id: str) -> Iterator[Batch]:
        for record in records_in(self._path):
            if isinstance(record, Batch) and record.engine_id == engine_id:
                yield record


def _key(batch: Batch) -> tuple[int, int]:
    return batch.process_start_ns, batch.sequence


def _fits(batch: Batch, wanted: Wanted) -> bool:
    if wanted.sequence is not None:
        return batch.sequence == wanted.sequence
    return wanted.at_ns is None or distance_ns(batch, wanted.at_ns) <= NEAR_NS


def _rank(batch: Batch, wanted: Wanted) -> tuple[float, float]:
    """How well a batch is what is wanted: more is better."""
    if wanted.sequence is not None:
        # Of two processes that counted as far, the newer one.
        return batch.process_start_ns, 0.0
    if wanted.at_ns is not None:
        return -distance_ns(batch, wanted.at_ns), batch.begin_ns
    return batch.duration_ns / (batch.expected_ns or float("inf")), batch.duration_ns


def distance_ns(batch: Batch, at_ns: int) -> int:
    """Give how long a batch ended before a moment or began after it; 0 where it ran then."""
    return max(batch.begin_ns - at_ns, at_ns - batch.end_ns, 0)
