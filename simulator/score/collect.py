"""Sort what a recording holds into truth, batches and incidents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schemas.incidents import Incident, fold
from schemas.records import Alert, Batch, Fault, FaultKind, Record
from simulator.score.columns import Points, Told


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
        """When it was there in full."""
        return self.fault.begin_ns

    @property
    def onset_ns(self) -> int:
        """From when on something of it may be felt."""
        onset_ns = self.fault.onset_ns
        return self.begin_ns if onset_ns is None else min(onset_ns, self.begin_ns)


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

    points: dict[str, Points]
    incidents: list[Incident]
    episodes: list[Episode]
    hosts: dict[str, str]
    begin_ns: int
    end_ns: int

    @property
    def judged(self) -> set[str]:
        """Every engine that an analysis said something of."""
        return {*self.points, *(incident.engine_id for incident in self.incidents)}

    @property
    def engine_ids(self) -> list[str]:
        """Every engine that anything is known of."""
        return sorted({*self.judged, *self.hosts})

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


class Collector:
    """Takes records one by one and keeps what scoring needs of them: 57 bytes of a batch."""

    def __init__(self) -> None:
        self._batches: dict[str, Told] = {}
        self._alerts: dict[str, dict[int, Alert]] = {}
        self._faults: dict[str, Fault] = {}
        self._hosts: dict[str, str] = {}

    def add(self, record: Record) -> None:
        """Take a record, in any order; repeated ones count once, amended ones as last told."""
        if isinstance(record, Batch):
            self._batches.setdefault(record.engine_id, Told()).append(record)
            return
        if isinstance(record, Alert):
            self._alerts.setdefault(record.incident_id, {})[record.revision] = record
        elif isinstance(record, Fault):
            _add_fault(self._faults, record)
        _note_host(self._hosts, record)

    def observed(self) -> Observed:
        """Sort what there is so far."""
        return _assembled(
            {engine_id: told.last() for engine_id, told in self._batches.items()},
            [fold(found.values()) for found in self._alerts.values()],
            self._faults,
            self._hosts,
        )


def collect(records: Iterable[Record]) -> Observed:
    """Read records in any order."""
    collector = Collector()
    for record in records:
        collector.add(record)
    return collector.observed()


def merge(parts: Iterable[Observed]) -> Observed:
    """Put parts together, such as those that other processes collected.

    Raises:
        ValueError: Two of them have batches or incidents of the same engine.
    """
    points: dict[str, Points] = {}
    incidents: list[Incident] = []
    faults: dict[str, Fault] = {}
    hosts: dict[str, str] = {}
    judged: set[str] = set()
    for part in parts:
        twice = judged & part.judged
        if twice:
            raise ValueError(
                f"two parts have results of {min(twice)}: give the records of an engine to one "
                "collector, and the results of one analysis alone"
            )
        judged |= part.judged
        points |= part.points
        incidents += part.incidents
        for episode in part.episodes:
            _add_fault(faults, episode.fault)
        hosts |= part.hosts
    return _assembled(points, incidents, faults, hosts)


def _assembled(
    points: Mapping[str, Points],
    incidents: Iterable[Incident],
    faults: Mapping[str, Fault],
    hosts: Mapping[str, str],
) -> Observed:
    by_time = sorted(incidents, key=lambda incident: (incident.fired_ns, incident.incident_id))
    begin_ns, end_ns = _extent(points, by_time, faults)
    return Observed(
        dict(sorted(points.items())),
        by_time,
        _episodes(faults, end_ns),
        dict(hosts),
        begin_ns,
        end_ns,
    )


def _add_fault(known: dict[str, Fault], fault: Fault) -> None:
    if fault.state == "ended" or fault.fault_id not in known:
        known[fault.fault_id] = fault


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
    points: Mapping[str, Points], incidents: list[Incident], faults: Mapping[str, Fault]
) -> tuple[int, int]:
    moments = [
        *(found[0].begin_ns for found in points.values()),
        *(found[-1].end_ns for found in points.values()),
        *(incident.fired_ns for incident in incidents),
        *(fault.begin_ns for fault in faults.values()),
        *(fault.end_ns for fault in faults.values() if fault.end_ns is not None),
    ]
    return (min(moments), max(moments)) if moments else (0, 0)
