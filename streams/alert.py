"""Turn slow batches into incidents: pending, firing, updated, resolved; one at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from models.attribution import STALL, UNKNOWN, Attribution
from schemas.records import Alert, AlertState, Batch, Engine, Evidence, Severity, Workload
from streams.explain import EvidenceKeeper
from streams.incident import HOUR_NS, Incident
from streams.peers import SlowStart
from streams.wording import STILL_RUNS, evidence_sql, rounded, slowness, summary_of, whole

# A score from here on is suspicion: the incident is pending, and is dated from here if it fires.
SUSPICION = 0.3
# Batches in a row that must be fine, for so long, before an incident is known to be over: trouble
# that comes and goes within seconds is one incident, not ten.
CALM_BATCHES = 20
CALM_NS = 2_000_000_000
# Nothing was judged for so long: the traffic is gone, and with it the incident.
SILENT_NS = 30_000_000_000
# No surer than this is an answer for which no counter speaks.
GUESSED = 0.7
# An update is worth a message when the cause is another, or when it is surer by so much ...
SURER = 0.15
# ... and this long after the last one.
UPDATE_PERIOD_NS = 1_000_000_000
# From here on a slowdown wakes somebody up.
PAGE_RATIO = 1.5
# A halt is seen, not guessed; something behind it may be the cause.
STALL_CONFIDENCE = 0.9
LOOK_AT_STACKS = "look at the engine's stacks: 'latencyprism doctor', 'py-spy dump'"
# An engine that stood still and ends so many slow batches after it is slow, and no longer halted.
MOVES_AGAIN = 5
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
        self.found: Attribution | None = None
        """What the newest alert that named a cause was made of."""
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
        incident.moved += alarm
        if alarm or incident.state == "pending":
            incident.count(batch, self._part_ns)
        if incident.state == "pending":
            return self._while_pending(incident, score)
        if alarm:
            incident.calm = 0
            # By the next batch all readings of a look are in, not only the first.
            sees_now = incident.blind and not self._evidence.blind
            return self._update(incident, batch.end_ns, at_once=sees_now)
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
        incident.state, incident.cause, incident.confidence = "firing", STALL, STALL_CONFIDENCE
        incident.stalled, incident.halt, incident.moved = True, halt, 0
        incident.others = ()
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
        is_on = incident.state == "firing" and not incident.calm
        return self._update(incident, now_ns) if is_on else []

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
        summary = f"{self._engine_id} {why}; until then {slowness(incident)}"
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

    def _update(self, incident: Incident, now_ns: int, *, at_once: bool = False) -> list[Alert]:
        if incident.cause == STALL:
            return self._update_stall(incident)
        if now_ns - incident.told_ns < UPDATE_PERIOD_NS and not at_once:
            return []
        found = self._attribute(incident)
        incident.blind = self._evidence.blind
        is_news = _is_news(incident, found, self._evidence.pauses.batches)
        return [self._alert(incident, "updated", found)] if is_news else []

    def _update_stall(self, incident: Incident) -> list[Alert]:
        """Name what is short where an engine goes on slowly after it stood still."""
        if incident.moved < MOVES_AGAIN:
            return []
        found = self._attribute(incident)
        incident.moved = 0
        if found.basis != "counter":
            return []
        return [self._alert(incident, "updated", found)]

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
        found = self._evidence.attribute(by_gaps=incident.by_gaps)
        if incident.slow_start:
            # Counters and phases of before are those of a slow engine, too: they tell nothing.
            return replace(
                found,
                cause=UNKNOWN,
                confidence=0.0,
                others=(),
                sentence=incident.slow_start,
                next_step=COMPARE,
                missing={},
            )
        return found

    def _alert(self, incident: Incident, state: AlertState, found: Attribution | None) -> Alert:
        """Write one alert; without a new attribution the incident keeps the one it has."""
        if found is not None:
            self.found = found
            before = incident.surest if found.cause == incident.cause else 0.0
            incident.cause, incident.confidence = found.cause, found.confidence
            incident.surest = max(before, found.confidence)
            incident.others, incident.next_step = found.others, found.next_step
            incident.blind = self._evidence.blind
            incident.told_by = self._evidence.pauses.batches
        else:
            found = self._attribute(incident)
        if incident.revision < 0 and self.engine is not None:
            incident.framework = self.engine.framework
            incident.model, incident.host = self.engine.model, self.engine.host
        incident.revision += 1
        last = incident.last_slow
        assert last is not None
        incident.told_ns = int(last["end_ns"])
        facts = self._evidence.facts(by_gaps=incident.by_gaps)
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
            summary=summary_of(engine_id, state, incident, found.sentence),
            next_step=LOOK_AT_STACKS if incident.cause == STALL else incident.next_step,
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
                counters_before=rounded(facts.before),
                counters_during=rounded(facts.during),
                phases_before_ns=whole(facts.phases_before_ns),
                phases_during_ns=whole(facts.phases_during_ns),
                pressures=found.pressures,
                inflations=found.inflations,
                missing_counters=found.missing,
                throttle_reasons=self._evidence.throttle_reasons(),
                sql=evidence_sql(engine_id, incident.begin_ns, int(last["end_ns"])),
                peers=incident.peers,
                peer_cells=incident.peer_cells,
            ),
            other_causes=incident.others,
            framework=incident.framework,
            model=incident.model,
            host=incident.host,
            device_ids=self.engine.device_ids if self.engine is not None else (),
        )


def _is_news(incident: Incident, found: Attribution, batches: int) -> bool:
    """Tell whether what was found is worth a message after what was told."""
    if found.cause == UNKNOWN:
        return False
    surer = found.confidence - incident.confidence
    if found.cause != incident.cause:
        # Two guesses that change places with each other are no news until twice as much is known.
        is_guess = max(found.confidence, incident.confidence) <= GUESSED
        return surer > SURER or not is_guess or batches >= 2 * incident.told_by
    known = {*incident.others, incident.cause}
    return found.confidence > incident.surest + SURER or bool(set(found.others) - known)
