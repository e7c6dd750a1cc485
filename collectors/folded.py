"""Sampled stacks of two captures, added up and laid over each other as one tree."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

# Shares of the time that differ by less are the same ...
LEAST_CHANGE = 0.01
# ... and so are those that differ by less than so many times what chance alone makes of samples.
CLEAR_DEVIATIONS = 2.5
MOST_LETTERS = 120
THREAD = re.compile(r"thread \(\d+\): ?(.*)")
NUMBER = re.compile(r"\d+")


class Function(NamedTuple):
    """A Python function, or a thread (which has no file) at the bottom of its stacks."""

    name: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """The stacks of a process, outermost function first, each with its share of the time.

    A share of 1 is one thread all of the time; threads of one name count together.
    """

    shares: dict[tuple[Function, ...], float]
    samples: int


@dataclass(slots=True)
class Node:
    """A function as called by those above it, with its shares in both captures."""

    reference: float = 0.0
    during: float = 0.0
    children: dict[Function, "Node"] = field(default_factory=dict)


class _Frame(msgspec.Struct):
    name: str
    file: str | None = None
    line: int | None = None


class _Shared(msgspec.Struct):
    frames: list[_Frame]


class _Profile(msgspec.Struct):
    samples: list[list[int]]
    weights: list[float]


class _Speedscope(msgspec.Struct):
    shared: _Shared
    profiles: list[_Profile]


def fold(text: bytes) -> Recorded:
    """Read what py-spy wrote for speedscope and add up equal stacks.

    Raises:
        ValueError: It is no such file, or cut.
    """
    try:
        found = msgspec.json.decode(text, type=_Speedscope)
    except msgspec.DecodeError as err:
        raise ValueError(f"it is not what py-spy writes, or cut ({err})") from err
    functions = [_function_of(frame) for frame in found.shared.frames]
    times: defaultdict[tuple[Function, ...], float] = defaultdict(float)
    whole, samples = 0.0, 0
    for profile in found.profiles:
        weights: defaultdict[tuple[int, ...], float] = defaultdict(float)
        for stack, weight in zip(profile.samples, profile.weights, strict=True):
            weights[tuple(stack)] += weight
        for key, weight in weights.items():
            if not all(0 <= index < len(functions) for index in key):
                raise ValueError("a sample names a function that is not in it")
            if key:
                times[tuple(functions[index] for index in key)] += weight
        # Threads may come and go: the one that was there longest tells how long it all took.
        whole = max(whole, sum(profile.weights))
        samples = max(samples, len(profile.samples))
    if not whole:
        raise ValueError("it has no samples")
    return Recorded({stack: time / whole for stack, time in times.items()}, samples)


def clear_change(reference: float, during: float, samples: tuple[int, int]) -> float:
    """Give by how much a share differs, or 0 where chance may be all there is to it."""
    share = (reference + during) / 2
    # Of shares near 1 as of a half: several threads of one name may add up to more than 1.
    spread = min(share, 0.5) * max(1 - share, 0.5)
    chance = math.sqrt(spread * sum(1 / max(count, 1) for count in samples))
    change = during - reference
    return change if abs(change) > max(LEAST_CHANGE, CLEAR_DEVIATIONS * chance) else 0.0


def grow(reference: Recorded, during: Recorded) -> Node:
    """Make one tree of both: below its root are the threads."""
    root = Node()
    for stack, share in reference.shares.items():
        for node in _path(root, stack):
            node.reference += share
    for stack, share in during.shares.items():
        for node in _path(root, stack):
            node.during += share
    return root


def _function_of(frame: _Frame) -> Function:
    thread = THREAD.fullmatch(frame.name)
    if thread is not None:
        # Threads of a pool, and those that were made anew meanwhile, differ by numbers only.
        return Function(NUMBER.sub("N", f"thread {thread[1]}".rstrip())[:MOST_LETTERS])
    name = frame.name[:MOST_LETTERS]
    return Function(name, Path(frame.file or "").name[:MOST_LETTERS], frame.line or 0)


def _path(root: Node, stack: tuple[Function, ...]) -> Iterator[Node]:
    node = root
    yield node
    for function in stack:
        node = node.children.setdefault(function, Node())
        yield node
