"""Alertmanager itself (``POST /api/v2/alerts``), so that its routes and silences hold for us, too.

Alertmanager ends an alert that nobody repeats for five minutes, unless it comes with an end of its
own: ours say that they end in a week, and are ended by name before.
"""

from typing import Any, ClassVar, Literal

from schemas.records import Member, Notification
from streams.delivery.headers import rfc3339
from streams.delivery.payloads._annotations import annotations_of
from streams.delivery.payloads._members import MOST_MEMBERS, labels_of, members_of
from streams.delivery.payloads.base import Context, Payload

OPEN_NS = 7 * 24 * 3_600_000_000_000


class AlertmanagerApi(Payload):
    """One alert for each member of the incident."""

    secret: ClassVar[Literal["signature", "bearer", "body"]] = "bearer"

    def body(self, notification: Notification, context: Context) -> list[dict[str, Any]]:
        """Give the alerts."""
        link = context.link(notification)
        return [
            {
                "labels": labels_of(notification, member),
                "annotations": annotations_of(notification, member),
                "startsAt": rfc3339(member.begin_ns),
                "endsAt": rfc3339(_end_ns(notification, member)),
            }
            | ({"generatorURL": link} if link else {})
            for member in members_of(notification)[:MOST_MEMBERS]
        ]


def _end_ns(notification: Notification, member: Member) -> int:
    if member.end_ns is not None and member.state == "resolved":
        # It must have begun before it ends, be it by a batch that was timed to the same moment.
        return max(member.end_ns, member.begin_ns + 1_000_000)
    return notification.at_ns + OPEN_NS
