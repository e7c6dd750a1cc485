"""PagerDuty's Events API, version 2; the routing key comes from the environment."""

from typing import Any, ClassVar, Literal

from schemas.records import Notification
from streams.delivery.headers import rfc3339
from streams.delivery.payloads._annotations import evidence_of, incident_of
from streams.delivery.payloads._members import MOST_MEMBERS, members_of
from streams.delivery.payloads.base import Context, Payload

SUMMARY_LENGTH = 1024
SOURCE_LENGTH = 255
SEVERITIES = {"page": "critical", "ticket": "warning"}


class Pagerduty(Payload):
    """One PagerDuty alert for each incident of ours: its id is the key."""

    url: ClassVar[str] = "https://events.pagerduty.com/v2/enqueue"
    secret: ClassVar[Literal["signature", "bearer", "body"]] = "body"

    def body(self, notification: Notification, context: Context) -> dict[str, Any]:
        """Give the event."""
        alert, link = notification.alert, context.link(notification)
        members = members_of(notification)
        return {
            "routing_key": context.key,
            "event_action": _action(notification),
            "dedup_key": notification.incident_id,
            "client": "LatencyPrism",
            "payload": {
                "summary": notification.summary[:SUMMARY_LENGTH],
                "source": (notification.shared or alert.engine_id)[:SOURCE_LENGTH],
                "severity": SEVERITIES[notification.severity],
                "timestamp": rfc3339(notification.begin_ns),
                "component": alert.engine_id,
                "class": notification.cause,
                "custom_details": incident_of(notification)
                | evidence_of(alert)
                | {"engines": [one.engine_id for one in members[:MOST_MEMBERS]]},
            }
            | ({"group": alert.model} if alert.model is not None else {}),
            "links": [{"href": link, "text": "Incident in LatencyPrism"}] if link else [],
        } | ({"client_url": context.console_url} if context.console_url else {})


def _action(notification: Notification) -> str:
    if notification.state == "resolved":
        return "resolve"
    return "trigger" if notification.acknowledged_by is None else "acknowledge"
