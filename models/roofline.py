"""The least time that the hardware allows a batch, from what is public about both: a prior.

It is a lower bound, and engines usually take 1.1 to 3 times as long. It judges only where nothing
better is known: an engine without peers, or one whose peers are all as slow as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.records import NormCell

# What the host and the launches of kernels may add to any batch, however small the model: a step
# of an engine without graphs is a few thousand launches of some 5 us, and its scheduler is Python.
HOST_MS = 10.0
# Engines run at 1.1 to 3 times the bound and eager ones at up to 4, so 5 is worth a word. It takes
# twice the worst of them to be sure: weights of 32 bits, a large KV cache, or a pipeline of eight
# put the prior wrong by a factor of 2.
SUSPICIOUS_TIMES = 5.0
SURE_TIMES = 8.0
# Where an engine is found slow, it is expected to become at least so good: what is usual.
USUAL_TIMES = 3.0
# Ranks may be a pipeline, through which each batch goes stage by stage with one device at work at a
# time. The inventory does not tell, so more devices than these make no batch faster here.
MOST_DEVICES = 4
# The KV cache of models that group their heads takes some 5e-6 bytes for each token and parameter
# (Llama 3 70B 4.7e-6, Qwen2.5 7B 7.5e-6) ...
KV_BYTES = 5e-6
# ... but older ones take up to 80e-6 (Llama 2 7B): beyond so many tokens of context their cache may
# be more than the weights, and the bound would mean nothing.
MOST_KV_TOKENS = 25_000
LEAST_VISITS = 10


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a data sheet says of one device.

    Attributes:
        words: All of them are in its name as the vendor's tool gives it.

        bytes_per_second: Peak bandwidth of its memory.

        flops: Peak of dense matrices of 16 bits, without sparsity.
    """

    words: frozenset[str]
    bytes_per_second: float
    flops: float


def _row(words: str, gigabytes_per_second: float, teraflops: float) -> Accelerator:
    return Accelerator(frozenset(words.split()), gigabytes_per_second * 1e9, teraflops * 1e12)


# GB/s and TFLOP/s from the vendors' public data sheets; the first match counts. NVIDIA prints many
# FLOP/s with sparsity: here is half of that. Left out, and so unknown, is what the vendor does not
# publish (Ascend 910B) and what shares its name with others (a bare "A100", "GH200 480GB").
ACCELERATORS = (
    _row("a100 pcie 80gb", 1935, 312),  # NVIDIA A100 80GB PCIe datasheet, 2021
    _row("a100 80gb", 2039, 312),  # NVIDIA A100 datasheet, 2021 (SXM4)
    _row("a100 40gb", 1555, 312),  # NVIDIA A100 datasheet, 2020
    _row("a800 80gb", 2039, 312),  # NVIDIA A800 datasheet, 2022
    _row("h100 nvl", 3938, 835),  # NVIDIA H100 datasheet, 2023
    _row("h100 pcie", 2039, 756),  # NVIDIA H100 datasheet, 2022
    _row("h100 hbm3", 3350, 989),  # NVIDIA H100 datasheet, 2023 (SXM5)
    _row("h800 hbm3", 3350, 989),  # NVIDIA H800 datasheet, 2023 (SXM5)
    _row("h200", 4800, 989),  # NVIDIA H200 datasheet, 2024
    _row("b200", 8000, 2250),  # NVIDIA Blackwell datasheet, 2024 (HGX B200)
    _row("l4", 300, 121),  # NVIDIA L4 datasheet, 2023
    _row("l40s", 864, 362),  # NVIDIA L40S datasheet, 2023
    _row("l40", 864, 181),  # NVIDIA L40 datasheet, 2022
    _row("a10", 600, 125),  # NVIDIA A10 datasheet, 2021
    _row("a30", 933, 165),  # NVIDIA A30 datasheet, 2021
    _row("a40", 696, 150),  # NVIDIA A40 datasheet, 2020
    _row("t4", 320, 65),  # NVIDIA T4 datasheet, 2018
    _row("v100", 900, 125),  # NVIDIA V100 datasheet, 2017 (SXM2; PCIe 112 TFLOP/s)
    # A device is one of the two dies: half of what the data sheet says of the module.
    _row("mi250x", 1638, 191.5),  # AMD Instinct MI250X data sheet, 2021
    _row("mi250", 1638, 181),  # AMD Instinct MI250 data sheet, 2021
    _row("mi210", 1638, 181),  # AMD Instinct MI210 data sheet, 2022
    _row("mi300x", 5300, 1307),  # AMD Instinct MI300X data sheet, 2023
    _row("mi325x", 6000, 1307),  # AMD Instinct MI325X data sheet, 2024
    _row("hl 225", 2450, 432),  # Intel Gaudi 2: Gaudi 3 white paper, 2024
    _row("hl 325l", 3700, 1835),  # Intel Gaudi 3 white paper, 2024 (OAM)
    _row("tpu v4", 1200, 275),  # Google Cloud TPU documentation, TPU v4
    _row("tpu v5e", 819, 197),  # Google Cloud TPU documentation, TPU v5e
    _row("tpu v5p", 2765, 459),  # Google Cloud TPU documentation, TPU v5p
    _row("tpu v6e", 1640, 918),  # Google Cloud TPU documentation, TPU v6e
)

