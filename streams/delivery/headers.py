"""What stands above a body: which delivery it is, when, and who signed it."""

import hashlib
import hmac
import urllib.parse
from datetime import UTC, datetime

from schemas.records import Notification

EVENT_TYPE = "io.latencyprism.notification.v1"
# What the CloudEvents HTTP binding lets stand: printable ASCII but for space, quote and percent.
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def delivery_id(notification: Notification) -> str:
    """Name one delivery: the same each time it is tried."""
    return _printable(f"{notification.incident_id}-{notification.revision}")


def headers_of(notification: Notification, timestamp: str) -> dict[str, str]:
    """Give the headers that every delivery has."""
    name = delivery_id(notification)
    return {
        "Content-Type": "application/json",
        "User-Agent": "LatencyPrism",
        "Idempotency-Key": name,
        "X-LatencyPrism-Delivery": name,
        "X-LatencyPrism-Timestamp": timestamp,
    }


def cloudevents_of(notification: Notification) -> dict[str, str]:
    """Give the CloudEvents 1.0 attributes, as headers (binary mode)."""
    source = notification.shared or notification.alert.engine_id
    return {
        "ce-specversion": "1.0",
        "ce-id": delivery_id(notification),
        "ce-source": "/latencyprism/" + urllib.parse.quote(source, safe=":"),
        "ce-type": EVENT_TYPE,
        "ce-subject": _printable(notification.incident_id),
        "ce-time": rfc3339(notification.at_ns),
    }


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Sign a delivery: HMAC-SHA256 over ``timestamp:body``."""
    message = timestamp.encode() + b":" + body
    return "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def rfc3339(at_ns: int) -> str:
    """Write a time as RFC 3339 in UTC, to the ms.

    >>> rfc3339(1_700_000_000_123_000_000)
    '2023-11-14T22:13:20.123Z'
    """
    seconds, ns = divmod(at_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000:03d}Z"


def _printable(text: str) -> str:
    """Escape what may not stand in a header."""
    return urllib.parse.quote(text, safe=_PLAIN)
