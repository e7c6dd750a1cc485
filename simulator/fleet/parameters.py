"""The settings of all engines side by side, one array for each number."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.fleet.draws import Floats, Ints
from simulator.fleet.setting import Setting, Tokens, Traffic

# The phases of the host's path, in their order; what they cost is in the columns of `host_fixed_ms`
# and `host_request_ms`.
HOST_PHASES = ("schedule", "prepare", "dispatch", "sample", "postprocess")

_NUMBERS = (
    "cached_ratio",
    "accepted_ratio",
    "early_ratio",
    "kv_ms",
    "prefill_ms",
    "attention_ms",
    "mixed_ms",
    "mixed_request_ms",
    "lora_ms",
    "link_ms",
    "link_token_ms",
    "queue_ms",
    "sigma",
    "drift_sigma",
    "tail_share",
    "tail_sigma",
    "outlier_share",
    "outlier_ratio",
    "outlier_exponent",
    "outlier_most",
    "mixed_sigma",
    "correlation",
    "clock_ratio",
    "clock_seconds",
    "rank_sigma",
    "gap_spread",
    "engine_sigma",
)
_COUNTS = (
    "speculative_tokens",
    "lora_adapters",
    "padding_requests",
    "ranks",
    "max_requests",
    "token_budget",
    "block_tokens",
    "kv_blocks",
    "cpu_threads",
)


# Of `Cost.mixed_tokens_ms`.
MOST_KNOTS = 16


class Parameters:
    """Numbers of the engines; row i is engine i's.

    Args:
        settings: Of each engine.
    """

    def __init__(self, settings: list[Setting]) -> None:
        count = len(settings)
        self.slots = max(one.max_requests for one in settings)
        self.numbers: dict[str, Floats] = {name: np.zeros(count) for name in _NUMBERS}
        self.counts: dict[str, Ints] = {name: np.zeros(count, np.int64) for name in _COUNTS}
        self.rate = np.zeros(count)
        self.concurrency = np.zeros(count, np.int64)
        self.lengths = np.zeros((count, 2, 4))
        self.host_fixed_ms = np.zeros((count, len(HOST_PHASES)))
        self.host_request_ms = np.zeros((count, len(HOST_PHASES)))
        self.gap_ms = np.zeros((count, 2))
        self.decode_ms = np.zeros((count, padded_most(self.slots) + 1))
        # Tokens and ms of the knots; nan where a setting has none.
        self.mixed_knots = np.full((count, 2, MOST_KNOTS + 1), np.nan)
        self.overlap = np.zeros(count, bool)
        self.on_cpu = np.zeros(count, bool)
        self.is_vllm = np.zeros(count, bool)
        # vLLM's CPU build starts a worker for a single rank, too.
        self.runs_in_core = np.zeros(count, bool)
        # SGLang mixes no prefill into a batch that verifies drafts.
        self.keeps_apart = np.zeros(count, bool)
        for row, setting in enumerate(settings):
            self.put(row, setting)

    def put(self, row: int, setting: Setting) -> None:
        """Write one engine's numbers."""
        traffic, cost = setting.traffic, setting.cost
        if setting.max_requests > self.slots:
            self._grow(setting.max_requests)
        sources: tuple[Any, ...] = (setting, cost, traffic, setting.noise)
        for names, values in ((_NUMBERS, self.numbers), (_COUNTS, self.counts)):
            for name in names:
                holder = next(one for one in sources if hasattr(one, name))
                values[name][row] = getattr(holder, name)
        self._put_traffic(row, traffic)
        works = [getattr(cost, name) for name in HOST_PHASES]
        self.host_fixed_ms[row] = [work.fixed_us / 1e3 for work in works]
        self.host_request_ms[row] = [work.request_us / 1e3 for work in works]
        self.gap_ms[row] = cost.gap.fixed_us / 1e3, cost.gap.request_us / 1e3
        sizes = np.arange(self.decode_ms.shape[1])
        knots = cost.decode_ms
        self.decode_ms[row] = np.interp(sizes, [one[0] for one in knots], [one[1] for one in knots])
        self._extend(row, knots)
        self.mixed_knots[row] = _padded_knots(cost.mixed_tokens_ms)
        self.overlap[row] = setting.overlap
        self.on_cpu[row] = setting.device is None
        self.is_vllm[row] = setting.framework == "vllm"
        self.runs_in_core[row] = setting.ranks == 1 and setting.device is not None
        self.keeps_apart[row] = setting.framework == "sglang" and traffic.speculative_tokens > 0

    def _put_traffic(self, row: int, traffic: Traffic) -> None:
        is_open = traffic.requests_per_second is not None
        self.rate[row] = traffic.requests_per_second or 0.0
        self.concurrency[row] = 0 if is_open else traffic.concurrency or 0
        self.lengths[row] = [_numbers(traffic.prompt_tokens), _numbers(traffic.output_tokens)]

    def _extend(self, row: int, knots: tuple[tuple[int, float], ...]) -> None:
        """Go on beyond the last knot on the straight line of the last two."""
        if len(knots) < 2:
            return
        (size, cost), (last_size, last_cost) = knots[-2:]
        beyond = np.arange(last_size + 1, self.decode_ms.shape[1])
        slope = (last_cost - cost) / (last_size - size)
        self.decode_ms[row, last_size + 1 :] = last_cost + slope * (beyond - last_size)

    def _grow(self, slots: int) -> None:
        more = padded_most(slots) + 1 - self.decode_ms.shape[1]
        last = self.decode_ms[:, -1:]
        slope = last - self.decode_ms[:, -2:-1]
        added = last + slope * np.arange(1, more + 1)
        self.decode_ms = np.concatenate([self.decode_ms, added], axis=1)
        self.slots = slots


