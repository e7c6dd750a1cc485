"""Write what was judged into the record of a batch."""

import math
from dataclasses import replace

from models.judge import Judgement
from models.phases import Around
from schemas.records import Batch, Verdict
from streams.peers import SlowStart


def as_judged(batch: Batch, judged: Batch) -> Batch:
    """Give an amended batch the verdict that it was given before."""
    return replace(
        batch,
        expected_ns=judged.expected_ns,
        low_ns=judged.low_ns,
        high_ns=judged.high_ns,
        residual=judged.residual,
        score=judged.score,
        verdict=judged.verdict,
        reason=judged.reason,
        terms_ns=judged.terms_ns,
        incident_id=judged.incident_id,
        gap_ns=judged.gap_ns,
        expected_gap_ns=judged.expected_gap_ns,
        slow_parts=judged.slow_parts,
    )


def as_slow(batch: Batch, start: SlowStart) -> Batch:
    """Give the batch at which the engine was found to be slow from its first one its verdict."""

    def ns(before: int | None) -> int | None:
        return None if before is None else round(before * start.factor)

    expected_ns, terms_ns = batch.expected_ns or 0, dict(batch.terms_ns)
    terms_ns["memory"] = terms_ns.get("memory", 0) + round(expected_ns * (start.factor - 1))
    residual = None if batch.residual is None else batch.residual - math.log(start.factor)
    return replace(
        batch,
        expected_ns=ns(batch.expected_ns),
        low_ns=ns(batch.low_ns),
        high_ns=ns(batch.high_ns),
        residual=residual,
        score=max(batch.score or 0.0, start.score),
        verdict="slow",
        reason=start.sentence,
        terms_ns=terms_ns,
    )


def judged_batch(
    batch: Batch,
    judgement: Judgement,
    around: Around,
    change: str,
    incident_id: str | None = None,
) -> Batch:
    """Write verdicts into a batch.

    Args:
        batch: As it was timed.

        judgement: Of its forward pass and all that belongs to it.

        around: Of what surrounds it.

        change: Why the judge is young, if it is.

        incident_id: Of the incident that was on before it.
    """
    verdict: Verdict = "slow" if around.reason else judgement.verdict
    reasons = [reason for reason in (change, around.reason) if reason]
    if not around.reason or judgement.verdict == "slow":
        reasons.append(judgement.reason)
    score = judgement.score
    if around.score > (score or 0.0):
        score = around.score
    # For each batch: `replace` takes twice as long.
    return Batch(
        engine_id=batch.engine_id,
        process_start_ns=batch.process_start_ns,
        sequence=batch.sequence,
        revision=batch.revision,
        begin_ns=batch.begin_ns,
        end_ns=batch.end_ns,
        duration_ns=batch.duration_ns,
        uncertainty_ns=batch.uncertainty_ns,
        source=batch.source,
        ranks=batch.ranks,
        missed=batch.missed,
        iterations=batch.iterations,
        workload=batch.workload,
        phases=batch.phases,
        expected_ns=_ns(judgement.expected_ms),
        low_ns=_ns(judgement.low_ms),
        high_ns=_ns(judgement.high_ms),
        residual=judgement.residual,
        score=score,
        verdict=verdict,
        reason="; ".join(reasons) if len(reasons) > 1 else reasons[0],
        terms_ns={name: round(value * 1e6) for name, value in judgement.terms_ms.items()},
        counters=batch.counters,
        incident_id=incident_id,
        gap_ns=around.gap_ns,
        expected_gap_ns=around.expected_gap_ns,
        slow_parts=around.slow_parts,
    )


def _ns(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1e6)
