"""What was seen, held against what the engine says of itself; and whether it all held."""

from dataclasses import dataclass, field
from typing import Any

from latencyprism.demo.machine import Machine
from latencyprism.demo.receiver import Delivery
from latencyprism.demo.story import Scene
from models.attribution import UNKNOWN
from simulator.replica.truth import TruthIteration

# An alert may come a moment after its cause has ended: detection is quick, not instant.
GRACE_NS = 3_000_000_000
COUNTED_LEAST = 0.99
WORKLOAD_LEAST = 0.98
FIELDS = ("requests", "scheduled_tokens", "prefill_tokens", "decode_requests", "kv_tokens")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to hold."""

    name: str
    held: bool
    shown: str


@dataclass(slots=True)
class Findings:
    """Everything that the report prints."""

    checks: list[Check] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every check held."""
        return all(check.held for check in self.checks)


def batches_of(client: Any) -> list[dict[str, Any]]:
    """Read the batches that the pipeline stored."""
    result = client.query(
        "SELECT sequence, source, iterations, begin_ns, end_ns, duration_ns, expected_ns, verdict, "
        f"uncertainty_ns, {', '.join(FIELDS)} FROM batches_view ORDER BY begin_ns"
    )
    return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]


def check_counts(
    findings: Findings,
    batches: list[dict[str, Any]],
    truth: list[TruthIteration],
    *,
    can_read_counters: bool,
) -> None:
    """Hold the batches against the engine's own record, from the first one seen on."""
    if not batches:
        findings.checks.append(Check("batches counted", False, "none was stored"))
        return
    single = [batch for batch in batches if batch["source"] == "counter"]
    if not single and can_read_counters:
        findings.checks.append(
            Check("batches timed one by one", False, "the counter was never read: see collect.log")
        )
        return
    if not single:
        counted = sum(batch["iterations"] for batch in batches)
        findings.checks.append(
            Check("batches counted", counted > 0, f"{counted} by interval means (/metrics)")
        )
        return
    first = min(batch["sequence"] for batch in single)
    own = {iteration.sequence: iteration for iteration in truth if iteration.sequence >= first}
    seen = [batch for batch in single if batch["sequence"] in own]
    share = len(seen) / max(len(own), 1)
    findings.checks.append(
        Check(
            "batches timed one by one",
            share >= COUNTED_LEAST,
            f"{len(seen)} of {len(own)} by the engine's own count ({share:.2%})",
        )
    )
    equal = sum(
        all(batch[name] == getattr(own[batch["sequence"]], name) for name in FIELDS)
        for batch in seen
    )
    share = equal / max(len(seen), 1)
    findings.checks.append(
        Check(
            "workload equal to the engine's",
            share >= WORKLOAD_LEAST,
            f"{equal} of {len(seen)} batches ({share:.2%}), all of {', '.join(FIELDS)}",
        )
    )
    errors_ms = sorted(
        abs(batch["duration_ns"] - own[batch["sequence"]].duration_ns) / 1e6 for batch in seen
    )
    findings.facts.append(
        (
            "duration against the engine's own",
            f"off by {quantile(errors_ms, 0.5):.2f} ms at the median, "
            f"{quantile(errors_ms, 0.99):.2f} ms at p99",
        )
    )


def check_prediction(findings: Findings, batches: list[dict[str, Any]], story: list[Scene]) -> None:
    """Give the prediction error where nothing was disturbed, after the first 1,000 batches."""
    quiet = [scene for scene in story if scene.fault is None]
    for least in (200, 1000):
        errors = sorted(
            abs(batch["duration_ns"] / batch["expected_ns"] - 1)
            for batch in batches[least:]
            if batch["expected_ns"]
            and batch["verdict"] != "slow"
            and any(scene.begin_ns <= batch["begin_ns"] < scene.end_ns for scene in quiet)
        )
        if errors:
            within = sum(error <= 0.1 for error in errors) / len(errors)
            findings.facts.append(
                (
                    f"prediction error after {least} batches",
                    f"median {quantile(errors, 0.5):.1%}, within 10 %: {within:.0%}",
                )
            )


# The hogs of the scene before are gone from the process table and not yet from a half second.
SETTLED_NS = 1_500_000_000
# Foreign load from here on is a disturbance of its own: an alert is then right.
FOREIGN_LOAD = 0.25


def check_alerts(
    findings: Findings,
    deliveries: list[Delivery],
    story: list[Scene],
    machine: Machine,
    *,
    can_read_counters: bool,
) -> None:
    """Hold the alerts against the story: where one was due, where none was.

    Without the counter no phase is seen, so a slow forward pass is rightly called unknown.
    """
    fired = [d for d in deliveries if d.annotations["state"] == "firing"]
    for scene in story:
        here = [
            d
            for d in fired
            if scene.begin_ns <= d.received_ns < scene.end_ns
            and not _belongs_to_earlier(d, scene, story)
        ]
        if scene.fault is None:
            shown, foreign = "none", 0.0
            if here:
                # What was going on when the trouble began, not at any time of the scene.
                first = here[0]
                foreign = machine.foreign_ratio(
                    max(first.starts_at_ns, scene.begin_ns + SETTLED_NS), first.received_ns
                )
                shown = here[0].annotations["summary"]
                if foreign >= FOREIGN_LOAD:
                    shown = f"rightly: processes outside the demo took {foreign:.0%} of the CPUs"
            findings.checks.append(
                Check(f"no alert in '{scene.name}'", not here or foreign >= FOREIGN_LOAD, shown)
            )
            continue
        ids = {d.incident_id for d in here}
        accepted = {*scene.causes} if can_read_counters else {*scene.causes, UNKNOWN}
        # An incident's last word counts, not its first guess.
        told = {d.incident_id: d for d in deliveries if d.incident_id in ids}
        causes = {d.annotations["cause"] for d in told.values()}
        findings.checks.append(
            Check(
                f"an alert in '{scene.name}'",
                bool(causes & accepted),
                ", ".join(sorted(causes)) or "none",
            )
        )
        resolved = [d for d in deliveries if d.incident_id in ids and d.status == "resolved"]
        findings.checks.append(
            Check(
                "... and it was resolved",
                bool(ids) and len(resolved) == len(ids),
                f"{len(resolved)} of {len(ids)}",
            )
        )
    for delivery in deliveries:
        findings.incidents.append(
            {
                "state": delivery.annotations["state"],
                "cause": delivery.annotations["cause"],
                "confidence": delivery.annotations["cause_confidence"],
                "latency_ms": delivery.latency_ms,
                "summary": delivery.annotations["summary"],
            }
        )


def _belongs_to_earlier(delivery: Delivery, scene: Scene, story: list[Scene]) -> bool:
    """Tell whether an alert that came in a quiet scene is the late end of a disturbed one."""
    earlier = [s for s in story if s.end_ns <= scene.begin_ns and s.fault is not None]
    return any(
        delivery.received_ns - s.end_ns < GRACE_NS and delivery.starts_at_ns < s.end_ns
        for s in earlier
    )


def quantile(ordered: list[float], share: float) -> float:
    """Give a quantile of an ordered list; nan where it is empty."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
