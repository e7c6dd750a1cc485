"""Say in words where an engine's time went, and what of it the work does not explain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from latencyprism.explained.batch import workload_in_words
from latencyprism.explained.words import columns, counted, lasting, lines_of_facts, ms, seconds
from latencyprism.spans import Span, Sums
from latencyprism.times import shown
from schemas.causes import CAUSES
from schemas.incidents import Incident
from schemas.records import Batch

# What terms are of, in the order in which they are told; one of a later version has its name.
TERMS = {
    "weights": "weights",
    "batch": "size of the batches",
    "kv": "KV read",
    "prefill": "prefill",
    "attention": "attention of the prefill",
    "mixed": "prefill and decode in one batch",
    "speculative": "speculation",
    "lora": "LoRA",
    "memory": "learnt from batches like these",
}
# A term that makes less of the difference between two times is not told.
LEAST_TERM = 0.1


def lines_of(span: Span, width: int | None = None) -> Iterator[str]:
    """Give the lines that explain a time of an engine."""
    whole = span.whole
    yield (
        f"{span.engine_id} from {shown(span.begin_ns)} to {shown(span.end_ns)} "
        f"({lasting(span.end_ns - span.begin_ns)})"
    )
    yield from lines_of_facts([("batches", _batches(whole)), ("time", _time(whole))], width)
    if whole.gaps_ns:
        text = f"{seconds(whole.gaps_ns)} longer than usual, in gaps that were called slow"
        yield from lines_of_facts([("gaps", text)], width)
    yield from lines_of_facts([("before", _compared(span))], width)
    yield from lines_of_facts(columns("lost to", list(_lost(span))))
    yield from lines_of_facts(columns("work", list(_terms(whole))))
    yield from lines_of_facts(columns("incidents", list(_incidents(span))))
    yield from lines_of_facts(columns("worst", [_worst(one) for one in span.worst]))


def plain_of(span: Span) -> dict[str, Any]:
    """Give everything for JSON."""
    whole = span.whole
    return {
        "engine_id": span.engine_id,
        "begin_ns": span.begin_ns,
        "end_ns": span.end_ns,
        "whole": plain_of_sums(whole),
        "outside_of_incidents": plain_of_sums(span.outside),
        "incidents": [
            plain_of_incident(incident) | {"batches": plain_of_sums(sums)}
            for incident, sums in zip(span.incidents, span.during, strict=True)
        ],
        "lost_ns_by_cause": _by_cause(span),
        "before": plain_of_sums(span.before),
    }


def plain_of_incident(incident: Incident) -> dict[str, Any]:
    """Give an incident for JSON, with the cause that it names in the end."""
    return asdict(incident) | {"cause": incident.cause}


def plain_of_sums(sums: Sums) -> dict[str, Any]:
    """Give sums for JSON, with the time that was lost."""
    return asdict(sums) | {"lost_ns": sums.lost_ns, "terms_ns": sums.made_of()}


def _batches(sums: Sums) -> str:
    told = [
        f"{count:,} {name} ({_share(count, sums.batches)})"
        for name in ("slow", "drift", "unknown")
        if (count := sums.verdicts.get(name, 0))
    ]
    untimed = f"; {sums.missed:,} more were not timed" if sums.missed else ""
    return f"{sums.batches:,}: {', '.join(told) or 'all of them normal'}{untimed}"


def _time(sums: Sums) -> str:
    if not sums.judged:
        return "nothing was expected of any: ask 'latencyprism explain batch ENGINE --slowest' why"
    of = "" if sums.judged == sums.batches else f" of the {sums.judged:,} that could be judged"
    return (
        f"{seconds(sums.observed_ns)} observed{of}; their work explains "
        f"{seconds(sums.expected_ns)} ({_share(sums.expected_ns, sums.observed_ns)}), "
        f"and does not explain {_lost_of(sums)}"
    )


def _lost_of(sums: Sums) -> str:
    share = _share(sums.lost_ns, sums.observed_ns)
    quicker = "" if sums.lost_ns >= 0 else ": they were quicker than expected"
    return f"{seconds(sums.lost_ns)} ({share}){quicker}"


def _compared(span: Span) -> str:
    before, whole = span.before, span.whole
    length = lasting(span.end_ns - span.begin_ns)
    if not before.judged or not whole.judged:
        return f"nothing to compare with in the {length} before"
    was_ns, is_ns = before.observed_ns / before.judged, whole.observed_ns / whole.judged
    work_ns = whole.expected_ns / whole.judged - before.expected_ns / before.judged
    lost_ns = whole.lost_ns / whole.judged - before.lost_ns / before.judged
    terms = _changed_terms(before, whole, work_ns)
    return (
        f"a batch took {ms(was_ns)} ms in the {length} before and {ms(is_ns)} ms now: "
        f"{_signed(work_ns)} by its work{f' ({terms})' if terms else ''}, "
        f"{_signed(lost_ns)} that it does not explain"
    )


def _changed_terms(before: Sums, whole: Sums, work_ns: float) -> str:
    was, now = before.made_of(), whole.made_of()
    changes = {
        name: now.get(name, 0) / whole.judged - was.get(name, 0) / before.judged
        for name in {**now, **was}
    }
    told = sorted(changes, key=lambda name: -abs(changes[name]))
    return ", ".join(
        f"{TERMS.get(name, name)} {_signed(changes[name])}"
        for name in told
        if abs(changes[name]) >= max(LEAST_TERM * abs(work_ns), 1000)
    )


def _lost(span: Span) -> Iterator[tuple[str, ...]]:
    whole_ns = span.whole.lost_ns
    for cause, lost_ns in sorted(_by_cause(span).items(), key=lambda one: -one[1]):
        number = sum(1 for one in span.incidents if one.cause == cause)
        meaning = CAUSES.get(cause, "a cause of a later version")
        incidents = counted(number, "incident")
        yield f"{seconds(lost_ns):>8}", _share(lost_ns, whole_ns), cause, f"{meaning}; {incidents}"
    if span.incidents and span.outside.judged:
        lost_ns = span.outside.lost_ns
        yield f"{seconds(lost_ns):>8}", _share(lost_ns, whole_ns), "no incident", ""


def _by_cause(span: Span) -> dict[str, int]:
    found: dict[str, int] = {}
    for incident, sums in zip(span.incidents, span.during, strict=True):
        found[incident.cause] = found.get(incident.cause, 0) + sums.lost_ns
    return found


def _terms(sums: Sums) -> Iterator[tuple[str, ...]]:
    terms = sums.made_of()
    names = [name for name in TERMS if name in terms] + [
        name for name in terms if name not in TERMS
    ]
    for name in names:
        if terms[name]:
            share = _share(terms[name], sums.expected_ns)
            yield f"{seconds(terms[name]):>8}", share, TERMS.get(name, name)


def _incidents(span: Span) -> Iterator[tuple[str, ...]]:
    for incident, sums in zip(span.incidents, span.during, strict=True):
        end_ns = incident.end_ns
        yield (
            incident.incident_id,
            shown(incident.begin_ns),
            "open" if end_ns is None else lasting(end_ns - incident.begin_ns),
            incident.cause,
            f"{incident.ratio:.2f} times as slow",
            f"{seconds(sums.lost_ns)} lost here" if sums.judged else "no batch here was judged",
        )


def _worst(batch: Batch) -> tuple[str, ...]:
    expected_ns = batch.expected_ns or 0
    return (
        str(batch.sequence),
        shown(batch.begin_ns, "milliseconds"),
        f"{ms(batch.duration_ns)} ms where {ms(expected_ns)} ms is expected",
        f"{_signed(batch.duration_ns - expected_ns)}, {batch.verdict}",
        workload_in_words(batch.workload),
    )


def _signed(duration_ns: float) -> str:
    return f"{'-' if duration_ns < 0 else '+'}{ms(abs(duration_ns))} ms"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "- %"
