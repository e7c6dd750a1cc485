"""One incident with all engines that are part of it, and how it is put into words."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from schemas.causes import CAUSES
from schemas.records import (
    Alert,
    AlertState,
    CaptureLink,
    Engine,
    Member,
    Notification,
    Severity,
)
from streams.flaps import Key
from streams.scopes import Place, scope_of

# Of members that are over so many stay in the record, the newest.
MOST_MEMBERS = 100
# What a member's vote for its cause counts while its own confidence is not known any more.
UNKNOWN_CONFIDENCE = 0.5


@dataclass(slots=True)
class Correlated:
    """An incident as it builds up over its members.

    Attributes:
        members: By the ids of their own incidents, in the order in which they came.

        alerts: The newest alert of each member that this worker has seen.

        keys: What it is about, to recognise it if it comes again.

        told: The newest notification; None before the first.

        changed: Something was taken in that is not told yet.

        delivered: People were told of it.

        announce: It is to be told as if it fired anew: updates are held back, and this matters.

        raised_ns: When it became worse; what was acknowledged before was less.

        times: How often it came back, if it is flapping.
    """

    incident_id: str
    begin_ns: int
    severity: Severity = "ticket"
    members: dict[str, Member] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    captures: dict[str, CaptureLink] = field(default_factory=dict)
    keys: set[Key] = field(default_factory=set)
    shared: str | None = None
    told: Notification | None = None
    changed: bool = False
    delivered: bool = False
    announce: bool = False
    raised_ns: int = 0
    flapping: bool = False
    times: int = 0

    @property
    def open_members(self) -> list[Member]:
        """Members whose own incidents are not over."""
        return [one for one in self.members.values() if one.state != "resolved"]

    @property
    def end_ns(self) -> int:
        """When the last of its members was over, as far as they are."""
        return max((one.end_ns or one.begin_ns for one in self.members.values()), default=0)

    def add(self, alert: Alert) -> bool:
        """Take in an alert of a member, new or not; tell whether the incident became worse."""
        known = self.members.get(alert.incident_id)
        self.members[alert.incident_id] = Member(
            engine_id=alert.engine_id,
            incident_id=alert.incident_id,
            revision=alert.revision,
            state=alert.state,
            begin_ns=alert.begin_ns,
            end_ns=(alert.end_ns or alert.at_ns) if alert.state == "resolved" else None,
            ratio=alert.evidence.ratio,
            cause=alert.cause,
            framework=known.framework if known else alert.framework,
            model=known.model if known else alert.model,
            host=known.host if known else alert.host,
        )
        self.alerts[alert.incident_id] = alert
        self.changed = True
        worse = bool(self.told) and self.severity == "ticket" and alert.severity == "page"
        if alert.severity == "page":
            self.severity = "page"
        return worse

    def end(self, member: Member, end_ns: int) -> None:
        """Let a member be over without a word of its own."""
        self.members[member.incident_id] = replace(member, state="resolved", end_ns=end_ns)
        self.changed = True

    def restore(self, told: Notification) -> None:
        """Go on from what another worker, or this one before it was restarted, has told."""
        if self.told is not None and self.severity == "ticket" and told.severity == "page":
            self.raised_ns = told.at_ns
        revisions = {one.incident_id: one.revision for one in told.members}
        for member in list(self.members.values()):
            if member.state == "resolved" and member.incident_id not in revisions:
                self._forget(member)
        for member in told.members:
            known = self.members.get(member.incident_id)
            if known is None or member.revision > known.revision:
                self.members[member.incident_id] = member
        known_alert = self.alerts.get(told.alert.incident_id)
        if known_alert is None or told.alert.revision > known_alert.revision:
            self.alerts[told.alert.incident_id] = told.alert
        if told.severity == "page":
            self.severity = "page"
        self.captures |= {one.capture_id: one for one in told.captures}
        self.begin_ns, self.shared, self.told = told.begin_ns, told.shared, told
        self.flapping = told.flapping
        self.delivered = self.delivered or is_delivered(told)
        self.announce = False
        self.changed = any(
            one.revision > revisions.get(name, -1) for name, one in self.members.items()
        )

    def place(self, member: Member, engine: Engine | None) -> Place:
        """Say where a member's trouble is; ``engine`` is what is known of it otherwise."""
        alert = self.alerts.get(member.incident_id)
        if alert is not None:
            return place_of(alert, engine)
        kind, _, name = (self.shared or "").partition(":")
        devices = engine.device_ids if engine is not None else ()
        return Place(
            engine_id=member.engine_id,
            cause=member.cause or "unknown",
            begin_ns=member.begin_ns,
            host=member.host or (engine.host if engine is not None else None),
            device_ids=devices or ((name,) if kind == "device" else ()),
        )

    def labels(self, member: Member, engine: Engine | None, cause: str) -> dict[str, str | None]:
        """Give what silences may match of a member; ``cause`` is that of the incident."""
        return {
            "engine_id": member.engine_id,
            "host": self.place(member, engine).host,
            "model": member.model or (engine.model if engine is not None else None),
            "framework": member.framework or (engine.framework if engine is not None else None),
            "cause": cause,
            "severity": self.severity,
        }

    @property
    def lead(self) -> Alert:
        """The newest alert of the member that fired first, or, once that is over, of the next."""
        for member in [*self.open_members, *sorted(self.members.values(), key=_last)]:
            if member.incident_id in self.alerts:
                return self.alerts[member.incident_id]
        assert self.told is not None
        return self.told.alert

    @property
    def cause(self) -> str:
        """The cause that most speaks for: one that says what it is before one that says where."""
        votes: dict[str, float] = {}
        for member in self.members.values():
            cause = member.cause or "unknown"
            alert = self.alerts.get(member.incident_id)
            confidence = UNKNOWN_CONFIDENCE if alert is None else alert.confidence
            votes[cause] = votes.get(cause, 0.0) + confidence
        return max(votes, key=lambda one: (scope_of(one) != "vague", one != "unknown", votes[one]))

    def notification(
        self,
        state: AlertState,
        now_ns: int,
        *,
        acknowledged_by: str | None,
        silenced_by: str | None,
    ) -> Notification:
        """Write what is told next."""
        cause, lead = self.cause, self.lead
        speakers = [one for one in self.alerts.values() if one.cause == cause]
        best = max(
            speakers, key=lambda one: (one.state != "resolved", one.confidence), default=lead
        )
        confidence, next_step = best.confidence, best.next_step
        if not speakers and self.told is not None and self.told.cause == cause:
            confidence, next_step = self.told.confidence, self.told.next_step
        return Notification(
            incident_id=self.incident_id,
            revision=0 if self.told is None else self.told.revision + 1,
            state=state,
            severity=self.severity,
            cause=cause,
            confidence=confidence,
            summary=self._summary(state, cause, best),
            next_step=next_step,
            begin_ns=self.begin_ns,
            at_ns=now_ns,
            end_ns=self.end_ns if state == "resolved" else None,
            alert=lead,
            members=self._shown_members(),
            shared=self.shared,
            acknowledged_by=acknowledged_by,
            just_acknowledged=acknowledged_by is not None
            and (self.told is None or self.told.acknowledged_by != acknowledged_by),
            silenced_by=silenced_by,
            flapping=self.flapping,
            captures=tuple(self.captures.values()),
        )

    def _shown_members(self) -> tuple[Member, ...]:
        """Give the members, without what was told to be over before and says nothing any more."""
        newest = {one.engine_id: one.incident_id for one in self.members.values()}
        known = self.told.members if self.told is not None else ()
        over = [one for one in known if one.state == "resolved" and one.incident_id in self.members]
        for number, one in enumerate(over):
            if newest[one.engine_id] != one.incident_id or number < len(over) - MOST_MEMBERS:
                self._forget(one)
        return tuple(self.members.values())

    def _forget(self, member: Member) -> None:
        del self.members[member.incident_id]
        self.alerts.pop(member.incident_id, None)

    def _summary(self, state: AlertState, cause: str, speaker: Alert) -> str:
        engines = _engines(self.members.values())
        text = self.lead.summary
        if len(engines) > 1:
            text = self._summary_of_many(state, engines, cause, speaker)
        if not self.flapping:
            return text
        if state == "resolved":
            return f"{text}; it came and went, and has stayed away since"
        times = f"for the {self.times}th time, " if self.times else ""
        return f"{text}; it comes and goes ({times}only its end is told now, or if it gets worse)"

    def _summary_of_many(
        self, state: AlertState, engines: list[str], cause: str, speaker: Alert
    ) -> str:
        kind, _, name = (self.shared or "").partition(":")
        where = {"host": f" on host {name}", "device": f" on accelerator {name}"}.get(kind, "")
        worst = max(self.members.values(), key=lambda one: one.ratio or 0.0)
        ratio = "" if worst.ratio is None else f" at {worst.ratio:.1f} times"
        still = _engines(self.open_members)
        if state == "resolved" or not still:
            return (
                f"{len(engines)} engines{where} are back to normal; it was: "
                f"{CAUSES.get(cause, cause)}; worst: {worst.engine_id}{ratio}"
            )
        count = f"{len(engines)} engines{where} are"
        if len(still) < len(engines):
            verb = "is" if len(still) == 1 else "are"
            count = f"{len(still)} of {len(engines)} engines{where} {verb} still"
        return f"{count} slow: {_why(cause, speaker)}; worst: {worst.engine_id}{ratio}"


