"""What a reader needs, as strings: of the incident, of one member, and the evidence."""

from typing import Any

import orjson

from schemas.records import Alert, Member, Notification
from streams.delivery.payloads._members import leader_of, members_of


def annotations_of(notification: Notification, member: Member) -> dict[str, str]:
    """Give the annotations of a member; that which leads has the evidence, too."""
    found = incident_of(notification)
    if member.ratio is not None:
        found["slowdown_ratio"] = f"{member.ratio:.3f}"
    if member.engine_id == leader_of(notification).engine_id:
        found |= evidence_of(notification.alert) | {"members": _members_json(notification)}
    return found


def incident_of(notification: Notification) -> dict[str, str]:
    """Give what holds for all members."""
    alert = notification.alert
    found = {
        "summary": notification.summary,
        "description": notification.next_step,
        "severity": notification.severity,
        "cause": notification.cause,
        "cause_confidence": f"{notification.confidence:.2f}",
        "other_causes": ", ".join(alert.other_causes),
        "state": notification.state,
        "revision": str(notification.revision),
        "member_count": str(len(members_of(notification))),
        "leading_engine": alert.engine_id,
        "batch_sequence": str(alert.batch_sequence),
        "batch_end_ns": str(alert.batch_end_ns),
        "flapping": "true" if notification.flapping else "false",
    }
    if notification.shared is not None:
        found["shared"] = notification.shared
    if notification.acknowledged_by is not None:
        found["acknowledged_by"] = notification.acknowledged_by
    if notification.captures:
        found["captures"] = _json(notification.captures)
    return found


def evidence_of(alert: Alert) -> dict[str, str]:
    """Give the numbers behind an alert."""
    evidence = alert.evidence
    found = {
        "expected_seconds": f"{evidence.expected_ns / 1e9:.6f}",
        "observed_seconds": f"{evidence.observed_ns / 1e9:.6f}",
        "expected_low_seconds": f"{evidence.low_ns / 1e9:.6f}",
        "expected_high_seconds": f"{evidence.high_ns / 1e9:.6f}",
        "slowdown_ratio": f"{evidence.ratio:.3f}",
        "slow_batches": str(evidence.slow_batches),
        "evidence_query": evidence.sql,
        "workload": _json(evidence.workload),
    }
    optional: dict[str, Any] = {
        "counters_before": evidence.counters_before,
        "counters_during": evidence.counters_during,
        "phases_before_ns": evidence.phases_before_ns,
        "phases_during_ns": evidence.phases_during_ns,
        "pressures": evidence.pressures,
        "inflations": evidence.inflations,
        "missing_counters": evidence.missing_counters,
        "throttle_reasons": evidence.throttle_reasons,
        "peers": evidence.peers,
    }
    return found | {name: _json(values) for name, values in optional.items() if values}


def _members_json(notification: Notification) -> str:
    return _json(
        [
            {"engine_id": one.engine_id, "state": one.state, "ratio": one.ratio, "cause": one.cause}
            for one in members_of(notification)
        ]
    )


def _json(values: Any) -> str:
    return orjson.dumps(values).decode()
