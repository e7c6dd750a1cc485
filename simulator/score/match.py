"""Which incident answers which fault: one is expected of each engine that a fault hits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from schemas.incidents import Incident
from schemas.records import Fault
from simulator.score.collect import Episode, Observed
from simulator.score.columns import Point
from simulator.score.options import Options
from simulator.score.points import bucket_of, longest_ns_of, overlapping

Status = Literal["found", "covered", "missed", "unscored"]
"""Covered: an earlier incident was still open, so that no other could fire; it counts as missed.
Unscored: nobody could have felt the fault, for the engine had nothing to do; or nobody knows when
it ended."""

# An engine whose last batch ended so shortly before a fault was at work when it began.
BUSY_NS = 1_000_000_000


@dataclass(slots=True)
class Outcome:
    """What became of one fault on one engine.

    Attributes:
        onset_ns: From when on an incident counts as its answer.

        deadline_ns: Until when one does.

        duplicates: Further incidents that fired before its end.

        causes: Right answers: the fault's own, and those of others that the incident answers too.

        lag_batches: From the first batch that ended after the fault's begin to the one that made
            the incident fire.

        lag_ns: The same in time; where no batch ended before it fired (a stall), from the begin.

        since_begin_ns: From the fault's begin to the batch that made it fire; 0 where that was
            while the fault was still being made.

        delivery_ns: From that batch's end to the alert; None where no live worker told it.

        effect: Median of duration / expected over the batches within the fault; where only some
            are hit, the ratio of the sums.

        bucket: Of the batch size in the middle.
    """

    fault: Fault
    engine_id: str
    onset_ns: int
    begin_ns: int
    end_ns: int
    deadline_ns: int
    status: Status = "missed"
    incident: Incident | None = None
    duplicates: int = 0
    causes: frozenset[str] = frozenset()
    lag_batches: int | None = None
    lag_ns: int | None = None
    since_begin_ns: int | None = None
    delivery_ns: int | None = None
    effect: float | None = None
    bucket: str = "unknown"

    @property
    def scored(self) -> bool:
        """Whether anybody could have found it."""
        return self.status != "unscored"

    @property
    def found(self) -> bool:
        """Whether an incident fired in time."""
        return self.status == "found"

    @property
    def over_ns(self) -> int:
        """From when on an incident is false as if the fault had never been."""
        if self.incident is None:
            return self.deadline_ns
        return max(self.end_ns, self.incident.fired_ns)

    def is_material(self, ratio: float) -> bool:
        """Tell whether its effect is one that users feel.

        Only the truth can tell: by what the analysis expected, it would choose its own exam.
        """
        true_ratio = self.fault.true_ratio
        return true_ratio is not None and true_ratio >= ratio


@dataclass(frozen=True, slots=True)
class FalseIncident:
    """An incident that nothing explains.

    Attributes:
        control: The control that it was mistaken for a fault in, if any.

        bucket: Of the batch size when it fired.
    """

    incident: Incident
    control: str | None
    bucket: str


@dataclass(slots=True)
class Matching:
    """Everything that was expected, and everything that was not.

    Attributes:
        late: Incidents that began within a fault or its grace, and fired after the grace.

        unasked: Those that fired in a fault that is not scored.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    false: list[FalseIncident] = field(default_factory=list)
    late: list[Incident] = field(default_factory=list)
    unasked: list[Incident] = field(default_factory=list)


def match(observed: Observed, options: Options) -> Matching:
    """Answer each fault with the first incident that fires in its time, engine by engine."""
    matching = Matching()
    is_live = _is_live(observed.incidents)
    for engine_id in _engines(observed):
        points = observed.points.get(engine_id, ())
        longest_ns = longest_ns_of(points)
        incidents = [one for one in observed.incidents if one.engine_id == engine_id]
        outcomes = [
            _outcome(episode, engine_id, points, longest_ns, options)
            for episode in observed.episodes_of(engine_id, "fault")
        ]
        controls = observed.episodes_of(engine_id, "control")
        for incident in incidents:
            _assign(matching, incident, outcomes, controls, points, options)
        for outcome in outcomes:
            _judge(outcome, points, incidents, is_live=is_live)
        matching.outcomes += outcomes
    return matching


def deadline_of(episode: Episode, points: Sequence[Point], options: Options) -> int:
    """Give until when an incident may be the answer to an episode."""
    after = bisect_right(points, episode.end_ns, key=lambda point: point.end_ns)
    last = after + options.grace_batches - 1
    by_batches = points[last].end_ns if last < len(points) else episode.end_ns
    wanted = max(episode.end_ns + options.grace_ns, by_batches)
    return min(wanted, episode.end_ns + max(options.grace_most_ns, options.grace_ns))


def _engines(observed: Observed) -> list[str]:
    named = {one for episode in observed.episodes for one in episode.fault.engine_ids}
    return sorted({*observed.engine_ids, *named})


