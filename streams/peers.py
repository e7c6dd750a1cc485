"""Tell an engine that was slow from its first batch, by its peers and by what its hardware allows.

`Peers` holds what all engines say of themselves. `Start` looks at one engine now and then: it gives
what the others are to know of it, and its verdict. Both are pure; records come and go elsewhere.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Literal

from models.baselines import Place
from models.peers import DAY_NS, Comparison, PeerLimits, compare, is_peer
from models.roofline import SURE_TIMES, SUSPICIOUS_TIMES, USUAL_TIMES, roofline_of
from schemas.records import Engine, NormCell, Norms, PeerCell, Source

# The first useful verdict on an engine, and so the first look at its start.
FIRST_BATCHES = 200
# At first more work that peers share, and more peers, come with each look.
EARLY_PERIOD_BATCHES = 50
PERIOD_BATCHES = 1_000
# What an engine has learnt by then is compared no more: its own past says more than others do.
YOUNG_BATCHES = 10_000
# Cells told to others: the most visited ones are those that two engines share.
CELLS = 64
# Peers kept of each kind: their median needs no more, and a fleet may have thousands.
PEERS_OF_A_KIND = 32
# Engines that are gone are looked for each time so many norms came.
LOOK_FOR_OLD = 100
# Of the peers named in a sentence.
NAMED = 3

# Parts of devices, as collectors.xpu names them (MIG instances; partitions of AMD): what share of
# the whole a part has is not in its name, so neither peers nor a bound can be told.
_PART = re.compile(r"MIG-|GPU-[0-9a-f]{16}:\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStart:
    """An engine is slower than it should be, and was so from its first batch.

    Attributes:
        by: What tells it.

        ratio: How many times as long as it should a batch takes: as its peers', or as the bound.

        factor: What its expected durations are to be multiplied by, so that it counts as slow until
            it is as it should be.

        score: 1 and above is an alarm; below, only worth a word.

        sentence: All of it for people.

        comparison: With the peers, where they tell it.
    """

    by: Literal["peers", "roofline"]
    ratio: float
    factor: float
    score: float
    sentence: str
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What came of a look at an engine: what to tell others, and whether its start was slow.

    Without a known kind there is nothing to tell others.
    """

    norms: Norms | None
    slow_start: SlowStart | None = None


