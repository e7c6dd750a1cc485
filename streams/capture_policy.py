"""Which incidents get a deep look at their engine, and when: at most so many, never twice."""

import datetime
import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

from schemas.records import Alert, Capture, Severity

T = TypeVar("T")

DAY_NS = 86_400_000_000_000
# An alert that lay about while no worker ran is about a moment that is over.
OLDEST_NS = 60_000_000_000
# What follows a recovery has no meaning so long after it.
LONGEST_WAIT_NS = 3_600_000_000_000
# Incidents that are remembered, open or with a capture; hosts with captures of the last day.
MOST_INCIDENTS = 10_000
MOST_HOSTS = 10_000

Positive = Annotated[float, msgspec.Meta(gt=0)]


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[captures]``: which incidents get a capture.

    Attributes:
        enabled: Whether incidents ask for captures at all; people may always.

        seconds: How long one lasts; the agent cuts it to its `[collect] capture_most_seconds`.

        severities: An incident asks once it has one of these.

        least_seconds_between: Between the captures of two incidents on one host.

        most_per_day: Captures of one host in any 24 hours, those after recoveries included.

        quiet_hours: No captures then, as ``22:00-06:00`` in UTC; empty for at any time.

        after_recovery: Whether a second one follows when the incident is over, and both are
            compared.

        calm_seconds: How long it must be over by then.
    """

    enabled: bool = True
    seconds: Positive = 10.0
    severities: tuple[Severity, ...] = ("page",)
    least_seconds_between: Annotated[float, msgspec.Meta(ge=0)] = 900.0
    most_per_day: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    quiet_hours: str = ""
    after_recovery: bool = True
    calm_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 30.0

    def __post_init__(self) -> None:
        """Refuse hours that are none."""
        if self.quiet_hours:
            parse_hours(self.quiet_hours)


def parse_hours(text: str) -> tuple[int, int]:
    """Give the minutes of the day at which ``HH:MM-HH:MM`` begins and ends.

    Raises:
        ValueError: It is no such span.
    """
    try:
        begin, end = (
            moment.hour * 60 + moment.minute
            for moment in map(datetime.time.fromisoformat, text.split("-"))
        )
    except ValueError as err:
        raise ValueError(f"quiet_hours is {text!r}: write it as 22:00-06:00, in UTC") from err
    if begin == end:
        raise ValueError(
            f"quiet_hours is {text!r}, which begins where it ends: leave it empty for captures at "
            "any time, or set enabled = false for none"
        )
    return begin, end


def host_of(record: Alert | Capture) -> str:
    """Give the host that a record is about; what an engine's id begins with is one, too."""
    return record.host or record.engine_id.rpartition(":")[0] or record.engine_id


def capture_id_of(incident_id: str, *, after_recovery: bool = False) -> str:
    """Name an incident's capture, the same each time: who asks again asks for the same one."""
    kind = "recovery" if after_recovery else "trouble"
    return hashlib.sha256(f"{kind}:{incident_id}".encode()).hexdigest()[:32]


@dataclass(slots=True)
class _Case:
    """An incident that a capture was asked for.

    ``due_ns`` is when the one after its recovery may be taken; None before the recovery.
    """

    engine_id: str
    host: str
    done: bool = False
    over: bool = False
    due_ns: int | None = None
    give_up_ns: int = 0


@dataclass(slots=True)
class _Host:
    """When captures were asked for on a host; ``first_ns`` is the last one of a firing."""

    asked_ns: deque[int] = field(default_factory=deque)
    first_ns: int | None = None


