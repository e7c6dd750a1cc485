"""Random numbers by position: the same seed, key and counter give the same number, in any order.

So an engine's numbers depend on nothing but the seed and the engine: not on how many others there
are, nor on how the simulation cuts time into pieces. The generator is SplitMix64.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_LANE = np.uint64(0xD1342543DE82EF95)


def keys_of(seed: int, names: list[str]) -> Words:
    """Give a key for each name."""
    digests = [hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8) for name in names]
    return np.array([int.from_bytes(one.digest(), "little") for one in digests], dtype=np.uint64)


def uniforms(keys: Words, counters: Ints, lanes: int) -> Floats:
    """Give ``lanes`` numbers between 0 and 1, both left out, for each key and counter."""
    base = keys + counters.astype(np.uint64) * _STEP
    words = base[:, None] + np.arange(1, lanes + 1, dtype=np.uint64) * _LANE
    words ^= words >> np.uint64(30)
    words *= _FIRST
    words ^= words >> np.uint64(27)
    words *= _SECOND
    words ^= words >> np.uint64(31)
    drawn: Floats = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return drawn


def normals(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Turn two uniform numbers into two of the standard normal distribution."""
    radius = np.sqrt(-2.0 * np.log(first))
    angle = 2.0 * np.pi * second
    return radius * np.cos(angle), radius * np.sin(angle)
