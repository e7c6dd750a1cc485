"""How long an iteration takes: T = max(host, device) + communication + queue, with noise.

Without overlap the two paths add up. Every number runs along the engines of one step; ranks are
columns, for a batch takes as long as its slowest rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import get_args

import numpy as np

from schemas.records import Phase
from simulator.fleet.batching import Batch, Flags
from simulator.fleet.draws import Floats, Ints, Words, normals, uniforms
from simulator.fleet.effect import Effect
from simulator.fleet.parameters import HOST_PHASES, Parameters, between, padded_sizes

PHASES: tuple[Phase, ...] = get_args(Phase)
"""Columns of `Duration.phases_ms`."""

_COLUMN: dict[str, int] = {name: index for index, name in enumerate(PHASES)}
_HOST_COLUMNS = [_COLUMN[name] for name in HOST_PHASES]
_LANES = 9
_CLOCK = np.uint64(0x2545F4914F6CDD1D)
_ENGINE = np.uint64(0x9FB21C651E98DF25)
_PAUSES = np.uint64(0xA0761D6478BD642F)
MOST_PAUSES = 16
MIXED_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Strain:
    """A fault's effect on some engines of a step.

    Attributes:
        number: Of the episode; its random numbers are its own.

        effect: What it does.

        hit: Positions of the engines within the step.

        until_ns: When it is over.
    """

    number: int
    effect: Effect
    hit: Ints
    until_ns: int


@dataclass(slots=True)
class Work:
    """What a batch costs before anything disturbs it, in ms; and its noise."""

    host_ms: Floats
    device_ms: Floats
    link_ms: Floats
    queue_ms: Floats
    gap_ms: Floats
    noise: Floats
    rank_noise: Floats


@dataclass(slots=True)
class Duration:
    """How long the iterations of a step take, in ms.

    Attributes:
        total_ms: From begin to end.

        gap_ms: From the end to the next begin.

        phases_ms: How it is spent, as rank 0 shows it; one column for each of `PHASES`.

        host_ms: Time on the CPU of rank 0; likewise ``device_ms`` on the accelerator, which is
            busy, too, while it waits for other ranks.

        rank_ms: Each rank's own path, without waiting for others.

        without_ms: By episode: what the engines that it hits would have taken without it.
    """

    total_ms: Floats
    gap_ms: Floats
    phases_ms: Floats
    host_ms: Floats
    device_ms: Floats
    rank_ms: Floats
    without_ms: dict[int, Floats] = field(default_factory=dict)


class Durations:
    """The model of the iteration's time for all engines.

    Args:
        parameters: What the engines are like.

        keys: Of their random numbers.
    """

    def __init__(self, parameters: Parameters, keys: Words) -> None:
        self._parameters = parameters
        self._keys = keys ^ _ENGINE
        self._drift = np.zeros(len(keys))
        # Of each engine's last batch, and when a pause last came with a new shape.
        self._tokens = np.zeros(len(keys), np.int64)
        self._paused_ns = np.zeros(len(keys), np.int64)
        first = uniforms(self._keys, np.zeros(len(keys), np.int64), 2)
        # No two machines are alike: this engine's place among all.
        self._place = normals(first[:, 0], first[:, 1])[0]

    def of(self, batch: Batch, begin_ns: Ints, count: Ints, strains: list[Strain]) -> Duration:
        """Time a batch of each engine.

        Args:
            batch: What they compute.

            begin_ns: When each begins.

            count: Number of each engine's iteration, for its random numbers.

            strains: Faults that are on.
        """
        work = self._work(batch, begin_ns, count)
        paths = _Paths(work, self._parameters, batch.rows, strains)
        body_ms = paths.body_ms * work.noise
        is_new = batch.scheduled_tokens != self._tokens[batch.rows]
        self._tokens[batch.rows] = batch.scheduled_tokens
        extra_ms = self._pauses(batch.rows, count, begin_ns, body_ms, strains, is_new)
        total_ms = body_ms.copy()
        for strain in strains:
            total_ms[strain.hit] += extra_ms[strain.number]
        phases_ms = paths.phases_ms * work.noise[:, None]
        for strain in strains:
            phases_ms[strain.hit, _COLUMN[strain.effect.phase]] += extra_ms[strain.number]
        found = Duration(
            total_ms=total_ms,
            gap_ms=work.gap_ms * paths.host_ratio[:, 0],
            phases_ms=phases_ms,
            host_ms=paths.host_ms[:, 0],
            device_ms=paths.device_ms[:, 0] + paths.waited_ms,
            rank_ms=paths.rank_ms * work.noise[:, None],
        )
        for strain in strains:
            hit = strain.hit
            others = _among(hit, [one for one in strains if one is not strain], len(batch.rows))
            only = _only(work, hit)
            without = _Paths(only, self._parameters, batch.rows[hit], others).body_ms * only.noise
            extra = (total_ms - body_ms)[hit] - extra_ms[strain.number]
            found.without_ms[strain.number] = without + extra
        return found

    def _work(self, batch: Batch, begin_ns: Ints, count: Ints) -> Work:
        numbers, rows = self._parameters.numbers, batch.rows
        numbers = {name: values[rows] for name, values in numbers.items()}
        ranks = self._parameters.counts["ranks"][rows]
        most = max(int(ranks.max(initial=1)), 1)
        drawn = uniforms(self._keys[rows], count, _LANES + most + most % 2)
        padding = self._parameters.counts["padding_requests"][rows]
        # Draft tokens are verified as further rows of the batch.
        width = batch.decoding + batch.speculative_tokens
        padded = np.minimum(padded_sizes(width, padding), self._parameters.decode_ms.shape[1] - 1)
        host = (
            self._parameters.host_fixed_ms[rows]
            + self._parameters.host_request_ms[rows] * batch.requests[:, None]
        )
        mixed = batch.prefill_tokens > 0
        forward = (
            self._parameters.decode_ms[rows, padded]
            + numbers["prefill_ms"] * batch.prefill_tokens / 1e3
            + numbers["mixed_ms"] * np.minimum(batch.prefill_tokens / MIXED_TOKENS, 1.0)
        )
        self._mix(forward, batch, mixed)
        device = (
            forward
            + numbers["kv_ms"] * batch.decode_kv_tokens / 1e5
            + numbers["attention_ms"] * batch.pairs / 1e6
            + numbers["lora_ms"]
            * np.minimum(self._parameters.counts["lora_adapters"][rows], batch.requests)
        )
        link = (numbers["link_ms"] + numbers["link_token_ms"] * batch.scheduled_tokens / 1e3) * (
            2 * (ranks - 1) / ranks
        )
        gap = normals(drawn[:, 2], drawn[:, 3])[1]
        fixed_gap, request_gap = self._parameters.gap_ms[rows].T
        return Work(
            host_ms=host,
            device_ms=device,
            link_ms=link,
            queue_ms=numbers["queue_ms"],
            gap_ms=(fixed_gap + request_gap * batch.requests) * np.exp(numbers["gap_spread"] * gap),
            noise=np.exp(self._noise(rows, numbers, drawn, begin_ns, mixed)),
            rank_noise=_rank_noise(numbers["rank_sigma"], ranks, drawn[:, _LANES:], most),
        )

    def _mix(self, forward_ms: Floats, batch: Batch, mixed: Flags) -> None:
        """Put in what batches with prefill cost where that follows from all their tokens."""
        knots = self._parameters.mixed_knots
        some = np.flatnonzero(mixed)
        some = some[np.isfinite(knots[batch.rows[some], 0, 0])]
        rows = batch.rows[some]
        request_ms = self._parameters.numbers["mixed_request_ms"][rows]
        forward_ms[some] = between(knots[rows], batch.scheduled_tokens[some])
        forward_ms[some] += request_ms * batch.decoding[some]

    def _noise(
        self,
        rows: Ints,
        numbers: dict[str, Floats],
        drawn: Floats,
        begin_ns: Ints,
        mixed: Flags,
    ) -> Floats:
        body, tail = normals(drawn[:, 0], drawn[:, 1])
        spread = normals(drawn[:, 2], drawn[:, 3])[0]
        kept = numbers["correlation"]
        fresh = normals(drawn[:, 7], drawn[:, 8])[0]
        fresh = numbers["drift_sigma"] * fresh + np.where(
            drawn[:, 4] < numbers["tail_share"], numbers["tail_sigma"] * tail, 0.0
        )
        drift = kept * self._drift[rows] + np.sqrt(1 - kept**2) * fresh
        self._drift[rows] = drift
        noise = drift + numbers["sigma"] * body
        pareto = drawn[:, 6] ** (-1 / numbers["outlier_exponent"])
        longer = np.minimum(numbers["outlier_ratio"] * pareto, numbers["outlier_most"])
        is_outlier = drawn[:, 5] < numbers["outlier_share"]
        noise += np.where(is_outlier, np.log1p(longer), 0.0)
        noise += np.where(mixed, numbers["mixed_sigma"] * spread, 0.0)
        period_ns = (numbers["clock_seconds"] * 1e9).astype(np.int64)
        state = uniforms(self._keys[rows] ^ _CLOCK, begin_ns // period_ns, 1)[:, 0]
        noise += np.where(state < 0.5, np.log1p(numbers["clock_ratio"]), 0.0)
        return noise + numbers["engine_sigma"] * self._place[rows]

    def _pauses(
        self,
        rows: Ints,
        count: Ints,
        begin_ns: Ints,
        body_ms: Floats,
        strains: list[Strain],
        is_new: Flags,
    ) -> dict[int, Floats]:
        """Give by episode the ms that it adds to a batch of each engine that it hits."""
        added: dict[int, Floats] = {}
        for strain in strains:
            effect, hit = strain.effect, strain.hit
            mean = effect.pauses_per_second * body_ms[hit] / 1e3
            counter = count[hit] * 4096 + strain.number
            drawn = uniforms(self._keys[rows[hit]] ^ _PAUSES, counter, 1)[:, 0]
            pauses = poisson(mean, drawn)
            if effect.on_new_shapes:
                pauses = self._on_new_shapes(effect, rows[hit], begin_ns[hit], is_new[hit])
            extra_ms: Floats = effect.added_ms + effect.pause_ms * pauses.astype(np.float64)
            if effect.stops:
                extra_ms += (strain.until_ns - begin_ns[hit]) / 1e6
            added[strain.number] = extra_ms
        return added

    def _on_new_shapes(self, effect: Effect, rows: Ints, begin_ns: Ints, is_new: Flags) -> Ints:
        period_ns = 1e9 / effect.pauses_per_second
        due = is_new & (begin_ns - self._paused_ns[rows] >= period_ns)
        self._paused_ns[rows[due]] = begin_ns[due]
        return due.astype(np.int64)


class _Paths:
    """Host and device path of each rank under some faults."""

    def __init__(
        self, work: Work, parameters: Parameters, rows: Ints, strains: list[Strain]
    ) -> None:
        shape = work.rank_noise.shape
        self.host_ratio, device_ratio = np.ones(shape), np.ones(shape)
        link_ratio = np.ones(shape[0])
        ranks = parameters.counts["ranks"][rows]
        for strain in strains:
            effect, hit = strain.effect, strain.hit
            # The last rank is as good as any, and is not the one that reports for the engine.
            at = (hit, ranks[hit] - 1) if effect.one_rank else (hit, slice(None))
            self.host_ratio[at] *= effect.host_ratio
            device_ratio[at] *= effect.device_ratio
            link_ratio[hit] *= effect.link_ratio
        on_cpu = parameters.on_cpu[rows][:, None]
        device_ratio *= np.where(on_cpu, self.host_ratio, 1.0)
        self.host_ms = work.host_ms.sum(axis=1)[:, None] * self.host_ratio
        self.device_ms = work.device_ms[:, None] * work.rank_noise * device_ratio
        overlap = parameters.overlap[rows][:, None]
        together = np.maximum(self.host_ms, self.device_ms)
        self.rank_ms = np.where(overlap, together, self.host_ms + self.device_ms)
        self.rank_ms[np.arange(shape[1]) >= ranks[:, None]] = 0.0
        self._slowest_ms = self.rank_ms.max(axis=1)
        self._link_ms = work.link_ms * link_ratio
        self._work = work

    @property
    def body_ms(self) -> Floats:
        """The whole iteration."""
        total: Floats = self._slowest_ms + self._link_ms + self._work.queue_ms
        return total

    @property
    def waited_ms(self) -> Floats:
        """What the first rank waits for the others and for the link; it spins meanwhile.

        Measured on two ranks: a device that waits in an all-reduce shows a utilisation of 100 %.
        """
        waited: Floats = self._slowest_ms - self.rank_ms[:, 0] + self._link_ms
        return waited

    @property
    def phases_ms(self) -> Floats:
        """Where the first rank is seen to spend it."""
        phases = np.zeros((len(self._slowest_ms), len(PHASES)))
        phases[:, _HOST_COLUMNS] = self._work.host_ms * self.host_ratio[:, :1]
        phases[:, _COLUMN["forward"]] = np.maximum(self.rank_ms[:, 0] - self.host_ms[:, 0], 0.0)
        phases[:, _COLUMN["communication_wait"]] = self.waited_ms
        phases[:, _COLUMN["queue"]] = self._work.queue_ms
        return phases


def _only(work: Work, positions: Ints) -> Work:
    """Give the work of some engines of a step."""
    return Work(**{one.name: getattr(work, one.name)[positions] for one in fields(Work)})


def _among(positions: Ints, strains: list[Strain], count: int) -> list[Strain]:
    """Give the strains as they hit some engines of a step."""
    place = np.full(count, -1)
    place[positions] = np.arange(len(positions))
    placed = [(one, place[one.hit]) for one in strains]
    return [replace(one, hit=hit[hit >= 0]) for one, hit in placed if (hit >= 0).any()]


def poisson(mean: Floats, drawn: Floats) -> Ints:
    """Turn uniform numbers into numbers of events.

    >>> poisson(np.array([0.0, 1.0, 1.0]), np.array([0.9, 0.1, 0.7])).tolist()
    [0, 0, 1]
    """
    events = np.zeros(len(mean), np.int64)
    chance: Floats = np.exp(-mean)
    reached = chance.copy()
    for number in range(1, MOST_PAUSES + 1):
        beyond = drawn > reached
        if not beyond.any():
            break
        events += beyond
        chance = chance * mean / number
        reached += chance
    return events


def _rank_noise(sigma: Floats, ranks: Ints, drawn: Floats, most: int) -> Floats:
    half = drawn.shape[1] // 2
    both = normals(drawn[:, :half], drawn[:, half:])
    normal = np.concatenate(both, axis=1)[:, :most]
    return np.where(ranks[:, None] > 1, np.exp(sigma[:, None] * normal), 1.0)
