"""Find batches, incidents and what they add up to in a recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from latencyprism.batches import NEAR_NS, Seen, Wanted, distance_ns
from latencyprism.commands.record import records_in
from latencyprism.spans import (
    WORST,
    Asked,
    Span,
    Sums,
    lost_ns,
    overlapping,
    place_of,
)
from latencyprism.told import (
    Told,
    ids_of,
    is_about,
    is_wanted,
    last_states,
    newest_of,
    silence_ids,
    word_of,
)
from schemas.incidents import Incident, fold
from schemas.recording import read_recording
from schemas.records import Acknowledgement, Alert, Batch, Capture, Notification, Silence

Spoken = Alert | Notification | Acknowledgement | Silence | Capture


class Recorded:
    """What is in a recording; it is read anew for each question, so that memory stays small.

    Args:
        path: The file.
    """

    keeps_samples = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, wanted: Wanted) -> Batch | None:
        """Give the batch.

        Raises:
            RecordingError: The file is no recording.
        """
        since_ns = None
        if wanted.last_ns is not None:
            ends_ns = (batch.end_ns for batch in self._of(wanted.engine_id))
            since_ns = max(ends_ns, default=0) - wanted.last_ns
        best: Batch | None = None
        for batch in self._of(wanted.engine_id):
            if since_ns is not None and batch.begin_ns < since_ns:
                continue
            if best is not None and _key(batch) == _key(best):
                best = max(best, batch, key=lambda one: one.revision)
            elif _fits(batch, wanted) and (
                best is None or _rank(batch, wanted) > _rank(best, wanted)
            ):
                best = batch
        return best

    def incident(self, incident_id: str) -> Incident | None:
        """Give an incident by its alerts."""
        alerts = [
            record
            for record in read_recording(self._path)
            if isinstance(record, Alert) and record.incident_id == incident_id
        ]
        return fold(alerts) if alerts else None

    def seen(self) -> dict[str, Seen]:
        """Give what there is by engine."""
        found: dict[str, Seen] = {}
        for batch in read_recording(self._path):
            if not isinstance(batch, Batch) or batch.revision > 0:
                continue
            known = found.get(batch.engine_id) or Seen(
                batches=0,
                first_sequence=batch.sequence,
                last_sequence=batch.sequence,
                begin_ns=batch.begin_ns,
                end_ns=batch.end_ns,
            )
            found[batch.engine_id] = Seen(
                batches=known.batches + 1,
                first_sequence=min(known.first_sequence, batch.sequence),
                last_sequence=max(known.last_sequence, batch.sequence),
                begin_ns=min(known.begin_ns, batch.begin_ns),
                end_ns=max(known.end_ns, batch.end_ns),
            )
        return found

    def _of(self, engine_id: str) -> Iterator[Batch]:
        for record in records_in(self._path):
            if isinstance(record, Batch) and record.engine_id == engine_id:
                yield record

    def ids(self, prefix: str) -> list[str]:
        """Give the ids of incidents that begin so."""
        return sorted(one for one in _by_incident(self._spoken()) if one.startswith(prefix))

    def newest(self, most: int, engine_id: str | None = None) -> list[Incident]:
        """Give the incidents that began last, newest first."""
        found = [
            one for one in self._incidents() if engine_id is None or one.engine_id == engine_id
        ]
        return sorted(found, key=lambda one: -one.begin_ns)[:most]

    def told(self, incident_id: str) -> Told | None:
        """Give all about an incident."""
        spoken = self._spoken()
        alerts = _by_incident(spoken).get(incident_id)
        if not alerts:
            return None
        incident = fold(alerts.values())
        words = {
            (word.at_ns, word.incident_id, word.revision): word
            for one in spoken
            if isinstance(one, Notification) and is_about(word := word_of(one), incident_id)
        }
        known = [words[place] for place in sorted(words)]
        ids, silenced = ids_of(known, incident_id), silence_ids(known)
        found = self.span(
            Asked(engine_id=incident.engine_id, begin_ns=incident.begin_ns, end_ns=incident.end_ns)
        )
        return Told(
            alerts=tuple(alerts[revision] for revision in sorted(alerts)),
            words=tuple(known),
            acknowledgements=tuple(
                one for one in spoken if isinstance(one, Acknowledgement) and one.incident_id in ids
            ),
            silences=newest_of(
                one for one in spoken if isinstance(one, Silence) and one.silence_id in silenced
            ),
            captures=last_states(
                one for one in spoken if isinstance(one, Capture) and is_wanted(one, known, ids)
            ),
            sums=found.whole if found is not None else None,
        )

    def span(self, asked: Asked) -> Span | None:
        """Add up a time of an engine."""
        newest_ns, last = self._revisions(asked.engine_id)
        begin_ns, end_ns = asked.bounds_ns(newest_ns)
        of_engine = (one for one in self._incidents() if one.engine_id == asked.engine_id)
        incidents = overlapping(of_engine, begin_ns, end_ns)
        during = tuple(Sums() for _ in incidents)
        outside, before, worst = Sums(), Sums(), list[Batch]()
        for batch in self._once(asked.engine_id, last):
            if 2 * begin_ns - end_ns <= batch.begin_ns < begin_ns:
                before.add(batch)
            if begin_ns <= batch.begin_ns < end_ns:
                place = place_of(batch.begin_ns, incidents)
                (outside if place is None else during[place]).add(batch)
                if len(worst) < WORST or lost_ns(batch) > lost_ns(worst[-1]):
                    worst = sorted([*worst, batch], key=lost_ns, reverse=True)[:WORST]
        found = Span(
            engine_id=asked.engine_id,
            begin_ns=begin_ns,
            end_ns=end_ns,
            incidents=incidents,
            during=during,
            outside=outside,
            before=before,
            worst=tuple(one for one in worst if one.expected_ns is not None),
        )
        return found if found.whole.batches else None

    def _incidents(self) -> Iterator[Incident]:
        return (fold(alerts.values()) for alerts in _by_incident(self._spoken()).values())

    def _spoken(self) -> list[Spoken]:
        """Give what was told, said and done; there is little of it."""
        return [one for one in read_recording(self._path) if isinstance(one, Spoken)]

    def _revisions(self, engine_id: str) -> tuple[int, dict[tuple[int, int], int]]:
        """Give when the newest batch was over, and the last revision of those that were amended."""
        newest_ns, last = 0, dict[tuple[int, int], int]()
        for batch in self._of(engine_id):
            newest_ns = max(newest_ns, batch.end_ns)
            if batch.revision > last.get(_key(batch), 0):
                last[_key(batch)] = batch.revision
        return newest_ns, last

    def _once(self, engine_id: str, last: dict[tuple[int, int], int]) -> Iterator[Batch]:
        """Give each batch in its last revision, once, though it may have been written twice."""
        given: set[tuple[int, int]] = set()
        for batch in read_recording(self._path):
            if not isinstance(batch, Batch) or batch.engine_id != engine_id:
                continue
            key = _key(batch)
            if batch.revision == last.get(key, 0) and key not in given:
                given.add(key)
                yield batch


def _by_incident(spoken: Iterable[Spoken]) -> dict[str, dict[int, Alert]]:
    """Give all alerts by incident and revision; notifications have them, too."""
    found: dict[str, dict[int, Alert]] = defaultdict(dict)
    for one in spoken:
        alert = one.alert if isinstance(one, Notification) else one
        if isinstance(alert, Alert):
            found[alert.incident_id][alert.revision] = alert
    return found


def _key(batch: Batch) -> tuple[int, int]:
    return batch.process_start_ns, batch.sequence


def _fits(batch: Batch, wanted: Wanted) -> bool:
    if wanted.sequence is not None:
        return batch.sequence == wanted.sequence
    return wanted.at_ns is None or distance_ns(batch, wanted.at_ns) <= NEAR_NS


def _rank(batch: Batch, wanted: Wanted) -> tuple[float, float]:
    """How well a batch is what is wanted: more is better."""
    if wanted.sequence is not None:
        # Of two processes that counted as far, the newer one.
        return batch.process_start_ns, 0.0
    if wanted.at_ns is not None:
        return -distance_ns(batch, wanted.at_ns), batch.begin_ns
    return batch.duration_ns / (batch.expected_ns or float("inf")), batch.duration_ns
