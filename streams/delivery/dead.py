"""The dead letter of a notification that was not delivered, and the way back."""

import base64
import hashlib

from schemas.codec import dead_letter, decode, encode
from schemas.records import DeadLetter, Notification
from schemas.topics import NOTIFICATIONS, key_of
from streams.delivery.headers import delivery_id

PLACE = "notify/"
# It was never a message on a partition of its own.
NO_PARTITION = -1


def buried(notification: Notification, destination: str, error: str) -> DeadLetter:
    """Make the dead letter; that of the same delivery is always at the same offset."""
    return dead_letter(
        topic=NOTIFICATIONS.name,
        partition=NO_PARTITION,
        offset=_number(delivery_id(notification)),
        key=key_of(notification),
        value=encode(notification),
        place=PLACE + destination,
        error=error,
    )


def destination_of(letter: DeadLetter) -> str | None:
    """Give the destination that did not take it; None for a dead letter of another kind."""
    return letter.place.removeprefix(PLACE) if letter.place.startswith(PLACE) else None


def notification_of(letter: DeadLetter) -> Notification:
    """Give the notification in a dead letter.

    Raises:
        DecodeError: There is none, or it was cut.
    """
    return decode(Notification, base64.b64decode(letter.value_base64 or ""))


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
