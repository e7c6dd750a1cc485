"""Put the score of a recording together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

from schemas.records import Record
from simulator.score.collect import Episode, Observed, collect
from simulator.score.exposure import Span, total_ns, watched, within, without
from simulator.score.match import Matching, Outcome, deadline_of, match
from simulator.score.metrics import Group, Part, Score, group
from simulator.score.options import Options
from simulator.score.points import Key, bucket_order, count_points

NORMAL = "normal"
SEVERITIES = ("light", "medium", "heavy", "number")


def score(records: Iterable[Record], options: Options | None = None) -> Score:
    """Compare the verdicts and incidents of a recording with the truth that is in it.

    Args:
        records: Faults, batches, alerts and inventory, in any order; others are passed over.

        options: How strictly.
    """
    return score_observed(collect(records), options)


def score_observed(observed: Observed, options: Options | None = None) -> Score:
    """Likewise, of records that are collected already."""
    options = options or Options()
    matching = match(observed, options)
    healthy = _healthy(observed, matching)
    whole = Part(
        tallies=count_points(observed, options),
        outcomes=matching.outcomes,
        false=matching.false,
        late=len(matching.late),
        healthy_ns=sum(total_ns(spans) for spans in healthy.values()),
    )
    groups = _Groups(whole, options)
    by_severity = {
        name: groups.of_faults(_is_as_hard_as(name))
        for name in SEVERITIES
        if any(severity_of(one) == name for one in whole.outcomes)
    }
    names = sorted({one.fault.name for one in whole.outcomes})
    controls = [one for one in observed.episodes if one.fault.kind == "control"]
    return Score(
        options=options,
        begin_ns=observed.begin_ns,
        end_ns=observed.end_ns,
        engines=len(observed.engine_ids),
        batches=sum(len(points) for points in observed.points.values()),
        faults=len(observed.episodes) - len(controls),
        controls=len(controls),
        overall=group(whole, options),
        material=groups.material(),
        by_fault={name: groups.of_faults(_is_named(name)) for name in names},
        by_severity=by_severity,
        by_fault_and_severity={name: groups.severities_of(name) for name in names},
        by_workload=groups.by_workload(),
        by_control=_by_control(observed, whole, healthy, options),
        outcomes=tuple(matching.outcomes),
        false=tuple(matching.false),
        control_spans=tuple((one.fault.name, one.begin_ns, one.end_ns) for one in controls),
        notes=tuple(_notes(observed, matching, whole)),
    )


def severity_of(outcome: Outcome) -> str:
    """Name how hard a fault was; ``number`` where it was given as one."""
    return outcome.fault.severity or "number"


@dataclass(frozen=True, slots=True)
class _Groups:
    """Parts of the whole."""

    whole: Part
    options: Options

    def of_faults(self, keep: Callable[[Outcome], bool]) -> Group:
        """Give the figures of some faults; nothing in them can be false."""
        outcomes = self.whole.expected(keep)
        tallies = self.whole.tallied(_is_of(outcomes))
        return group(Part(tallies=tallies, outcomes=outcomes, own_causes=True), self.options)

    def severities_of(self, name: str) -> dict[str, Group]:
        """Give those of one fault by severity."""
        outcomes = self.whole.expected(_is_named(name))
        found = {severity_of(one) for one in outcomes}
        return {
            severity: self.of_faults(_is_named(name, severity))
            for severity in SEVERITIES
            if severity in found
        }

    def material(self) -> Group:
        """Give the figures of the faults that matter, among all that is healthy."""
        ratio = self.options.material_ratio
        outcomes = self.whole.expected(lambda one: one.is_material(ratio))
        is_of = _is_of(outcomes)
        part = Part(
            tallies=self.whole.tallied(lambda key: not key.faults or is_of(key)),
            outcomes=outcomes,
            false=self.whole.false,
            late=self.whole.late,
            healthy_ns=self.whole.healthy_ns,
        )
        return group(part, self.options)

    def by_workload(self) -> dict[str, Group]:
        """Give the figures by batch size; an incident has that of the batch it fired at."""
        names = {key.bucket for key in self.whole.tallies}
        return {
            name: group(
                Part(
                    tallies=self.whole.tallied(_has_bucket(name)),
                    outcomes=self.whole.expected(_has_bucket(name)),
                    false=[one for one in self.whole.false if one.bucket == name],
                ),
                self.options,
            )
            for name in sorted(names, key=bucket_order)
        }


def _is_of(outcomes: Iterable[Outcome]) -> Callable[[Key], bool]:
    pairs = {(one.fault.fault_id, one.engine_id) for one in outcomes}
    return lambda key: any((fault, key.engine_id) in pairs for fault in key.faults)


def _is_named(name: str, severity: str | None = None) -> Callable[[Outcome], bool]:
    return lambda one: one.fault.name == name and severity in (None, severity_of(one))


def _is_as_hard_as(severity: str) -> Callable[[Outcome], bool]:
    return lambda one: severity_of(one) == severity


def _has_bucket(name: str) -> Callable[[Key | Outcome], bool]:
    return lambda one: one.bucket == name


def _is_healthy_in(control: str) -> Callable[[Key], bool]:
    return lambda key: not key.faults and (key.control or NORMAL) == control


def _healthy(observed: Observed, matching: Matching) -> dict[str, list[Span]]:
    """Give for each engine when it was watched and every incident would have been false."""
    holes: dict[str, list[Span]] = {}
    for one in matching.outcomes:
        holes.setdefault(one.engine_id, []).append((one.onset_ns, one.over_ns))
    return {
        engine_id: without(watched(points), holes.get(engine_id, ()))
        for engine_id, points in observed.points.items()
    }


def _by_control(
    observed: Observed, whole: Part, healthy: dict[str, list[Span]], options: Options
) -> dict[str, Group]:
    names = sorted({one.fault.name for one in observed.episodes if one.fault.kind == "control"})
    times = dict.fromkeys((NORMAL, *names), 0)
    for engine_id, spans in healthy.items():
        controls = observed.episodes_of(engine_id, "control")
        windows = {one: _window(one, observed, engine_id, options) for one in controls}
        times[NORMAL] += total_ns(without(spans, windows.values()))
        for name in names:
            own = [span for one, span in windows.items() if one.fault.name == name]
            times[name] += total_ns(within(spans, own))
    return {
        name: group(
            Part(
                tallies=whole.tallied(_is_healthy_in(name)),
                false=[one for one in whole.false if (one.control or NORMAL) == name],
                healthy_ns=healthy_ns,
            ),
            options,
        )
        for name, healthy_ns in times.items()
    }


def _window(episode: Episode, observed: Observed, engine_id: str, options: Options) -> Span:
    points = observed.points.get(engine_id, ())
    return episode.begin_ns, deadline_of(episode, points, options)


def _notes(observed: Observed, matching: Matching, whole: Part) -> Iterable[str]:
    yield from _what_is_missing(observed)
    if observed.points and not whole.healthy_ns:
        yield "No engine was watched while nothing was wrong: how many alarms are false is unknown."
    faults = [one for one in observed.episodes if one.fault.kind == "fault"]
    for episode in observed.episodes:
        name = f"{episode.fault.name} ({episode.fault.fault_id})"
        if not episode.finished and episode.fault.kind == "fault":
            yield (
                f"{name} has no end in the recording: it is not scored, nor is anything alone in "
                "the time from its begin on."
            )
        elif not episode.finished:
            yield f"{name} has no end in the recording: it counts until the recording's."
        if episode.fault.error:
            yield f"{name} told an error: {episode.fault.error}"
    for episode in faults:
        if not observed.engines_of(episode):
            yield (
                f"{episode.fault.name} ({episode.fault.fault_id}) hit {episode.fault.host}, where "
                "no engine is recorded: it is not scored."
            )
    for outcome in matching.outcomes:
        if not outcome.scored and outcome.fault.end_ns is not None:
            yield (
                f"{outcome.engine_id} had no batch shortly before and during {outcome.fault.name} "
                f"({outcome.fault.fault_id}): it is not scored."
            )
    if matching.late:
        yield f"{len(matching.late)} incidents of a fault fired after its grace: neither counts."
    if matching.unasked:
        yield f"{len(matching.unasked)} incidents fired in faults that are not scored: none counts."
    if any(one.unscored for one in whole.tallies.values()):
        yield (
            "No label have batches around the begin or end of a fault, and those in one that is "
            "intermittent or slows nothing."
        )
    if matching.outcomes and all(one.fault.true_ratio is None for one in matching.outcomes):
        yield (
            "No fault tells its true ratio: those that slow batches cannot be told apart, for what "
            "the analysis expected must not decide what it is asked."
        )


def _what_is_missing(observed: Observed) -> Iterable[str]:
    if not observed.points:
        yield (
            "There are no judged batches. Where the recording has iterations only, run "
            "'latencyprism replay RUN --to RESULTS' and 'latencyprism score RESULTS --truth RUN'."
        )
    if not observed.episodes:
        yield (
            "There is no truth: no fault and no control is in the recording, so every incident "
            "counts as false and nothing as missed."
        )
    elif not any(one.fault.kind == "fault" for one in observed.episodes):
        yield "There are controls but no faults: recall cannot be told."
    judged = chain.from_iterable(observed.points.values())
    if observed.points and all(point.verdict == "unknown" for point in judged):
        yield "No batch was judged: the analysis was still learning."
