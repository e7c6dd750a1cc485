"""What a payload is: one file each, the file's name is its kind."""

import urllib.parse
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from models.plugins import names_in, plugin
from schemas.records import Notification

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Context:
    """What a payload says beside the notification.

    Attributes:
        receiver: Name of the destination.

        console_url: Base of the links; empty for none.

        key: The receiver's key, where it stands in the body.
    """

    receiver: str = "latencyprism"
    console_url: str = ""
    key: str = ""

    def link(self, notification: Notification) -> str:
        """Give the address of an incident's page; empty where there is no console."""
        if not self.console_url:
            return ""
        name = urllib.parse.quote(notification.incident_id, safe="")
        return f"{self.console_url.rstrip('/')}/incident/{name}"


class Payload(ABC):
    """Write notifications as one kind of receiver reads them.

    The same notification must always give the same body: a delivery that is tried again, or
    replayed, is the same delivery.
    """

    payloads: ClassVar[dict[str, type["Payload"]]] = {}

    url: ClassVar[str] = ""
    """Where to post if the configuration says nothing; empty where it has to."""

    secret: ClassVar[Literal["signature", "bearer", "body"]] = "signature"
    """What the secret is for: it signs, it is a token in a header, or it stands in the body."""

    def __init_subclass__(cls) -> None:
        """Enter the payload under its file's name."""
        cls.payloads[cls.__module__.rpartition(".")[2]] = cls

    @abstractmethod
    def body(self, notification: Notification, context: Context) -> Any:
        """Give what is posted, as JSON has it."""


def available() -> list[str]:
    """Give the kinds, from the files of this folder."""
    return names_in(FOLDER)


def load(kind: str) -> Payload:
    """Make the payload of that kind.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    return plugin(kind, FOLDER, "streams.delivery.payloads", "kind of receiver", Payload.payloads)
