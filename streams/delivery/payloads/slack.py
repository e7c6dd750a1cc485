"""A message for Slack, or what speaks its format (Mattermost, Rocket.Chat): read in ten seconds.

How bad, what, what to do first; then one line for whoever goes on reading.
"""

from typing import Any

from schemas.records import Notification
from streams.delivery.headers import rfc3339
from streams.delivery.payloads._members import members_of
from streams.delivery.payloads.base import Context, Payload

# Slack refuses a message with a longer text in these places.
HEADER_LENGTH = 150
TEXT_LENGTH = 2800
ENGINES_SHOWN = 5
MARKS = {"page": ":red_circle:", "ticket": ":large_orange_circle:", "over": ":white_check_mark:"}


class Slack(Payload):
    """A message of blocks, with a plain text for notifications of the phone."""

    def body(self, notification: Notification, context: Context) -> dict[str, Any]:
        """Give the message."""
        title = _title(notification)
        blocks: list[dict[str, Any]] = [
            {
                "type": "header",
                "text": {"type": "plain_text", "text": _cut(title, HEADER_LENGTH), "emoji": True},
            },
            _section(_escaped(notification.summary)),
        ]
        if notification.state != "resolved":
            blocks.append(_section(f"*Do first:* {_escaped(notification.next_step)}"))
        blocks.append(
            {
                "type": "context",
                "elements": [
                    {"type": "mrkdwn", "text": _cut(_details(notification, context), TEXT_LENGTH)}
                ],
            }
        )
        text = f"{_escaped(title)}: {_escaped(notification.summary)}"
        return {"text": _cut(text, TEXT_LENGTH), "blocks": blocks}


def _title(notification: Notification) -> str:
    over = notification.state == "resolved"
    word = "OVER" if over else notification.severity.upper()
    mark = MARKS["over" if over else notification.severity]
    cause = notification.cause.replace("_", " ")
    return _one_line(f"{mark} {word} {_where(notification)}: {cause}")


def _where(notification: Notification) -> str:
    members = members_of(notification)
    if len(members) == 1:
        return members[0].engine_id
    shared = (notification.shared or "").partition(":")[2]
    return f"{len(members)} engines" + (f" on {shared}" if shared else "")


def _details(notification: Notification, context: Context) -> str:
    members = members_of(notification)
    parts = [f"{notification.confidence:.0%} sure", f"since {_moment(notification.begin_ns)}"]
    if notification.end_ns is not None:
        parts.append(f"until {_moment(notification.end_ns)}")
    if len(members) > 1:
        shown = ", ".join(one.engine_id for one in members[:ENGINES_SHOWN])
        more = len(members) - ENGINES_SHOWN
        parts.append(shown + (f" and {more} more" if more > 0 else ""))
    if notification.acknowledged_by is not None:
        parts.append(f"taken care of by {notification.acknowledged_by}")
    if notification.flapping:
        parts.append("comes and goes: only its end is told from now on")
    parts += [f"capture {one.capture_id} in {one.folder}" for one in notification.captures[:2]]
    parts.append(f"incident {notification.incident_id}")
    told = _escaped(" · ".join(_one_line(part) for part in parts))
    link = context.link(notification)
    return f"{told} · <{link}|open>" if link else told


def _moment(at_ns: int) -> str:
    return rfc3339(at_ns)[:19].replace("T", " ") + " UTC"


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text, TEXT_LENGTH)}}


def _escaped(text: str) -> str:
    """Write what Slack would read as markup of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
