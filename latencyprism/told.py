"""All that is kept of an incident: in a recording here, in ClickHouse by `latencyprism.stored`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from latencyprism.spans import Sums
from schemas.incidents import Incident, fold
from schemas.records import (
    Acknowledgement,
    Alert,
    AlertState,
    Capture,
    CaptureState,
    Notification,
    Silence,
)

# What a capture becomes in the end counts.
_PROGRESS: dict[CaptureState, int] = {"requested": 0, "running": 1, "failed": 2, "done": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One engine's part in an incident, as a notification tells it."""

    engine_id: str
    incident_id: str
    ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What people were told: a `schemas.records.Notification`, as far as its table has it."""

    incident_id: str
    revision: int
    state: AlertState
    at_ns: int
    parts: tuple[Part, ...] = ()
    shared: str | None = None
    acknowledged_by: str | None = None
    silenced_by: str | None = None
    flapping: bool = False
    capture_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An incident of one engine and all that was told, said and done about it.

    Attributes:
        alerts: By revision; there is at least one.

        words: What people were told of it or of the incident that it is a part of, by revision.

        captures: The last state of each.

        sums: What its batches cost; None where none is kept.

        unread: Sentences about what could not be looked up.
    """

    alerts: tuple[Alert, ...]
    words: tuple[Word, ...] = ()
    acknowledgements: tuple[Acknowledgement, ...] = ()
    silences: tuple[Silence, ...] = ()
    captures: tuple[Capture, ...] = ()
    sums: Sums | None = None
    unread: tuple[str, ...] = ()

    @property
    def incident(self) -> Incident:
        """The incident as its alerts tell it."""
        return fold(self.alerts)

    @property
    def last_word(self) -> Alert:
        """The alert that judged last: of an incident that is over, the one before its end."""
        return next((one for one in reversed(self.alerts) if one.state != "resolved"), self.newest)

    @property
    def newest(self) -> Alert:
        """The last alert."""
        return self.alerts[-1]


class Incidents(Protocol):
    """Where incidents are kept."""

    def ids(self, prefix: str) -> list[str]:
        """Give the ids that begin so, a few of them where there are many."""
        ...

    def told(self, incident_id: str) -> Told | None:
        """Give all about an incident; None where none of its alerts is kept."""
        ...

    def newest(self, most: int, engine_id: str | None = None) -> list[Incident]:
        """Give the incidents that began last, newest first."""
        ...


def word_of(told: Notification) -> Word:
    """Give what people were told, without the alert in it."""
    return Word(
        incident_id=told.incident_id,
        revision=told.revision,
        state=told.state,
        at_ns=told.at_ns,
        parts=tuple(
            Part(engine_id=one.engine_id, incident_id=one.incident_id, ratio=one.ratio)
            for one in told.members
        ),
        shared=told.shared,
        acknowledged_by=told.acknowledged_by,
        silenced_by=told.silenced_by,
        flapping=told.flapping,
        capture_ids=tuple(one.capture_id for one in told.captures),
    )


def is_about(word: Word, incident_id: str) -> bool:
    """Tell whether an incident is what is told of, or a part of it."""
    return incident_id in {word.incident_id, *(one.incident_id for one in word.parts)}


def ids_of(words: Iterable[Word], incident_id: str) -> set[str]:
    """Give the ids of an incident and of all that it is a part of, members included."""
    found = {incident_id}
    for word in words:
        found |= {word.incident_id, *(part.incident_id for part in word.parts)}
    return found


def silence_ids(words: Iterable[Word]) -> set[str]:
    """Give the silences that kept something from being delivered."""
    return {word.silenced_by for word in words if word.silenced_by}


def is_wanted(capture: Capture, words: Iterable[Word], incident_ids: set[str]) -> bool:
    """Tell whether a capture was taken for one of these incidents."""
    linked = {one for word in words for one in word.capture_ids}
    return capture.incident_id in incident_ids or capture.capture_id in linked


def last_states(captures: Iterable[Capture]) -> tuple[Capture, ...]:
    """Give each capture once, as it was last, in the order in which they were asked for."""
    asked_ns: dict[str, int] = {}
    last: dict[str, Capture] = {}
    for one in captures:
        asked_ns[one.capture_id] = min(one.at_ns, asked_ns.get(one.capture_id, one.at_ns))
        known = last.get(one.capture_id)
        if known is None or _PROGRESS[one.state] >= _PROGRESS[known.state]:
            last[one.capture_id] = one
    return tuple(sorted(last.values(), key=lambda one: asked_ns[one.capture_id]))


def newest_of(silences: Iterable[Silence]) -> tuple[Silence, ...]:
    """Give each silence as it was last said."""
    last: dict[str, Silence] = {}
    for one in sorted(silences, key=lambda one: one.at_ns):
        last[one.silence_id] = one
    return tuple(last.values())
