"""What waits for one destination, and which of it is next.

The notifications of an incident keep their order. Incidents wait apart: one whose notification the
receiver cannot digest is tried ever more seldom and holds up no other.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from schemas.records import AlertState, Notification
from streams.delivery.known import Known
from streams.sinks.retry import Backoff


@dataclass(frozen=True, slots=True)
class Entry:
    """A notification that waits; its text is in the spool, under the number."""

    number: int
    incident_id: str
    revision: int
    state: AlertState
    at_ns: int

    @classmethod
    def of(cls, number: int, notification: Notification) -> "Entry":
        """Make the entry of a notification."""
        return cls(
            number,
            notification.incident_id,
            notification.revision,
            notification.state,
            notification.at_ns,
        )


@dataclass(slots=True)
class _Waiting:
    """What waits of one incident.

    Attributes:
        not_before: Monotonic seconds.

        is_suspect: It failed while others were taken: its failures are its own.
    """

    backoff: Backoff
    entries: deque[Entry] = field(default_factory=deque)
    not_before: float = 0.0
    has_failed: bool = False
    is_suspect: bool = False


class Backlog:
    """The entries of one destination, by incident.

    Args:
        make_backoff: Gives the pauses of one incident.
    """

    def __init__(self, make_backoff: Callable[[], Backoff]) -> None:
        self._make_backoff = make_backoff
        self._incidents: dict[str, _Waiting] = {}
        self._flying: Entry | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def newest_revision(self, incident_id: str) -> int:
        """Give the newest revision that waits of an incident; -1 where none does."""
        waiting = self._incidents.get(incident_id)
        return waiting.entries[-1].revision if waiting is not None else -1

    def add(self, entry: Entry, is_known: bool) -> list[Entry]:
        """Take an entry in; give those that it makes pointless, which no longer wait.

        They are updates: what an incident began and ended with is told in any case. Of an incident
        that is not known to the receiver, the first to be told is its beginning, update or not.
        """
        waiting = self._incidents.get(entry.incident_id)
        if waiting is None:
            waiting = self._incidents[entry.incident_id] = _Waiting(self._make_backoff())
        overtaken = [
            one
            for place, one in enumerate(waiting.entries)
            if one.state == "updated" and one is not self._flying and (is_known or place > 0)
        ]
        waiting.entries.append(entry)
        self._count += 1
        self.remove(overtaken)
        return overtaken

    def take(self, now: float) -> Entry | None:
        """Give the entry that is to be tried now; it counts as under way until it is settled."""
        for waiting in self._incidents.values():
            if waiting.not_before <= now:
                self._flying = waiting.entries[0]
                return self._flying
        return None

    def hold(self, entry: Entry) -> bool:
        """Count an entry as under way; False where it waits no more."""
        if not self._is_waiting(entry):
            return False
        self._flying = entry
        return True

    def forget(self, entry: Entry) -> bool:
        """Let an entry wait no more, unless it is under way or settled."""
        if entry is self._flying or not self._is_waiting(entry):
            return False
        self.remove([entry])
        return True

    def pause(self, now: float) -> float | None:
        """Give the seconds until an entry is to be tried; None where none waits."""
        if not self._incidents:
            return None
        return max(min(one.not_before for one in self._incidents.values()) - now, 0.0)

    def remove(self, entries: Iterable[Entry]) -> None:
        """Let entries wait no more."""
        for entry in entries:
            waiting = self._incidents[entry.incident_id]
            waiting.entries.remove(entry)
            self._count -= 1
            if not waiting.entries:
                del self._incidents[entry.incident_id]
            if entry is self._flying:
                self._flying = None

    def delivered(self, entry: Entry) -> None:
        """The receiver took an entry, so it works: whoever failed before may try again at once.

        Who fails again although others are taken is not given that a second time.
        """
        self.remove([entry])
        for waiting in self._incidents.values():
            if waiting.has_failed and not waiting.is_suspect:
                waiting.not_before = 0.0
                waiting.is_suspect = True

    def failed(self, entry: Entry, now: float, asked_seconds: float | None) -> None:
        """An entry was not taken: its incident waits, and others come first."""
        self._flying = None
        waiting = self._incidents.pop(entry.incident_id)
        self._incidents[entry.incident_id] = waiting
        waiting.has_failed = True
        waiting.not_before = now + (waiting.backoff.next_pause(asked_seconds) or 0.0)

    def over_before(self, at_ns: int, known: Known) -> list[Entry]:
        """Give what waits of incidents that ended before a moment and are not known.

        Of one that is still open, or whose end is awaited, somebody has to hear, however late.
        """
        return [
            entry
            for incident_id, waiting in self._incidents.items()
            if incident_id not in known and _ended_before(at_ns, waiting.entries[-1])
            for entry in waiting.entries
        ]

    def oldest_incident(self) -> list[Entry]:
        """Give what waits of the incident that has waited longest."""
        oldest = min(self._incidents.values(), key=lambda one: one.entries[0].number)
        return list(oldest.entries)

    def _is_waiting(self, entry: Entry) -> bool:
        waiting = self._incidents.get(entry.incident_id)
        return waiting is not None and entry in waiting.entries


def _ended_before(at_ns: int, newest: Entry) -> bool:
    return newest.state == "resolved" and newest.at_ns < at_ns
