"""One incident as it builds up: what was seen of it so far, and whether it is steady."""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import msgspec

from models.attribution import UNKNOWN
from schemas.records import Batch, PeerCell

HOUR_NS = 3_600_000_000_000
# A slowdown is steady while its newest part is within so much of what it was before.
STEADY_RATIO = 0.10

State = Literal["pending", "firing"]


@dataclass(slots=True)
class Steadiness:
    """How slow an incident was: in its newest whole part, and before.

    Sums are of observed and expected nanoseconds.
    """

    part_begin_ns: int = 0
    part: list[int] = field(default_factory=lambda: [0, 0])
    newest: list[int] = field(default_factory=lambda: [0, 0])
    before: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, batch_end_ns: int, observed_ns: int, expected_ns: int, part_ns: int) -> None:
        """Take in a batch; parts are so long."""
        self.part_begin_ns = self.part_begin_ns or batch_end_ns
        if batch_end_ns - self.part_begin_ns >= part_ns:
            self.before = [old + new for old, new in zip(self.before, self.newest, strict=True)]
            self.newest, self.part, self.part_begin_ns = self.part, [0, 0], batch_end_ns
        self.part[0] += observed_ns
        self.part[1] += expected_ns

    @property
    def is_steady(self) -> bool:
        """Whether the newest whole part is as slow as all before."""
        if not self.newest[1] or not self.before[1]:
            return False
        newest, before = self.newest[0] / self.newest[1], self.before[0] / self.before[1]
        return abs(newest / before - 1) <= STEADY_RATIO


@dataclass(slots=True)
class Incident:
    """An incident that is pending or firing.

    Attributes:
        others: Further causes, as they were told; likewise ``next_step``.

        calm_since_ns: When it ended, if it is over.

        halt: For a stall, the sentence that says so.

        gap_ns: The longest gap before a batch that was too long; ``usual_gap_ns`` is what was
            usual there.

        slow_start: For an engine that was slow from its first batch, the sentence that says so;
            ``peers`` and ``peer_cells`` as of `schemas.records.Evidence`.
    """

    incident_id: str
    state: State
    begin_ns: int
    revision: int = -1
    cause: str = UNKNOWN
    confidence: float = 0.0
    # The highest that was told of this cause.
    surest: float = 0.0
    others: tuple[str, ...] = ()
    next_step: str = ""
    told_ns: int = 0
    # It was told before counters of its own time were in: they are worth an update at once.
    blind: bool = False
    # How many batches its cause was told by.
    told_by: int = 0
    # Slow batches that ended since it stood still.
    moved: int = 0
    calm: int = 0
    calm_since_ns: int = 0
    stalled: bool = False
    halt: str = ""
    slow_batches: int = 0
    sum_observed_ns: int = 0
    sum_expected_ns: int = 0
    # Of them what gaps alone took too long.
    sum_gaps_ns: int = 0
    gap_ns: int = 0
    usual_gap_ns: int = 0
    last_slow: dict[str, Any] | None = None
    slow_start: str = ""
    peers: dict[str, float] = field(default_factory=dict)
    peer_cells: tuple[PeerCell, ...] = ()
    steadiness: Steadiness = field(default_factory=Steadiness)
    # As known when it fired: receivers tell incidents apart by labels made of these.
    framework: str | None = None
    model: str | None = None
    host: str | None = None

    @classmethod
    def begun_by(cls, batch: Batch) -> "Incident":
        """Begin a pending incident."""
        return cls(incident_id=incident_id(batch), state="pending", begin_ns=batch.begin_ns)

    @property
    def ratio(self) -> float:
        """How many times as long as expected its batches took, gaps included where they count."""
        return self.sum_observed_ns / max(self.sum_expected_ns, 1)

    @property
    def by_gaps(self) -> bool:
        """Whether gaps cost more than the batches themselves."""
        return 2 * self.sum_gaps_ns > self.sum_observed_ns - self.sum_expected_ns > 0

    def count(self, batch: Batch, part_ns: int) -> None:
        """Take in a batch that is part of it."""
        observed_ns, expected_ns = batch.duration_ns, batch.expected_ns or batch.duration_ns
        if "gap" in batch.slow_parts and batch.gap_ns and batch.expected_gap_ns:
            self._add_gap(batch.gap_ns, batch.expected_gap_ns)
            observed_ns += batch.gap_ns
            expected_ns += batch.expected_gap_ns
        self.slow_batches += 1
        self.sum_observed_ns += observed_ns
        self.sum_expected_ns += expected_ns
        self.steadiness.add(batch.end_ns, observed_ns, expected_ns, part_ns)
        self.last_slow = {
            "sequence": batch.sequence,
            "end_ns": batch.end_ns,
            "observed_ns": batch.duration_ns,
            "expected_ns": batch.expected_ns or 0,
            "low_ns": batch.low_ns or 0,
            "high_ns": batch.high_ns or 0,
            "workload": asdict(batch.workload),
        }

    def calm_down(self, batch: Batch) -> None:
        """Take in a batch that is fine again."""
        if self.calm == 0:
            # What ran when the engine stood still began long before it went on.
            slow_until_ns = int(self.last_slow["end_ns"]) if self.last_slow else 0
            self.calm_since_ns = min(max(batch.begin_ns, slow_until_ns), batch.end_ns)
        self.calm += 1

    def end_ns(self, now_ns: int) -> int:
        """Tell when it ended, as far as was seen: with the first batch that was fine again."""
        return self.calm_since_ns if self.calm else now_ns

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Incident":
        """Rebuild it; what an older version did not keep is as at its begin."""
        return msgspec.convert(state, cls)

    def _add_gap(self, gap_ns: int, usual_ns: int) -> None:
        self.sum_gaps_ns += gap_ns - usual_ns
        if gap_ns - usual_ns > self.gap_ns - self.usual_gap_ns:
            self.gap_ns, self.usual_gap_ns = gap_ns, usual_ns


def incident_id(batch: Batch) -> str:
    """Give the id of an incident that begins with this batch."""
    name = f"{batch.engine_id}/{batch.process_start_ns}/{batch.sequence}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]
