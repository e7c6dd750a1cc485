"""Notifications, and a clock that is moved by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from schemas.records import Alert, AlertState, Member, Notification
from streams.delivery import NotifySettings
from tests.schemas.samples import full
from tests.streams.receiver import Receiver

BEGIN_NS = 1_790_000_000_000_000_000
STATES: tuple[AlertState, ...] = ("firing", "updated", "resolved")


@dataclass
class Clock:
    """Seconds since the epoch, and for pauses."""

    now: float = BEGIN_NS / 1e9

    def __call__(self) -> float:
        return self.now


def notification(
    incident_id: str = "abc", revision: int = 0, state: AlertState = "firing", **changes: Any
) -> Notification:
    """Give a notification of an incident with one member."""
    end_ns = BEGIN_NS + 12_345_000_000 if state == "resolved" else None
    alert: Alert = replace(
        full(Alert),
        incident_id=incident_id,
        engine_id="inference-7:8000",
        state=state,
        host="inference-7",
        model="llama",
        framework="vllm",
        begin_ns=BEGIN_NS,
        evidence=replace(full(Alert).evidence, expected_ns=10_000_000, ratio=1.5),
    )
    found: Notification = replace(
        full(Notification),
        incident_id=incident_id,
        revision=revision,
        state=state,
        severity="page",
        cause="host_cpu_contention",
        begin_ns=BEGIN_NS,
        at_ns=BEGIN_NS + revision * 1_000_000_000,
        end_ns=end_ns,
        alert=alert,
        members=(member("inference-7:8000", incident_id, state, end_ns=end_ns),),
        shared=None,
        acknowledged_by=None,
        silenced_by=None,
        captures=(),
    )
    return replace(found, **changes)


def member(
    engine_id: str, incident_id: str = "abc", state: AlertState = "firing", **changes: Any
) -> Member:
    """Give a member that fired."""
    host = engine_id.partition(":")[0]
    found = Member(
        engine_id=engine_id,
        incident_id=incident_id,
        revision=0,
        state=state,
        begin_ns=BEGIN_NS,
        ratio=1.5,
        cause="host_cpu_contention",
        framework="vllm",
        model="llama",
        host=host,
    )
    return replace(found, **changes)


def life(incident_id: str = "abc", **changes: Any) -> list[Notification]:
    """Give what is told of an incident from its beginning to its end."""
    return [notification(incident_id, n, state, **changes) for n, state in enumerate(STATES)]


def keys(receiver: Receiver) -> list[str]:
    """Give the names of the deliveries that the receiver took, in order."""
    taken = [one for one in receiver.deliveries if one.status < 300]
    return [one.headers["Idempotency-Key"] for one in taken]


def settings(receiver: Receiver | str, folder: Any, **changes: Any) -> NotifySettings:
    """Give settings with the destination ``default``."""
    url = receiver if isinstance(receiver, str) else f"{receiver.address}/hook?team=llm"
    given: dict[str, Any] = {"url": url, "allow_private": True, "spool_folder": str(folder)}
    return NotifySettings(**given | changes)
