"""Physical terms that extrapolate, corrected by a memory of what each workload did cost."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from models.baselines._backbone import TERMS, Backbone, Terms
from models.baselines._memory import (
    MAX_CELLS,
    VARIANTS,
    Bucket,
    Cell,
    Memory,
    bucket_of,
    cell_centre,
    padded,
)
from models.baselines.base import Baseline, Expectation, Place
from models.features import Features

STATE_VERSION = 2

# Less than this is noise, and its logarithm would explode.
LEAST_MS = 0.05
CONTEXT_STEP_TOKENS = 64
# Mixed batches come in more sizes: their cells are coarser in context.
MIXED_CONTEXT_STEPS = 4
# Where nothing is padded, small batches have cells of their exact size.
MOST_EXACT = 32
# A batch of a size that was seen so often teaches the backbone only now and then.
FAMILIAR = 30
LEARN_ALL = 1000
LEARN_EVERY = 8
# What was off by so much, in ln units, teaches it always.
INSTRUCTIVE = 0.02


class _Memo(NamedTuple):
    terms: Terms
    log_backbone: float
    keys: tuple[Bucket, Cell]


class Physical(Baseline):
    """Predict from physical terms, and remember by how much they are off at each workload.

    The backbone (`models.baselines._backbone`) knows what an accelerator does: it reads weights and
    KV cache, computes prompts. It extrapolates to workloads never seen. The memory
    (`models.baselines._memory`) corrects it where there is experience: CUDA graphs make steps of
    the batch size, kernels change with it. Both work on ln(ms), so that relative errors count.

    Args:
        pads: Whether the engine is taken to pad batches to the sizes of its CUDA graphs.

        most_cells: How many places of the workload are remembered.

    >>> from schemas.records import Workload
    >>> from models.features import features_of
    >>> baseline = Physical()
    >>> for kv_tokens in range(1000, 21000, 100):
    ...     batch = features_of(Workload(requests=8, scheduled_tokens=8, kv_tokens=kv_tokens))
    ...     baseline.learn_one(batch, 10 + kv_tokens / 4000)
    >>> unseen = features_of(Workload(requests=8, scheduled_tokens=8, kv_tokens=40_000))
    >>> abs(baseline.predict_one(unseen) / 20 - 1) < 0.02
    True
    """

    def __init__(self, *, pads: bool = True, most_cells: int = MAX_CELLS) -> None:
        self._pads = pads
        self._backbone = Backbone()
        self._memory = Memory(most_cells)
        self.learnt = 0

    def expect(self, x: Features) -> Expectation | None:
        """Say what to expect of a batch; None before the first one was learnt."""
        if not self.learnt:
            return None
        memo = self._look(x)
        correction, bucket_visits, cell_visits = self._memory.correction(memo.keys)
        log_ms = memo.log_backbone + correction
        return Expectation(log_ms, memo.keys[0], bucket_visits, cell_visits, memo)

    def learn(
        self, x: Features, expected: Expectation | None, log_ms: float, *, stable: bool = True
    ) -> None:
        """Learn one batch."""
        memo: _Memo = self._look(x) if expected is None else expected.memo
        visits = 0 if expected is None else expected.bucket_visits
        expected_log_ms = log_ms if expected is None else expected.log_ms
        self.learnt += 1
        new = self.learnt < LEARN_ALL or visits < FAMILIAR or not stable
        if new or self.learnt % LEARN_EVERY == 0 or abs(log_ms - expected_log_ms) > INSTRUCTIVE:
            before = self._backbone.weights
            self._backbone.learn(memo.terms, log_ms, memo.log_backbone, hurry=visits < FAMILIAR)
            if self._backbone.weights is not before:
                self._move(before)
                memo = memo._replace(log_backbone=self._log_backbone(memo.terms))
        self._memory.learn(memo.keys, log_ms - memo.log_backbone)

    @property
    def drift(self) -> float:
        """By how much places went up bit by bit since they were learnt."""
        return self._memory.drift

    def roll_back(self) -> float:
        """Go back to what places were like at first."""
        return self._memory.roll_back()

    def terms_ms(self, expected: Expectation) -> dict[str, float]:
        """Take an expectation apart; ``memory`` is what experience adds to the physical terms."""
        terms: Terms = expected.memo.terms
        rest = math.exp(expected.log_ms)
        found = {}
        for name, weight, value in zip(TERMS, self._backbone.weights, terms, strict=True):
            if value and weight:
                found[name] = weight * value
                rest -= weight * value
        found["memory"] = rest
        return found

    def places(self) -> list[Place]:
        """Give what is remembered, place by place."""
        found = []
        for keys, visits in self._memory.cells():
            requests, context, prefill = cell_centre(keys[1], CONTEXT_STEP_TOKENS)
            log_ms = self._log_backbone(_terms(requests, context, prefill))
            log_ms += self._memory.correction(keys)[0]
            known_context = -1 if keys[1][1] < 0 else int(context)
            found.append(Place(requests, known_context, prefill, visits, math.exp(log_ms)))
        return found

    def remember_all(self) -> None:
        """Take as many places as there may be from now on."""
        self._memory.most_cells = MAX_CELLS

    def to_state(self) -> dict[str, Any]:
        """Give everything learnt as plain data."""
        return {
            "version": STATE_VERSION,
            "learnt": self.learnt,
            "backbone": self._backbone.to_state(),
            "memory": self._memory.to_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back.

        Raises:
            ValueError: The state is of another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"baseline state of version {state.get('version')!r}: this worker reads "
                f"{STATE_VERSION}; let the engine be learnt anew"
            )
        self.learnt = state["learnt"]
        self._backbone.restore(state["backbone"])
        self._memory.restore(state["memory"])

    def _look(self, x: Features) -> _Memo:
        decode, prefill = int(x["decode_tokens"]), int(x["prefill_tokens"])
        context = x.get("context_tokens", -1.0)
        size = padded(decode)
        if not self._pads and decode <= MOST_EXACT:
            size = decode
        kv, batch = x.get("kv_tokens", 0.0) / 1e5, (size if self._pads else decode) / 100
        terms: Terms = (1.0, batch, kv, 0.0, 0.0, 0.0, 0.0, 0.0)
        size *= VARIANTS
        if prefill or "speculative_tokens" in x or "lora_adapters" in x:
            size += _variant(x)
            terms = (
                1.0,
                batch,
                kv,
                prefill / 1000,
                prefill * max(context, 0.0) / 1e6,
                1.0 if prefill else 0.0,
                x.get("speculative_tokens", 0.0) / 100,
                x.get("lora_adapters", 0.0) / 10,
            )
        step = -1 if context < 0 else int(context // CONTEXT_STEP_TOKENS)
        tokens = 0
        if prefill:
            tokens = token_step(decode + prefill)
            if step > 0:
                step -= step % MIXED_CONTEXT_STEPS
        cell = (size, step, tokens)
        return _Memo(terms, self._log_backbone(terms), (bucket_of(cell), cell))

    def _log_backbone(self, terms: Terms) -> float:
        return math.log(max(self._backbone.predict(terms), LEAST_MS))

    def _move(self, before: list[float]) -> None:
        """Keep what the memory says in total, now that the backbone says something else."""

        def shift(cell: tuple[int, int, int]) -> float:
            terms = _terms(*cell_centre(cell, CONTEXT_STEP_TOKENS))
            was = sum(weight * value for weight, value in zip(before, terms, strict=True))
            return math.log(max(was, LEAST_MS)) - self._log_backbone(terms)

        self._memory.move(shift)


def token_step(tokens: int) -> int:
    """Give the step of a mixed batch's tokens: 16 wide, then 64, from 1,024 on 256.

    >>> [token_step(n) for n in (1, 16, 17, 256, 257, 1024, 1025, 2048)]
    [1, 1, 2, 16, 17, 28, 29, 32]
    """
    if tokens <= 256:
        return -(-tokens // 16)
    if tokens <= 1024:
        return 16 + -(-(tokens - 256) // 64)
    return 28 + -(-(tokens - 1024) // 256)


def _variant(x: Features) -> int:
    """Number what else is different about a batch: drafts, and adapters by 1, 2, 3 and more."""
    adapters = min(int(x.get("lora_adapters", 0)), 3)
    return adapters + (4 if x.get("speculative_tokens") else 0)


def _terms(requests: int, context: float, prefill: int) -> Terms:
    return (
        1.0,
        requests / 100,
        requests * context / 1e5,
        prefill / 1000,
        prefill * context / 1e6,
        1.0 if prefill else 0.0,
        0.0,
        0.0,
    )
