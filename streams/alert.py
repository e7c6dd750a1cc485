"""Turn slow batches into incidents: pending, firing, updated, resolved; one at a time."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.attribution import STALL, UNKNOWN, Attribution
from schemas.records import Alert, AlertState, Batch, Engine, Evidence, Severity, Workload
from streams.explain import EvidenceKeeper

# A score from here on is suspicion: the incident is pending, and is dated from here if it fires.
SUSPICION = 0.3
# Batches in a row that must be fine, for so long, before an incident is over: trouble that comes
# and goes within seconds is one incident, not ten.
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

State = Literal["pending", "firing"]


@dataclass(slots=True)
class _Incident:
    """An incident that is pending or firing."""

    incident_id: str
    state: State
    begin_ns: int
    revision: int = -1
    cause: str = UNKNOWN
    confidence: float = 0.0
    told_ns: int = 0
    calm: int = 0
    calm_since_ns: int = 0
    stalled: bool = False
    slow_batches: int = 0
    sum_observed_ns: int = 0
    sum_expected_ns: int = 0
    last_slow: dict[str, Any] | None = None
    # As known when it fired: receivers tell incidents apart by labels made of these.
    framework: str | None = None
    model: str | None = None
    host: str | None = None


class Incidents:
    """The incidents of one engine: at most one is open.

    Ids are made of the engine and the batch that began the incident, so a worker that repeats
    its input after a crash repeats the same ids.

    Args:
        engine_id: The engine's.

        evidence: The engine's counters and phases.

        clock_ns: Epoch time, for the moment an alert was made.
    """

    def __init__(
        self, engine_id: str, evidence: EvidenceKeeper, clock_ns: Callable[[], int]
    ) -> None:
        self._engine_id = engine_id
        self._evidence = evidence
        self._clock_ns = clock_ns
        self._open: _Incident | None = None
        self.engine: Engine | None = None

    @property
    def incident_id(self) -> str | None:
        """The id of the incident that is firing, if one is."""
        incident = self._open
        return incident.incident_id if incident and incident.state == "firing" else None

    @property
    def suspect(self) -> bool:
        """Whether an incident is pending or firing."""
        return self._open is not None

    def add(self, batch: Batch) -> list[Alert]:
        """Take in a judged batch; give what there is to tell."""
        incident = self._open
        slow = batch.verdict == "slow"
        if incident is not None:
            # A batch was finished, so the engine moves again.
            incident.stalled = False
        if incident is None:
            if not slow and (batch.score or 0.0) < SUSPICION:
                return []
            incident = self._open = _Incident(
                incident_id=incident_id(batch), state="pending", begin_ns=batch.begin_ns
            )
            self._evidence.begin(batch.begin_ns)
        if slow or incident.state == "pending":
            self._count(incident, batch)
        if incident.state == "pending":
            return self._while_pending(incident, batch, slow=slow)
        if slow:
            incident.calm = 0
            return self._update(incident, batch.end_ns)
        if batch.verdict == "unknown":
            # Nobody could tell whether it was fine.
            return []
        if incident.calm == 0:
            incident.calm_since_ns = batch.begin_ns
        incident.calm += 1
        calm_ns = batch.end_ns - incident.calm_since_ns
        over = incident.calm >= CALM_BATCHES and calm_ns >= CALM_NS
        return self._resolve(batch.end_ns) if over else []

    def add_stall(self, batch: Batch) -> list[Alert]:
        """Take in a batch that is still running and should long be over."""
        incident = self._open
        if incident is not None and incident.cause == STALL:
            # Told already; a second halt within the incident keeps it from ending by silence.
            incident.stalled = True
            return []
        if incident is None:
            incident = self._open = _Incident(
                incident_id=incident_id(batch), state="pending", begin_ns=batch.begin_ns
            )
            self._evidence.begin(batch.begin_ns)
        # An engine that was slow may come to a halt: the incident goes on, with another cause.
        state: AlertState = "updated" if incident.state == "firing" else "firing"
        self._count(incident, batch)
        incident.state, incident.cause, incident.confidence = "firing", STALL, 0.9
        incident.stalled = True
        incident.calm = 0
        return [self._alert(incident, state, None)]

    def tick(self, now_ns: int) -> list[Alert]:
        """Let event time pass: new counters may name the cause, silence ends an incident."""
        incident = self._open
        if incident is None or incident.last_slow is None:
            return []
        if now_ns - int(incident.last_slow["end_ns"]) > SILENT_NS and not incident.stalled:
            return self._resolve(now_ns)
        return self._update(incident, now_ns) if incident.state == "firing" else []

    def restarted(self, now_ns: int) -> list[Alert]:
        """The engine's process is another: what the old one never finished is over.

        A slowdown goes on until batches are fine, for its cause may well outlive the process.
        """
        incident = self._open
        return self._resolve(now_ns) if incident is not None and incident.cause == STALL else []

    def close(self, now_ns: int) -> list[Alert]:
        """The engine ended: so does its incident."""
        return self._resolve(now_ns) if self._open is not None else []

    def to_state(self) -> dict[str, Any]:
        """Give the open incident as plain data."""
        return {"open": asdict(self._open) if self._open is not None else None}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._open = _Incident(**state["open"]) if state["open"] is not None else None

    def _while_pending(self, incident: _Incident, batch: Batch, *, slow: bool) -> list[Alert]:
        if slow:
            incident.state = "firing"
            return [self._alert(incident, "firing", self._evidence.attribute())]
        if (batch.score or 0.0) < SUSPICION:
            # It was nothing; the batches since were learnt as usual.
            self._open = None
            self._evidence.end()
        return []

    def _count(self, incident: _Incident, batch: Batch) -> None:
        incident.slow_batches += 1
        incident.sum_observed_ns += batch.duration_ns
        incident.sum_expected_ns += batch.expected_ns or batch.duration_ns
        incident.last_slow = {
            "sequence": batch.sequence,
            "end_ns": batch.end_ns,
            "observed_ns": batch.duration_ns,
            "expected_ns": batch.expected_ns or 0,
            "low_ns": batch.low_ns or 0,
            "high_ns": batch.high_ns or 0,
            "workload": asdict(batch.workload),
        }

    def _update(self, incident: _Incident, now_ns: int) -> list[Alert]:
        if incident.cause == STALL or now_ns - incident.told_ns < UPDATE_PERIOD_NS:
            return []
        found = self._evidence.attribute()
        news = (
            found.cause != incident.cause and found.cause != UNKNOWN
        ) or found.confidence > incident.confidence + SURER
        return [self._alert(incident, "updated", found)] if news else []

    def _resolve(self, now_ns: int) -> list[Alert]:
        incident = self._open
        assert incident is not None
        alerts = []
        if incident.state == "firing":
            alerts.append(self._alert(incident, "resolved", None, end_ns=now_ns))
        self._open = None
        self._evidence.end()
        return alerts

    def _alert(
        self,
        incident: _Incident,
        state: AlertState,
        found: Attribution | None,
        end_ns: int | None = None,
    ) -> Alert:
        """Write one alert; without a new attribution the incident keeps the one it has."""
        if found is not None:
            incident.cause, incident.confidence = found.cause, found.confidence
        else:
            found = self._evidence.attribute()
        if incident.revision < 0 and self.engine is not None:
            incident.framework = self.engine.framework
            incident.model, incident.host = self.engine.model, self.engine.host
        incident.revision += 1
        last = incident.last_slow
        assert last is not None
        incident.told_ns = int(last["end_ns"]) if end_ns is None else end_ns
        ratio = incident.sum_observed_ns / max(incident.sum_expected_ns, 1)
        severity: Severity = "page" if ratio >= PAGE_RATIO or incident.cause == STALL else "ticket"
        engine_id = self._engine_id
        sentence = (
            "the batch that is running should long be over"
            if incident.cause == STALL
            else found.sentence
        )
        return Alert(
            incident_id=incident.incident_id,
            revision=incident.revision,
            engine_id=engine_id,
            state=state,
            severity=severity,
            cause=incident.cause,
            confidence=incident.confidence,
            summary=_summary(engine_id, state, ratio, last, sentence),
            next_step=found.next_step
            if incident.cause != STALL
            else "look at the engine's stacks: 'latencyprism doctor', 'py-spy dump'",
            begin_ns=incident.begin_ns,
            at_ns=self._clock_ns(),
            end_ns=end_ns,
            batch_sequence=int(last["sequence"]),
            batch_end_ns=int(last["end_ns"]) if end_ns is None else end_ns,
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
            ),
            other_causes=found.others,
            framework=incident.framework,
            model=incident.model,
            host=incident.host,
        )


def incident_id(batch: Batch) -> str:
    """Give the id of an incident that begins with this batch."""
    name = f"{batch.engine_id}/{batch.process_start_ns}/{batch.sequence}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def evidence_sql(engine_id: str, begin_ns: int, end_ns: int) -> str:
    """Write the query that shows the batches around an incident."""
    quoted = engine_id.replace("\\", "\\\\").replace("'", "\\'")
    margin_ns = 10_000_000_000
    return (
        "SELECT sequence, begin_time, duration_ms, expected_ms, verdict, reason "
        f"FROM batches_view WHERE engine_id = '{quoted}' "
        f"AND begin_ns BETWEEN {begin_ns - margin_ns} AND {end_ns + margin_ns} ORDER BY begin_ns"
    )


def _summary(
    engine_id: str, state: AlertState, ratio: float, last: dict[str, Any], sentence: str
) -> str:
    requests = last["workload"].get("requests")
    load = "" if requests is None else f" for {requests} requests"
    if state == "resolved":
        return f"{engine_id} is back to normal; it was {ratio:.2f} times as slow as expected"
    return (
        f"{engine_id}: batches take {last['observed_ns'] / 1e6:.1f} ms where "
        f"{last['expected_ns'] / 1e6:.1f} ms is expected{load}: {sentence}"
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _whole(values: dict[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in values.items()}
