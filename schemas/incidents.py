"""The alerts of one incident as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.records import Alert, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An incident as its alerts told it.

    Attributes:
        fired_ns: End of the batch that made it fire; where the first alert is missing, its begin.

        told_ns: When the alert about that was made; None where it is missing.

        end_ns: None while it is open.

        causes_at_firing: The cause that it fired with, and the others that were considered.

        causes: Those of the last word before it was resolved.

        ratio: How many times as long as expected its batches took, by its last alert.

        alerts: How many there are.
    """

    engine_id: str
    incident_id: str
    begin_ns: int
    fired_ns: int
    told_ns: int | None
    end_ns: int | None
    causes_at_firing: tuple[str, ...]
    causes: tuple[str, ...]
    severity: Severity
    ratio: float
    alerts: int

    @property
    def cause(self) -> str:
        """The cause that it names in the end."""
        return self.causes[0]

    def is_open_at(self, moment_ns: int) -> bool:
        """Tell whether it had fired and was not over."""
        return self.fired_ns < moment_ns and (self.end_ns is None or self.end_ns > moment_ns)

    def overlaps(self, other: Incident) -> bool:
        """Tell whether both were there at some time."""
        return (self.end_ns is None or other.begin_ns <= self.end_ns) and (
            other.end_ns is None or self.begin_ns <= other.end_ns
        )


def fold(alerts: Iterable[Alert]) -> Incident:
    """Make one incident of its alerts, in any order; a revision told twice counts once."""
    ordered = sorted({alert.revision: alert for alert in alerts}.items())
    first, last = ordered[0][1], ordered[-1][1]
    told = [alert for _, alert in ordered if alert.state != "resolved"]
    fired = first.state == "firing"
    return Incident(
        engine_id=first.engine_id,
        incident_id=first.incident_id,
        begin_ns=first.begin_ns,
        fired_ns=first.batch_end_ns if fired else first.begin_ns,
        told_ns=first.at_ns if fired else None,
        end_ns=last.end_ns if last.state == "resolved" else None,
        causes_at_firing=_named(first) if fired else (),
        causes=_named(told[-1] if told else last),
        severity=last.severity,
        ratio=last.evidence.ratio,
        alerts=len(ordered),
    )


def _named(alert: Alert) -> tuple[str, ...]:
    return (alert.cause, *(cause for cause in alert.other_causes if cause != alert.cause))
