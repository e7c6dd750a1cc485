"""Everything about one engine in one place: join, judge, explain, alert, in one step each batch.

There is no topic between these steps: that is what keeps an alert within milliseconds of the
batch that gave it away. The class is pure; `streams.app` feeds it from Kafka.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import msgspec
import orjson

from models.attribution import Attribution
from models.judge import WARM_BATCHES, Calibration
from models.peers import PeerLimits
from models.phases import SUSPICION, Around
from models.progress import Halt
from schemas.records import (
    Alert,
    Batch,
    Engine,
    HostReading,
    Iteration,
    Norms,
    ProcessReading,
    Source,
    Workload,
    XpuReading,
)
from streams.alert import Incidents
from streams.config import StreamSettings
from streams.explain import EvidenceKeeper
from streams.incident import HOUR_NS
from streams.judged import as_judged, as_slow, judged_batch
from streams.learnt import Kind, Learnt
from streams.peers import Peers, SlowStart, Start
from streams.processes import Processes
from streams.regimes import Regimes
from streams.timeline import REMEMBERED, Timeline

log = logging.getLogger("latencyprism.analyze")

STATE_VERSION = 2
# Those that can be read, in part at least.
READ_VERSIONS = (1, STATE_VERSION)
# The start of a process is told by the system's clock, which may be stepped or slewed between two
# agents that look at the same process.
SAME_PROCESS_NS = 5_000_000_000

# What begins so long before the last batch ended is no late message: the clock was set back.
MOST_LATE_NS = 600_000_000_000
# Analysis and shelf together, as far as the analysis itself leaves room.
STATE_BYTES = 64 * 1024

# Ends of intervals further apart than this say nothing of an engine's pace.
MOST_PACE_NS = 60_000_000_000

Result = Batch | Alert | Norms


class Analysis:
    """The analysis of one engine.

    Args:
        engine_id: Its id.

        clock_ns: Epoch time; stamps alerts only.

        settings: How many false incidents are put up with, and when a slowdown is the new normal.

        peers: What all engines say of themselves; one for all analyses of a process.
    """

    def __init__(
        self,
        engine_id: str,
        clock_ns: Callable[[], int] = time.time_ns,
        settings: StreamSettings | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.engine_id = engine_id
        settings = settings or StreamSettings()
        self._budget = settings.false_incidents_per_week
        self._timeline = Timeline()
        self._peers = Peers() if peers is None else peers
        self._limits = PeerLimits(peers=settings.least_peers)
        self._learnt = Learnt(self._budget, self._new_start())
        self._regimes = Regimes()
        # Why judges are young or back from the shelf; until they know what to say.
        self._change = ""
        self._evidence = EvidenceKeeper()
        self._evidence.watch_throttling(self._timeline.accelerators.throttle_reasons)
        self._processes = Processes()
        adopt_after_ns = round(settings.adopt_after_hours * HOUR_NS)
        self._incidents = Incidents(engine_id, self._evidence, clock_ns, adopt_after_ns)
        self._engine: Engine | None = None
        self._process_start_ns = 0
        self._last_sequence = -1
        self._last_end_ns = 0
        # End of the batch before the last one.
        self._before_end_ns = 0
        self._last_source: Source | None = None
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
            if self._is_of_earlier_process(iteration):
                return []
            if self._process_start_ns:
                results += self._incidents.restarted(iteration.begin_ns)
                self._learnt.settle()
            self._count_anew()
        self._process_start_ns = iteration.process_start_ns
        self._learnt.progress.process_start_ns = iteration.process_start_ns
        if iteration.sequence <= self._last_sequence and not self._timeline.awaits(iteration):
            if self._is_repeated(iteration):
                # Kafka delivers at least once: after a restart some messages come again.
                self.repeated += 1
                return results
            # A new agent on the same engine, where the count is the agent's own.
            self._count_anew()
        if iteration.end_ns is None:
            return [*results, *self._add_open(iteration)]
        for batch in self._timeline.add(iteration):
            results += self._add_batch(batch)
            if batch.sequence > self._last_sequence:
                # Its end may be before the last one's: the clock was set back.
                self._last_sequence = batch.sequence
                self._before_end_ns, self._last_end_ns = self._last_end_ns, batch.end_ns
        return results

    def add_host(self, reading: HostReading) -> list[Alert]:
        """Take in a reading of the host; it may name a cause or end a silent incident."""
        self._timeline.add_host(reading)
        self._evidence.add_host(reading, suspect=self._incidents.suspect)
        return self._incidents.tick(reading.end_ns)

    def add_process(self, reading: ProcessReading) -> list[Alert]:
        """Take in a reading of one of the engine's processes."""
        suspect = self._incidents.suspect
        for counters, begin_ns, end_ns in self._processes.add(reading):
            self._evidence.add_processes(counters, begin_ns, end_ns, suspect=suspect)
        return self._incidents.tick(reading.end_ns)

    def add_xpu(self, reading: XpuReading) -> list[Alert]:
        """Take in a reading of one of the engine's accelerators."""
        counters = self._timeline.accelerators.add(reading)
        if counters is not None:
            suspect = self._incidents.suspect
            begin_ns, end_ns = reading.begin_ns, reading.end_ns
            self._evidence.add_counters(counters, begin_ns, end_ns, suspect=suspect, kind="xpus")
        return self._incidents.tick(reading.end_ns)

    def add_engine(self, engine: Engine) -> list[Alert]:
        """Take in the inventory: another setting is learnt anew, a halt is an incident.

        An engine that is gone has no open incident.
        """
        if engine.state == "gone":
            newer = engine.process_start_ns > self._process_start_ns
            if newer or self._is_same_process(engine.process_start_ns):
                return self._incidents.close(engine.at_ns)
            return []
        if self._know(engine):
            return self._incidents.close(engine.at_ns, "runs in another setting")
        return self._look_for_halt(engine)

    def accept(self, at_ns: int) -> list[Alert]:
        """Take the present slowdown, if there is one, as normal, because somebody says so."""
        return self._adopt("single", at_ns)[1] or self._adopt("interval", at_ns)[1]

    def calibrations(self) -> dict[Kind, Calibration]:
        """Give how the judges' thresholds came about, by kind."""
        return self._learnt.calibrations()

    @property
    def attribution(self) -> Attribution | None:
        """What the newest alert that named a cause was made of."""
        return self._incidents.found

    @property
    def outliers(self) -> int:
        """Slow batches that were no part of an alarm."""
        return self._incidents.outliers

    def to_state(self) -> dict[str, Any]:
        """Give all that a worker needs to go on from here, as plain data.

        Batches that still wait for a rank are not part of it.
        """
        reading = self._timeline.newest_reading
        state = {
            "version": STATE_VERSION,
            "process_start_ns": self._process_start_ns,
            "last_sequence": self._last_sequence,
            "last_end_ns": self._last_end_ns,
            "before_end_ns": self._before_end_ns,
            "last_source": self._last_source,
            "engine": asdict(self._engine) if self._engine is not None else None,
            "reading": asdict(reading) if reading is not None else None,
            "batches": self.batches,
            "change": self._change,
            "learnt": self._learnt.to_state(),
            "evidence": self._evidence.to_state(),
            "incidents": self._incidents.to_state(),
        }
        room_bytes = STATE_BYTES - len(orjson.dumps(state))
        return state | {"regimes": self._regimes.to_state(room_bytes)}

    @classmethod
    def from_state(
        cls,
        engine_id: str,
        state: dict[str, Any],
        clock_ns: Callable[[], int] = time.time_ns,
        settings: StreamSettings | None = None,
        peers: Peers | None = None,
    ) -> "Analysis":
        """Go on from a checkpoint; of one of an earlier version, with what can be read.

        Raises:
            ValueError: It was written by a version that is not known.
        """
        if state.get("version") not in READ_VERSIONS:
            raise ValueError(
                f"checkpoint of version {state.get('version')!r}: this worker reads "
                f"{' and '.join(map(str, READ_VERSIONS))}; run the version that wrote it, or let "
                "the engine be learnt anew"
            )
        analysis = cls(engine_id, clock_ns, settings, peers)
        analysis._restore(state)
        return analysis

    def tick(self, now_ns: int) -> list[Alert]:
        """Let time pass for an engine of which nothing is heard any more."""
        return self._incidents.tick(now_ns)

    def _restore(self, state: dict[str, Any]) -> None:
        self._process_start_ns = state["process_start_ns"]
        self._last_sequence = state["last_sequence"]
        self._last_end_ns = state["last_end_ns"]
        self._before_end_ns = state.get("before_end_ns", self._last_end_ns)
        self._last_source = state.get("last_source")
        self.batches = state["batches"]
        self._change = state.get("change", "")
        # Version 1 had the judges by themselves.
        learnt = state["learnt"] if "learnt" in state else {"judges": state["judges"]}
        self._learnt = self._read_learnt(learnt)
        if "regimes" in state:
            self._regimes.restore(state["regimes"])
        if state["engine"] is not None:
            engine = msgspec.convert(state["engine"], Engine)
            if self._regimes.now is None:
                self._regimes.know(engine, same_process=True)
            self._take_inventory(engine)
        if state["reading"] is not None:
            self._timeline.add_host(msgspec.convert(state["reading"], HostReading))
        self._evidence.restore(state["evidence"])
        self._incidents.restore(state["incidents"])

    def _new_start(self) -> Start:
        return Start(self._peers, self._limits)

    def _read_learnt(self, state: dict[str, Any]) -> Learnt:
        return Learnt.from_state(self.engine_id, state, self._budget, self._new_start())

    def _is_same_process(self, process_start_ns: int) -> bool:
        return abs(process_start_ns - self._process_start_ns) <= SAME_PROCESS_NS

    def _is_of_earlier_process(self, iteration: Iteration) -> bool:
        """Tell a late message of a process that was already followed by another."""
        late_ns = self._last_end_ns - iteration.begin_ns
        is_older = iteration.process_start_ns < self._process_start_ns
        return is_older and 0 < late_ns < MOST_LATE_NS

    def _is_repeated(self, iteration: Iteration) -> bool:
        """Tell a batch that was there before from one of an agent that counts anew.

        The last batch alone may have been stamped by a clock that was set back since.
        """
        if iteration.begin_ns >= self._last_end_ns:
            return False
        is_last = iteration.sequence == self._last_sequence
        return is_last or iteration.begin_ns < self._before_end_ns

    def _know(self, engine: Engine) -> bool:
        """Take in the inventory; tell whether it is of another setting than was learnt."""
        known, before = self._engine, self._regimes.now
        same_process = known is not None and (
            abs(known.process_start_ns - engine.process_start_ns) <= SAME_PROCESS_NS
        )
        change = self._regimes.know(engine, same_process=same_process)
        self._take_inventory(engine)
        if not change:
            return False
        worth_keeping = self._learnt.batches >= WARM_BATCHES
        learnt = self._learnt.to_state() if worth_keeping else None
        found = self._regimes.swap(before, learnt)
        if found is None:
            self._change = f"learning anew: {change}"
            self._learnt = Learnt(self._budget, self._new_start())
        else:
            self._change = f"known from before: {change}"
            self._learnt = self._read_learnt(found)
            self._learnt.settle()
        log.info("%s runs in another setting; %s.", self.engine_id, self._change)
        return True

    def _take_inventory(self, engine: Engine) -> None:
        self._engine = self._incidents.engine = engine
        self._timeline.ranks = max(engine.ranks, 1)

    def _count_anew(self) -> None:
        self._last_sequence = -1
        self._timeline.forget()
        self._learnt.surroundings.forget_last()
        self._incomplete.clear()

    def _add_batch(self, batch: Batch) -> list[Result]:
        if batch.revision > 0:
            # Late parts amend the row; the batch was judged when it came.
            judged = self._incomplete.get(batch.sequence)
            return [batch if judged is None else as_judged(batch, judged)]
        self.batches += 1
        judged = self._judged(batch)
        norms, start = self._look_at_start(judged)
        if start is not None and start.score >= 1:
            judged = as_slow(judged, start)
            alerts = self._incidents.add_slow_start(judged, start)
        else:
            judged = judged if start is None else replace(judged, reason=start.sentence)
            alerts = self._incidents.add(judged)
        self._evidence.add_batch(judged, suspect=self._incidents.suspect)
        if judged.incident_id != self._incidents.incident_id:
            judged = replace(judged, incident_id=self._incidents.incident_id)
        if self._incidents.is_due(judged.end_ns):
            kind: Kind = "interval" if batch.source == "metrics" else "single"
            sentence, adopted = self._adopt(kind, judged.end_ns)
            alerts += adopted
            judged = replace(judged, reason=sentence or judged.reason)
        if judged.ranks < self._timeline.ranks:
            self._incomplete[judged.sequence] = judged
            if len(self._incomplete) > REMEMBERED:
                self._incomplete.popitem(last=False)
        return [*alerts, judged, *norms]

    def _look_at_start(self, batch: Batch) -> tuple[list[Norms], SlowStart | None]:
        """Give what others are to know of the engine, and whether it was slow from its start."""
        if batch.source == "metrics":
            return [], None
        judge = self._learnt.judge_of(batch.source)
        look = self._learnt.start.look(
            self._engine,
            batch.source,
            judge.norms,
            batches=judge.learnt,
            at_ns=batch.end_ns,
            suspect=self._incidents.incident_id is not None,
        )
        if look is None:
            return [], None
        start = look.slow_start
        if start is not None:
            log.warning("%s is %s.", self.engine_id, start.sentence)
            if start.score >= 1:
                judge.rebase(start.factor)
        return [look.norms] if look.norms is not None else [], start

    def _judged(self, batch: Batch) -> Batch:
        """Judge a batch and what surrounds it."""
        learnt = self._learnt
        judgement = learnt.judge_of(batch.source).judge(
            batch.workload, batch.duration_ns / 1e6, batch.end_ns
        )
        suspect = (judgement.score or 0.0) >= SUSPICION
        around = learnt.surroundings.judge(batch, judgement.expected_ms, suspect=suspect)
        self._learn_pace(batch, around)
        change = self._change
        if change and judgement.verdict != "unknown":
            self._change = change = ""
        return judged_batch(batch, judgement, around, change, self._incidents.incident_id)

    def _learn_pace(self, batch: Batch, around: Around) -> None:
        spacing_ns = batch.duration_ns + (around.gap_ns or 0)
        if batch.source == "metrics":
            spacing_ns = batch.end_ns - self._last_end_ns
        same = batch.source == self._last_source
        self._last_source = batch.source
        if batch.source != "metrics" or (same and 0 < spacing_ns < MOST_PACE_NS):
            self._learnt.progress.add(spacing_ns)

    def _adopt(self, kind: Kind, at_ns: int) -> tuple[str, list[Alert]]:
        """Take the slowdown of the open incident as normal; give the sentence and the alert."""
        if self._incidents.incident_id is None:
            return "", []
        factor = self._learnt.adopt(kind)
        if factor is None:
            return "", []
        sentence, alerts = self._incidents.adopted(at_ns, factor)
        log.info("%s: %s.", self.engine_id, sentence)
        return sentence, alerts

    def _look_for_halt(self, engine: Engine) -> list[Alert]:
        if engine.process_start_ns < self._process_start_ns - SAME_PROCESS_NS:
            return []
        halt = self._learnt.progress.look(engine, self._last_end_ns)
        if halt is not None:
            return self._incidents.add_stall(self._halted(engine, halt), halt.reason)
        if not engine.running_requests and not engine.waiting_requests:
            has_word = engine.running_requests is not None or engine.waiting_requests is not None
            if has_word and engine.at_ns > self._last_end_ns:
                self._incidents.idle()
        return []

    def _halted(self, engine: Engine, halt: Halt) -> Batch:
        return Batch(
            engine_id=self.engine_id,
            process_start_ns=engine.process_start_ns,
            sequence=self._last_sequence + 1,
            begin_ns=halt.since_ns,
            end_ns=halt.at_ns,
            duration_ns=halt.at_ns - halt.since_ns,
            uncertainty_ns=0,
            source=engine.source or "counter",
            workload=Workload(running_requests=halt.running, waiting_requests=halt.waiting),
            expected_ns=halt.pace_ns or None,
            score=1.0,
            verdict="slow",
            reason=halt.reason,
        )

    def _add_open(self, iteration: Iteration) -> list[Result]:
        elapsed_ns = iteration.running_ns or 0
        self._learnt.progress.open_seen_ns = iteration.begin_ns + elapsed_ns
        judge = self._learnt.judge_of(iteration.source)
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
        return list(self._incidents.add_stall(judged_batch(running, judgement, Around(), "")))
