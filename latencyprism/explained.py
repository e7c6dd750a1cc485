"""Say in words why a batch took as long as it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from latencyprism.times import shown
from schemas.causes import CAUSES
from schemas.incidents import Incident
from schemas.records import Batch, PhaseTime, Workload

LABEL_WIDTH = 11
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
UNITS: dict[str, Callable[[float], str]] = {
    "_ratio": lambda value: f"{100 * value:.4g} %",
    "_bytes_per_second": lambda value: f"{value / 1e6:,.4g} MB/s",
    "_hz": lambda value: f"{value / 1e9:.4g} GHz",
    "_celsius": lambda value: f"{value:.4g} °C",
}


def lines_of(batch: Batch, incident: Incident | None) -> Iterator[str]:
    """Give the lines that explain a batch.

    Args:
        batch: The batch.

        incident: The one that it belongs to, where its alerts are kept.
    """
    yield f"Batch {batch.sequence} of {batch.engine_id}"
    for label, text in _facts(batch):
        yield f"  {label:{LABEL_WIDTH}}{text}"
    if batch.incident_id is not None:
        yield f"  {'incident':{LABEL_WIDTH}}{_incident(batch.incident_id, incident)}"
    yield from _columns("phases", [_phase(one, batch.duration_ns) for one in batch.phases])
    yield from _columns("counters", [_counter(*one) for one in batch.counters.items()])


def _facts(batch: Batch) -> Iterator[tuple[str, str]]:
    yield "when", f"{shown(batch.begin_ns, 'milliseconds')}, read by {_source(batch)}"
    yield "workload", workload_in_words(batch.workload)
    yield "expected", expectation(batch)
    if batch.low_ns is not None and batch.high_ns is not None:
        yield "interval", f"{_ms(batch.low_ns)} to {_ms(batch.high_ns)} ms"
    yield "observed", _observed(batch)
    if batch.gap_ns is not None:
        yield "gap before", _gap(batch)
    yield "verdict", _verdict(batch)
    if batch.slow_parts:
        yield "too slow", ", ".join(batch.slow_parts)


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
    decimals = _decimals(batch.expected_ns)
    parts = _parts(batch, decimals)
    if not parts:
        return f"{_ms(batch.expected_ns)} ms"
    made_of = "".join(
        f" {'-' if value < 0 else '+'} {abs(value):.{decimals}f} {name}" for name, value in parts
    )
    return f"{_ms(batch.expected_ns)} ms = {made_of.removeprefix(' + ').lstrip()}"


def _parts(batch: Batch, decimals: int) -> list[tuple[str, float]]:
    """Give the terms in ms, rounded, that are not 0 then; they add up to the rounded whole."""
    terms = dict(batch.terms_ns)
    if not terms or batch.expected_ns is None:
        return []
    # Earlier versions did not tell what memory adds to the physical terms.
    terms["memory"] = batch.expected_ns - sum(terms.values()) + terms.get("memory", 0)
    names = [name for name in TERMS if name in terms]
    names += [name for name in terms if name not in TERMS]
    rounded = {name: round(terms[name] / 1e6, decimals) for name in names}
    # Rounded one by one they may miss the sum by the last digit: on the largest it shows least.
    largest = max(names, key=lambda name: abs(terms[name]))
    rounded[largest] += round(batch.expected_ns / 1e6, decimals) - sum(rounded.values())
    return [
        (TERMS[name](batch.workload) if name in TERMS else name, value)
        for name, value in rounded.items()
        if round(value, decimals) != 0
    ]


def workload_in_words(workload: Workload) -> str:
    """Say what a batch had to do; what was not read is left out.

    >>> workload_in_words(Workload(requests=9, scheduled_tokens=136, decode_requests=8,
    ...                            prefill_tokens=128, kv_tokens=84_012, waiting_requests=3))
    '9 requests (8 decode), 136 tokens (128 of prefill), 84k tokens of context, 3 waiting'
    """
    load = workload
    found = [
        _counted(load.requests, "request") + _within(load.decode_requests, "decode"),
        _counted(load.scheduled_tokens, "token") + _within(load.prefill_tokens, "of prefill"),
        _counted(load.kv_tokens, "token", " of context"),
        _counted(load.speculative_tokens, "draft token", " to verify"),
        _counted(load.lora_adapters, "LoRA adapter"),
        "" if load.waiting_requests is None else f"{_short(load.waiting_requests)} waiting",
    ]
    return ", ".join(filter(None, found)) or "not read"


def _source(batch: Batch) -> str:
    text = f"{batch.source}, either end off by {_ms(batch.uncertainty_ns)} ms at most"
    if batch.iterations > 1:
        text += f"; it stands for {batch.iterations} batches, and numbers are their means"
    if batch.missed:
        text += f"; {_counted(batch.missed, 'batch', plural='batches')} before it not timed"
    return text


def _observed(batch: Batch) -> str:
    text = f"{_ms(batch.duration_ns)} ms"
    if batch.ranks > 1:
        text += f" over {batch.ranks} ranks"
    if batch.expected_ns:
        text += f", {batch.duration_ns / batch.expected_ns:.2f} times the expected"
    return text


def _gap(batch: Batch) -> str:
    text = f"{_ms(batch.gap_ns or 0)} ms"
    if batch.expected_gap_ns is not None:
        text += f" where {_ms(batch.expected_gap_ns)} ms is usual"
    return text


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
    return time.phase, f"{_ms(time.duration_ns):>8} ms{share}{estimated}"


def _counter(name: str, value: float) -> tuple[str, str]:
    for ending, show in UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), show(value)
    return name, f"{value:.6g}"


def _columns(label: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max((len(name) for name, _ in rows), default=0)
    for number, (name, text) in enumerate(rows):
        yield f"  {label if number == 0 else '':{LABEL_WIDTH}}{name:{width}}  {text}"


def _decimals(duration_ns: int) -> int:
    """Give how many decimals of a ms show three digits of a duration."""
    return 1 if duration_ns >= 10_000_000 else 2 if duration_ns >= 1_000_000 else 3


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.{_decimals(duration_ns)}f}"


def _of(count: int | None, what: str) -> str:
    return "" if count is None else f" of {_counted(count, what)}"


def _within(count: int | None, what: str) -> str:
    return "" if count is None else f" ({_short(count)} {what})"


def _counted(count: int | None, what: str, rest: str = "", plural: str = "") -> str:
    if count is None:
        return ""
    return f"{_short(count)} {what if count == 1 else plural or what + 's'}{rest}"


def _short(count: int) -> str:
    """Write a count as people say it.

    >>> [_short(n) for n in (0, 999, 8_450, 84_012, 1_234_567)]
    ['0', '999', '8.4k', '84k', '1.2M']
    """
    if count < 1000:
        return str(count)
    if count < 1_000_000:
        return f"{count / 1e3:.1f}k" if count < 10_000 else f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M"
