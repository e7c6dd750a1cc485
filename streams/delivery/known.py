"""What a destination was told: so that nothing is told twice, and no end is left untold."""

import orjson

from schemas.records import Notification

MOST_INCIDENTS = 4096


class Known:
    """The newest incidents and the revision of each that was settled last.

    Kafka gives a worker that was killed its last messages again: they are recognised here.
    """

    def __init__(self) -> None:
        self._revisions: dict[str, int] = {}

    def __contains__(self, incident_id: str) -> bool:
        return incident_id in self._revisions

    def revision(self, incident_id: str) -> int:
        """Give the revision that was settled last; -1 for none."""
        return self._revisions.get(incident_id, -1)

    def settle(self, incident_id: str, revision: int) -> bytes:
        """A notification was delivered or given up; give the note for the spool."""
        newest = max(revision, self._revisions.pop(incident_id, -1))
        self._revisions[incident_id] = newest
        while len(self._revisions) > MOST_INCIDENTS:
            del self._revisions[next(iter(self._revisions))]
        return orjson.dumps({incident_id: newest})

    def has(self, notification: Notification) -> bool:
        """Tell whether this notification, or a newer one, was settled."""
        return notification.revision <= self.revision(notification.incident_id)

    def note(self) -> bytes:
        """Give everything as one note."""
        return orjson.dumps(self._revisions)

    def read(self, note: bytes) -> None:
        """Take a note back."""
        for incident_id, revision in orjson.loads(note).items():
            self.settle(incident_id, revision)
