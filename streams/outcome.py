"""What an analysis said about a stream: the verdict on each batch, and the incidents."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass

from schemas.records import Alert, Batch, Record, Severity, Verdict

BatchKey = tuple[str, int, int]
"""``engine_id``, ``process_start_ns`` and ``sequence``."""


@dataclass(slots=True, kw_only=True)
class Incident:
    """An incident as its alerts told it.

    Attributes:
        fired_ns: End of the batch that gave it away.

        end_ns: None while it is open.

        cause: As the last alert names it; ``first_cause`` as the first one does.

        ratio: How many times as long as expected its batches took.
    """

    engine_id: str
    incident_id: str
    begin_ns: int
    fired_ns: int
    end_ns: int | None
    first_cause: str
    cause: str
    severity: Severity
    ratio: float
    alerts: int = 1

    def overlaps(self, other: Incident) -> bool:
        """Whether both were open at some time."""
        return (self.end_ns is None or other.begin_ns <= self.end_ns) and (
            other.end_ns is None or self.begin_ns <= other.end_ns
        )


class Outcome:
    """Collects batches and alerts; other records are left out.

    Attributes:
        verdicts: On each batch; that of its last revision.

        incidents: By engine and id, in the order in which they were told.
    """

    def __init__(self) -> None:
        self.verdicts: dict[BatchKey, Verdict] = {}
        self.incidents: dict[tuple[str, str], Incident] = {}
        self._begins_ns: defaultdict[str, list[int]] = defaultdict(list)
        self._sorted = True

    def add(self, record: Record) -> None:
        """Take in a record."""
        if isinstance(record, Batch):
            key = (record.engine_id, record.process_start_ns, record.sequence)
            if key not in self.verdicts:
                self._begins_ns[record.engine_id].append(record.begin_ns)
                self._sorted = False
            self.verdicts[key] = record.verdict
        elif isinstance(record, Alert):
            self._add_alert(record)

    def counts(self) -> dict[str, Counter[str]]:
        """Give the number of batches of each verdict by engine."""
        found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (engine_id, _, _), verdict in self.verdicts.items():
            found[engine_id][verdict] += 1
        return dict(found)

    def batches_between(self, engine_id: str, begin_ns: int, end_ns: int) -> int:
        """Count the batches of an engine that began in a time; negative where that runs back."""
        if not self._sorted:
            for begins_ns in self._begins_ns.values():
                begins_ns.sort()
            self._sorted = True
        begins_ns = self._begins_ns.get(engine_id, [])
        return bisect_left(begins_ns, end_ns) - bisect_left(begins_ns, begin_ns)

    def _add_alert(self, alert: Alert) -> None:
        key = (alert.engine_id, alert.incident_id)
        incident = self.incidents.get(key)
        if incident is None:
            self.incidents[key] = Incident(
                engine_id=alert.engine_id,
                incident_id=alert.incident_id,
                begin_ns=alert.begin_ns,
                fired_ns=alert.batch_end_ns,
                end_ns=alert.end_ns,
                first_cause=alert.cause,
                cause=alert.cause,
                severity=alert.severity,
                ratio=alert.evidence.ratio,
            )
            return
        incident.end_ns, incident.cause = alert.end_ns, alert.cause
        incident.severity, incident.ratio = alert.severity, alert.evidence.ratio
        incident.alerts += 1
