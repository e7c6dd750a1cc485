"""From the workload of a batch to the physical quantities that its duration is made of."""

from schemas.records import Workload

Features = dict[str, float]
"""What a baseline regresses on, by name; see `features_of`."""

# No batch computes or reads more.
MOST_TOKENS = 1_000_000_000


def features_of(workload: Workload) -> Features | None:
    """Give the features of a workload, or None where too little of it is known.

    Scheduled tokens are the least that is needed; what the source could not read is left out.
    Always there are ``decode_tokens`` (computed for requests that decode, drafts included),
    ``prefill_tokens`` and ``tokens`` (both); ``kv_tokens``, ``context_tokens`` (mean over the
    requests), ``speculative_tokens`` and ``lora_adapters`` where they were read.

    >>> found = features_of(Workload(requests=2, scheduled_tokens=2, prefill_tokens=0,
    ...                              decode_requests=2, kv_tokens=1000))
    >>> found["context_tokens"], found["prefill_tokens"]
    (500.0, 0)
    >>> features_of(Workload()) is None
    True
    """
    scheduled = workload.scheduled_tokens
    if scheduled is None or not 0 < scheduled <= MOST_TOKENS:
        return None
    if max(workload.requests or 0, workload.kv_tokens or 0, workload.speculative_tokens or 0) > (
        MOST_TOKENS
    ):
        # Garbage, read in the middle of a change.
        return None
    requests = workload.requests
    drafts = workload.speculative_tokens or 0
    prefill = workload.prefill_tokens
    if prefill is None:
        # A request that decodes computes one token, so what is beyond that is prefill.
        prefill = max(scheduled - drafts - requests, 0) if requests is not None else 0
    decode = workload.decode_requests
    if decode is None:
        decode = requests if requests is not None else scheduled - prefill
    decode_tokens = max(decode, 0) + drafts
    features: Features = {
        "decode_tokens": decode_tokens,
        "prefill_tokens": prefill,
        "tokens": decode_tokens + prefill,
    }
    if workload.kv_tokens is not None:
        features["kv_tokens"] = workload.kv_tokens
        features["context_tokens"] = workload.kv_tokens / (requests or decode or 1)
    if drafts:
        features["speculative_tokens"] = drafts
    if workload.lora_adapters:
        features["lora_adapters"] = workload.lora_adapters
    return features
