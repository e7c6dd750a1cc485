"""Since when an engine has had work and got none of it done."""

from dataclasses import dataclass

from schemas.records import Iteration

SECOND_NS = 1_000_000_000
# Work is news once nothing has come of it for so long, and again each time as long after that.
TELL_NS = SECOND_NS
# What is older may have changed: nobody has looked since.
FRESH_NS = 3 * SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known at one moment, as `Engine` has it."""

    running_requests: int | None
    waiting_requests: int | None
    last_iteration_end_ns: int | None
    still_since_ns: int | None


class Standstill:
    """Put together what is seen of an engine's work: its iterations, and what waits meanwhile.

    Times are of the system clock, which may be set back: what is known of a time far ahead is as
    old as what is known of one long ago. Whoever sees something tells it here; the thread that
    reads the core asks `is_due`, and any may ask `at`.
    """

    def __init__(self) -> None:
        self._running: int | None = None
        self._waiting: int | None = None
        self._counted_ns = 0
        self._seen_ns = 0
        # The iteration that was last told to be open, and when.
        self._open: int | None = None
        self._open_seen_ns = 0
        self._since_ns: int | None = None
        self._told_ns = 0
        self._last_end_ns: int | None = None

    def ended(self, iteration: Iteration) -> None:
        """An iteration has ended."""
        if iteration.end_ns is None:
            return
        self._last_end_ns = iteration.end_ns
        self._open = self._since_ns = None
        self._open_seen_ns = 0
        self._take(iteration, iteration.end_ns)

    def runs(self, iteration: Iteration) -> None:
        """An iteration is still open, as is told ten times a second."""
        at_ns = iteration.begin_ns + (iteration.running_ns or 0)
        if iteration.sequence != self._open:
            self._open, self._since_ns = iteration.sequence, iteration.begin_ns
            self._take(iteration, at_ns)
        elif self._counted_ns <= iteration.begin_ns:
            # Its batch was not read yet when it was first told.
            self._take(iteration, at_ns)
        self._seen_ns = self._open_seen_ns = at_ns

    def holds(self, at_ns: int, running: int | None, waiting: int | None) -> None:
        """So many requests run and wait, and no iteration began or ended since the last word."""
        self._running, self._waiting = running, waiting
        self._seen_ns = self._counted_ns = at_ns
        is_open = abs(at_ns - self._open_seen_ns) < SECOND_NS
        if not (running or waiting or is_open):
            self._since_ns = None
        elif self._since_ns is None or self._since_ns > at_ns:
            self._since_ns = at_ns

    def forget(self) -> None:
        """Nobody looks any more: what was seen says nothing about what follows."""
        self._running = self._waiting = self._open = self._since_ns = None
        self._open_seen_ns = 0

    def _take(self, iteration: Iteration, at_ns: int) -> None:
        self._seen_ns = at_ns
        work = iteration.workload
        if (work.running_requests, work.waiting_requests) != (None, None):
            self._running, self._waiting = work.running_requests, work.waiting_requests
            self._counted_ns = at_ns

    def is_due(self, now_ns: int) -> bool:
        """Tell, once a second, that there is a standstill; the caller tells the world."""
        since_ns = self._since_ns
        if since_ns is None or now_ns - since_ns < TELL_NS:
            return False
        if abs(now_ns - self._told_ns) < TELL_NS or abs(now_ns - self._seen_ns) > FRESH_NS:
            return False
        self._told_ns = now_ns
        return True

    def at(self, now_ns: int) -> Standing:
        """Give what is known now; what has not been looked at for a while is unknown."""
        is_counted = abs(now_ns - self._counted_ns) <= FRESH_NS
        is_seen = abs(now_ns - self._seen_ns) <= FRESH_NS
        return Standing(
            running_requests=self._running if is_counted else None,
            waiting_requests=self._waiting if is_counted else None,
            last_iteration_end_ns=self._last_end_ns,
            still_since_ns=self._since_ns if is_seen else None,
        )