class Peers:
    """The newest norms of all engines, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Norms]] = {}
        self._kind_of: dict[str, str] = {}
        # Since old ones were looked for.
        self._added = 0

    def add(self, norms: Norms) -> None:
        """Take in what an engine says of itself; the newest of it counts."""
        known = self.of(self._kind_of.get(norms.engine_id)).get(norms.engine_id)
        if known is not None and known.at_ns > norms.at_ns:
            return
        self._forget(norms.engine_id)
        engines = self._kinds.setdefault(norms.kind, {})
        engines[norms.engine_id] = norms
        self._kind_of[norms.engine_id] = norms.kind
        if len(engines) > PEERS_OF_A_KIND:
            self._forget(min(engines, key=lambda engine_id: engines[engine_id].at_ns))
        self._added += 1
        if self._added >= LOOK_FOR_OLD:
            self._added = 0
            self._forget_old()

    def of(self, kind: str | None) -> Mapping[str, Norms]:
        """Give the norms of the engines of a kind, the one asking included, by engine id."""
        return self._kinds.get(kind or "", {})

    def _forget_old(self) -> None:
        """Forget engines that are gone, as nobody compares with them any more."""
        told_ns = {
            engine_id: one.at_ns
            for engines in self._kinds.values()
            for engine_id, one in engines.items()
        }
        # The newest one may be of a clock that is ahead; that of most is not.
        usual_ns = median_low(told_ns.values())
        for engine_id, at_ns in told_ns.items():
            if usual_ns - at_ns > DAY_NS:
                self._forget(engine_id)

    def _forget(self, engine_id: str) -> None:
        kind = self._kind_of.pop(engine_id, None)
        if kind is None:
            return
        del self._kinds[kind][engine_id]
        if not self._kinds[kind]:
            del self._kinds[kind]


class Start:
    """Looks at one engine's norms as it learns.

    Args:
        peers: What all engines say of themselves.

        limits: When peers call it slow.
    """

    def __init__(self, peers: Peers, limits: PeerLimits | None = None) -> None:
        self._peers = peers
        self._limits = limits or PeerLimits()
        self._next_batches = FIRST_BATCHES
        self._suspect = False
        # Of what was told last: a suspicion is told once, and an alarm is the last word.
        self._told_score = 0.0

    def look(
        self,
        engine: Engine | None,
        source: Source,
        norms: Callable[[int], Iterable[Place]],
        *,
        batches: int,
        at_ns: int,
        suspect: bool,
    ) -> Look | None:
        """Look at an engine after a batch; mostly it is not the time, and this costs nothing.

        Args:
            engine: The inventory.

            source: The rung that its batches are read on.

            norms: Gives so many of its norms, most visited first (`Judge.norms`).

            batches: How many were learnt.

            at_ns: End of the batch.

            suspect: Whether an incident is firing.
        """
        if batches < self._next_batches and suspect == self._suspect:
            return None
        self._suspect = suspect
        if engine is None or batches < FIRST_BATCHES:
            return None
        own = Norms(
            engine_id=engine.engine_id,
            at_ns=at_ns,
            kind=kind_of(engine, source) or "",
            batches=batches,
            cells=tuple(_cell(one) for one in norms(CELLS)),
            suspect=suspect,
        )
        slow_start = self._judge(own, engine)
        return Look(norms=own if own.kind else None, slow_start=slow_start)

    def to_state(self) -> dict[str, Any]:
        """Give what was looked at and told as plain data."""
        return {
            "next_batches": self._next_batches,
            "suspect": self._suspect,
            "told_score": self._told_score,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._next_batches = int(state["next_batches"])
        self._suspect, self._told_score = bool(state["suspect"]), float(state["told_score"])

    def _judge(self, own: Norms, engine: Engine) -> SlowStart | None:
        others = self._peers.of(own.kind).values()
        young = own.batches < YOUNG_BATCHES and not own.suspect and self._told_score < 1
        found = compare(own, others, self._limits) if young else None
        self._next_batches = _next(own.batches)
        if not young:
            return None
        slow_start = None
        if found is not None and found.is_slow:
            slow_start = _by_peers(own, found, self._limits)
        elif found is not None or own.batches >= PERIOD_BATCHES or not _any_peer(own, others):
            # Peers that have too little in common yet may soon tell it better than the hardware.
            slow_start = _by_roofline(own, engine)
        if slow_start is None or (self._told_score > 0 and slow_start.score < 1):
            return None
        self._told_score = slow_start.score
        return slow_start


def kind_of(engine: Engine, source: Source) -> str | None:
    """Digest all that decides what a batch costs; None where part of it is not known.

    Two engines that differ in something that nobody told are not to be compared.
    """
    required = (engine.framework, engine.version, engine.model, engine.command_digest)
    if None in required or not _whole_devices(engine):
        return None
    parts = (*required, engine.ranks, engine.cuda_graphs, source, *sorted(engine.device_models))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _whole_devices(engine: Engine) -> bool:
    return (
        len(engine.device_models) > 0
        and all(engine.device_models)
        and not any(_PART.match(device_id) for device_id in engine.device_ids)
    )


def _any_peer(own: Norms, others: Iterable[Norms]) -> bool:
    return any(is_peer(own, other) for other in others)


def _next(batches: int) -> int:
    """Give at how many batches to look next."""
    period = EARLY_PERIOD_BATCHES if batches < PERIOD_BATCHES else PERIOD_BATCHES
    return period * (batches // period + 1)


def _cell(place: Place) -> NormCell:
    return NormCell(
        requests=place.requests,
        context_tokens=place.context_tokens if place.context_tokens >= 0 else None,
        prefill_tokens=place.prefill_tokens,
        visits=place.visits,
        duration_ns=round(place.duration_ms * 1e6),
    )


def _by_peers(own: Norms, found: Comparison, limits: PeerLimits) -> SlowStart:
    limit = limits.ratio if found.z is not None else limits.ratio_alone
    nearest = sorted(found.ratios, key=lambda engine_id: abs(found.ratios[engine_id] - found.ratio))
    more = len(nearest) - NAMED
    names = ", ".join(nearest[:NAMED]) + (f" and {more} more" if more > 0 else "")
    first = found.cells[0]
    count = len(found.ratios)
    return SlowStart(
        by="peers",
        ratio=found.ratio,
        factor=1 / found.ratio,
        score=math.log(found.ratio) / math.log(limit),
        sentence=(
            f"{found.ratio:.2f} times as slow from its first batch as {count} "
            f"{'peer' if count == 1 else 'peers'} of its kind ({names}): "
            f"{first.duration_ns / 1e6:.1f} ms where they take {first.peers_ns / 1e6:.1f} ms "
            f"for {_work(first)}, and likewise at {len(found.cells)} sizes of batch"
        ),
        comparison=found,
    )


def _by_roofline(own: Norms, engine: Engine) -> SlowStart | None:
    whole = _whole_devices(engine)
    roofline = roofline_of(engine.model, engine.device_models) if whole else None
    times = roofline.times(own.cells) if roofline is not None else None
    if times is None or times < SUSPICIOUS_TIMES:
        return None
    return SlowStart(
        by="roofline",
        ratio=times,
        factor=USUAL_TIMES / times,
        score=times / SURE_TIMES,
        sentence=(
            f"{'' if times >= SURE_TIMES else 'perhaps '}slow from its first batch: {times:.1f} "
            f"times the least that {engine.model} needs on {len(engine.device_models)} x "
            f"{engine.device_models[0]}, where {USUAL_TIMES:.0f} times is usual; no peer tells it"
        ),
    )


def _work(cell: PeerCell) -> str:
    context = "" if cell.context_tokens is None else f" of some {cell.context_tokens} tokens"
    prefill = f" and {cell.prefill_tokens} tokens of prefill" if cell.prefill_tokens else ""
    requests = "1 request" if cell.requests == 1 else f"{cell.requests} requests"
    return f"{requests}{context}{prefill}"
