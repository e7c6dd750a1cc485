"""The members of an incident, and the labels by which a receiver knows each of them."""

from dataclasses import replace

from schemas.records import Member, Notification

ALERT_NAME = "LLMBatchLatencyAnomaly"
# An incident of a whole fleet is told by its first members; how many more there are is told, too.
MOST_MEMBERS = 100
FNV_OFFSET, FNV_PRIME = 14695981039346656037, 1099511628211


def members_of(notification: Notification) -> tuple[Member, ...]:
    """Give the members; an incident that is over has none that still goes on."""
    members = notification.members or (_only_member(notification),)
    if notification.state != "resolved":
        return members
    end_ns = notification.end_ns or notification.at_ns
    return tuple(
        replace(member, state="resolved", end_ns=member.end_ns or end_ns) for member in members
    )


def leader_of(notification: Notification) -> Member:
    """Give the member that the evidence is of."""
    members = members_of(notification)
    return next(
        (one for one in members if one.engine_id == notification.alert.engine_id), members[0]
    )


def labels_of(notification: Notification, member: Member) -> dict[str, str]:
    """Give the labels of a member: few values each, the same from firing to resolved."""
    labels = {
        "alertname": ALERT_NAME,
        "engine_id": member.engine_id,
        "incident_id": notification.incident_id,
    }
    optional = {"model_name": member.model, "framework": member.framework, "host": member.host}
    return labels | {name: value for name, value in optional.items() if value is not None}


def fingerprint(labels: dict[str, str]) -> str:
    """Hash the labels as Alertmanager does (FNV-1a): one member of one incident, one value."""
    found = FNV_OFFSET
    for name in sorted(labels):
        for byte in f"{name}\0{labels[name]}\0".encode().replace(b"\0", b"\xff"):
            found = (found ^ byte) * FNV_PRIME % (1 << 64)
    return f"{found:016x}"


def status_of(state: str) -> str:
    """Give Alertmanager's word for a state: it knows only two."""
    return "resolved" if state == "resolved" else "firing"


def _only_member(notification: Notification) -> Member:
    alert = notification.alert
    return Member(
        engine_id=alert.engine_id,
        incident_id=alert.incident_id,
        revision=alert.revision,
        state=notification.state,
        begin_ns=notification.begin_ns,
        end_ns=notification.end_ns,
        ratio=alert.evidence.ratio,
        cause=alert.cause,
        framework=alert.framework,
        model=alert.model,
        host=alert.host,
    )
