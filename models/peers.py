"""Compare what batches cost an engine with what the same batches cost engines of its kind.

An engine that was slow from its first batch has no better past of its own to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from schemas.records import NormCell, Norms, PeerCell

DAY_NS = 86_400_000_000_000
# An engine that learnt less than this says little of what is normal.
LEAST_BATCHES = 200
# A cell's mean is that of batches, not of one.
LEAST_VISITS = 10
# Three places of the workload, or half of all batches: less may be an accident of one place.
LEAST_CELLS = 3
LEAST_SHARE = 0.5
# Accelerators of one model differ by 8 % from best to worst in a usual cluster (Sinha et al., Not
# All GPUs Are Created Equal, SC 2022): peers that happen to agree better say no more than that.
LEAST_SPREAD = 0.03
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """When an engine is called slow against its peers.

    Attributes:
        peers: So many have to agree that it is ...

        ratio: ... so many times as slow as they are, and as their median is.

        ratio_alone: The same where a single peer is all there is: nobody can tell which of the two
            is as it should be, so the difference has to be one that no healthy pair has.

        z: How many times the peers' own spread the difference has to be.
    """

    peers: int = 2
    ratio: float = 1.15
    ratio_alone: float = 1.5
    z: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An engine against its peers.

    Attributes:
        ratio: How many times as slow as the median of its peers it is; below 1 it is faster.

        z: ln(ratio) in units of the spread among the peers; None with a single one.

        ratios: The same against each peer, by engine id.

        cells: What was compared, most visited first.

        is_slow: Whether the limits call it slow.
    """

    ratio: float
    z: float | None
    ratios: dict[str, float]
    cells: tuple[PeerCell, ...]
    is_slow: bool


def is_peer(own: Norms, other: Norms) -> bool:
    """Tell whether the other one's norms may be held against an engine.

    Those of an engine with an open incident, of one that is still learning, and those older than a
    day may not.
    """
    return (
        other.kind == own.kind
        and other.engine_id != own.engine_id
        and not other.suspect
        and other.batches >= LEAST_BATCHES
        and other.at_ns > own.at_ns - DAY_NS
    )


def compare(
    own: Norms, others: Iterable[Norms], limits: PeerLimits | None = None
) -> Comparison | None:
    """Compare an engine with its peers; None where none of them has seen enough of the same work.

    >>> def norms(engine_id: str, factor: float) -> Norms:
    ...     cells = tuple(
    ...         NormCell(requests=size, context_tokens=512, prefill_tokens=0, visits=50,
    ...                  duration_ns=int(factor * (2e7 + 1e5 * size)))
    ...         for size in (1, 8, 16))
    ...     return Norms(engine_id=engine_id, at_ns=0, kind="k", batches=200, cells=cells)
    >>> found = compare(norms("a", 1.3), [norms("b", 1.0), norms("c", 1.01)])
    >>> round(found.ratio, 2), found.is_slow
    (1.29, True)
    """
    limits = limits or PeerLimits()
    shared = {
        other.engine_id: pairs
        for other in others
        if is_peer(own, other) and (pairs := _shared(own, other))
    }
    if not shared:
        return None
    logs = {engine_id: _typical_log_ratio(pairs) for engine_id, pairs in shared.items()}
    centre = median(logs.values())
    z = _z(centre, list(logs.values()))
    ratios = {engine_id: math.exp(log) for engine_id, log in logs.items()}
    ratio = math.exp(centre)
    return Comparison(
        ratio=ratio,
        z=z,
        ratios=ratios,
        cells=_cells(own, list(shared.values())),
        is_slow=_is_slow(ratio, z, ratios, limits),
    )


_Pairs = list[tuple[NormCell, NormCell]]
_Key = tuple[int, int | None, int]


def _key(cell: NormCell) -> _Key:
    return cell.requests, cell.context_tokens, cell.prefill_tokens


def _shared(own: Norms, other: Norms) -> _Pairs:
    """Pair the cells that both know well; none where that is too little to judge by."""
    known = {_key(cell): cell for cell in other.cells if _is_known(cell)}
    pairs = [
        (cell, known[_key(cell)]) for cell in own.cells if _is_known(cell) and _key(cell) in known
    ]
    visits = sum(cell.visits for cell, _ in pairs)
    share = visits / max(sum(cell.visits for cell in own.cells), 1)
    return pairs if len(pairs) >= LEAST_CELLS or share >= LEAST_SHARE else []


def _is_known(cell: NormCell) -> bool:
    return cell.visits >= LEAST_VISITS and cell.duration_ns > 0


def _typical_log_ratio(pairs: _Pairs) -> float:
    """Give the median of ln(own / peer) over the cells, each with the weight of its own visits."""
    logs = sorted((math.log(own.duration_ns / peer.duration_ns), own.visits) for own, peer in pairs)
    half = sum(visits for _, visits in logs) / 2
    reached = 0
    for log, visits in logs:
        reached += visits
        if reached >= half:
            return log
    raise AssertionError("pairs are never empty")


def _z(centre: float, logs: Sequence[float]) -> float | None:
    if len(logs) < 2:
        return None
    spread = MAD_TO_SIGMA * median(abs(log - centre) for log in logs)
    return centre / max(spread, LEAST_SPREAD)


def _is_slow(ratio: float, z: float | None, ratios: dict[str, float], limits: PeerLimits) -> bool:
    if z is None:
        return ratio >= limits.ratio_alone
    agreeing = sum(one >= limits.ratio for one in ratios.values())
    return agreeing >= limits.peers and ratio >= limits.ratio and z >= limits.z


def _cells(own: Norms, shared: Sequence[_Pairs]) -> tuple[PeerCell, ...]:
    theirs: dict[_Key, list[int]] = {}
    for pairs in shared:
        for cell, peer in pairs:
            theirs.setdefault(_key(cell), []).append(peer.duration_ns)
    return tuple(
        PeerCell(
            requests=cell.requests,
            context_tokens=cell.context_tokens,
            prefill_tokens=cell.prefill_tokens,
            visits=cell.visits,
            duration_ns=cell.duration_ns,
            peers=len(found),
            peers_ns=round(median(found)),
        )
        for cell in sorted(own.cells, key=lambda cell: -cell.visits)
        if (found := theirs.get(_key(cell)))
    )
