"""Everything about one engine in one place: join, judge, explain, alert, in one step each batch.

There is no topic between these steps: that is what keeps an alert within milliseconds of the
batch that gave it away. The class is pure; `streams.app` feeds it from Kafka.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Literal

import msgspec

from models.judge import WARM_BATCHES, Judge, Judgement
from schemas.records import Alert, Batch, Engine, HostReading, Iteration, Source, XpuReading
from streams.alert import Incidents
from streams.explain import EvidenceKeeper
from streams.timeline import REMEMBERED, Timeline

log = logging.getLogger("latencyprism.analyze")

STATE_VERSION = 1
# The start of a process is told by the system's clock, which may be stepped or slewed between two
# agents that look at the same process.
SAME_PROCESS_NS = 5_000_000_000

# Intervals that are learnt before any is called slow.
WARM_INTERVALS = 40

Result = Batch | Alert
Kind = Literal["single", "interval"]


class Analysis:
    """The analysis of one engine.

    Args:
        engine_id: Its id.

        clock_ns: Epoch time; stamps alerts only.
    """

    def __init__(self, engine_id: str, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.engine_id = engine_id
        self._timeline = Timeline()
        # Interval means and single iterations are different quantities: each has its own judge.
        self._judges: dict[Kind, Judge] = {}
        self._evidence = EvidenceKeeper()
        self._incidents = Incidents(engine_id, self._evidence, clock_ns)
        self._engine: Engine | None = None
        self._process_start_ns = 0
        self._last_sequence = -1
        self._last_end_ns = 0
        # Batches given out while a rank was missing: their verdict goes into the amendment too.
        self._incomplete: OrderedDict[int, Batch] = OrderedDict()
        self.batches = 0
        self.repeated = 0

    def add_iteration(self, iteration: Iteration) -> list[Result]:
        """Take in what one rank reports; give finished batches and alerts, in this order."""
        if iteration.role == "worker":
            self._timeline.add_share(iteration)
            return []
        results: list[Result] = []
        if not self._is_same_process(iteration.process_start_ns):
            if iteration.begin_ns < self._last_end_ns:
                # A late message of a process that was already followed by another.
                return []
            if self._process_start_ns:
                results += self._incidents.restarted(iteration.begin_ns)
                for judge in self._judges.values():
                    judge.settle()
            self._count_anew()
        self._process_start_ns = iteration.process_start_ns
        if iteration.sequence <= self._last_sequence and not self._timeline.awaits(iteration):
            if iteration.begin_ns < self._last_end_ns:
                # Kafka delivers at least once: after a restart some messages come again.
                self.repeated += 1
                return results
            # A new agent on the same engine, where the count is the agent's own.
            self._count_anew()
        if iteration.end_ns is None:
            return [*results, *self._add_open(iteration)]
        for batch in self._timeline.add(iteration):
            self._last_sequence = max(self._last_sequence, batch.sequence)
            self._last_end_ns = max(self._last_end_ns, batch.end_ns)
            results += self._add_batch(batch)
        return results

    def add_host(self, reading: HostReading) -> list[Alert]:
        """Take in a reading of the host; it may name a cause or end a silent incident."""
        self._timeline.add_host(reading)
        self._evidence.add_host(reading, suspect=self._incidents.suspect)
        return self._incidents.tick(reading.end_ns)

    def add_xpu(self, reading: XpuReading) -> list[Alert]:
        """Take in a reading of one of the engine's accelerators."""
        counters = self._timeline.accelerators.add(reading)
        if counters is not None:
            suspect = self._incidents.suspect
            self._evidence.add_counters(counters, reading.begin_ns, suspect=suspect)
        return self._incidents.tick(reading.end_ns)

    def add_engine(self, engine: Engine) -> list[Alert]:
        """Take in the inventory; an engine that is gone has no open incident."""
        if self._know(engine):
            return self._incidents.close(engine.at_ns)
        if engine.state == "gone" and (
            engine.process_start_ns > self._process_start_ns
            or self._is_same_process(engine.process_start_ns)
        ):
            return self._incidents.close(engine.at_ns)
        return []

    def to_state(self) -> dict[str, Any]:
        """Give all that a worker needs to go on from here, as plain data.

        Batches that still wait for a rank are not part of it.
        """
        reading = self._timeline.newest_reading
        return {
            "version": STATE_VERSION,
            "process_start_ns": self._process_start_ns,
            "last_sequence": self._last_sequence,
            "last_end_ns": self._last_end_ns,
            "engine": asdict(self._engine) if self._engine is not None else None,
            "reading": asdict(reading) if reading is not None else None,
            "batches": self.batches,
            "judges": {kind: judge.to_state() for kind, judge in self._judges.items()},
            "evidence": self._evidence.to_state(),
            "incidents": self._incidents.to_state(),
        }

    @classmethod
    def from_state(
        cls, engine_id: str, state: dict[str, Any], clock_ns: Callable[[], int] = time.time_ns
    ) -> "Analysis":
        """Go on from a checkpoint.

        Raises:
            ValueError: It was written by another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"checkpoint of version {state.get('version')!r}: this worker reads {STATE_VERSION}"
            )
        analysis = cls(engine_id, clock_ns)
        analysis._process_start_ns = state["process_start_ns"]
        analysis._last_sequence = state["last_sequence"]
        analysis._last_end_ns = state["last_end_ns"]
        if state["engine"] is not None:
            analysis._know(msgspec.convert(state["engine"], Engine))
        if state["reading"] is not None:
            analysis._timeline.add_host(msgspec.convert(state["reading"], HostReading))
        analysis.batches = state["batches"]
        analysis._judges = {
            kind: Judge.from_state(judge) for kind, judge in state["judges"].items()
        }
        analysis._evidence.restore(state["evidence"])
        analysis._incidents.restore(state["incidents"])
        return analysis

    def tick(self, now_ns: int) -> list[Alert]:
        """Let time pass for an engine of which nothing is heard any more."""
        return self._incidents.tick(now_ns)

    def _is_same_process(self, process_start_ns: int) -> bool:
        return abs(process_start_ns - self._process_start_ns) <= SAME_PROCESS_NS

    def _know(self, engine: Engine) -> bool:
        """Take in the inventory; tell whether it is of another model than was learnt."""
        known = self._engine
        changed = known is not None and _kind(known) != _kind(engine)
        if known is not None and changed:
            log.info(
                "%s now runs %s instead of %s: its baseline is learnt anew.",
                self.engine_id,
                " ".join(filter(None, _kind(engine))),
                " ".join(filter(None, _kind(known))),
            )
            self._judges.clear()
        self._engine = self._incidents.engine = engine
        self._timeline.ranks = max(engine.ranks, 1)
        return changed

    def _count_anew(self) -> None:
        self._last_sequence = -1
        self._timeline.forget()
        self._incomplete.clear()

    def _judge_of(self, source: Source) -> Judge:
        kind: Kind = "interval" if source == "metrics" else "single"
        judge = self._judges.get(kind)
        if judge is None:
            # An interval is the mean of many batches.
            warm_batches = WARM_INTERVALS if kind == "interval" else WARM_BATCHES
            judge = self._judges[kind] = Judge(warm_batches)
        return judge

    def _add_batch(self, batch: Batch) -> list[Result]:
        if batch.revision > 0:
            # Late parts amend the row; the batch was judged when it came.
            judged = self._incomplete.get(batch.sequence)
            return [batch if judged is None else _as_judged(batch, judged)]
        self.batches += 1
        judge = self._judge_of(batch.source)
        judgement = judge.judge(batch.workload, batch.duration_ns / 1e6, batch.end_ns)
        judged = _judged(batch, judgement)
        alerts = self._incidents.add(judged)
        self._evidence.add_batch(judged, suspect=self._incidents.suspect)
        if self._incidents.incident_id is not None:
            judged = replace(judged, incident_id=self._incidents.incident_id)
        if judged.ranks < self._timeline.ranks:
            self._incomplete[judged.sequence] = judged
            if len(self._incomplete) > REMEMBERED:
                self._incomplete.popitem(last=False)
        return [*alerts, judged]

    def _add_open(self, iteration: Iteration) -> list[Result]:
        elapsed_ns = iteration.running_ns or 0
        judge = self._judge_of(iteration.source)
        judgement = judge.judge_open(iteration.workload, elapsed_ns / 1e6)
        if judgement is None:
            return []
        running = Batch(
            engine_id=iteration.engine_id,
            process_start_ns=iteration.process_start_ns,
            sequence=iteration.sequence,
            begin_ns=iteration.begin_ns,
            end_ns=iteration.begin_ns + elapsed_ns,
            duration_ns=elapsed_ns,
            uncertainty_ns=iteration.uncertainty_ns,
            source=iteration.source,
            workload=iteration.workload,
        )
        return list(self._incidents.add_stall(_judged(running, judgement)))


def _as_judged(batch: Batch, judged: Batch) -> Batch:
    return replace(
        batch,
        expected_ns=judged.expected_ns,
        low_ns=judged.low_ns,
        high_ns=judged.high_ns,
        residual=judged.residual,
        score=judged.score,
        verdict=judged.verdict,
        reason=judged.reason,
        terms_ns=judged.terms_ns,
        incident_id=judged.incident_id,
    )


def _kind(engine: Engine) -> tuple[str | None, ...]:
    """What decides the cost of a batch, as far as it is known."""
    return engine.framework, engine.version, engine.model


def _judged(batch: Batch, judgement: Judgement) -> Batch:
    def ns(milliseconds: float | None) -> int | None:
        return None if milliseconds is None else round(milliseconds * 1e6)

    return replace(
        batch,
        expected_ns=ns(judgement.expected_ms),
        low_ns=ns(judgement.low_ms),
        high_ns=ns(judgement.high_ms),
        residual=judgement.residual,
        score=judgement.score,
        verdict=judgement.verdict,
        reason=judgement.reason,
        terms_ns={name: round(value * 1e6) for name, value in judgement.terms_ms.items()},
    )