def between(knots: Floats, at: Ints) -> Floats:
    """Give the value of each row's line at its place; beyond its ends it goes straight on.

    >>> between(np.array([[[1.0, 3.0], [10.0, 20.0]]] * 2), np.array([2, 5])).tolist()
    [15.0, 30.0]
    """
    sizes, values = knots[:, 0], knots[:, 1]
    row = np.arange(len(at))
    right = np.clip((sizes <= at[:, None]).sum(axis=1), 1, sizes.shape[1] - 1)
    size, value = sizes[row, right - 1], values[row, right - 1]
    slope = (values[row, right] - value) / (sizes[row, right] - size)
    found: Floats = value + slope * (at - size)
    return found


def padded_most(requests: int) -> int:
    """Give an upper bound of what so many requests are padded to."""
    return 2 * requests + 128


def padded_sizes(requests: Ints, steps: Ints) -> Ints:
    """Round batches up to 1, 2, 4 and then multiples of a step; 0 rounds nothing.

    >>> padded_sizes(np.array([0, 1, 3, 5, 9, 9]), np.array([8, 8, 8, 8, 8, 0])).tolist()
    [0, 1, 4, 8, 16, 9]
    """
    step = np.maximum(steps, 1)
    small = np.where(requests == 3, 4, requests)
    large = -(-requests // step) * step
    return np.where(requests <= 4, np.where(steps > 0, small, requests), large)


def _padded_knots(knots: tuple[tuple[int, float], ...]) -> Floats:
    """Fill up with knots far beyond, on the straight line of the last two."""
    if not knots:
        return np.full((2, MOST_KNOTS + 1), np.nan)
    found = np.array(knots, np.float64).T
    step = found[:, -1] - found[:, -2]
    missing = np.arange(1, MOST_KNOTS + 2 - len(knots))
    return np.concatenate([found, found[:, -1:] + 1e3 * step[:, None] * missing], axis=1)


def _numbers(tokens: Tokens) -> tuple[float, float, float, float]:
    return np.log(tokens.median), tokens.spread, tokens.least, tokens.most
