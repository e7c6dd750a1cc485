"""Turn slow batches into incidents: pending, firing, updated, resolved; one at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from models.attribution import PHASE_CAUSES, STALL, UNKNOWN, Attribution
from schemas.records import Alert, AlertState, Batch, Engine, Evidence, Severity, Workload
from streams.explain import EvidenceKeeper
from streams.incident import HOUR_NS, Incident
from streams.peers import SlowStart

# A score from here on is suspicion: the incident is pending, and is dated from here if it fires.
SUSPICION = 0.3
# Batches in a row that must be fine, for so long, before an incident is known to be over: trouble
# that comes and goes within seconds is one incident, not ten.
CALM_BATCHES = 20
CALM_NS = 2_000_000_000
# Nothing was judged for so long: the traffic is gone, and with it the incident.
SILENT_NS = 30_000_000_000
# An update is worth a message when the cause is another, or when it is surer by so much ...
SURER = 0.15
# ... and this long after the last one.
UPDATE_PERIOD_NS = 1_000_000_000
# From here on a slowdown wakes somebody up.
PAGE_RATIO = 1.5
STILL_RUNS = "the batch that is running should long be over"
# What gaps between batches come from where no resource of the host is short.
PAUSE = "engine_pause"
CONFIDENCE_PAUSE = 0.3
COMPARE = (
    "compare its accelerators' clocks, power limits and links, and its host, with those of its "
    "peers or with the data sheet"
)


class Incidents:
    """The incidents of one engine: at most one is open.

    An alarm (score 1 and above) makes one; a slow batch below that is a lone outlier, and makes
    none. Ids are made of the engine and the batch that began the incident, so a worker that repeats
    its input after a crash repeats the same ids.

    Args:
        engine_id: The engine's.

        evidence: The engine's counters and phases.

        clock_ns: Epoch time, for the moment an alert was made.

        adopt_after_ns: A slowdown that lasts so long, steadily, is the new normal; 0 for never.
    """

    def __init__(
        self,
        engine_id: str,
        evidence: EvidenceKeeper,
        clock_ns: Callable[[], int],
        adopt_after_ns: int = 0,
    ) -> None:
        self._engine_id = engine_id
        self._evidence = evidence
        self._clock_ns = clock_ns
        self._adopt_after_ns = adopt_after_ns
        # Half of the time at most, so that there are two parts to compare by then.
        self._part_ns = min(HOUR_NS, adopt_after_ns // 3) or HOUR_NS
        self._open: Incident | None = None
        self.engine: Engine | None = None
        self.outliers = 0
        """Slow batches that were no alarm."""

    @property
    def incident_id(self) -> str | None:
        """The id of the incident that the newest batch is part of, if one is firing."""
        incident = self._open
        if incident is None or incident.state != "firing" or incident.calm:
            return None
        return incident.incident_id

    @property
    def suspect(self) -> bool:
        """Whether an incident is pending or firing."""
        return self._open is not None

    def add(self, batch: Batch) -> list[Alert]:
        """Take in a judged batch; give what there is to tell."""
        incident, score = self._open, batch.score or 0.0
        alarm = score >= 1
        self.outliers += batch.verdict == "slow" and not alarm
        if incident is None:
            if score < SUSPICION:
                return []
            incident = self._begin(batch)
        # A batch was finished, so the engine moves again.
        incident.stalled = False
        if alarm or incident.state == "pending":
            incident.count(batch, self._part_ns)
        if incident.state == "pending":
            return self._while_pending(incident, score)
        if alarm:
            incident.calm = 0
            return self._update(incident, batch.end_ns)
        return self._while_calm(incident, batch)

    def add_slow_start(self, batch: Batch, start: SlowStart) -> list[Alert]:
        """Take in the batch at which the engine was found to be slow from its first one."""
        incident = self._open or self._begin(batch)
        incident.slow_start = start.sentence
        if start.comparison is not None:
            ratios = start.comparison.ratios
            incident.peers = {engine_id: round(ratio, 4) for engine_id, ratio in ratios.items()}
            incident.peer_cells = start.comparison.cells
        return self.add(batch)

    def add_stall(self, batch: Batch, halt: str = STILL_RUNS) -> list[Alert]:
        """Take in a batch that should long be over; ``halt`` says how that was seen."""
        incident = self._open
        if incident is not None and incident.cause == STALL:
            # Told already; a second halt within the incident keeps it from ending by silence.
            incident.stalled = True
            incident.calm = 0
            return []
        if incident is None:
            incident = self._begin(batch)
        # An engine that was slow may come to a halt: the incident goes on, with another cause.
        state: AlertState = "updated" if incident.state == "firing" else "firing"
        incident.count(batch, self._part_ns)
        incident.state, incident.cause, incident.confidence = "firing", STALL, 0.9
        incident.stalled, incident.halt = True, halt
        incident.calm = 0
        return [self._alert(incident, state, None)]

    def idle(self) -> None:
        """The engine has nothing to do (any more): it does not stand still."""
        if self._open is not None:
            self._open.stalled = False

    def tick(self, now_ns: int) -> list[Alert]:
        """Let event time pass: new counters may name the cause, silence ends an incident."""
        incident = self._open
        if incident is None or incident.last_slow is None:
            return []
        slow_until_ns = int(incident.last_slow["end_ns"])
        if now_ns - slow_until_ns > SILENT_NS and not incident.stalled:
            return self._resolve(now_ns, end_ns=incident.end_ns(now_ns))
        return self._update(incident, now_ns) if incident.state == "firing" else []

    def restarted(self, now_ns: int) -> list[Alert]:
        """The engine's process is another: what the old one never finished is over.

        A slowdown goes on until batches are fine, for its cause may well outlive the process.
        """
        incident = self._open
        stood = incident is not None and incident.cause == STALL
        return self.close(now_ns, "runs as another process") if stood else []

    def close(self, now_ns: int, why: str = "ended") -> list[Alert]:
        """The engine ended, or is another from now on: so ends its incident, and nothing is well.

        Args:
            now_ns: When that was.

            why: What became of the engine.
        """
        incident = self._open
        if incident is None:
            return []
        summary = f"{self._engine_id} {why}; until then {_slowness(incident)}"
        return self._resolve(now_ns, end_ns=incident.end_ns(now_ns), summary=summary)

    def is_due(self, now_ns: int) -> bool:
        """Tell whether the slowdown lasts long and steadily enough to be the new normal."""
        incident = self._open
        return (
            incident is not None
            and incident.state == "firing"
            and incident.calm == 0
            and 0 < self._adopt_after_ns <= now_ns - incident.begin_ns
            and incident.steadiness.is_steady
        )

    def adopted(self, now_ns: int, factor: float) -> tuple[str, list[Alert]]:
        """The slowdown is the new normal: give the sentence that says so, and the last alert."""
        incident = self._open
        assert incident is not None
        hours = (now_ns - incident.begin_ns) / HOUR_NS
        sentence = f"adopted as normal after {hours:.3g} h: {factor:.2f} times the old baseline"
        summary = f"{self._engine_id}: {sentence}"
        return sentence, self._resolve(now_ns, end_ns=now_ns, summary=summary)

    def to_state(self) -> dict[str, Any]:
        """Give the open incident as plain data."""
        return {
            "open": self._open.to_state() if self._open is not None else None,
            "outliers": self.outliers,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._open = Incident.from_state(state["open"]) if state["open"] is not None else None
        self.outliers = state.get("outliers", 0)

    def _begin(self, batch: Batch) -> Incident:
        self._open = Incident.begun_by(batch)
        self._evidence.begin(batch.begin_ns)
        return self._open

    def _while_pending(self, incident: Incident, score: float) -> list[Alert]:
        if score >= 1:
            incident.state = "firing"
            return [self._alert(incident, "firing", self._attribute(incident))]
        if score < SUSPICION:
            # It was nothing; the batches since were learnt as usual.
            self._open = None
            self._evidence.end()
        return []

    def _while_calm(self, incident: Incident, batch: Batch) -> list[Alert]:
        if batch.verdict == "slow" or (batch.verdict == "unknown" and incident.cause != STALL):
            # A lone outlier is not calm, but no trouble either; of others nobody could tell.
            return []
        incident.calm_down(batch)
        calm_ns = batch.end_ns - incident.calm_since_ns
        if incident.calm < CALM_BATCHES or calm_ns < CALM_NS:
            return []
        return self._resolve(batch.end_ns, end_ns=incident.calm_since_ns)

    def _update(self, incident: Incident, now_ns: int) -> list[Alert]:
        if incident.cause == STALL or now_ns - incident.told_ns < UPDATE_PERIOD_NS:
            return []
        found = self._attribute(incident)
        news = (
            found.cause != incident.cause and found.cause != UNKNOWN
        ) or found.confidence > incident.confidence + SURER
        return [self._alert(incident, "updated", found)] if news else []

    def _resolve(self, now_ns: int, *, end_ns: int, summary: str = "") -> list[Alert]:
        """End the incident; ``now_ns`` is when that was sure, ``end_ns`` when it was over."""
        incident = self._open
        assert incident is not None
        alerts = []
        if incident.state == "firing":
            alert = self._alert(incident, "resolved", None)
            alerts.append(
                replace(alert, end_ns=end_ns, batch_end_ns=now_ns, summary=summary or alert.summary)
            )
        self._open = None
        self._evidence.end()
        return alerts

    def _attribute(self, incident: Incident) -> Attribution:
        found = self._evidence.attribute()
        if incident.slow_start:
            # Counters and phases of before are those of a slow engine, too: they tell nothing.
            return replace(
                found,
                cause=UNKNOWN,
                confidence=0.0,
                others=(),
                sentence=incident.slow_start,
                next_step=COMPARE,
            )
        phases = {cause for cause, _ in PHASE_CAUSES.values()}
        if not incident.by_gaps or (found.cause != UNKNOWN and found.cause not in phases):
            return found
        return replace(
            found,
            cause=PAUSE,
            confidence=CONFIDENCE_PAUSE,
            sentence="the batches themselves are as quick as ever, and no resource of the host is "
            "known to be short: the engine's own process pauses",
            next_step="see what it does between batches: 'py-spy dump', the garbage collector, "
            "threads that hold the GIL",
        )

    def _alert(self, incident: Incident, state: AlertState, found: Attribution | None) -> Alert:
        """Write one alert; without a new attribution the incident keeps the one it has."""
        if found is not None:
            incident.cause, incident.confidence = found.cause, found.confidence
        else:
            found = self._attribute(incident)
        if incident.revision < 0 and self.engine is not None:
            incident.framework = self.engine.framework
            incident.model, incident.host = self.engine.model, self.engine.host
        incident.revision += 1
        last = incident.last_slow
        assert last is not None
        incident.told_ns = int(last["end_ns"])
        ratio = incident.ratio
        severity: Severity = "page" if ratio >= PAGE_RATIO or incident.cause == STALL else "ticket"
        engine_id = self._engine_id
        return Alert(
            incident_id=incident.incident_id,
            revision=incident.revision,
            engine_id=engine_id,
            state=state,
            severity=severity,
            cause=incident.cause,
            confidence=incident.confidence,
            summary=_summary(engine_id, state, incident, found.sentence),
            next_step=found.next_step
            if incident.cause != STALL
            else "look at the engine's stacks: 'latencyprism doctor', 'py-spy dump'",
            begin_ns=incident.begin_ns,
            at_ns=self._clock_ns(),
            end_ns=None,
            batch_sequence=int(last["sequence"]),
            batch_end_ns=int(last["end_ns"]),
            evidence=Evidence(
                expected_ns=int(last["expected_ns"]),
                low_ns=int(last["low_ns"]),
                high_ns=int(last["high_ns"]),
                observed_ns=int(last["observed_ns"]),
                ratio=round(ratio, 4),
                slow_batches=incident.slow_batches,
                workload=Workload(**last["workload"]),
                counters_before=_rounded(self._evidence.counters_before.values),
                counters_during=_rounded(self._evidence.counters_during.values),
                phases_before_ns=_whole(self._evidence.phases_before_ns.values),
                phases_during_ns=_whole(self._evidence.phases_during_ns.values),
                pressures=found.pressures,
                sql=evidence_sql(engine_id, incident.begin_ns, int(last["end_ns"])),
                peers=incident.peers,
                peer_cells=incident.peer_cells,
            ),
            other_causes=found.others,
            framework=incident.framework,
            model=incident.model,
            host=incident.host,
        )


def evidence_sql(engine_id: str, begin_ns: int, end_ns: int) -> str:
    """Write the query that shows the batches around an incident."""
    quoted = engine_id.replace("\\", "\\\\").replace("'", "\\'")
    margin_ns = 10_000_000_000
    return (
        "SELECT sequence, begin_time, duration_ms, expected_ms, verdict, reason "
        f"FROM batches_view WHERE engine_id = '{quoted}' "
        f"AND begin_ns BETWEEN {begin_ns - margin_ns} AND {end_ns + margin_ns} ORDER BY begin_ns"
    )


def _summary(engine_id: str, state: AlertState, incident: Incident, sentence: str) -> str:
    last = incident.last_slow or {}
    requests = last["workload"].get("requests")
    load = "" if requests is None else f" for {requests} requests"
    if state == "resolved":
        return f"{engine_id} is back to normal; {_slowness(incident)}"
    if incident.slow_start and incident.cause != STALL:
        return f"{engine_id} is {sentence}"
    if incident.cause == STALL and incident.halt not in ("", STILL_RUNS):
        return f"{engine_id}: {incident.halt}"
    if incident.cause == STALL:
        sentence = STILL_RUNS
    elif incident.by_gaps:
        return (
            f"{engine_id}: the gap before a batch is up to {incident.gap_ns / 1e6:.1f} ms where "
            f"{incident.usual_gap_ns / 1e6:.1f} ms is usual{load}: {sentence}"
        )
    return (
        f"{engine_id}: batches take {last['observed_ns'] / 1e6:.1f} ms where "
        f"{last['expected_ns'] / 1e6:.1f} ms is expected{load}: {sentence}"
    )


def _slowness(incident: Incident) -> str:
    return f"it was {incident.ratio:.2f} times as slow as expected"


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _whole(values: dict[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in values.items()}
