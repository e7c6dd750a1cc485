"""Say in words what an incident was, for a reader who was asleep a minute ago: best first."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from latencyprism.explained.batch import workload_in_words
from latencyprism.explained.judgement import Judgement, Moved, Rival, evidence_of, judgement_of
from latencyprism.explained.span import plain_of_incident, plain_of_sums
from latencyprism.explained.words import (
    change,
    columns,
    counted,
    joined,
    lasting,
    lines_of_facts,
    ms,
    seconds,
)
from latencyprism.times import shown
from latencyprism.told import Told
from schemas.codec import encode
from schemas.incidents import Incident
from schemas.records import Alert, Capture, Record

COUNTERS_SHOWN = 8
RIVALS_SHOWN = 6
MEMBERS_SHOWN = 12
# An alert that is told so much later than its batch was made by a replay.
MOST_DELAY_NS = 3600 * 1_000_000_000
NOT_KEPT = "nothing is kept of whom it was told to"


def lines_of(told: Told, *, config: str = "", width: int | None = None) -> Iterator[str]:
    """Give the lines that explain an incident.

    Args:
        told: All about it.

        config: Name of the configuration file, for the command at the end.

        width: Of the terminal; None does not wrap.
    """
    judgement = judgement_of(told)
    yield _headline(told, judgement)
    yield from lines_of_facts(_what(told, judgement), width)
    yield from lines_of_facts(_why(told, judgement), width)
    yield from lines_of_facts(_rivals(judgement))
    yield from lines_of_facts(_undecided(told), width)
    yield from lines_of_facts([("workload", workload_in_words(evidence_of(told).workload))], width)
    yield from lines_of_facts(columns("phases", [_phase(one) for one in judgement.phases]))
    counters = judgement.counters[:COUNTERS_SHOWN]
    yield from lines_of_facts(columns("counters", [change(*_values(one)) for one in counters]))
    yield from lines_of_facts(_members(told), width)
    yield from lines_of_facts(_people(told), width)
    yield from lines_of_facts(_captures(told))
    yield from lines_of_facts(columns("timeline", list(_timeline(told))))
    yield from lines_of_facts([("batches", command_of(told.newest, config))])
    yield from lines_of_facts([("not read", one) for one in told.unread])


def row_of(incident: Incident) -> tuple[str, ...]:
    """Give an incident as one row of a list."""
    lasted = "open" if incident.end_ns is None else lasting(incident.end_ns - incident.begin_ns)
    return (
        incident.incident_id,
        shown(incident.begin_ns),
        lasted,
        incident.engine_id,
        incident.severity,
        incident.cause,
        f"{incident.ratio:.2f} times as slow",
    )


def plain_of(told: Told, config: str = "") -> dict[str, Any]:
    """Give everything for JSON."""
    sums = told.sums
    return {
        "incident": plain_of_incident(told.incident),
        "judgement": judgement_of(told).to_plain(),
        "alerts": [_plain(one) for one in told.alerts],
        "told": [asdict(one) for one in told.words],
        "acknowledgements": [_plain(one) for one in told.acknowledgements],
        "silences": [_plain(one) for one in told.silences],
        "captures": [_plain(one) for one in told.captures],
        "batches": None if sums is None else plain_of_sums(sums),
        "sql": told.newest.evidence.sql,
        "command": command_of(told.newest, config),
        "not_read": list(told.unread),
    }


def command_of(alert: Alert, config: str = "") -> str:
    """Give the command that shows the batches of an incident, as a shell takes it."""
    sql = alert.evidence.sql
    if not sql:
        return "the alert has no query"
    # Between double quotes, which the names in it do without, it can be read.
    quoted = shlex.quote(sql) if set(sql) & set('"$`\\!') else f'"{sql}"'
    return joined(
        " ", "latencyprism sql", f"--config {shlex.quote(config)}" if config else "", quoted
    )


def _headline(told: Told, judgement: Judgement) -> str:
    incident = told.incident
    cause = judgement.meaning
    if judgement.confidence > 0:
        cause += f" ({judgement.confidence_in_words}, {judgement.confidence:.2f})"
    if incident.end_ns is None:
        return f"{incident.engine_id} is slow, and it is not over: {cause}"
    return f"{incident.engine_id} was slow for {_length(incident)}: {cause}"


def _what(told: Told, judgement: Judgement) -> Iterator[tuple[str, str]]:
    # What an incident ends with is a batch that is well; how many were slow is known by then.
    incident, word, newest = told.incident, told.last_word, told.newest.evidence
    evidence = word.evidence
    yield "what", word.summary.removeprefix(f"{incident.engine_id}: ")
    yield "do first", judgement.next_step
    ended = "is not over" if incident.end_ns is None else f"ended {shown(incident.end_ns)}"
    lasted = "" if incident.end_ns is None else f", {_length(incident)}"
    yield "when", f"began {shown(incident.begin_ns)}, {ended}{lasted}"
    yield (
        "how slow",
        f"{ms(evidence.observed_ns)} ms where {ms(evidence.expected_ns)} ms is expected "
        f"({ms(evidence.low_ns)} to {ms(evidence.high_ns)} ms) in batch {word.batch_sequence}; "
        f"{newest.ratio:.2f} times as slow over "
        f"{counted(newest.slow_batches, 'slow batch', plural='slow batches')}",
    )
    yield "lost", _lost(told)
    yield "incident", f"{incident.incident_id}, {incident.severity}"


def _lost(told: Told) -> str:
    sums = told.sums
    if sums is None or not sums.judged:
        return "unknown: its batches are not kept here (any more)"
    return joined(
        "; ",
        f"{seconds(sums.lost_ns)} in {counted(sums.judged, 'batch', plural='batches')} that took "
        f"{seconds(sums.observed_ns)} where their work explains {seconds(sums.expected_ns)}",
        f"{seconds(sums.gaps_ns)} more in gaps" if sums.gaps_ns else "",
    )


def _why(told: Told, judgement: Judgement) -> Iterator[tuple[str, str]]:
    evidence = evidence_of(told)
    yield (
        "cause",
        f"{judgement.cause}: {judgement.meaning}; {judgement.confidence_in_words} "
        f"({judgement.confidence:.2f})",
    )
    yield from zip(("why", "", ""), _reasons(told, judgement), strict=False)
    if evidence.throttle_reasons:
        yield "", f"the driver slows the accelerator: {', '.join(evidence.throttle_reasons)}"
    slowest = sorted(evidence.peers.items(), key=lambda one: -one[1])
    if slowest:
        ratios = ", ".join(f"{ratio:.2f} times {peer}" for peer, ratio in slowest[:MEMBERS_SHOWN])
        yield "peers", f"it takes {ratios}"


def _reasons(told: Told, judgement: Judgement) -> Iterator[str]:
    evidence = evidence_of(told)
    name = judgement.shown_by
    if judgement.pressure is not None:
        values = ""
        if name is not None:
            told_as, before_during = change(
                name, evidence.counters_before.get(name), evidence.counters_during.get(name)
            )
            values = f"{told_as} {before_during}: "
        gate = "" if judgement.gate is None else f", and {judgement.gate:.2f} is its gate"
        yield f"{values}pressure {judgement.pressure:.2f} of 1{gate}"
    grown = [one for one in judgement.phases if (one.during or 0) > (one.before or 0)]
    if grown:
        name, times, inflation = _phase(grown[0])
        yield joined(" ", name, *times.split(), f"a batch: {inflation}" if inflation else "a batch")
    if not evidence.counters_during:
        yield "no counters of the host or its accelerators were in when it was judged"


def _rivals(judgement: Judgement) -> Iterator[tuple[str, str]]:
    quiet = [one.cause for one in judgement.rivals if one.pressure == 0 and not one.possible]
    loud = [one for one in judgement.rivals if one.cause not in quiet]
    rows = list(columns("not", [_rival(one) for one in loud[:RIVALS_SHOWN]]))
    yield from rows
    rest = [one.cause for one in loud[RIVALS_SHOWN:]] + quiet
    if rest:
        yield "" if rows else "not", f"{', '.join(rest)}: as before"


def _rival(one: Rival) -> tuple[str, str, str]:
    pressure = "" if one.pressure is None else f"pressure {one.pressure:.2f}"
    gate = "" if one.pressure is None or one.gate is None else f"gate {one.gate:.2f}"
    return one.cause, joined(", ", pressure, gate), one.why_not


def _undecided(told: Told) -> Iterator[tuple[str, str]]:
    for number, (cause, counter) in enumerate(evidence_of(told).missing_counters.items()):
        label = "" if number else "undecided"
        yield label, f"{cause}: {counter} is not measured there, and would have decided"


def _phase(one: Moved) -> tuple[str, str, str]:
    values = [
        "unknown" if value is None else f"{ms(value)} ms" for value in (one.before, one.during)
    ]
    times = f"{values[0]:>9} -> {values[1]:>9}"
    if one.inflation is not None:
        return one.name, times, f"{one.inflation:.2f} times as long as its work explains"
    if not one.before or one.during is None:
        return one.name, times, ""
    return one.name, times, f"{one.during / one.before:.2f} times, its work not counted"


def _values(one: Moved) -> tuple[str, float | None, float | None]:
    return one.name, one.before, one.during


def _members(told: Told) -> Iterator[tuple[str, str]]:
    if not told.words:
        return
    word = told.words[-1]
    if word.incident_id != told.incident.incident_id:
        yield "part of", f"{word.incident_id}: people are told of both as one"
    if len(word.parts) < 2:
        return
    shared = f", which share {word.shared.replace(':', ' ', 1)}" if word.shared else ""
    yield "members", f"{len(word.parts)} engines{shared}"
    for part in word.parts[:MEMBERS_SHOWN]:
        ratio = "" if part.ratio is None else f", {part.ratio:.2f} times as slow"
        yield "", f"{part.engine_id}{ratio} (incident {part.incident_id})"
    if len(word.parts) > MEMBERS_SHOWN:
        yield "", f"and {len(word.parts) - MEMBERS_SHOWN} more"


def _people(told: Told) -> Iterator[tuple[str, str]]:
    said = [f"{one.by} takes care of it, {shown(one.at_ns)}" for one in told.acknowledgements]
    known = {one.silence_id: one for one in told.silences}
    for silence_id in dict.fromkeys(one.silenced_by for one in told.words if one.silenced_by):
        one = known.get(silence_id)
        what = f"; {joined(' by ', one.reason, one.by)}, until {shown(one.end_ns)}" if one else ""
        said.append(f"silence {silence_id} keeps it from being delivered{what}")
    if any(one.flapping for one in told.words):
        said.append("it came and went so often that only its end is told")
    if not told.words:
        said.append(NOT_KEPT)
    elif not told.acknowledgements:
        said.append("nobody said that they take care of it")
    for number, text in enumerate(said):
        yield "" if number else "people", text


def _captures(told: Told) -> Iterator[tuple[str, str]]:
    for number, one in enumerate(told.captures):
        yield "" if number else "captures", _capture(one)


def _capture(one: Capture) -> str:
    what = "compared with the one before" if one.compare_with else f"{one.seconds:g} s"
    if one.state == "done":
        return f"{one.folder or 'in no folder'} on {one.host or 'an unknown host'} ({what})"
    why = f": {one.error}" if one.error else ""
    return f"{one.capture_id} of {one.engine_id} is {one.state}{why}"


def _timeline(told: Told) -> Iterator[tuple[str, ...]]:
    begin_ns = told.incident.begin_ns
    yield shown(begin_ns, "milliseconds"), "", "began", ""
    for alert in told.alerts:
        cause = f"{alert.cause} ({alert.confidence:.2f}), {alert.evidence.ratio:.2f} times as slow"
        delay_ns = alert.at_ns - alert.batch_end_ns
        delay = f", told {ms(delay_ns)} ms later" if 0 < delay_ns < MOST_DELAY_NS else ""
        yield (
            shown(alert.batch_end_ns, "milliseconds"),
            f"+{lasting(max(alert.batch_end_ns - begin_ns, 0))}",
            alert.state,
            f"{cause}{delay}",
        )


def _plain(record: Record) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(encode(record))
    return plain


def _length(incident: Incident) -> str:
    return lasting(max((incident.end_ns or incident.fired_ns) - incident.begin_ns, 0))
