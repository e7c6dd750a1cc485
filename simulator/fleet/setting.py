"""What a simulated engine is and what it has to do, as plain data.

A negative control is a function from progress (0 to 1) and a `Setting` to another `Setting`; use
`dataclasses.replace`. Traffic may change at any time. Where framework, version, model, ranks or
another part of the command line change, the engine restarts, as a real one would.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.records import Role, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A distribution of lengths in tokens: lognormal, cut off at both ends.

    Attributes:
        median: Half of them are shorter.

        spread: Standard deviation of their logarithm; 0 makes all alike.
    """

    median: float
    spread: float = 0.0
    least: int = 1
    most: int = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What clients ask for.

    Attributes:
        requests_per_second: Requests arrive at random at this mean rate (open loop) ...

        concurrency: ... or so many clients each send the next one when the last is answered (closed
            loop). One of the two; with both, the open loop is used.

        prompt_tokens: Lengths of prompts.

        output_tokens: Lengths of answers.

        cached_ratio: Share of the requests whose prompt is found in the prefix cache, up to its
            last block: in the long run the share of prompt tokens, too.

        speculative_tokens: Draft tokens of each decoding request in each iteration.

        accepted_ratio: Share of draft tokens that are accepted.

        early_ratio: Share of the requests whose answer ends before its length, anywhere.

        lora_adapters: Different LoRA adapters among the requests.
    """

    requests_per_second: float | None = None
    concurrency: int | None = None
    prompt_tokens: Tokens = Tokens(median=256)
    output_tokens: Tokens = Tokens(median=128)
    cached_ratio: float = 0.0
    speculative_tokens: int = 0
    accepted_ratio: float = 0.7
    early_ratio: float = 0.0
    lora_adapters: int = 0

    def __post_init__(self) -> None:
        if self.requests_per_second is None and self.concurrency is None:
            raise ValueError("traffic without a rate: give requests_per_second or concurrency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one phase of the host's path costs: ``fixed_us`` and ``request_us`` for each request."""

    fixed_us: float
    request_us: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Coefficients of the iteration-time model.

    T = max(host, device) + communication + queue where host and device overlap, else
    host + device + communication + queue.

    Attributes:
        decode_ms: The forward pass by padded batch size, at no context; on straight lines between.

        padding_requests: A batch is padded to 1, 2, 4 and then multiples of this, as to the sizes
            that CUDA graphs were captured for; 0 pads nothing.

        kv_ms: For each 100,000 tokens of context that decoding requests read.

        prefill_ms: For each 1,000 tokens of prefill.

        attention_ms: For each million pairs of prefill tokens and tokens of their context.

        mixed_ms: For a batch that computes any prefill; in full from 64 tokens of it on.

        mixed_tokens_ms: The forward pass of a batch that computes any prefill, by scheduled tokens,
            at no context: it runs without graphs, all tokens in one pass, and larger matrices do
            not cost in proportion. Stands in the place of ``decode_ms``, ``prefill_ms`` and
            ``mixed_ms`` then; on straight lines between, of at most 16 knots.

        mixed_request_ms: For each decoding request of such a batch.

        lora_ms: For each LoRA adapter.

        schedule: Host work of a phase; likewise ``prepare``, ``dispatch``, ``sample`` and
            ``postprocess``.

        link_ms: Communication of an iteration between two ranks; more ranks take
            2 (ranks - 1) / ranks of it.

        link_token_ms: The same for each 1,000 scheduled tokens.

        queue_ms: From the moment that the engine could begin until it does.

        gap: Host work between the end of an iteration and the begin of the next.
    """

    decode_ms: tuple[tuple[int, float], ...]
    padding_requests: int = 8
    kv_ms: float = 0.0
    prefill_ms: float = 0.0
    attention_ms: float = 0.0
    mixed_ms: float = 0.0
    mixed_tokens_ms: tuple[tuple[int, float], ...] = ()
    mixed_request_ms: float = 0.0
    lora_ms: float = 0.0
    schedule: Work = Work(fixed_us=0.0)
    prepare: Work = Work(fixed_us=0.0)
    dispatch: Work = Work(fixed_us=0.0)
    sample: Work = Work(fixed_us=0.0)
    postprocess: Work = Work(fixed_us=0.0)
    link_ms: float = 0.0
    link_token_ms: float = 0.0
    queue_ms: float = 0.0
    gap: Work = Work(fixed_us=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What the work does not explain, as logarithms of the iteration's duration.

    Attributes:
        sigma: Standard deviation of what differs from each iteration to the next.

        drift_sigma: Of what goes on from one iteration to the next, as strongly as ``correlation``
            says (autoregressive).

        tail_share: Share of the iterations in which the drift takes a larger step, by
            ``tail_sigma``: what makes the tails heavier than those of a normal distribution.

        outlier_share: Share of the iterations that take longer by at least ``outlier_ratio``; how
            much longer follows a Pareto law of ``outlier_exponent``, up to ``outlier_most``.

        mixed_sigma: Standard deviation where prefill is mixed in.

        clock_ratio: How much longer an iteration takes in the slow one of two states, between
            which the clock toggles.

        clock_seconds: How long a state lasts at least; then the next is drawn, either as likely.

        rank_sigma: Of the ranks of an engine against each other.

        gap_spread: Of the gap between iterations.

        engine_sigma: Of whole engines against each other: no two machines are alike.
    """

    sigma: float = 0.003
    drift_sigma: float = 0.003
    correlation: float = 0.6
    tail_share: float = 0.0
    tail_sigma: float = 0.0
    outlier_share: float = 0.0
    outlier_ratio: float = 0.1
    outlier_exponent: float = 2.0
    outlier_most: float = 5.0
    mixed_sigma: float = 0.02
    clock_ratio: float = 0.0
    clock_seconds: float = 2.0
    rank_sigma: float = 0.003
    gap_spread: float = 0.5
    engine_sigma: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An accelerator as its vendor's tool shows it.

    Attributes:
        idle_clock_hz: The clock between bursts of work; under load it is ``core_clock_hz``.
    """

    vendor: str
    model: str
    tool: str
    memory_bytes: int
    core_clock_hz: float
    idle_clock_hz: float
    core_clock_max_hz: float
    memory_clock_hz: float
    power_limit_watts: float
    idle_watts: float
    pcie_bytes_per_second: float
    fabric: str | None = None
    fabric_bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine that engines share.

    Attributes:
        base_load_ratio: Share of all CPU time that goes to others than engines.
    """

    cpu_count: int = 64
    cpu_frequency_hz: float = 3.5e9
    memory_bytes: int = 512 * 2**30
    base_load_ratio: float = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One simulated engine.

    Attributes:
        ranks: Ranks that work on each batch together.

        rank_role: What a further rank reports: an ``engine_core`` has the whole iteration (SGLang),
            a ``worker`` its share of the forward pass (vLLM).

        worker_apart: An engine of one rank, too, computes in a process of its own (the replica).

        devices_per_host: Accelerators in the host; an engine takes one for each rank.

        max_requests: Requests in a batch at most.

        token_budget: Tokens scheduled in an iteration at most.

        kv_blocks: Blocks of the KV cache, of ``block_tokens`` each.

        overlap: Host and device work at the same time, one batch ahead.

        device: The accelerator; None computes on the CPU, where the forward pass is host work.

        cpu_threads: Threads that compute the forward pass where there is no accelerator.

        engines_per_host: Engines that share a host.

        stack_hz: Stack samples that the agent takes of each rank.
    """

    framework: str
    version: str
    model: str
    cost: Cost
    traffic: Traffic
    noise: Noise = Noise()
    host: Host = Host()
    device: Device | None = None
    ranks: int = 1
    rank_role: Role = "worker"
    worker_apart: bool = False
    source: Source = "counter"
    devices_per_host: int = 8
    engines_per_host: int = 8
    max_requests: int = 256
    token_budget: int = 2048
    block_tokens: int = 16
    kv_blocks: int = 16_384
    overlap: bool = False
    cpu_threads: int = 1
    stack_hz: int = 50

    def __post_init__(self) -> None:
        for name in ("ranks", "engines_per_host", "max_requests", "kv_blocks", "block_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        decode_tokens = self.max_requests * (1 + self.traffic.speculative_tokens)
        if self.token_budget < decode_tokens:
            raise ValueError(
                f"token_budget {self.token_budget} is below the {decode_tokens} that decoding "
                "takes: give more of it, or fewer max_requests"
            )
