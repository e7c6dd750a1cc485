"""What agents read of a batch: what the map of its engine's framework gives, which is not all.

The maps themselves are in ``collectors/engines``.
"""

from __future__ import annotations

import numpy as np

from simulator.fleet.batching import Batch
from simulator.fleet.draws import Ints
from simulator.fleet.parameters import Parameters

WORKLOAD = (
    "requests",
    "scheduled_tokens",
    "prefill_tokens",
    "decode_requests",
    "kv_tokens",
    "waiting_requests",
    "running_requests",
    "speculative_tokens",
    "lora_adapters",
)
"""The fields of `Workload`, in its order."""

UNREAD = -1
"""What stands for a number that agents do not read."""

_COLUMN = {name: index for index, name in enumerate(WORKLOAD)}
# Of what a scheduler puts together, agents read the sizes of its lists whatever the batch is.
_LISTS = ("requests", "waiting_requests", "running_requests")


def read(batch: Batch, parameters: Parameters) -> Ints:
    """Give the columns of `WORKLOAD` for each engine's batch."""
    found = np.full((len(batch.rows), len(WORKLOAD)), UNREAD, np.int64)
    for name, values in (
        ("requests", batch.requests),
        ("scheduled_tokens", batch.scheduled_tokens),
        ("prefill_tokens", batch.long_tokens),
        ("decode_requests", batch.single_requests),
        ("kv_tokens", batch.kv_tokens),
        ("waiting_requests", batch.waiting),
        ("running_requests", batch.running),
    ):
        found[:, _COLUMN[name]] = values
    _read_vllm(found, batch, parameters)
    _read_sglang(found, batch, parameters)
    return found


def _read_vllm(found: Ints, batch: Batch, parameters: Parameters) -> None:
    """Put in the drafts and adapters.

    A request with drafts decodes, though it has more than one token.
    """
    drafts = batch.speculative_tokens
    drafting = np.where(drafts > 0, batch.decoding, 0)
    some = np.flatnonzero(parameters.is_vllm[batch.rows])
    found[some, _COLUMN["prefill_tokens"]] -= (drafts + drafting)[some]
    found[some, _COLUMN["decode_requests"]] += drafting[some]
    found[some, _COLUMN["speculative_tokens"]] = drafts[some]
    # Adapters are a matter of the model runner, which is in the core's process with one rank only.
    # Not here: agents may be one iteration late with them where requests come and go.
    adapters = np.minimum(parameters.counts["lora_adapters"][batch.rows], batch.requests)
    some = some[parameters.runs_in_core[batch.rows[some]]]
    found[some, _COLUMN["lora_adapters"]] = adapters[some]


def _read_sglang(found: Ints, batch: Batch, parameters: Parameters) -> None:
    """Take out what SGLang has nowhere on its batch when that verifies drafts."""
    verifying = parameters.keeps_apart[batch.rows] & (batch.decoding > 0)
    some = np.flatnonzero(verifying)
    for name, column in _COLUMN.items():
        if name not in _LISTS:
            found[some, column] = UNREAD
