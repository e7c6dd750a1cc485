"""Made-up alerts of made-up engines: what tests tell a correlator."""

from __future__ import annotations

from dataclasses import dataclass, replace

from schemas.records import Alert, AlertState, Evidence, Severity, Workload

SECOND_NS = 1_000_000_000
START_NS = 1_790_000_000 * SECOND_NS


def at(seconds: float) -> int:
    """Give a moment so long after the start of the test's world."""
    return START_NS + round(seconds * SECOND_NS)


@dataclass(slots=True)
class Trouble:
    """One engine's incident, whose alerts are made one after the other."""

    engine_id: str
    begin: float
    cause: str = "host_cpu_contention"
    host: str | None = "h1"
    device_ids: tuple[str, ...] = ()
    severity: Severity = "ticket"
    confidence: float = 0.6
    ratio: float = 1.4
    incident_id: str = ""
    revision: int = -1

    def __post_init__(self) -> None:
        self.incident_id = self.incident_id or f"{self.engine_id}@{self.begin:g}"

    def alert(self, state: AlertState, seconds: float) -> Alert:
        """Give the next alert, as made then."""
        self.revision += 1
        summary = (
            f"{self.engine_id}: batches take 23.0 ms where 10.0 ms is expected for 8 requests: "
            "other processes took the host's CPUs: 12 % before, 83 % now"
        )
        return Alert(
            incident_id=self.incident_id,
            revision=self.revision,
            engine_id=self.engine_id,
            state=state,
            severity=self.severity,
            cause=self.cause,
            confidence=self.confidence,
            summary=f"{self.engine_id} is back to normal" if state == "resolved" else summary,
            next_step="find the process with 'top'",
            begin_ns=at(self.begin),
            at_ns=at(seconds),
            end_ns=at(seconds) if state == "resolved" else None,
            batch_sequence=1,
            batch_end_ns=at(seconds),
            evidence=Evidence(
                expected_ns=10_000_000,
                low_ns=9_000_000,
                high_ns=11_000_000,
                observed_ns=23_000_000,
                ratio=self.ratio,
                slow_batches=5,
                workload=Workload(requests=8),
            ),
            framework="vllm",
            model="llama",
            host=self.host,
            device_ids=self.device_ids,
        )

    def fire(self, seconds: float | None = None) -> Alert:
        """Give the alert that says that it fires, by default 0.5 s after its begin."""
        return self.alert("firing", self.begin + 0.5 if seconds is None else seconds)

    def update(self, seconds: float, *, cause: str = "", severity: Severity | None = None) -> Alert:
        """Give an alert that says more."""
        self.cause = cause or self.cause
        self.severity = severity or self.severity
        return self.alert("updated", seconds)

    def resolve(self, seconds: float) -> Alert:
        """Give the alert of its end."""
        return self.alert("resolved", seconds)

    def again(self, seconds: float) -> Trouble:
        """Give the same trouble as it comes anew then."""
        return replace(self, begin=seconds, incident_id="", revision=-1)