_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])")
# Mixtures of experts read more of their weights the more requests there are.
_EXPERTS = re.compile(r"\d+x\d|(?<![a-z0-9])a\d+(\.\d+)?b|\d+e(?![a-z0-9])|moe|gpt-oss")
# Formats that are unpacked on the way, whose healthy engines are far from any bound.
_UNPACKED = re.compile(r"gguf|bnb|bitsandbytes|hqq|exl2|aqlm|bitnet|1\.58|q\d_|fp32")
_FOUR_BITS = re.compile(r"awq|gptq|int4|w4a|fp4|4-?bit")
_EIGHT_BITS = re.compile(r"fp8|int8|w8a|8-?bit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The bound for one model on some devices of one kind."""

    parameters: float
    bytes_per_weight: float
    accelerator: Accelerator
    devices: int

    def least_ms(self, requests: int, context_tokens: int, prefill_tokens: int) -> float:
        """Give the least time of a batch: all weights and the context are read once, or computed.

        Args:
            requests: Those that decode.

            context_tokens: Of each of them.

            prefill_tokens: All that is computed beside them.
        """
        devices = min(self.devices, MOST_DEVICES)
        kv_bytes = self.parameters * KV_BYTES * requests * context_tokens
        read_bytes = self.parameters * self.bytes_per_weight + kv_bytes
        # Narrower weights may be multiplied as such, at a rate that is higher by as much.
        flops = self.accelerator.flops * 2 / self.bytes_per_weight
        computed = 2 * self.parameters * (requests + prefill_tokens)
        seconds = max(read_bytes / self.accelerator.bytes_per_second, computed / flops)
        return 1e3 * seconds / devices

    def times(self, cells: Iterable[NormCell]) -> float | None:
        """Give how many times as long as they should batches take that only decode.

        The best cell counts: what is slow from its first batch is slow everywhere. None where no
        cell is known well, or all have so much context that its size decides.
        """
        return min(
            (
                cell.duration_ns / 1e6 / (HOST_MS + self.least_ms(cell.requests, context, 0))
                for cell in cells
                if cell.prefill_tokens == 0
                and cell.visits >= LEAST_VISITS
                and (context := cell.context_tokens) is not None
                and cell.requests * context <= MOST_KV_TOKENS
            ),
            default=None,
        )


def roofline_of(model: str | None, device_models: tuple[str, ...]) -> Roofline | None:
    """Give the bound, or None where model or devices are not known well enough.

    >>> roofline = roofline_of("meta-llama/Llama-3.1-70B-Instruct", ("NVIDIA H200",) * 4)
    >>> round(roofline.least_ms(requests=1, context_tokens=100, prefill_tokens=0), 1)
    7.3
    >>> roofline_of("mistralai/Mixtral-8x7B-v0.1", ("NVIDIA H200",)) is None
    True
    """
    size = model_size(model)
    accelerators = {accelerator_of(name) for name in device_models}
    accelerator = accelerators.pop() if len(accelerators) == 1 else None
    if size is None or accelerator is None:
        return None
    parameters, bytes_per_weight = size
    return Roofline(
        parameters=parameters,
        bytes_per_weight=bytes_per_weight,
        accelerator=accelerator,
        devices=len(device_models),
    )


def accelerator_of(name: str) -> Accelerator | None:
    """Find a device by the name that its vendor's tool gives it.

    >>> accelerator_of("NVIDIA A100-SXM4-80GB").bytes_per_second
    2039000000000.0
    >>> accelerator_of("NVIDIA A100") is None
    True
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    return next((one for one in ACCELERATORS if one.words <= words), None)


def model_size(name: str | None) -> tuple[float, float] | None:
    """Read parameters and bytes per weight out of a model's name.

    >>> model_size("Qwen/Qwen2.5-7B"), model_size("Qwen2.5-72B-Instruct-AWQ")
    ((7000000000.0, 2.0), (72000000000.0, 0.5))
    >>> model_size("Qwen3-30B-A3B"), model_size("my-model")
    (None, None)
    """
    lowered = (name or "").lower()
    sizes = set(_SIZE.findall(lowered))
    if len(sizes) != 1 or _EXPERTS.search(lowered) or _UNPACKED.search(lowered):
        return None
    if _FOUR_BITS.search(lowered):
        bytes_per_weight = 0.5
    else:
        bytes_per_weight = 1.0 if _EIGHT_BITS.search(lowered) else 2.0
    return float(sizes.pop()) * 1e9, bytes_per_weight
