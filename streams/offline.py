"""The analysis without Kafka: records in, batches and alerts out, as fast as one core can."""

from __future__ import annotations

from schemas.records import Alert, Engine, HostReading, Iteration, Record, XpuReading
from schemas.topics import topic_of
from streams.analyze import Analysis, Result


class Offline:
    """Many engines analysed in one process, exactly as a stream worker would.

    Deterministic: an alert is stamped with the event time of the record that caused it, so that the
    same records give the same results in each run.
    """

    def __init__(self) -> None:
        self.analyses: dict[str, Analysis] = {}
        self._now_ns = 0

    def feed(self, record: Record) -> list[Result]:
        """Take in one record; those that the analysis does not read give nothing."""
        if not isinstance(record, Iteration | HostReading | XpuReading | Engine):
            return []
        self._now_ns = _seen_ns(record)
        analysis = self.analyses.get(record.engine_id)
        if analysis is None:
            analysis = self.analyses[record.engine_id] = Analysis(
                record.engine_id, lambda: self._now_ns
            )
        if isinstance(record, Iteration):
            return analysis.add_iteration(record)
        if isinstance(record, HostReading):
            return [*analysis.add_host(record)]
        if isinstance(record, XpuReading):
            return [*analysis.add_xpu(record)]
        return [*analysis.add_engine(record)]

    def tick(self, now_ns: int) -> list[Alert]:
        """Let time pass for all engines, as when a stream falls silent."""
        self._now_ns = now_ns
        return [alert for one in self.analyses.values() for alert in one.tick(now_ns)]


def _seen_ns(record: Iteration | HostReading | XpuReading | Engine) -> int:
    """Give when an agent can have sent it."""
    if isinstance(record, Iteration):
        return record.end_ns or record.begin_ns + (record.running_ns or 0)
    return int(getattr(record, topic_of(record).time))
