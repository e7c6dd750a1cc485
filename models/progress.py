"""Tell an engine that has come to a halt from one that has nothing to do."""

from dataclasses import asdict, dataclass
from typing import Any

from schemas.records import Engine

# Nothing ended for so long, and for so many times what is usual: a halt.
LEAST_HALT_NS = 2_000_000_000
HALT_RATIO = 10.0
# The first batches of a process compile kernels and capture graphs, within minutes.
FIRST_BATCHES = 10
FIRST_HALT_NS = 60_000_000_000
# Processes that began so close to each other are one: its begin is told by a clock that may step.
SAME_PROCESS_NS = 5_000_000_000
# A batch that is seen to run is judged by its own workload; only where that says nothing ...
OPEN_HALT_NS = 10_000_000_000
# ... after its last word was no longer ago than this.
OPEN_SEEN_NS = 2_000_000_000
# A batch that ended so long after the agent's word is of a clock that was set back since.
MOST_AHEAD_NS = 300_000_000_000
GAIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """An engine that has work and finishes no batch.

    Attributes:
        since_ns: From when on it surely had work; ``at_ns`` is when this was seen.

        pace_ns: Time from the end of one batch to that of the next, usually.
    """

    since_ns: int
    at_ns: int
    running: int
    waiting: int
    pace_ns: int

    @property
    def reason(self) -> str:
        """A sentence for the incident."""
        seconds = (self.at_ns - self.since_ns) / 1e9
        count, doing = (self.running, "running") if self.running else (self.waiting, "waiting")
        requests = "1 request" if count == 1 else f"{count} requests"
        return f"frozen: {requests} {doing}, no batch for {seconds:.1f} s"


@dataclass(slots=True)
class Progress:
    """How quickly batches of one engine follow each other, and since when none did.

    Only what the agent says in one record is compared: records of batches may still be on their
    way.
    """

    pace_ns: float = 0.0
    known: int = 0
    finished: int = 0
    work_since_ns: int | None = None
    stands_since_ns: int | None = None
    open_seen_ns: int = 0
    process_start_ns: int = 0

    def add(self, spacing_ns: int) -> None:
        """A batch ended, so long after the one before while there was work."""
        self.finished += 1
        self.known += 1
        self.pace_ns += max(GAIN, 1 / self.known) * (spacing_ns - self.pace_ns)

    def restart(self) -> None:
        """The engine's process is a new one; what it costs is known all the same."""
        self.finished = 0
        self.work_since_ns = self.stands_since_ns = None

    def look(self, engine: Engine, last_end_ns: int) -> Halt | None:
        """Look at what the agent says of the engine now; None while it moves or has no work.

        Args:
            engine: The newest inventory.

            last_end_ns: End of the newest batch that is known here.
        """
        if abs(engine.process_start_ns - self.process_start_ns) > SAME_PROCESS_NS:
            self.restart()
            self.process_start_ns = engine.process_start_ns
        if last_end_ns - engine.at_ns > MOST_AHEAD_NS:
            last_end_ns = 0
        running, waiting = engine.running_requests or 0, engine.waiting_requests or 0
        stands_ns = engine.last_iteration_end_ns
        if running + waiting == 0 or stands_ns is None or last_end_ns > engine.at_ns:
            self.work_since_ns = None
            return None
        stands_ns = max(stands_ns, last_end_ns)
        since_ns = self.work_since_ns
        if since_ns is None or since_ns > engine.at_ns or stands_ns != self.stands_since_ns:
            # It may have been idle until just now.
            since_ns = self.work_since_ns = engine.at_ns
            self.stands_since_ns = stands_ns
        if engine.at_ns - since_ns < self._limit_ns(engine.at_ns):
            return None
        return Halt(
            since_ns=since_ns,
            at_ns=engine.at_ns,
            running=running,
            waiting=waiting,
            pace_ns=round(self.pace_ns),
        )

    def _limit_ns(self, now_ns: int) -> float:
        if self.finished < FIRST_BATCHES:
            return FIRST_HALT_NS
        limit_ns = max(LEAST_HALT_NS, HALT_RATIO * self.pace_ns)
        runs = abs(now_ns - self.open_seen_ns) <= OPEN_SEEN_NS
        return max(limit_ns, OPEN_HALT_NS) if runs else limit_ns

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return asdict(self)