class CapturePolicy:
    """Decide which incidents get captures.

    One at its firing (or when it becomes severe enough), one when it is over and has stayed so.
    Its memory is bounded and comes back by hearing the captures topic again; only recoveries that
    wait for their calm are lost with a worker.

    Args:
        settings: Section ``[captures]``.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self._settings = settings
        self._quiet = parse_hours(settings.quiet_hours) if settings.quiet_hours else None
        self._cases: OrderedDict[str, _Case] = OrderedDict()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        # What was decided before, by incident: an update of the same severity changes nothing.
        self._judged: OrderedDict[str, set[Severity]] = OrderedDict()
        # Engines in trouble, by incident.
        self._open: OrderedDict[str, str] = OrderedDict()

    def add(self, alert: Alert, now_ns: int) -> list[Capture]:
        """Take in a step of an incident; give what is to be captured now."""
        if alert.state == "resolved":
            self._recover(alert, now_ns)
            return self.tick(now_ns)
        _remember(self._open, alert.incident_id, alert.engine_id, MOST_INCIDENTS)
        asked = self._first(alert, now_ns)
        return [*asked, *self.tick(now_ns)]

    def tick(self, now_ns: int) -> list[Capture]:
        """Let time pass, some times a minute; give what is to be captured now."""
        waiting = [(name, case) for name, case in self._cases.items() if case.due_ns is not None]
        asked: list[Capture] = []
        for incident_id, case in waiting:
            if case.over or now_ns > case.give_up_ns:
                case.due_ns, case.over = None, True
            elif self._is_calm(case, now_ns):
                case.due_ns, case.over = None, True
                if self._may_take(case.host, now_ns):
                    asked.append(self._ask(incident_id, case, now_ns, after_recovery=True))
        return asked

    def hear(self, capture: Capture) -> None:
        """Take in what the captures topic says: requests, also one's own, and results."""
        incident_id = capture.incident_id
        if incident_id is None:
            return
        case = self._cases.get(incident_id)
        second = capture.capture_id == capture_id_of(incident_id, after_recovery=True)
        if not second and capture.capture_id != capture_id_of(incident_id):
            return
        if case is None:
            case = self._begin(incident_id, capture.engine_id, host_of(capture))
            if capture.state == "requested":
                self._count(case.host, capture.at_ns, first=not second)
        elif capture.state == "requested" and second and not case.over:
            self._count(case.host, capture.at_ns, first=False)
        case.done = case.done or capture.state == "done"
        case.over = case.over or second

    def _first(self, alert: Alert, now_ns: int) -> list[Capture]:
        settings = self._settings
        judged: set[Severity] = self._judged.get(alert.incident_id, set())
        repeated = alert.severity in judged or alert.incident_id in self._cases
        _remember(self._judged, alert.incident_id, {*judged, alert.severity}, MOST_INCIDENTS)
        if repeated or not settings.enabled or alert.severity not in settings.severities:
            return []
        host = host_of(alert)
        last_ns = self._host(host).first_ns
        too_soon = last_ns is not None and now_ns - last_ns < settings.least_seconds_between * 1e9
        if too_soon or now_ns - alert.at_ns > OLDEST_NS or not self._may_take(host, now_ns):
            return []
        case = self._begin(alert.incident_id, alert.engine_id, host)
        return [self._ask(alert.incident_id, case, now_ns, after_recovery=False)]

    def _recover(self, alert: Alert, now_ns: int) -> None:
        self._open.pop(alert.incident_id, None)
        self._judged.pop(alert.incident_id, None)
        due_ns = now_ns + int(self._settings.calm_seconds * 1e9)
        for case in self._cases.values():
            # Another incident of the engine came between: it has to be calm after that one.
            if case.engine_id == alert.engine_id and case.due_ns is not None:
                case.due_ns = due_ns
        own = self._cases.get(alert.incident_id)
        if own is not None and not own.over and own.due_ns is None:
            if self._settings.enabled and self._settings.after_recovery:
                own.due_ns, own.give_up_ns = due_ns, now_ns + LONGEST_WAIT_NS
            else:
                own.over = True

    def _is_calm(self, case: _Case, now_ns: int) -> bool:
        return (
            case.done
            and case.due_ns is not None
            and now_ns >= case.due_ns
            and case.engine_id not in self._open.values()
        )

    def _may_take(self, host: str, now_ns: int) -> bool:
        """Tell whether the hour and the day's number allow one more on a host."""
        asked_ns = self._host(host).asked_ns
        while asked_ns and now_ns - asked_ns[0] > DAY_NS:
            asked_ns.popleft()
        return len(asked_ns) < self._settings.most_per_day and not self._is_quiet(now_ns)

    def _is_quiet(self, now_ns: int) -> bool:
        if self._quiet is None:
            return False
        begin, end = self._quiet
        minute = now_ns % DAY_NS // 60_000_000_000
        return begin <= minute < end if begin < end else minute >= begin or minute < end

    def _ask(self, incident_id: str, case: _Case, now_ns: int, *, after_recovery: bool) -> Capture:
        self._count(case.host, now_ns, first=not after_recovery)
        return Capture(
            capture_id=capture_id_of(incident_id, after_recovery=after_recovery),
            engine_id=case.engine_id,
            at_ns=now_ns,
            state="requested",
            seconds=self._settings.seconds,
            reason=incident_id,
            incident_id=incident_id,
            host=case.host,
            compare_with=capture_id_of(incident_id) if after_recovery else None,
        )

    def _begin(self, incident_id: str, engine_id: str, host: str) -> _Case:
        case = _Case(engine_id, host)
        _remember(self._cases, incident_id, case, MOST_INCIDENTS)
        return case

    def _count(self, host: str, at_ns: int, *, first: bool) -> None:
        found = self._host(host)
        found.asked_ns.append(at_ns)
        if len(found.asked_ns) > self._settings.most_per_day:
            found.asked_ns.popleft()
        if first:
            found.first_ns = max(at_ns, found.first_ns or at_ns)

    def _host(self, host: str) -> _Host:
        found = self._hosts.get(host) or _Host()
        _remember(self._hosts, host, found, MOST_HOSTS)
        return found


def _remember(known: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    """Keep it as the newest; the oldest go."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)
