"""What an analysis said about a stream: the verdict on each batch, and the incidents."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict

from schemas.incidents import Incident, fold
from schemas.records import Alert, Batch, Record, Verdict

BatchKey = tuple[str, int, int]
"""``engine_id``, ``process_start_ns`` and ``sequence``."""


class Outcome:
    """Collects batches and alerts; other records are left out.

    Attributes:
        verdicts: On each batch; that of its last revision.
    """

    def __init__(self) -> None:
        self.verdicts: dict[BatchKey, Verdict] = {}
        self._alerts: dict[tuple[str, str], list[Alert]] = {}
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
            self._alerts.setdefault((record.engine_id, record.incident_id), []).append(record)

    @property
    def incidents(self) -> dict[tuple[str, str], Incident]:
        """Give them by engine and id, in the order in which they were told."""
        return {key: fold(alerts) for key, alerts in self._alerts.items()}

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
