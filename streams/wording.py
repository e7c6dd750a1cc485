"""What an alert says in words: its summary, and the query that shows the batches."""

from models.attribution import STALL
from schemas.records import AlertState
from streams.incident import Incident

STILL_RUNS = "the batch that is running should long be over"


def evidence_sql(engine_id: str, begin_ns: int, end_ns: int) -> str:
    """Write the query that shows the batches around an incident."""
    quoted = engine_id.replace("\\", "\\\\").replace("'", "\\'")
    margin_ns = 10_000_000_000
    return (
        "SELECT sequence, begin_time, duration_ms, expected_ms, verdict, reason "
        f"FROM batches_view WHERE engine_id = '{quoted}' "
        f"AND begin_ns BETWEEN {begin_ns - margin_ns} AND {end_ns + margin_ns} ORDER BY begin_ns"
    )


def summary_of(engine_id: str, state: AlertState, incident: Incident, sentence: str) -> str:
    """Say in a sentence what is the matter, and why."""
    last = incident.last_slow or {}
    requests = last["workload"].get("requests")
    load = "" if requests is None else f" for {requests} requests"
    if state == "resolved":
        return f"{engine_id} is back to normal; {slowness(incident)}"
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


def slowness(incident: Incident) -> str:
    """Say how slow it was."""
    return f"it was {incident.ratio:.2f} times as slow as expected"


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Give counters as long as a reader can read."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def whole(values: dict[str, float]) -> dict[str, int]:
    """Give times in whole nanoseconds."""
    return {name: int(value) for name, value in values.items()}
