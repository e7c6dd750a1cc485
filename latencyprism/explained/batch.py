"""Say in words why a batch took as long as it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from latencyprism.explained.words import (
    columns,
    counted,
    counter,
    decimals,
    joined,
    lines_of_facts,
    ms,
    short,
)
from latencyprism.spans import complete_terms
from latencyprism.times import shown
from schemas.causes import CAUSES
from schemas.incidents import Incident
from schemas.records import Batch, PhaseTime, Workload

# What a term is of, in the order in which they are told; one of a later version has its name.
TERMS: dict[str, Callable[[Workload], str]] = {
    "weights": lambda _: "weights",
    "batch": lambda load: f"batch{_of(load.requests, 'request')}",
    "kv": lambda load: f"KV{_of(load.kv_tokens, 'token')}",
    "prefill": lambda load: f"prefill{_of(load.prefill_tokens, 'token')}",
    "attention": lambda _: "attention of the prefill",
    "mixed": lambda _: "prefill and decode in one batch",
    "speculative": lambda load: f"speculation{_of(load.speculative_tokens, 'draft token')}",
    "lora": lambda load: f"LoRA{_of(load.lora_adapters, 'adapter')}",
    "memory": lambda _: "learnt from batches like it",
}
WORKLOAD_UNREAD = (
    "nothing, for its workload was not read. It came by {source}: run 'latencyprism doctor' on "
    "the engine's host to see what is in the way of reading it"
)
NOTHING_EXPECTED = "nothing: {reason}. Ask for a later batch"


def lines_of(batch: Batch, incident: Incident | None) -> Iterator[str]:
    """Give the lines that explain a batch.

    Args:
        batch: The batch.

        incident: The one that it belongs to, where its alerts are kept.
    """
    yield f"Batch {batch.sequence} of {batch.engine_id}"
    yield from lines_of_facts(_facts(batch))
    if batch.incident_id is not None:
        yield from lines_of_facts([("incident", _incident(batch.incident_id, incident))])
    yield from lines_of_facts(
        columns("phases", [_phase(one, batch.duration_ns) for one in batch.phases])
    )
    yield from lines_of_facts(
        columns("counters", [counter(*one) for one in batch.counters.items()])
    )


def _facts(batch: Batch) -> Iterator[tuple[str, str]]:
    yield "when", _when(batch)
    yield "workload", workload_in_words(batch.workload)
    yield "expected", expectation(batch)
    if batch.low_ns is not None and batch.high_ns is not None:
        yield "interval", f"{ms(batch.low_ns)} to {ms(batch.high_ns)} ms"
    yield "observed", observed_in_words(batch)
    if batch.gap_ns is not None:
        usual_ns = batch.expected_gap_ns
        usual = "" if usual_ns is None else f" where {ms(usual_ns)} ms is usual"
        yield "gap before", f"{ms(batch.gap_ns)} ms{usual}"
    yield "verdict", _verdict(batch)
    if batch.slow_parts:
        yield "too slow", ", ".join(batch.slow_parts)


def _when(batch: Batch) -> str:
    begin, off = shown(batch.begin_ns, "milliseconds"), ms(batch.uncertainty_ns)
    means = f"it stands for {batch.iterations} batches, and numbers are their means"
    untimed = f"{counted(batch.missed, 'batch', plural='batches')} before it not timed"
    return joined(
        "; ",
        f"{begin}, read by {batch.source}, either end off by {off} ms at most",
        means if batch.iterations > 1 else None,
        untimed if batch.missed else None,
    )


def observed_in_words(batch: Batch) -> str:
    """Say how long a batch took."""
    text = f"{ms(batch.duration_ns)} ms" + (f" over {batch.ranks} ranks" if batch.ranks > 1 else "")
    if not batch.expected_ns:
        return text
    return f"{text}, {batch.duration_ns / batch.expected_ns:.2f} times the expected"


def expectation(batch: Batch) -> str:
    """Say what was expected and what it is made of; the parts shown add up.

    >>> expectation(Batch(
    ...     engine_id="host:8000", process_start_ns=1, sequence=1, begin_ns=0, end_ns=1,
    ...     duration_ns=1, uncertainty_ns=0, source="counter", expected_ns=31_240_000,
    ...     workload=Workload(prefill_tokens=128, kv_tokens=84_012),
    ...     terms_ns={"weights": 24_100_000, "kv": 5_930_000, "prefill": 1_210_000}))
    '31.2 ms = 24.1 weights + 5.9 KV of 84k tokens + 1.2 prefill of 128 tokens'
    """
    if batch.expected_ns is None:
        if batch.workload.scheduled_tokens is None:
            return WORKLOAD_UNREAD.format(source=batch.source)
        return NOTHING_EXPECTED.format(reason=batch.reason or "too little is learnt")
    places = decimals(batch.expected_ns)
    parts = _parts(batch, places)
    if not parts:
        return f"{ms(batch.expected_ns)} ms"
    made_of = "".join(
        f" {'-' if value < 0 else '+'} {abs(value):.{places}f} {name}" for name, value in parts
    )
    return f"{ms(batch.expected_ns)} ms = {made_of.removeprefix(' + ').lstrip()}"


def _parts(batch: Batch, places: int) -> list[tuple[str, float]]:
    """Give the terms in ms, rounded, that are not 0 then; they add up to the rounded whole."""
    if not batch.terms_ns or batch.expected_ns is None:
        return []
    terms = complete_terms(batch.terms_ns, batch.expected_ns)
    names = [name for name in TERMS if name in terms]
    names += [name for name in terms if name not in TERMS]
    rounded = {name: round(terms[name] / 1e6, places) for name in names}
    # Rounded one by one they may miss the sum by the last digit: on the largest it shows least.
    largest = max(names, key=lambda name: abs(terms[name]))
    rounded[largest] += round(batch.expected_ns / 1e6, places) - sum(rounded.values())
    return [
        (TERMS[name](batch.workload) if name in TERMS else name, value)
        for name, value in rounded.items()
        if round(value, places) != 0
    ]


def workload_in_words(workload: Workload) -> str:
    """Say what a batch had to do; what was not read is left out.

    >>> workload_in_words(Workload(requests=9, scheduled_tokens=136, decode_requests=8,
    ...                            prefill_tokens=128, kv_tokens=84_012, waiting_requests=3))
    '9 requests (8 decode), 136 tokens (128 of prefill), 84k tokens of context, 3 waiting'
    """
    load = workload
    found = [
        counted(load.requests, "request") + _within(load.decode_requests, "decode"),
        counted(load.scheduled_tokens, "token") + _within(load.prefill_tokens, "of prefill"),
        counted(load.kv_tokens, "token", " of context"),
        counted(load.speculative_tokens, "draft token", " to verify"),
        counted(load.lora_adapters, "LoRA adapter"),
        "" if load.waiting_requests is None else f"{short(load.waiting_requests)} waiting",
    ]
    return ", ".join(filter(None, found)) or "not read"


def _verdict(batch: Batch) -> str:
    text = batch.verdict + (f": {batch.reason}" if batch.reason else "")
    if batch.score is None:
        return text
    meaning = "an alarm" if batch.score >= 1 else "1 is an alarm"
    if batch.score < 1 and batch.verdict == "slow" and batch.incident_id is None:
        meaning = "a lone outlier: an alarm begins at 1"
    return f"{text} (score {batch.score:.2f}, {meaning})"


def _incident(incident_id: str, incident: Incident | None) -> str:
    if incident is None:
        return f"{incident_id}, of which no alert is kept here: it may be too old, or elsewhere"
    end = "is open" if incident.end_ns is None else f"ended {shown(incident.end_ns)}"
    meaning = CAUSES.get(incident.cause, "a cause of a later version")
    return (
        f"{incident_id}: {incident.cause} ({meaning}); began {shown(incident.begin_ns)}, {end}; "
        f"batches took {incident.ratio:.2f} times the expected"
    )


def _phase(time: PhaseTime, whole_ns: int) -> tuple[str, str]:
    share = f" {time.duration_ns / whole_ns:4.0%}" if whole_ns else ""
    estimated = " (its share of the stack samples)" if time.estimated else ""
    return time.phase, f"{ms(time.duration_ns):>8} ms{share}{estimated}"


def _of(count: int | None, what: str) -> str:
    return "" if count is None else f" of {counted(count, what)}"


def _within(count: int | None, what: str) -> str:
    return "" if count is None else f" ({short(count)} {what})"
