"""Alertmanager's webhook, version 4: what its own receivers read."""

from typing import Any

from schemas.records import Notification
from streams.delivery.headers import rfc3339
from streams.delivery.payloads._annotations import annotations_of
from streams.delivery.payloads._members import (
    ALERT_NAME,
    MOST_MEMBERS,
    fingerprint,
    labels_of,
    members_of,
    status_of,
)
from streams.delivery.payloads.base import Context, Payload

NOT_ENDED = "0001-01-01T00:00:00Z"


class Alertmanager(Payload):
    """One entry for each member of the incident."""

    def body(self, notification: Notification, context: Context) -> dict[str, Any]:
        """Give the payload."""
        members = members_of(notification)
        alerts = [
            {
                "status": status_of(member.state),
                "labels": labels_of(notification, member),
                "annotations": annotations_of(notification, member),
                "startsAt": rfc3339(member.begin_ns),
                "endsAt": NOT_ENDED if member.end_ns is None else rfc3339(member.end_ns),
                "generatorURL": context.link(notification),
                "fingerprint": fingerprint(labels_of(notification, member)),
            }
            for member in members[:MOST_MEMBERS]
        ]
        group = {"alertname": ALERT_NAME, "incident_id": notification.incident_id}
        return {
            "version": "4",
            "groupKey": "{}:{"
            + ", ".join(f"{name}={_quoted(v)}" for name, v in group.items())
            + "}",
            "truncatedAlerts": len(members) - len(alerts),
            "status": status_of(notification.state),
            "receiver": context.receiver,
            "groupLabels": group,
            "commonLabels": _common([alert["labels"] for alert in alerts]),
            "commonAnnotations": _common([alert["annotations"] for alert in alerts]),
            "externalURL": context.console_url,
            "alerts": alerts,
        }


def _quoted(text: str) -> str:
    """Write a label's value as Alertmanager does in the key of a group."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _common(all_of: list[Any]) -> dict[str, str]:
    """Give what all of them have with the same value."""
    first: dict[str, str] = all_of[0]
    return {
        name: value
        for name, value in first.items()
        if all(one.get(name) == value for one in all_of)
    }
