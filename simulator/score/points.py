"""Which single batches were slow by a fault, and which of them were called slow."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from simulator.score.collect import Episode, Observed
from simulator.score.columns import Point
from simulator.score.options import Options


class Key(NamedTuple):
    """What batches are counted together.

    Attributes:
        faults: Ids of the faults that they lie in, in order of their begin; empty for none.

        control: Name of the control that they lie in.
    """

    engine_id: str
    faults: tuple[str, ...]
    control: str | None
    bucket: str


@dataclass(slots=True)
class Counts:
    """A confusion matrix of batches.

    Attributes:
        tp: Slow by a fault, and called so; likewise ``fp``, ``fn`` and ``tn``.

        unknown: Those of ``fn`` and ``tn`` that nobody judged.

        unscored: Batches without a label, counted nowhere else.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    unknown: int = 0
    unscored: int = 0

    def add(self, other: Counts) -> None:
        """Add another matrix to this one."""
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        self.tn += other.tn
        self.unknown += other.unknown
        self.unscored += other.unscored

    @property
    def scored(self) -> int:
        """Batches with a label."""
        return self.tp + self.fp + self.fn + self.tn


class Label(NamedTuple):
    """What is true of a batch; ``slow`` is None where nobody can say."""

    slow: bool | None
    faults: tuple[str, ...] = ()
    control: str | None = None


HEALTHY = Label(slow=False)


def bucket_of(requests: int | None) -> str:
    """Name the bucket of a batch size.

    >>> [bucket_of(n) for n in (1, 2, 5, 64, 65, 1000, None)]
    ['1', '2-4', '5-8', '33-64', '65-128', '513-1024', 'unknown']
    """
    if requests is None or requests < 1:
        return "unknown"
    if requests <= 4:
        return "1" if requests == 1 else "2-4"
    top = 1 << (requests - 1).bit_length()
    return f"{top // 2 + 1}-{top}"


def bucket_order(name: str) -> int:
    """Give a key that sorts buckets by size, the unknown one last."""
    first = name.partition("-")[0]
    return int(first) if first.isdigit() else 1 << 62


def count_points(observed: Observed, options: Options) -> dict[Key, Counts]:
    """Count the batches of all engines."""
    counted: dict[Key, Counts] = defaultdict(Counts)
    for engine_id, points in observed.points.items():
        labels = label(
            points,
            observed.episodes_of(engine_id, "fault"),
            observed.episodes_of(engine_id, "control"),
            options,
        )
        for point, found in zip(points, labels, strict=True):
            key = Key(engine_id, found.faults, found.control, bucket_of(point.requests))
            _count(counted[key], point, found)
    return dict(counted)


def label(
    points: Sequence[Point],
    faults: Iterable[Episode],
    controls: Iterable[Episode],
    options: Options,
) -> list[Label]:
    """Say of each batch whether a fault made it slow.

    One that lies wholly inside a steady fault is slow, whatever else begins or ends there. One
    while a fault is being made, within the guard time around its begin or end, or within a fault
    that hits only some or nobody knows which, has no label. All others are not slow.
    """
    guard_ns = options.guard_ns
    labels = [HEALTHY] * len(points)
    longest_ns = longest_ns_of(points)
    for episode in controls:
        for place in overlapping(points, episode.begin_ns, episode.end_ns, longest_ns):
            labels[place] = Label(slow=False, control=episode.fault.name)
    for episode in faults:
        begin_ns, end_ns = episode.onset_ns - guard_ns, episode.end_ns + guard_ns
        is_steady = _slows_each_batch(episode, options)
        for place in overlapping(points, begin_ns, end_ns, longest_ns):
            inside = is_steady and _is_inside(points[place], episode, guard_ns)
            labels[place] = _with(labels[place], episode.fault.fault_id, inside=inside)
    return labels


def _slows_each_batch(episode: Episode, options: Options) -> bool:
    fault = episode.fault
    has_effect = fault.true_ratio is None or fault.true_ratio > options.least_ratio
    # Without an end nobody knows for how long it was at work.
    return episode.finished and has_effect and not fault.intermittent


def _with(before: Label, fault_id: str, *, inside: bool) -> Label:
    if inside:
        return Label(slow=True, faults=(*before.faults, fault_id), control=before.control)
    return before if before.slow else Label(slow=None, control=before.control)


def longest_ns_of(points: Sequence[Point]) -> int:
    """Give the length of the longest batch."""
    return max((point.end_ns - point.begin_ns for point in points), default=0)


def overlapping(points: Sequence[Point], begin_ns: int, end_ns: int, longest_ns: int) -> list[int]:
    """Give the places of the batches that overlap a span; none is longer than the longest."""
    first = bisect_right(points, begin_ns, key=lambda point: point.end_ns)
    # Sorted by their ends: one that ends later than this began after the span.
    last = bisect_left(points, end_ns + longest_ns, key=lambda point: point.end_ns)
    return [place for place in range(first, last) if points[place].begin_ns < end_ns]


def _is_inside(point: Point, episode: Episode, guard_ns: int) -> bool:
    begin_ns, end_ns = episode.begin_ns + guard_ns, episode.end_ns - guard_ns
    return begin_ns <= point.begin_ns and point.end_ns <= end_ns


def _count(counts: Counts, point: Point, found: Label) -> None:
    if found.slow is None:
        counts.unscored += 1
        return
    called = point.verdict == "slow"
    if found.slow:
        counts.tp += called
        counts.fn += not called
    else:
        counts.fp += called
        counts.tn += not called
    counts.unknown += point.verdict == "unknown"
