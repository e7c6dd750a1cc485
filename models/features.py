"""From the workload of a batch to the physical terms that its duration is made of."""

import math
from dataclasses import dataclass

from schemas.records import Workload

CONTEXT_STEP_TOKENS = 64
PREFILL_STEP_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the baseline regresses on, and where in its memory this batch belongs.

    Attributes:
        terms: Regressors of about unit size: ``weights`` (constant), ``batch`` (padded requests /
            100), ``kv`` (tokens of context / 100,000), ``prefill`` (tokens / 1,000), ``mixed``.

        bucket: Padded batch size and whether prefill is mixed in.

        cell: Bucket refined by context length and prefill tokens.

        mixed: Whether the batch computes any prefill.
    """

    terms: dict[str, float]
    bucket: tuple[int, bool]
    cell: tuple[int, int, int]
    mixed: bool


def padded_batch_size(requests: int) -> int:
    """Round a batch up to the size that a CUDA graph was captured for.

    >>> [padded_batch_size(n) for n in (1, 2, 3, 5, 8, 9, 64, 65)]
    [1, 2, 4, 8, 8, 16, 64, 72]
    """
    if requests <= 2:
        return requests
    return 4 if requests <= 4 else math.ceil(requests / 8) * 8


def features_of(workload: Workload) -> Features | None:
    """Give the features of a workload, or None where too little of it is known.

    Scheduled tokens are the least that is needed; a term that the source could not read is left
    out, and with it the baseline's claim to explain it.

    >>> features_of(Workload(requests=2, scheduled_tokens=2, prefill_tokens=0,
    ...                      decode_requests=2, kv_tokens=1000)).terms["kv"]
    0.01
    >>> features_of(Workload()) is None
    True
    """
    scheduled = workload.scheduled_tokens
    if scheduled is None or scheduled <= 0:
        return None
    prefill = workload.prefill_tokens
    if prefill is None:
        # A request that decodes computes one token, so what is beyond that is prefill.
        requests = workload.requests
        prefill = max(scheduled - requests, 0) if requests is not None else 0
    decode = workload.decode_requests
    if decode is None:
        decode = workload.requests if workload.requests is not None else scheduled - prefill
    mixed = prefill > 0
    padded = padded_batch_size(max(decode, 0))
    terms = {
        "weights": 1.0,
        "batch": padded / 100,
        "prefill": prefill / 1000,
        "mixed": float(mixed),
    }
    context_cell = -1
    if workload.kv_tokens is not None:
        terms["kv"] = workload.kv_tokens / 1e5
        requests = workload.requests or 1
        context_cell = workload.kv_tokens // (requests * CONTEXT_STEP_TOKENS)
    return Features(
        terms=terms,
        bucket=(padded, mixed),
        cell=(padded, context_cell, math.ceil(prefill / PREFILL_STEP_TOKENS)),
        mixed=mixed,
    )
