"""The analysis without Kafka: records in, batches and alerts out, as fast as one core can."""

from __future__ import annotations

from schemas.recording import seen_ns
from schemas.records import (
    Alert,
    Engine,
    HostReading,
    Iteration,
    Norms,
    ProcessReading,
    Record,
    XpuReading,
)
from streams.analyze import Analysis, Result
from streams.config import StreamSettings
from streams.peers import Peers

# As in the worker (streams/workers/analyze.py), but in event time: an engine unheard of for so
# long ...
SILENCE_NS = 30_000_000_000
# ... is looked at once in this.
SILENCE_CHECK_NS = SILENCE_NS // 6
# After so many in a row nothing is left to end.
MOST_LOOKS = 15
READ = (Iteration, HostReading, ProcessReading, XpuReading, Engine)

Read = Iteration | HostReading | ProcessReading | XpuReading | Engine


class Offline:
    """Many engines analysed in one process, exactly as a stream worker would.

    Deterministic: its clock is the event time of the records, so that the same records give the
    same results in each run. Time passes for engines that fell silent, too, as records of others
    come.

    Args:
        settings: As the worker's; its defaults if not given.

    Attributes:
        now_ns: The event time that it is.
    """

    def __init__(self, settings: StreamSettings | None = None) -> None:
        self._settings = settings
        self._peers = Peers()
        self.analyses: dict[str, Analysis] = {}
        self._heard_ns: dict[str, int] = {}
        self.now_ns = 0
        self._checked_ns = 0

    def feed(self, record: Record) -> list[Result]:
        """Take in one record; give what it caused, also for engines that were silent meanwhile.

        Records that the analysis does not read give nothing.
        """
        if not isinstance(record, READ):
            return []
        now_ns = seen_ns(record)
        # Of thousands of records a second hardly one is due to look.
        due = not 0 <= now_ns - self._checked_ns < SILENCE_CHECK_NS
        ended = self._end_silent(now_ns) if due else []
        self.now_ns = self._heard_ns[record.engine_id] = now_ns
        results = self._take(record)
        return [*ended, *results] if ended else results

    def tick(self, now_ns: int) -> list[Alert]:
        """Let time pass for all engines, as when the whole stream falls silent."""
        self.now_ns = now_ns
        return [alert for one in self.analyses.values() for alert in one.tick(now_ns)]

    def end(self) -> list[Result]:
        """Let time pass until nothing is left to end, as after the last record of a stream."""
        if not self._heard_ns:
            return []
        return self._end_silent(self.now_ns + MOST_LOOKS * SILENCE_CHECK_NS)

    def _take(self, record: Read) -> list[Result]:
        analysis = self.analyses.get(record.engine_id)
        if analysis is None:
            analysis = self.analyses[record.engine_id] = Analysis(
                record.engine_id, lambda: self.now_ns, self._settings, self._peers
            )
        if isinstance(record, Iteration):
            results = analysis.add_iteration(record)
            for one in results:
                if isinstance(one, Norms):
                    self._peers.add(one)
            return results
        if isinstance(record, HostReading):
            return [*analysis.add_host(record)]
        if isinstance(record, ProcessReading):
            return [*analysis.add_process(record)]
        if isinstance(record, XpuReading):
            return [*analysis.add_xpu(record)]
        return [*analysis.add_engine(record)]

    def _end_silent(self, now_ns: int) -> list[Result]:
        """Look at silent engines as often as the worker's timer would until now."""
        if now_ns < self._checked_ns or not self._heard_ns:
            # One wrong time, and the clock jumped back after it.
            self._checked_ns = now_ns
        looks_ns = range(self._checked_ns + SILENCE_CHECK_NS, now_ns + 1, SILENCE_CHECK_NS)
        if not looks_ns:
            return []
        self._checked_ns = now_ns
        return [alert for look_ns in looks_ns[:MOST_LOOKS] for alert in self._look(look_ns)]

    def _look(self, now_ns: int) -> list[Result]:
        self.now_ns = now_ns
        return [
            alert
            for engine_id, analysis in self.analyses.items()
            if now_ns - self._heard_ns[engine_id] > SILENCE_NS
            for alert in analysis.tick(now_ns)
        ]
