"""A batch, which lives through many decodes and is changed in place for each."""

from __future__ import annotations

from enum import IntEnum, auto

from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.sglang.srt.model_executor.forward_batch_info import ForwardMode
from simulator.profiles.machinery.traffic import Batcher, Plan, Request


class SpeculativeAlgorithm(IntEnum):
    """Which tokens are guessed: none."""

    NONE = auto()
    EAGLE = auto()


class ScheduleBatch:
    """One batch of the scheduler."""

    def __init__(self, reqs: list[Request], plan: Plan | None = None) -> None:
        self.reqs = reqs
        self.forward_mode: ForwardMode | None = None
        self.batch_is_full = False
        self.chunked_req: Request | None = None
        self.seq_lens_sum: int | None = None
        self.prefix_lens: list[int] | None = None
        self.extend_lens: list[int] | None = None
        self.extend_num_tokens: int | None = None
        self.spec_algorithm = SpeculativeAlgorithm.NONE
        self.forward_iter = 0
        self.launch_ts = 0.0
        self.plan = plan
        add_settings(self)

    def is_empty(self) -> bool:
        """Say whether no request is left."""
        return len(self.reqs) == 0

    def is_prefilled(self) -> bool:
        """Say whether its requests are ready to decode."""
        return bool(self.reqs) and self.forward_mode == ForwardMode.EXTEND

    def prepare_for_extend(self) -> None:
        """Read the prompts of all requests."""
        assert self.plan is not None
        self.forward_mode = ForwardMode.EXTEND
        self.extend_lens = [tokens for _, tokens in self.plan.entries]
        self.prefix_lens = [0 for _ in self.reqs]
        self.extend_num_tokens = sum(self.extend_lens)
        self.seq_lens_sum = self.plan.kv_tokens

    def prepare_for_decode(self, batcher: Batcher) -> None:
        """Give each request one token; what the extend left behind stays."""
        self.forward_mode = ForwardMode.DECODE
        plan = batcher.next_decode()
        self.reqs = [] if plan is None else [request for request, _ in plan.entries]
        self.seq_lens_sum = 0 if plan is None else plan.kv_tokens
        self.plan = plan

    def merge_batch(self, other: ScheduleBatch) -> None:
        """Take the requests of another batch."""
        self.reqs = self.reqs + other.reqs

    def copy(self) -> ScheduleBatch:
        """Keep what the processing of results needs; this object goes on to change."""
        batch = ScheduleBatch(self.reqs[:], self.plan)
        batch.forward_mode = self.forward_mode
        return batch
