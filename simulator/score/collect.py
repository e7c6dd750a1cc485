"""Sort what a recording holds into truth, batches and incidents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from schemas.records import Alert, Batch, Fault, FaultKind, Record, Verdict


class Point(NamedTuple):
    """What scoring needs of one batch."""

    end_ns: int
    begin_ns: int
    duration_ns: int
    expected_ns: int | None
    verdict: Verdict
    requests: int | None


@dataclass(frozen=True, slots=True)
class Episode:
    """A fault or a control as it was in the end.

    Attributes:
        fault: Its last record.

        end_ns: When it was undone; where nobody told, the end of the recording.

        finished: Whether its end was told.
    """

    fault: Fault
    end_ns: int
    finished: bool

    @property
    def begin_ns(self) -> int:
        """When it began."""
        return self.fault.begin_ns


@dataclass(frozen=True, slots=True)
class Incident:
    """All alerts of one incident as one.

    Attributes:
        fired_ns: End of the batch that made it fire; where the recording began later, its begin.

        told_ns: When the alert about that was made; None where it is not in the recording.

        causes_at_firing: The cause that it fired with, and the others that were considered.

        causes: Those of the last word before it was resolved.
    """

    incident_id: str
    engine_id: str
    begin_ns: int
    fired_ns: int
    told_ns: int | None
    end_ns: int | None
    causes_at_firing: tuple[str, ...]
    causes: tuple[str, ...]

    def is_open_at(self, moment_ns: int) -> bool:
        """Tell whether it had fired and was not over."""
        return self.fired_ns < moment_ns and (self.end_ns is None or self.end_ns > moment_ns)


@dataclass(frozen=True, slots=True)
class Observed:
    """A recording, sorted.

    Attributes:
        points: Batches of each engine by their end.

        incidents: By the moment they fired.

        episodes: Faults and controls by their begin.

        hosts: Host of each engine.

        begin_ns: The first moment that a batch, an incident or a fault tells of; likewise
            ``end_ns``, the last one.
    """

    points: dict[str, list[Point]]
    incidents: list[Incident]
    episodes: list[Episode]
    hosts: dict[str, str]
    begin_ns: int
    end_ns: int

    @property
    def engine_ids(self) -> list[str]:
        """Every engine that anything is known of."""
        fired = {incident.engine_id for incident in self.incidents}
        return sorted({*self.points, *self.hosts, *fired})

    def host_of(self, engine_id: str) -> str:
        """Give an engine's host; where no record tells it, an id begins with it."""
        return self.hosts.get(engine_id) or engine_id.rpartition(":")[0]

    def engines_of(self, episode: Episode) -> list[str]:
        """Give the engines that should feel it: those named, else all of the host."""
        named = episode.fault.engine_ids
        if named:
            return sorted(set(named))
        host = episode.fault.host
        return [one for one in self.engine_ids if self.host_of(one) == host]

    def episodes_of(self, engine_id: str, kind: FaultKind) -> list[Episode]:
        """Give the faults, or the controls, that one engine should feel."""
        return [
            episode
            for episode in self.episodes
            if episode.fault.kind == kind and self._feels(engine_id, episode.fault)
        ]

    def _feels(self, engine_id: str, fault: Fault) -> bool:
        if fault.engine_ids:
            return engine_id in fault.engine_ids
        return self.host_of(engine_id) == fault.host


def collect(records: Iterable[Record]) -> Observed:
    """Read records in any order; repeated ones count once, amended batches as last told."""
    batches: dict[str, dict[tuple[int, int], tuple[int, Point]]] = {}
    alerts: dict[str, dict[int, Alert]] = {}
    faults: dict[str, Fault] = {}
    hosts: dict[str, str] = {}
    for record in records:
        if isinstance(record, Batch):
            _add_batch(batches.setdefault(record.engine_id, {}), record)
        elif isinstance(record, Alert):
            alerts.setdefault(record.incident_id, {})[record.revision] = record
        elif isinstance(record, Fault) and (
            record.state == "ended" or record.fault_id not in faults
        ):
            faults[record.fault_id] = record
        _note_host(hosts, record)
    points = {
        engine_id: sorted((point for _, point in found.values()), key=lambda point: point[:2])
        for engine_id, found in sorted(batches.items())
    }
    incidents = sorted(
        (fold(list(found.values())) for found in alerts.values()),
        key=lambda incident: (incident.fired_ns, incident.incident_id),
    )
    begin_ns, end_ns = _extent(points, incidents, faults)
    return Observed(points, incidents, _episodes(faults, end_ns), hosts, begin_ns, end_ns)


def fold(alerts: list[Alert]) -> Incident:
    """Make one incident of its alerts."""
    ordered = sorted(alerts, key=lambda alert: alert.revision)
    first, last = ordered[0], ordered[-1]
    told = [alert for alert in ordered if alert.state != "resolved"]
    word = told[-1] if told else last
    fired = first.state == "firing"
    return Incident(
        incident_id=first.incident_id,
        engine_id=first.engine_id,
        begin_ns=first.begin_ns,
        fired_ns=first.batch_end_ns if fired else first.begin_ns,
        told_ns=first.at_ns if fired else None,
        end_ns=last.end_ns if last.state == "resolved" else None,
        causes_at_firing=_named(first) if fired else (),
        causes=_named(word),
    )


def _named(alert: Alert) -> tuple[str, ...]:
    return (alert.cause, *(cause for cause in alert.other_causes if cause != alert.cause))


def _add_batch(known: dict[tuple[int, int], tuple[int, Point]], batch: Batch) -> None:
    key = (batch.process_start_ns, batch.sequence)
    if key in known and known[key][0] > batch.revision:
        return
    point = Point(
        batch.end_ns,
        batch.begin_ns,
        batch.duration_ns,
        batch.expected_ns,
        batch.verdict,
        batch.workload.requests,
    )
    known[key] = (batch.revision, point)


def _note_host(hosts: dict[str, str], record: Record) -> None:
    engine_id, host = getattr(record, "engine_id", None), getattr(record, "host", None)
    if engine_id and host:
        hosts[engine_id] = host


def _episodes(faults: Mapping[str, Fault], end_ns: int) -> list[Episode]:
    found = [
        Episode(
            fault=fault,
            end_ns=end_ns if fault.end_ns is None else fault.end_ns,
            finished=fault.end_ns is not None,
        )
        for fault in faults.values()
    ]
    return sorted(found, key=lambda episode: (episode.begin_ns, episode.fault.fault_id))


def _extent(
    points: Mapping[str, list[Point]], incidents: list[Incident], faults: Mapping[str, Fault]
) -> tuple[int, int]:
    moments = [
        *(found[0].begin_ns for found in points.values()),
        *(found[-1].end_ns for found in points.values()),
        *(incident.fired_ns for incident in incidents),
        *(fault.begin_ns for fault in faults.values()),
        *(fault.end_ns for fault in faults.values() if fault.end_ns is not None),
    ]
    return (min(moments), max(moments)) if moments else (0, 0)
