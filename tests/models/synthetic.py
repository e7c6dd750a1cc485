"""An engine that obeys its own law to within noise: what it should cost is known."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator

from models.baselines._memory import padded
from models.judge import Judge, Judgement
from schemas.records import Workload

NOISE = 0.02


def cost_ms(workload: Workload) -> float:
    """Give what a batch costs without noise."""
    requests, kv_tokens = workload.requests or 0, workload.kv_tokens or 0
    prefill_ms = (workload.prefill_tokens or 0) / 60
    return 5 + 0.05 * padded(requests) + kv_tokens / 20_000 + prefill_ms


def decode(requests: int, context: int) -> Workload:
    """Give a batch that only decodes."""
    return Workload(
        requests=requests,
        scheduled_tokens=requests,
        prefill_tokens=0,
        decode_requests=requests,
        kv_tokens=requests * context,
        waiting_requests=0,
    )


def mixed(requests: int, context: int, prefill: int) -> Workload:
    """Give a batch that decodes and computes one prompt."""
    return Workload(
        requests=requests + 1,
        scheduled_tokens=requests + prefill,
        prefill_tokens=prefill,
        decode_requests=requests,
        kv_tokens=requests * context + prefill,
    )


class SyntheticEngine:
    """Batches one after the other, and a judge that watches them.

    Args:
        judge: The judge; a new one by default.

        seed: Of the workload and of the noise.

        noise: Standard deviation of the durations, in ln units.
    """

    def __init__(self, judge: Judge | None = None, seed: int = 1, noise: float = NOISE) -> None:
        self.judge = judge or Judge()
        self._noise = noise
        self._random = random.Random(seed)
        self._now_ns = 10**18

    def workload(self, scale: int = 1) -> Workload:
        """Draw the next batch; ``scale`` multiplies its size and so its context."""
        requests = self._random.randint(4, 12) * scale
        return decode(requests, self._random.randint(200, 600))

    def run(self, batches: int, *, factor: float = 1.0, scale: int = 1) -> list[Judgement]:
        """Run batches that take ``factor`` times as long as they should; give the judgements."""
        return list(self._run(batches, factor, scale))

    def twin(self, judge: Judge) -> SyntheticEngine:
        """Give an engine that will run the very same batches before another judge."""
        twin = SyntheticEngine(judge, noise=self._noise)
        twin._random, twin._now_ns = copy.deepcopy(self._random), self._now_ns
        return twin

    def pause(self, seconds: float) -> None:
        """Let time pass without a batch."""
        self._now_ns += int(seconds * 1e9)

    def _run(self, batches: int, factor: float, scale: int) -> Iterator[Judgement]:
        for _ in range(batches):
            workload = self.workload(scale)
            observed_ms = cost_ms(workload) * factor * self._random.lognormvariate(0, self._noise)
            self._now_ns += int(observed_ms * 1e6)
            yield self.judge.judge(workload, observed_ms, self._now_ns)


def slow(judgements: list[Judgement]) -> list[int]:
    """Give the places of those that were judged slow."""
    return [place for place, one in enumerate(judgements) if one.verdict == "slow"]
