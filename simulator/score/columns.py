"""Batches of one engine in columns: a million of them fit into 40 MB, and travel as such."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, get_args, overload

import numpy as np

from schemas.records import Batch, Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_NUMBER_OF = {verdict: number for number, verdict in enumerate(VERDICTS)}
_UNKNOWN = -1


class Point(NamedTuple):
    """What scoring needs of one batch."""

    end_ns: int
    begin_ns: int
    duration_ns: int
    expected_ns: int | None
    verdict: Verdict
    requests: int | None


@dataclass(slots=True, eq=False)
class Points(Sequence[Point]):
    """A sequence of points; what is unknown is -1 in its column."""

    ends_ns: array[int] = field(default_factory=lambda: array("q"))
    begins_ns: array[int] = field(default_factory=lambda: array("q"))
    durations_ns: array[int] = field(default_factory=lambda: array("q"))
    expected_ns: array[int] = field(default_factory=lambda: array("q"))
    verdicts: array[int] = field(default_factory=lambda: array("b"))
    requests: array[int] = field(default_factory=lambda: array("i"))

    def append(self, batch: Batch) -> None:
        """Add a batch at the end."""
        expected_ns, requests = batch.expected_ns, batch.workload.requests
        self.ends_ns.append(batch.end_ns)
        self.begins_ns.append(batch.begin_ns)
        self.durations_ns.append(batch.duration_ns)
        self.expected_ns.append(_UNKNOWN if expected_ns is None else expected_ns)
        self.verdicts.append(_NUMBER_OF[batch.verdict])
        self.requests.append(_UNKNOWN if requests is None else requests)

    def taken(self, places: np.ndarray) -> Points:
        """Give the points at some places, in that order."""
        return Points(*(_taken(column, places) for column in self._columns()))

    def __len__(self) -> int:
        return len(self.ends_ns)

    @overload
    def __getitem__(self, place: int) -> Point: ...

    @overload
    def __getitem__(self, place: slice) -> Points: ...

    def __getitem__(self, place: int | slice) -> Point | Points:
        if isinstance(place, slice):
            return Points(*(column[place] for column in self._columns()))
        return _point(*(column[place] for column in self._columns()))

    def __iter__(self) -> Iterator[Point]:
        return map(_point, *self._columns())

    def _columns(self) -> tuple[array[int], ...]:
        return (
            self.ends_ns,
            self.begins_ns,
            self.durations_ns,
            self.expected_ns,
            self.verdicts,
            self.requests,
        )


@dataclass(slots=True, eq=False)
class Told:
    """Batches of one engine as they were told: in any order, some of them more than once."""

    points: Points = field(default_factory=Points)
    starts_ns: array[int] = field(default_factory=lambda: array("q"))
    sequences: array[int] = field(default_factory=lambda: array("q"))
    revisions: array[int] = field(default_factory=lambda: array("i"))

    def append(self, batch: Batch) -> None:
        """Take a batch, or an amendment of one."""
        self.points.append(batch)
        self.starts_ns.append(batch.process_start_ns)
        self.sequences.append(batch.sequence)
        self.revisions.append(batch.revision)

    def last(self) -> Points:
        """Give each batch as it was told last, by their ends."""
        starts_ns, sequences = np.asarray(self.starts_ns), np.asarray(self.sequences)
        order = np.lexsort((np.asarray(self.revisions), sequences, starts_ns))
        starts_ns, sequences = starts_ns[order], sequences[order]
        is_last = np.ones(len(order), dtype=bool)
        is_last[:-1] = (starts_ns[1:] != starts_ns[:-1]) | (sequences[1:] != sequences[:-1])
        kept = order[is_last]
        ends_ns = np.asarray(self.points.ends_ns)[kept]
        begins_ns = np.asarray(self.points.begins_ns)[kept]
        return self.points.taken(kept[np.lexsort((begins_ns, ends_ns))])


def _taken(column: array[int], places: np.ndarray) -> array[int]:
    found: array[int] = array(column.typecode)
    found.frombytes(np.asarray(column)[places].tobytes())
    return found


def _point(
    end_ns: int, begin_ns: int, duration_ns: int, expected_ns: int, verdict: int, requests: int
) -> Point:
    return Point(
        end_ns,
        begin_ns,
        duration_ns,
        None if expected_ns == _UNKNOWN else expected_ns,
        VERDICTS[verdict],
        None if requests == _UNKNOWN else requests,
    )