def _outcome(
    episode: Episode, engine_id: str, points: Sequence[Point], longest_ns: int, options: Options
) -> Outcome:
    places = overlapping(points, episode.begin_ns, episode.end_ns, longest_ns)
    within = [points[place] for place in places]
    is_felt = bool(within) or _was_busy(points, episode.begin_ns)
    return Outcome(
        fault=episode.fault,
        engine_id=engine_id,
        onset_ns=episode.onset_ns,
        begin_ns=episode.begin_ns,
        end_ns=episode.end_ns,
        deadline_ns=deadline_of(episode, points, options),
        status="missed" if is_felt and episode.finished else "unscored",
        causes=frozenset(episode.fault.causes),
        effect=_effect(within, intermittent=episode.fault.intermittent),
        bucket=_usual_bucket(within),
    )


def _is_live(incidents: Sequence[Incident]) -> bool:
    """Tell whether alerts have the time of a clock; in a replay it is that of the batches."""
    delays = [one.told_ns - one.fired_ns for one in incidents if one.told_ns is not None]
    return bool(delays) and median(delays) > 0


def _was_busy(points: Sequence[Point], moment_ns: int) -> bool:
    last = bisect_right(points, moment_ns, key=lambda point: point.end_ns) - 1
    return last >= 0 and moment_ns - points[last].end_ns <= BUSY_NS


def _effect(points: Sequence[Point], *, intermittent: bool) -> float | None:
    known = [(one.duration_ns, one.expected_ns) for one in points if one.expected_ns]
    if not known:
        return None
    if intermittent:
        return sum(took for took, _ in known) / sum(expected for _, expected in known)
    return median(took / expected for took, expected in known)


def _usual_bucket(points: Sequence[Point]) -> str:
    sizes = sorted(one.requests for one in points if one.requests is not None)
    return bucket_of(sizes[len(sizes) // 2] if sizes else None)


def _assign(
    matching: Matching,
    incident: Incident,
    outcomes: Sequence[Outcome],
    controls: Sequence[Episode],
    points: Sequence[Point],
    options: Options,
) -> None:
    fired_ns = incident.fired_ns
    candidates = _candidates(outcomes, fired_ns)
    asked = [one for one in candidates if one.scored]
    if asked:
        _answer(asked, incident)
    elif candidates:
        matching.unasked.append(incident)
    elif any(one.onset_ns <= incident.begin_ns <= one.deadline_ns < fired_ns for one in outcomes):
        matching.late.append(incident)
    else:
        during = [
            episode.fault.name
            for episode in controls
            if episode.begin_ns <= fired_ns <= deadline_of(episode, points, options)
        ]
        requests = _requests_at(points, fired_ns)
        matching.false.append(
            FalseIncident(incident, during[-1] if during else None, bucket_of(requests))
        )


def _candidates(outcomes: Sequence[Outcome], fired_ns: int) -> list[Outcome]:
    """Give the faults that act when an incident fires; else the last one without an answer."""
    active = [one for one in outcomes if one.onset_ns <= fired_ns <= one.end_ns]
    if active:
        return active
    just_over = [
        one for one in outcomes if one.end_ns < fired_ns <= one.deadline_ns and one.incident is None
    ]
    return [max(just_over, key=lambda one: (one.scored, one.end_ns))] if just_over else []


def _answer(candidates: Sequence[Outcome], incident: Incident) -> None:
    right = frozenset(cause for one in candidates for cause in one.fault.causes)
    unanswered = [one for one in candidates if one.incident is None]
    for outcome in unanswered:
        outcome.status, outcome.incident = "found", incident
        # One incident names one cause, and any of those at work is right.
        outcome.causes = right if outcome.fault.causes else frozenset()
    if not unanswered:
        candidates[-1].duplicates += 1


def _requests_at(points: Sequence[Point], moment_ns: int) -> int | None:
    last = bisect_right(points, moment_ns, key=lambda point: point.end_ns) - 1
    return points[last].requests if last >= 0 else None


def _judge(
    outcome: Outcome, points: Sequence[Point], incidents: Sequence[Incident], *, is_live: bool
) -> None:
    if outcome.incident is not None:
        _time(outcome, outcome.incident, points)
        if is_live and outcome.incident.told_ns is not None:
            outcome.delivery_ns = outcome.incident.told_ns - outcome.incident.fired_ns
    elif any(one.is_open_at(outcome.onset_ns) for one in incidents) and outcome.scored:
        outcome.status = "covered"


def _time(outcome: Outcome, incident: Incident, points: Sequence[Point]) -> None:
    first = bisect_right(points, outcome.begin_ns, key=lambda point: point.end_ns)
    firing = bisect_left(points, incident.fired_ns, key=lambda point: point.end_ns)
    outcome.since_begin_ns = max(incident.fired_ns - outcome.begin_ns, 0)
    outcome.lag_batches = max(firing - first, 0)
    ended = first < len(points) and points[first].end_ns <= incident.fired_ns
    reference_ns = points[first].end_ns if ended else outcome.begin_ns
    outcome.lag_ns = max(incident.fired_ns - reference_ns, 0)
