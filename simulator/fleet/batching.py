"""Continuous batching with chunked prefill, for many engines at once.

A request is a slot of its engine. What it asks for follows from its number alone, so that a queue
is two counts: of those that arrived and of those that were admitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.fleet.draws import Floats, Ints, Words, normals, uniforms
from simulator.fleet.parameters import Parameters

NOBODY = np.int64(2**62)
_ARRIVALS = np.uint64(0x5851F42D4C957F2D)
_ACCEPTANCE = np.uint64(0x14057B7EF767814F)

Flags = npt.NDArray[np.bool_]
# One row for each engine of a step, one column for each slot.
Slots = npt.NDArray[np.int32]


@dataclass(slots=True)
class Batch:
    """What the engines in `rows` do in one iteration each; every array runs along these.

    `kv_tokens` counts the context of all requests, this iteration's own tokens included;
    `decode_kv_tokens` that of the decoding ones; `pairs` those that attention of prefill computes.
    """

    rows: Ints
    requests: Ints
    decoding: Ints
    scheduled_tokens: Ints
    single_requests: Ints
    long_tokens: Ints
    prefill_tokens: Ints
    kv_tokens: Ints
    decode_kv_tokens: Ints
    pairs: Floats
    speculative_tokens: Ints
    waiting: Ints
    running: Ints
    preempted: Ints
    kv_blocks: Ints


class Batching:
    """Requests of all engines.

    Args:
        parameters: What the engines are like; may change between two iterations.

        keys: Of the engines' random numbers.
    """

    def __init__(self, parameters: Parameters, keys: Words) -> None:
        count, slots = len(keys), parameters.slots
        self._parameters = parameters
        self._keys = keys
        self.prompt_left = np.zeros((count, slots), np.int32)
        self.context = np.zeros((count, slots), np.int32)
        self.output_left = np.zeros((count, slots), np.int32)
        self.held = np.zeros((count, slots), bool)
        self.serial = np.full((count, slots), NOBODY)
        self.arrived = np.zeros(count, np.int64)
        self.admitted = np.zeros(count, np.int64)
        self.finished = np.zeros(count, np.int64)
        # What is left of the time to the next arrival, in units of its mean.
        self._until_arrival = np.zeros(count)
        self._draw_arrivals(np.arange(count))
        self.kv_ratio = np.ones(count)
        self.arrivals_ratio = np.ones(count)

    def forget(self, row: int) -> None:
        """Drop the requests of an engine that restarts."""
        self.prompt_left[row] = self.context[row] = self.output_left[row] = 0
        self.held[row] = False
        self.serial[row] = NOBODY
        self.finished[row] = self.admitted[row] = self.arrived[row]

    def fit(self) -> None:
        """Make room where an engine may now have more requests than any had before."""
        more = self._parameters.slots - self.serial.shape[1]
        if more > 0:
            for name in ("prompt_left", "context", "output_left", "held"):
                setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, more))))
            self.serial = np.pad(self.serial, ((0, 0), (0, more)), constant_values=NOBODY)

    def pass_time(self, rows: Ints, seconds: Floats) -> None:
        """Let requests arrive over a time."""
        parameters = self._parameters
        closed = parameters.concurrency[rows] > 0
        self._until_arrival[rows] -= seconds * self._rate(rows)
        due = rows[self._until_arrival[rows] <= 0]
        while due.size:
            self.arrived[due] += 1
            self._draw_arrivals(due)
            due = due[self._until_arrival[due] <= 0]
        if closed.any():
            some = rows[closed]
            clients = np.round(parameters.concurrency[some] * self.arrivals_ratio[some])
            wanted = self.finished[some] + clients.astype(np.int64)
            self.arrived[some] = np.maximum(self.arrived[some], wanted)

    def seconds_to_arrival(self, rows: Ints) -> Floats:
        """Give when the next request comes; infinite where none will."""
        rate = self._rate(rows)
        never = np.full(len(rows), np.inf)
        left: Floats = np.divide(self._until_arrival[rows], rate, out=never, where=rate > 0)
        return left

    def busy(self, rows: Ints) -> Flags:
        """Tell which engines have anything to do."""
        found: Flags = self.arrived[rows] > self.finished[rows]
        return found

    def schedule(self, rows: Ints) -> Batch:
        """Put the next batch of each engine together and account for what it computes.

        The caller gives engines that are `busy`.
        """
        return _Step(self, self._parameters, rows).run()

    def draw_request(self, rows: Ints, serials: Ints) -> tuple[Ints, Ints, Ints]:
        """Give prompt, prompt tokens found in the cache, and output of requests."""
        parameters = self._parameters
        drawn = uniforms(self._keys[rows], serials, 5)
        both = normals(drawn[:, 0], drawn[:, 1])
        sizes = []
        for index, normal in enumerate(both):
            median, spread, least, most = parameters.lengths[rows, index].T
            sizes.append(np.clip(np.round(np.exp(median + spread * normal)), least, most))
        prompt, output = (size.astype(np.int64) for size in sizes)
        block = parameters.counts["block_tokens"][rows]
        found = drawn[:, 2] < parameters.numbers["cached_ratio"][rows]
        early = drawn[:, 3] < parameters.numbers["early_ratio"][rows]
        output = np.where(early, np.ceil(output * drawn[:, 4]).astype(np.int64), output)
        return prompt, np.where(found, (prompt - 1) // block * block, 0), output

    def accepted(self, rows: Ints, counters: Ints, lanes: int) -> Floats:
        """Give a number for each draft token that says whether it is accepted."""
        return uniforms(self._keys[rows] ^ _ACCEPTANCE, counters, lanes)

    def _rate(self, rows: Ints) -> Floats:
        return self._parameters.rate[rows] * self.arrivals_ratio[rows]

    def _draw_arrivals(self, rows: Ints) -> None:
        # Arrivals and lengths of a request are numbered alike: another part of the numbers.
        drawn = uniforms(self._keys[rows] ^ _ARRIVALS, self.arrived[rows], 1)[:, 0]
        self._until_arrival[rows] -= np.log(drawn)


_STATE = ("prompt_left", "context", "output_left", "held", "serial")


class _Step:
    """One iteration of some engines; works on copies of their slots and writes them back."""

    prompt_left: Slots
    context: Slots
    output_left: Slots
    held: Flags
    serial: npt.NDArray[np.int64]

    def __init__(self, state: Batching, parameters: Parameters, rows: Ints) -> None:
        self._state = state
        self._rows = rows
        for name in _STATE:
            setattr(self, name, getattr(state, name)[rows])
        counts = parameters.counts
        self._block = counts["block_tokens"][rows]
        self._limit = np.floor(counts["kv_blocks"][rows] * state.kv_ratio[rows]).astype(np.int64)
        self._most = counts["max_requests"][rows]
        self._drafts = counts["speculative_tokens"][rows]
        self._accepted_ratio = parameters.numbers["accepted_ratio"][rows]
        self._budget = counts["token_budget"][rows].copy()
        self._apart = parameters.keeps_apart[rows]
        self._active: Flags = (self.output_left > 0) & ~self.held
        self._decoding: Flags = self._active & (self.prompt_left == 0)
        self._tokens: Slots = np.zeros_like(self.context)
        self._preempted = np.zeros(len(rows), np.int64)

    def run(self) -> Batch:
        """Schedule, sum up and account."""
        self._decode()
        self._preempt()
        self._prefill()
        self._keep_apart()
        batch = self._summary()
        self._finish()
        for name in _STATE:
            getattr(self._state, name)[self._rows] = getattr(self, name)
        return batch

    def _decode(self) -> None:
        decoding = self._decoding.sum(axis=1)
        fitting = self._budget // np.maximum(decoding, 1) - 1
        self._drafts = np.clip(np.minimum(self._drafts, fitting), 0, None)
        np.copyto(self._tokens, (self._drafts + 1).astype(np.int32)[:, None], where=self._decoding)

    def _blocks(self, some: Any = slice(None)) -> Ints:
        """Give the blocks in use after this iteration."""
        block = self._block[some][:, None].astype(np.int32)
        after = (self.context[some] + self._tokens[some] + block - 1) // block
        used: Ints = np.where(self._active[some], after, 0).sum(axis=1)
        return used

    def _preempt(self) -> None:
        """Send the youngest requests back to the queue until the cache holds the others."""
        self._used = self._blocks()
        some = np.flatnonzero(self._used > self._limit)
        while some.size:
            active = self._active[some]
            some = some[active.sum(axis=1) > 1]
            youngest = np.where(self._active[some], self.serial[some], -1).argmax(axis=1)
            self._hold(some, youngest)
            self._used[some] = self._blocks(some)
            some = some[self._used[some] > self._limit[some]]
        self._budget -= self._tokens.sum(axis=1)

    def _hold(self, some: Ints, slots: Ints) -> None:
        at = (some, slots)
        # What was computed is lost with its blocks.
        self.prompt_left[at] += self.context[at]
        self.context[at] = 0
        self._tokens[at] = 0
        self.held[at] = True
        self._active[at] = self._decoding[at] = False
        self._preempted[some] += 1

    def _prefill(self) -> None:
        """Give what is left of the budget to prompts, the oldest first."""
        state = self._state
        waiting = state.arrived[self._rows] > state.admitted[self._rows]
        unfinished = (self.prompt_left > 0).any(axis=1)
        some = np.flatnonzero((waiting | unfinished) & (self._budget > 0))
        while some.size:
            some = self._prefill_one(some)
            some = some[self._budget[some] > 0]

    def _prefill_one(self, some: Ints) -> Ints:
        """Schedule one more request of each of these engines; give those that could."""
        fresh = (self.prompt_left[some] > 0) & (self._tokens[some] == 0)
        slots, found = _oldest(fresh & self._active[some], self.serial[some])
        may_admit = ~found & (self._preempted[some] == 0)
        may_admit &= self._active[some].sum(axis=1) < self._most[some]
        returning, is_held = _oldest(fresh & self.held[some], self.serial[some])
        slots = np.where(may_admit & is_held, returning, slots)
        # Whoever was preempted goes first, so there is no new one beside it.
        is_new = may_admit & ~is_held & self._someone_waits(some)
        is_new &= (self.serial[some] == NOBODY).any(axis=1)
        going = found | (may_admit & is_held) | is_new
        some, slots, is_new = some[going], slots[going], is_new[going]
        if not some.size:
            return some
        if is_new.any():
            slots[is_new] = self._seat(some[is_new])
        fits = self._give(some, slots)
        if not fits.all():
            refused = is_new & ~fits
            self._unseat(some[refused], slots[refused])
        return some[fits]

    def _someone_waits(self, some: Ints) -> Flags:
        rows = self._rows[some]
        return self._state.arrived[rows] > self._state.admitted[rows]

    def _seat(self, some: Ints) -> Ints:
        """Give the next request of the queue a slot."""
        rows = self._rows[some]
        slots: Ints = (self.serial[some] == NOBODY).argmax(axis=1)
        serials = self._state.admitted[rows]
        prompt, cached, output = self._state.draw_request(rows, serials)
        at = (some, slots)
        self.prompt_left[at], self.context[at] = prompt - cached, cached
        self.output_left[at], self.serial[at] = output, serials
        self._state.admitted[rows] += 1
        return slots

    def _unseat(self, some: Ints, slots: Ints) -> None:
        at = (some, slots)
        self.prompt_left[at] = self.context[at] = self.output_left[at] = 0
        self.serial[at] = NOBODY
        self._state.admitted[self._rows[some]] -= 1

    def _give(self, some: Ints, slots: Ints) -> Flags:
        """Schedule a chunk of these requests where the cache has room; tell where it had."""
        at = (some, slots)
        chunk = np.minimum(self._budget[some], self.prompt_left[at])
        block = self._block[some]
        held_blocks = np.where(self._active[at], -(-self.context[at] // block), 0)
        needed = -(-(self.context[at] + chunk) // block) - held_blocks
        # Somebody must go on, or nobody ever would.
        fits: Flags = (self._used[some] + needed <= self._limit[some]) | (
            self._tokens[some].sum(axis=1) == 0
        )
        some, slots, chunk, needed = some[fits], slots[fits], chunk[fits], needed[fits]
        at = (some, slots)
        self._tokens[at] = chunk
        self._budget[some] -= chunk
        self._used[some] += needed
        self._active[at] = True
        self.held[at] = False
        return fits

    def _keep_apart(self) -> None:
        """Let requests that decode wait where their engine mixes none of them with prefill."""
        prefills = ((self._tokens > 0) & ~self._decoding).any(axis=1)
        some = np.flatnonzero(prefills & self._apart)
        if some.size:
            self._tokens[some] = np.where(self._decoding[some], 0, self._tokens[some])
            self._decoding[some] = False
            self._used[some] = self._blocks(some)

    def _summary(self) -> Batch:
        tokens, state, rows = self._tokens, self._state, self._rows
        scheduled = tokens > 0
        single = tokens == 1
        prefill = np.where(self._decoding, 0, tokens)
        totals = tokens.sum(axis=1)
        single_requests = single.sum(axis=1)
        reach = np.where(scheduled, self.context, 0)
        decode_reach = np.where(self._decoding, reach + tokens, 0).sum(axis=1)
        prefill_tokens = prefill.sum(axis=1)
        pairs = np.zeros(len(rows))
        some = np.flatnonzero(prefill_tokens)
        if some.size:
            chunk = prefill[some].astype(np.float64)
            pairs[some] = (chunk * (self.context[some] + chunk / 2)).sum(axis=1)
        decoding = self._decoding.sum(axis=1)
        return Batch(
            rows=rows,
            requests=scheduled.sum(axis=1),
            decoding=decoding,
            scheduled_tokens=totals,
            single_requests=single_requests,
            long_tokens=totals - single_requests,
            prefill_tokens=prefill_tokens,
            kv_tokens=reach.sum(axis=1) + totals,
            decode_kv_tokens=decode_reach,
            pairs=pairs,
            speculative_tokens=self._drafts * decoding,
            waiting=state.arrived[rows] - state.admitted[rows] + self.held.sum(axis=1),
            running=self._active.sum(axis=1),
            preempted=self._preempted,
            kv_blocks=self._used,
        )

    def _finish(self) -> None:
        """Move every request on by what was computed."""
        prefilled = (self._tokens > 0) & ~self._decoding
        done = np.where(prefilled, self._tokens, 0)
        self.prompt_left -= done
        self.context += done
        made = np.where(prefilled & (self.prompt_left == 0), 1, 0).astype(np.int32)
        made[self._decoding] = 1
        if self._drafts.any():
            made += self._accept()
        self.context += np.where(self._decoding, made, 0)
        self.output_left -= np.minimum(made, self.output_left)
        ended = (self.serial != NOBODY) & (self.output_left == 0)
        self.serial[ended] = NOBODY
        self.context[ended] = 0
        self._state.finished[self._rows] += ended.sum(axis=1)

    def _accept(self) -> Slots:
        """Give how many draft tokens of each decoding request were right."""
        found = np.zeros_like(self.context)
        some, slots = np.nonzero(self._decoding & (self._drafts > 0)[:, None])
        lanes = int(self._drafts.max())
        counters = self.serial[some, slots] * 65_536 + self.context[some, slots]
        drawn = self._state.accepted(self._rows[some], counters, lanes)
        right = drawn < self._accepted_ratio[some][:, None]
        right &= np.arange(lanes) < self._drafts[some][:, None]
        found[some, slots] = right.sum(axis=1)
        return found


def _oldest(chosen: Flags, serial: npt.NDArray[np.int64]) -> tuple[Ints, Flags]:
    """Give the slot of the oldest request among the chosen, and whether there is any."""
    slots: Ints = np.where(chosen, serial, NOBODY).argmin(axis=1)
    found: Flags = np.logical_or.reduce(chosen, axis=1)
    return slots, found
