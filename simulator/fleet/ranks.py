"""What the further ranks of an engine report of its iterations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simulator.fleet.batching import Flags
from simulator.fleet.draws import Floats, Ints
from simulator.fleet.duration import PHASES
from simulator.fleet.rows import Rows

_PHASE = {name: index for index, name in enumerate(PHASES)}


def rank_rows(core: Rows, rank_ms: Floats, ranks: Ints, workers: Flags) -> Iterator[Rows]:
    """Give what the further ranks report of the same iterations.

    Args:
        core: What their cores report.

        rank_ms: How long each rank takes.

        ranks: Of each core's engine.

        workers: Whether those are workers, which report their share.
    """
    forward, wait = _PHASE["forward"], _PHASE["communication_wait"]
    for rank in range(int(ranks.max())):
        chosen = (rank < ranks) & (workers | (rank > 0))
        part = core[chosen].copy()
        lag = rank_ms[chosen, 0] - rank_ms[chosen, rank]
        part["rank"], part["is_worker"] = rank, workers[chosen]
        # Who is faster waits for the slowest.
        taken = np.clip(lag, -part["phases_ms"][:, wait], part["phases_ms"][:, forward])
        part["phases_ms"][:, forward] -= taken
        part["phases_ms"][:, wait] += taken
        _shorten(part)
        yield part


def _shorten(part: Rows) -> None:
    """Cut a worker's record down to its share, which has no host work but its own."""
    some = np.flatnonzero(part["is_worker"])
    phases = part["phases_ms"][some]
    before = phases[:, [_PHASE[name] for name in ("queue", "schedule", "prepare")]].sum(axis=1)
    share = phases[:, _PHASE["forward"]]
    kept = np.zeros_like(phases)
    kept[:, _PHASE["forward"]] = share
    part["phases_ms"][some] = kept
    begin_ns = part["begin_ns"][some] + (before * 1e6).astype(np.int64)
    limit_ns = part["end_ns"][some]
    end_ns = np.minimum(begin_ns + (share * 1e6).astype(np.int64), limit_ns)
    part["begin_ns"][some] = np.minimum(begin_ns, end_ns)
    part["end_ns"][some] = part["at_ns"][some] = end_ns
