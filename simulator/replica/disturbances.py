"""A replica slows itself down in ways that nobody can from outside, by knobs that are mostly 0."""

from __future__ import annotations

import gc
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar, Protocol

# About two batches: nearly every one meets a hold.
GIL_HOG_PERIOD_SECONDS = 0.03
GC_PERIOD_SECONDS = 0.5
COMPILE_PERIOD_SECONDS = 1.0

_NUMBERS_TIMED = 50_000
_REFERENCES_PER_OBJECT = 16
_FIRST_OBJECTS = 10_000
# Together about 600 MB; a collection takes half a second then.
_MOST_OBJECTS = 2_000_000
_TOLERATED_RATIO = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbances:
    """The knobs; at 0 a disturbance is not there at all.

    Attributes:
        gil_hog_ratio: A thread of the engine core holds the GIL for this share of the time, every
            30 ms or so.

        gc_pause_ms: Twice a second, a thread of the engine core collects all garbage of a process
            that holds so many objects that it takes about this long.

        compile_pause_ms: The worker computes for so long before a batch of another shape than the
            one before, at most once a second.

        worker_delay_ms: The worker sleeps before each forward pass.

        tokenizer_ms: The API server computes for so long on each request, in its event loop.
    """

    gil_hog_ratio: float = 0.0
    gc_pause_ms: float = 0.0
    compile_pause_ms: float = 0.0
    worker_delay_ms: float = 0.0
    tokenizer_ms: float = 0.0

    def changed(self, changes: Mapping[str, float]) -> Disturbances:
        """Give them with some knobs turned."""
        return replace(self, **changes)

    def as_json(self) -> dict[str, float]:
        """Give the knobs by name."""
        return asdict(self)


HIGHEST = Disturbances(
    gil_hog_ratio=1.0,
    gc_pause_ms=250.0,
    compile_pause_ms=5_000.0,
    worker_delay_ms=5_000.0,
    tokenizer_ms=5_000.0,
)
"""The highest value that each knob takes."""


def check_changes(body: Mapping[str, object]) -> dict[str, float]:
    """Give the knobs that a request wants to turn.

    Raises:
        ValueError: A knob is unknown or out of range; the text says what to give.
    """
    names = [knob.name for knob in fields(Disturbances)]
    changes: dict[str, float] = {}
    for name, value in body.items():
        if name not in names:
            raise ValueError(f"there is no disturbance {name!r}: give {', '.join(names)}")
        highest: float = getattr(HIGHEST, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= highest:  # type: ignore[operator]
            raise ValueError(f"{name} is {value!r}: give a number from 0 (off) to {highest:g}")
        changes[name] = float(value)  # type: ignore[arg-type]
    return changes


def compute_for(seconds: float) -> None:
    """Compute in pure Python."""
    value = 1
    end_seconds = time.monotonic() + seconds
    while time.monotonic() < end_seconds:
        value = value * 31 % 65_521


class _Background(ABC):
    """A disturbance in a thread of its own, so that it strikes in whatever phase runs."""

    name: ClassVar[str]

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Return when it is over and what it held is free."""
        self._ended.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """Disturb until `_ended` is set."""


class _GilHog(_Background):
    name = "gil_hog"

    def _run(self) -> None:
        held_seconds = self.strength * GIL_HOG_PERIOD_SECONDS
        numbers = range(round(_NUMBERS_TIMED * held_seconds / _seconds_of_a_sum()))
        free_seconds = GIL_HOG_PERIOD_SECONDS - held_seconds
        draw = random.Random(0)
        # At regular times, batches would fall into step with it and fit in between.
        while not self._ended.wait(draw.uniform(0.0, 2 * free_seconds)):
            # One call of a builtin: loops in Python give the GIL to whoever waited 5 ms for it.
            sum(numbers)


def _seconds_of_a_sum() -> float:
    seconds = []
    for _ in range(5):
        begin_seconds = time.thread_time()
        sum(range(_NUMBERS_TIMED))
        seconds.append(time.thread_time() - begin_seconds)
    return min(seconds)


class _GcPauses(_Background):
    name = "gc_pauses"

    def _run(self) -> None:
        held = _objects(_FIRST_OBJECTS)
        while not self._ended.is_set() and self._resize(held):
            pass
        # It takes longer when the worker's data have driven the objects out of the caches.
        while not self._ended.wait(GC_PERIOD_SECONDS):
            self._resize(held)

    def _resize(self, held: list[list[object]]) -> bool:
        """Collect, and hold more or less next time if it took no fitting time; say whether so."""
        fit = self.strength / 1_000 / _collection_seconds()
        wanted = min(round(len(held) * min(fit, 4.0)), _MOST_OBJECTS)
        if abs(wanted - len(held)) <= _TOLERATED_RATIO * len(held):
            return False
        if wanted < len(held):
            del held[wanted:]
        else:
            held += _objects(wanted - len(held))
        return True


def _objects(count: int) -> list[list[object]]:
    """Make lists that refer to others all over the memory, as the objects of a program do."""
    leaves: list[object] = [[] for _ in range(count)]
    random.Random(0).shuffle(leaves)
    return [leaves[at : at + _REFERENCES_PER_OBJECT] for at in range(count)]


def _collection_seconds() -> float:
    # Of this thread: others on the machine must not make the graph smaller.
    begin_seconds = time.thread_time()
    gc.collect()
    return time.thread_time() - begin_seconds


class CoreDisturbances:
    """The knobs of a replica as its engine core keeps them, with those that it turns itself."""

    def __init__(self) -> None:
        self.knobs = Disturbances()
        self._running: dict[type[_Background], _Background] = {}

    def change(self, changes: Mapping[str, float]) -> Disturbances:
        """Turn some knobs, and return when the threads behind them run or have ended."""
        self.knobs = self.knobs.changed(changes)
        self._turn(_GilHog, self.knobs.gil_hog_ratio)
        self._turn(_GcPauses, self.knobs.gc_pause_ms)
        return self.knobs

    def _turn(self, kind: type[_Background], strength: float) -> None:
        running = self._running.get(kind)
        if running is not None and running.strength != strength:
            del self._running[kind]
            running.end()
        if strength and kind not in self._running:
            self._running[kind] = kind(strength)


class Forward(Protocol):
    """The forward pass of a model."""

    def __call__(self, *, num_tokens: int, kv_tokens: int) -> None:
        """Compute one batch."""


class DisturbedForward:
    """A forward pass that compiles for shapes that are new, and waits."""

    def __init__(self, forward: Forward, *, compile_pause_ms: float, delay_ms: float) -> None:
        self._forward = forward
        self._compile_seconds = compile_pause_ms / 1_000
        self._delay_seconds = delay_ms / 1_000
        self._shape: int | None = None
        self._compiled_at_seconds = time.monotonic()

    def __call__(self, *, num_tokens: int, kv_tokens: int) -> None:
        """Compute one batch, later."""
        if self._compile_seconds and num_tokens != self._shape:
            self._compile()
        self._shape = num_tokens
        if self._delay_seconds:
            time.sleep(self._delay_seconds)
        self._forward(num_tokens=num_tokens, kv_tokens=kv_tokens)

    def _compile(self) -> None:
        if time.monotonic() - self._compiled_at_seconds >= COMPILE_PERIOD_SECONDS:
            compute_for(self._compile_seconds)
            self._compiled_at_seconds = time.monotonic()
