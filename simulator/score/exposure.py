"""For how long engines were watched while no fault was at work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulator.score.columns import Point

# Between two batches further apart than this the engine had nothing to do.
IDLE_NS = 30_000_000_000

Span = tuple[int, int]


def watched(points: Sequence[Point]) -> list[Span]:
    """Give the spans in which an engine worked and its batches were judged."""
    spans: list[Span] = []
    goes_on = False
    for point in points:
        if point.verdict == "unknown":
            goes_on = False
            continue
        if goes_on and point.begin_ns - spans[-1][1] <= IDLE_NS:
            spans[-1] = (spans[-1][0], max(spans[-1][1], point.end_ns))
        else:
            spans.append((point.begin_ns, point.end_ns))
        goes_on = True
    return spans


def total_ns(spans: Iterable[Span]) -> int:
    """Add up spans that do not overlap."""
    return sum(end_ns - begin_ns for begin_ns, end_ns in spans)


def without(spans: Sequence[Span], holes: Iterable[Span]) -> list[Span]:
    """Cut holes out of spans.

    >>> without([(0, 10)], [(2, 4), (3, 5), (9, 12)])
    [(0, 2), (5, 9)]
    """
    left = list(spans)
    for hole_begin, hole_end in holes:
        pieces = []
        for begin, end in left:
            pieces += [(begin, min(end, hole_begin)), (max(begin, hole_end), end)]
        left = [(begin, end) for begin, end in pieces if begin < end]
    return left


def within(spans: Sequence[Span], windows: Iterable[Span]) -> list[Span]:
    """Keep what lies in one of the windows.

    >>> within([(0, 10)], [(2, 4), (3, 5), (9, 12)])
    [(2, 5), (9, 10)]
    """
    return without(spans, without(spans, windows))
