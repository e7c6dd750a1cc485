"""From what an engine says of its iterations to timed iterations. Pure: it is told the time."""

import itertools
from collections.abc import Callable, Iterator

from collectors.feeds.base import Said
from schemas.records import Iteration

# What lies between an iteration's end and the word of it: a server writes the line when it gets to
# it. Beside vLLM 0.32 with all CPUs busy 99 % of the ends lay within this and the room to look.
DELAY_NS = 5_000_000


class StreamClock:
    """Time each iteration by when it was said, and by how long the engine says it took.

    The engine tells a duration and no moment, so the end lies between the look that found nothing
    and the one that found it; the middle is given, and half of it, with the delay of the word, is
    the uncertainty. What was found at one look ran one after the other, which narrows it.

    Args:
        engine_id: Goes onto every record, as does ``process_start_ns``.

        epoch_offset_ns: Gives epoch time minus monotonic time.

    A sequence is the feed's number counted from the time of the first one in ms: it grows through
    every restart of the agent, and is never one that another rung gave.
    """

    def __init__(
        self,
        *,
        engine_id: str,
        process_start_ns: int,
        epoch_offset_ns: Callable[[], int],
    ) -> None:
        self._engine_id = engine_id
        self._process_start_ns = process_start_ns
        self._epoch_offset_ns = epoch_offset_ns
        self._first: int | None = None
        self._last: int | None = None
        self.seen = 0
        self.missed = 0
        self.dummies = 0

    def lost(self) -> None:
        """Forget the last number: the feed is opened anew."""
        self._last = self._first = None

    def feed(self, said: list[Said]) -> Iterator[Iteration]:
        """Take what was said, in order, and give the iterations."""
        offset_ns = self._epoch_offset_ns()
        for _, together in itertools.groupby(said, lambda one: (one.after_ns, one.at_ns)):
            for one, end_ns, slack_ns in _timed(list(together)):
                missed = self._count(one)
                if missed is None:
                    continue
                assert self._first is not None
                yield Iteration(
                    engine_id=self._engine_id,
                    process_start_ns=self._process_start_ns,
                    sequence=self._first + one.index,
                    begin_ns=end_ns - one.duration_ns + offset_ns,
                    end_ns=end_ns + offset_ns,
                    uncertainty_ns=slack_ns // 2 + DELAY_NS,
                    source="stream",
                    missed=missed,
                    workload=one.workload,
                )

    def _count(self, one: Said) -> int | None:
        """Give how many were missed before this one; None where it is none to give."""
        last, self._last = self._last, one.index
        if self._first is None or (last is not None and one.index < last):
            self._first = (one.at_ns + self._epoch_offset_ns()) // 1_000_000 - one.index
        if last is not None and one.index == last:
            return None
        # A number that fell is a feed that began anew, and says nothing of what was missed.
        missed = one.index - last - 1 if last is not None and one.index > last else 0
        self.missed += missed
        if one.is_heartbeat:
            return None
        self.seen += 1
        if one.is_dummy:
            self.dummies += 1
            return None
        return missed


def _timed(said: list[Said]) -> Iterator[tuple[Said, int, int]]:
    """Give each of those found at one look with its end and how much room there is for it."""
    window_ns = said[-1].at_ns - said[-1].after_ns
    slack_ns = window_ns - sum(one.duration_ns for one in said[1:])
    if slack_ns < 0:
        # They overlapped, or were held back and came together.
        slack_ns = window_ns
    end_ns = said[-1].at_ns - slack_ns // 2
    ends_ns = [end_ns]
    for one in reversed(said[1:]):
        end_ns -= one.duration_ns
        ends_ns.append(end_ns)
    for one, at_ns in zip(said, reversed(ends_ns), strict=True):
        yield one, at_ns, slack_ns
