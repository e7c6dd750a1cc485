"""Small recordings by hand: batches of 100 ms, faults and incidents at seconds that one can count.

Second 0 is the recording's begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from schemas.records import (
    Alert,
    AlertState,
    Batch,
    Engine,
    Evidence,
    Fault,
    FaultKind,
    FaultSeverity,
    Verdict,
    Workload,
)
from simulator.score import Options

BEGIN_NS = 1_790_000_000_000_000_000
ENGINE_ID, OTHER_ID = "host:8000", "host:8001"
BATCH_SECONDS = 0.1
# Everything counts, to the very begin and end of a fault.
STRICT = Options(guard_ns=0, resamples=50)


def at_ns(seconds: float) -> int:
    """Give a moment of the recording."""
    return BEGIN_NS + round(seconds * 1e9)


def batch(
    end_seconds: float,
    verdict: Verdict = "normal",
    *,
    engine_id: str = ENGINE_ID,
    seconds: float = BATCH_SECONDS,
    expected_seconds: float | None = BATCH_SECONDS,
    requests: int | None = 8,
    revision: int = 0,
) -> Batch:
    """Give a batch by its end."""
    return Batch(
        engine_id=engine_id,
        process_start_ns=1,
        # Unique by the end, as an engine's own count is.
        sequence=round(end_seconds * 1000),
        revision=revision,
        begin_ns=at_ns(end_seconds - seconds),
        end_ns=at_ns(end_seconds),
        duration_ns=round(seconds * 1e9),
        uncertainty_ns=0,
        source="counter",
        workload=Workload(requests=requests),
        expected_ns=None if expected_seconds is None else round(expected_seconds * 1e9),
        verdict=verdict,
    )


def batches(
    begin: float,
    end: float,
    slow: Iterable[tuple[float, float]] = (),
    *,
    engine_id: str = ENGINE_ID,
    requests: int | None = 8,
) -> list[Batch]:
    """Give ten batches a second; those that end within a slow span (begin, end] are called so."""
    spans = list(slow)
    ends = [round(begin + BATCH_SECONDS * n, 3) for n in range(1, round((end - begin) * 10) + 1)]
    return [
        batch(
            moment,
            "slow" if any(first < moment <= last for first, last in spans) else "normal",
            engine_id=engine_id,
            requests=requests,
        )
        for moment in ends
    ]


def fault(
    begin: float,
    end: float | None,
    *,
    name: str = "cpu_squeeze",
    kind: FaultKind = "fault",
    causes: Sequence[str] = ("host_cpu_contention",),
    severity: FaultSeverity | None = "heavy",
    engine_ids: Sequence[str] = (ENGINE_ID,),
    host: str = "host",
    intermittent: bool = False,
    true_ratio: float | None = None,
    onset: float | None = None,
) -> Fault:
    """Give the truth about an injection; without an end it is only begun."""
    return Fault(
        fault_id=f"{name}@{begin:g}",
        name=name,
        kind=kind,
        state="begun" if end is None else "ended",
        intensity=1.0,
        host=host,
        begin_ns=at_ns(begin),
        end_ns=None if end is None else at_ns(end),
        severity=severity,
        causes=() if kind == "control" else tuple(causes),
        engine_ids=tuple(engine_ids),
        intermittent=intermittent,
        simulated=true_ratio is not None,
        true_ratio=true_ratio,
        onset_ns=None if onset is None else at_ns(onset),
    )


def control(
    begin: float, end: float, name: str = "prompt_ramp", engine_ids: Sequence[str] = (ENGINE_ID,)
) -> Fault:
    """Give the truth about a negative control."""
    return fault(begin, end, name=name, kind="control", engine_ids=engine_ids, severity=None)


def alert(
    fired: float,
    state: AlertState = "firing",
    *,
    incident_id: str = "",
    cause: str = "host_cpu_contention",
    others: Sequence[str] = (),
    revision: int = 0,
    begin: float | None = None,
    end: float | None = None,
    engine_id: str = ENGINE_ID,
    told_after_seconds: float = 0.005,
) -> Alert:
    """Give one step of an incident, by the end of the batch that caused it."""
    return Alert(
        incident_id=incident_id or f"{engine_id}@{fired:g}",
        revision=revision,
        engine_id=engine_id,
        state=state,
        severity="page",
        cause=cause,
        confidence=0.9,
        summary="",
        next_step="",
        begin_ns=at_ns(fired - 0.5 if begin is None else begin),
        at_ns=at_ns(fired + told_after_seconds),
        end_ns=None if end is None else at_ns(end),
        batch_sequence=round(fired * 1000),
        batch_end_ns=at_ns(fired),
        evidence=Evidence(
            expected_ns=1,
            low_ns=1,
            high_ns=1,
            observed_ns=2,
            ratio=2.0,
            slow_batches=5,
            workload=Workload(),
        ),
        other_causes=tuple(others),
    )


def incident(
    fired: float,
    end: float,
    *,
    cause: str = "host_cpu_contention",
    others: Sequence[str] = (),
    engine_id: str = ENGINE_ID,
) -> list[Alert]:
    """Give an incident from firing to resolved."""
    name = f"{engine_id}@{fired:g}"
    first = alert(fired, incident_id=name, cause=cause, others=others, engine_id=engine_id)
    last = alert(
        end,
        "resolved",
        incident_id=name,
        cause=cause,
        others=others,
        revision=1,
        begin=fired - 0.5,
        end=end,
        engine_id=engine_id,
    )
    return [first, last]


def engine(engine_id: str = ENGINE_ID, host: str = "host") -> Engine:
    """Give the inventory of an engine."""
    return Engine(
        engine_id=engine_id,
        host=host,
        at_ns=BEGIN_NS,
        state="running",
        framework="vllm",
        process_start_ns=1,
    )