def place_of(alert: Alert, engine: Engine | None) -> Place:
    """Say where an alert's trouble is; what it does not tell the inventory may."""
    return Place(
        engine_id=alert.engine_id,
        cause=alert.cause,
        begin_ns=alert.begin_ns,
        host=alert.host or (engine.host if engine is not None else None),
        device_ids=alert.device_ids or (engine.device_ids if engine is not None else ()),
    )


def keys_of(place: Place) -> set[Key]:
    """Name what comes again if this comes again."""
    return {(name, place.cause) for name in place.shared_names()}


def is_delivered(notification: Notification) -> bool:
    """Tell whether people get to see it: not while silenced, nor updates of what is taken care of.

    An incident that flaps tells its updates to the topics only, too. That somebody takes care is
    told: a receiver that calls one person after the other must know.
    """
    if notification.silenced_by is not None:
        return False
    held = notification.acknowledged_by is not None or notification.flapping
    news = notification.state != "updated" or notification.just_acknowledged
    return news or not held


def _engines(members: Iterable[Member]) -> list[str]:
    return list(dict.fromkeys(one.engine_id for one in members))


def _last(member: Member) -> int:
    return -(member.end_ns or 0)


def _why(cause: str, speaker: Alert) -> str:
    """Give the sentence about a cause with the numbers of one who feels it."""
    # "ENGINE: what is seen: the sentence"; other summaries have none.
    parts = speaker.summary.split(": ", 2)
    if speaker.cause != cause or speaker.state == "resolved" or len(parts) < 3:
        return CAUSES.get(cause, cause)
    return parts[2]
