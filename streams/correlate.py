"""Make of the alerts of many engines what people are told: one incident for one trouble."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

from schemas.records import (
    Acknowledgement,
    Alert,
    AlertState,
    Capture,
    CaptureLink,
    Engine,
    Member,
    Notification,
    Silence,
)
from streams.correlated import Correlated, is_delivered, keys_of, place_of
from streams.flaps import Flaps
from streams.scopes import Place, Whereabouts, shared_by
from streams.silences import Silences

SECOND_NS = 1_000_000_000
# Updates of one incident are told so often at most; what comes meanwhile is in the next.
UPDATE_PERIOD_NS = SECOND_NS
# What begins within so long of each other on one host is one trouble, whatever it is.
AT_ONCE_NS = 2 * SECOND_NS
# Alerts come again after a crash: their incidents are remembered long after their end.
MOST_REMEMBERED = 50_000
MOST_OVER = 1_000

K = TypeVar("K")
V = TypeVar("V")

Heard = Notification | Silence | Acknowledgement | Capture | Engine


class Correlator:
    """All incidents that people may be told of.

    Nothing here waits, reads or writes: alerts, the time and what other workers told come in,
    notifications go out. A correlator that has heard all notifications goes on where their author
    stopped. An incident keeps the engines that it has: two that were told apart stay apart, even
    where it turns out later that they have one cause.

    Args:
        window_seconds: An engine joins an incident if its trouble began within so long of that of
            another engine in it.

        flap_count: The how manieth incident of its kind within `flap_seconds` says that it flaps.

        flap_seconds: So long must it stay away until it is told to be over.
    """

    def __init__(
        self, window_seconds: float = 60.0, flap_count: int = 4, flap_seconds: float = 600.0
    ) -> None:
        self._window_ns = round(window_seconds * SECOND_NS)
        self._flap_count = flap_count
        self._flap_ns = round(flap_seconds * SECOND_NS)
        self._whereabouts = Whereabouts()
        self._flaps = Flaps(self._flap_ns, flap_count)
        self._open: dict[str, Correlated] = {}
        self._over: OrderedDict[str, Notification] = OrderedDict()
        # By the ids of members' own incidents.
        self._part_of: OrderedDict[str, str] = OrderedDict()
        self._taken: OrderedDict[str, int] = OrderedDict()
        self._acknowledgements: OrderedDict[str, Acknowledgement] = OrderedDict()
        self._captures: OrderedDict[str, dict[str, CaptureLink]] = OrderedDict()
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self.silences = Silences()

    @property
    def unsaid(self) -> bool:
        """Whether alerts were taken in that are in no notification yet."""
        return any(one.changed for one in self._open.values())

    @property
    def due(self) -> bool:
        """Whether there is something to be told that only time keeps back."""
        return self.unsaid or any(
            one.announce or (one.flapping and not one.open_members) for one in self._open.values()
        )

    def incidents(self) -> list[Notification]:
        """Give the newest notification of each incident that is open."""
        return [one.told for one in self._open.values() if one.told is not None]

    def find(self, incident_id: str) -> Notification | None:
        """Give the newest notification of an incident or of a member's, open or over."""
        incident_id = self._part_of.get(incident_id, incident_id)
        found = self._open.get(incident_id)
        return found.told if found is not None else self._over.get(incident_id)

    def add(self, alert: Alert, now_ns: int) -> list[Notification]:
        """Take in a step of one engine's incident; give what is to be told now.

        What was taken in before, by whomever, changes nothing.
        """
        own_id = alert.incident_id
        if alert.revision <= self._taken.get(own_id, -1):
            return []
        _remember(self._taken, own_id, alert.revision, MOST_REMEMBERED)
        known_id = self._part_of.get(own_id)
        found = self._home_of(alert) if known_id is None else self._open.get(known_id)
        if found is None:
            # The incident that it was part of is over.
            return []
        member = found.members.get(own_id)
        if known_id is not None and (member is None or member.state == "resolved"):
            return []
        _remember(self._part_of, own_id, found.incident_id, MOST_REMEMBERED)
        held = found.flapping or self._acknowledged_by(found) is not None
        if found.add(alert):
            found.raised_ns = now_ns
            found.announce = found.announce or held
        self._note(found, place_of(alert, self._engines.get(alert.engine_id)))
        self._watch_flapping(found)
        told = [] if known_id is not None else self._end_older(alert, now_ns)
        return [*told, *self._tell(found, now_ns)]

    def hear(self, record: Heard) -> None:
        """Take in what somebody else told, asked for or found out; `tick` draws the conclusions.

        Notifications of one incident are heard in the order of their revisions, all else in any.
        """
        if isinstance(record, Notification):
            self._hear_notification(record)
        elif isinstance(record, Silence):
            self.silences.hear(record)
        elif isinstance(record, Acknowledgement):
            known = self._acknowledgements.get(record.incident_id)
            if known is None or record.at_ns >= known.at_ns:
                _remember(self._acknowledgements, record.incident_id, record, MOST_REMEMBERED)
        elif isinstance(record, Engine):
            _remember(self._engines, record.engine_id, record, MOST_REMEMBERED)
        else:
            self._hear_capture(record)

    def tick(self, now_ns: int) -> list[Notification]:
        """Let time pass, some times a second; give what is to be told now."""
        self.silences.forget(now_ns)
        return [one for found in list(self._open.values()) for one in self._tell(found, now_ns)]

    def _home_of(self, alert: Alert) -> Correlated:
        """Give the incident that a new member belongs to: an open one, or a new one."""
        place = place_of(alert, self._engines.get(alert.engine_id))
        if alert.state != "resolved":
            keys = keys_of(place)
            near = [self._open[one] for one in self._whereabouts.near(place)]
            for found in near:
                if found.flapping and found.keys & keys:
                    names = sorted(name for name, _ in found.keys & keys)
                    common = (name for name in names if not name.startswith("engine:"))
                    found.shared = found.shared or next(common, None)
                    return found
            for found in near:
                shared = self._shared_with(found, place)
                if shared is not None:
                    found.shared = found.shared or shared
                    return found
        found = Correlated(alert.incident_id, alert.begin_ns)
        self._open[alert.incident_id] = found
        return found

    def _end_older(self, alert: Alert, now_ns: int) -> list[Notification]:
        """End what an engine was part of before: it has one incident at a time.

        Whoever watched it may have died without a word of the end, or that is on its way.
        """
        told: list[Notification] = []
        for incident_id in self._whereabouts.with_engine(alert.engine_id):
            found = self._open[incident_id]
            older = [
                one
                for one in found.open_members
                if one.engine_id == alert.engine_id and one.begin_ns < alert.begin_ns
            ]
            for member in older:
                found.end(member, alert.begin_ns)
            if older and alert.incident_id not in found.members:
                told += self._tell(found, now_ns)
        return told

    def _shared_with(self, found: Correlated, place: Place) -> str | None:
        """Name what a new member shares with one that is in trouble at the same time."""
        for member in found.open_members:
            if abs(member.begin_ns - place.begin_ns) > self._window_ns:
                continue
            other = self._place(found, member)
            shared = shared_by(place, other, AT_ONCE_NS)
            if shared is not None:
                return shared
        return None

    def _note(self, found: Correlated, place: Place) -> None:
        found.keys |= keys_of(place)
        self._whereabouts.add(place, found.incident_id)

    def _watch_flapping(self, found: Correlated) -> None:
        if found.flapping:
            return
        times = self._flaps.count(found.keys, found.begin_ns)
        if times >= self._flap_count:
            found.flapping, found.times = True, times
            found.announce = found.told is not None

    def _tell(self, found: Correlated, now_ns: int) -> list[Notification]:
        """Write the next notification of an incident, if there is news and it is time."""
        told = found.told
        silenced_by = self._silenced_by(found, now_ns)
        acknowledged_by = self._acknowledged_by(found)
        state = self._state_of(found, silenced_by, acknowledged_by, now_ns)
        self._link_captures(found)
        news = (
            told is None
            or found.changed
            or found.announce
            or state == "resolved"
            or (silenced_by, acknowledged_by) != (told.silenced_by, told.acknowledged_by)
            or len(found.captures) > len(told.captures)
        )
        if told is not None and state != "resolved":
            news = news and not 0 <= now_ns - told.at_ns < UPDATE_PERIOD_NS
        if not news:
            return []
        if state == "resolved" and found.delivered:
            # Who was told of it is told of its end.
            silenced_by = None
        elif state == "resolved" and silenced_by is None and told is not None:
            silenced_by = told.silenced_by
        written = found.notification(
            state, now_ns, acknowledged_by=acknowledged_by, silenced_by=silenced_by
        )
        found.told, found.changed, found.announce = written, False, False
        found.delivered = found.delivered or is_delivered(written)
        if state == "resolved":
            self._close(found)
        return [written]

    def _state_of(
        self,
        found: Correlated,
        silenced_by: str | None,
        acknowledged_by: str | None,
        now_ns: int,
    ) -> AlertState:
        told = found.told
        calm = not found.open_members
        if calm and not (found.flapping and now_ns - found.end_ns < self._flap_ns):
            return "resolved"
        if told is None or found.announce:
            return "firing"
        silence_ended = told.silenced_by is not None and silenced_by is None
        if silence_ended and acknowledged_by is None and not calm:
            return "firing"
        return "updated"

    def _close(self, found: Correlated) -> None:
        assert found.told is not None
        self._open.pop(found.incident_id, None)
        self._whereabouts.forget(found.incident_id)
        _remember(self._over, found.incident_id, found.told, MOST_OVER)
        self._flaps.add(found.keys, found.begin_ns)
        self._acknowledgements.pop(found.incident_id, None)

    def _silenced_by(self, found: Correlated, now_ns: int) -> str | None:
        """Give the silence of an incident; it is told if one of its engines is in none."""
        if not self.silences.in_force(now_ns):
            return None
        members = found.open_members or list(found.members.values())
        cause = found.cause
        first: str | None = None
        for member in members:
            labels = found.labels(member, self._engines.get(member.engine_id), cause)
            silence_id = self.silences.match(labels, now_ns)
            if silence_id is None:
                return None
            first = first or silence_id
        return first

    def _acknowledged_by(self, found: Correlated) -> str | None:
        said = self._acknowledgements.get(found.incident_id)
        return said.by if said is not None and said.at_ns > found.raised_ns else None

    def _place(self, found: Correlated, member: Member) -> Place:
        return found.place(member, self._engines.get(member.engine_id))

    def _hear_notification(self, told: Notification) -> None:
        for member in told.members:
            newest = max(member.revision, self._taken.get(member.incident_id, -1))
            _remember(self._taken, member.incident_id, newest, MOST_REMEMBERED)
            _remember(self._part_of, member.incident_id, told.incident_id, MOST_REMEMBERED)
        found = self._open.get(told.incident_id)
        if told.incident_id in self._over or (
            found is not None and found.told is not None and told.revision <= found.told.revision
        ):
            return
        if found is None:
            found = self._open[told.incident_id] = Correlated(told.incident_id, told.begin_ns)
        found.restore(told)
        for member in found.members.values():
            self._note(found, self._place(found, member))
        if told.state == "resolved":
            self._close(found)

    def _hear_capture(self, capture: Capture) -> None:
        if capture.state != "done" or capture.incident_id is None:
            return
        links = self._captures.get(capture.incident_id, {})
        links[capture.capture_id] = CaptureLink(
            capture_id=capture.capture_id,
            engine_id=capture.engine_id,
            host=capture.host,
            folder=capture.folder,
            kind="difference" if capture.compare_with is not None else "capture",
        )
        _remember(self._captures, capture.incident_id, links, MOST_OVER)

    def _link_captures(self, found: Correlated) -> None:
        for incident_id in found.members:
            found.captures |= self._captures.get(incident_id, {})


def correlated(alerts: Iterable[Alert], correlator: Correlator | None = None) -> list[Notification]:
    """Give what people would have been told of these alerts, in the order of their times.

    Time passes as the alerts say, and goes on after the last until all has been said.
    """
    correlator = correlator or Correlator()
    told: list[Notification] = []
    now_ns = 0
    for alert in sorted(alerts, key=lambda one: one.at_ns):
        while now_ns and now_ns + SECOND_NS < alert.at_ns and correlator.due:
            now_ns += SECOND_NS
            told += correlator.tick(now_ns)
        now_ns = alert.at_ns
        told += correlator.add(alert, now_ns)
    while correlator.due:
        now_ns += SECOND_NS
        told += correlator.tick(now_ns)
    return told


def _remember(known: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Keep the newest so many."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)
