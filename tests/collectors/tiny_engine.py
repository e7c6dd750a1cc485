"""An engine of a few lines that writes down what it did; any CPython from 3.11 on runs it.

usage: tiny_engine.py MODE TRUTH_FILE STEP_SECONDS

MODE is where the scheduler has its attributes and from where it counts, see MODES. Prints "ready"
and runs until it is killed. Every step appends a line of JSON: the numbers that a reader must have
seen of this step. Standard library only; no numbers of a step repeat in the next.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TextIO


class Mode(IntEnum):
    PREFILL = 1
    DECODE = 2


class Level(IntEnum):
    LOW = -(2**40)


class Fifo(deque):  # type: ignore[type-arg]
    """A queue that is a deque, as vLLM's FCFSRequestQueue."""


class Heap:
    """A queue that holds a list, as vLLM's PriorityRequestQueue."""

    def __init__(self) -> None:
        self.policy = "priority"
        self.limit = 7
        self._heap: list[object] = []

    def __len__(self) -> int:
        return len(self._heap)


class TwoHeaps(Heap):
    """Which of its containers counts cannot be known."""

    def __init__(self) -> None:
        super().__init__()
        self.second: list[object] = [1]


class Unsized:
    """It has a list, but no length."""

    def __init__(self) -> None:
        self.list = [1, 2]


@dataclass(slots=True)
class Request:
    tokens: int
    computed: int


class Entry:
    def __init__(self, tokens: int) -> None:
        self.name = "secret"
        self.tokens = tokens


@dataclass(slots=True, kw_only=True)
class Base:
    step: int


@dataclass(slots=True)
class Batch(Base):
    tokens: dict[str, int]
    general: dict[object, int]
    requests: list[Request]
    entries: list[Entry]
    lengths: tuple[int, ...]
    done: set[int]
    recent: deque[int]
    mode: Mode
    flag: bool
    large: int
    negative: int
    huge: int
    unset: None = None


def older_batch() -> Batch:
    return Batch({}, {}, [], [], (), set(), deque(), Mode.DECODE, True, 0, 0, 0, step=0)


class Counting:
    """What all schedulers do."""

    __slots__ = ()

    # The attributes are where the subclass has them, so they cannot be declared here.
    def begin(self: Any, start: int) -> None:
        self.fifo = Fifo([1, 2, 3])
        self.heap = Heap()
        self.finished = {0}
        self.step = start

    def schedule(self: Any) -> Batch:
        self.step += 1
        self.finished = set()
        step = self.step
        count = step % 5 + 1
        requests = [Request(number + 1, step % 1000 * number) for number in range(count)]
        if step % 3:
            self.fifo.append(step)
            self.heap._heap.append(step)
        return Batch(
            step=step,
            tokens={f"request {number}": number + 1 for number in range(count)},
            general={number: step % 1000 * number for number in range(count)},
            requests=requests,
            # Captured in 3.11, inlined from 3.12 on.
            entries=[Entry(step + request.tokens) for request in requests],
            lengths=(step, *range(count)),
            done=set(range(count)),
            recent=deque(range(count + 1)),
            mode=Mode(step % 2 + 1),
            flag=step % 2 == 0,
            large=2**30 + step,
            negative=-(2**31) - step,
            huge=-(2**62) - step,
        )

    def disturb(self: Any, number: int) -> Any:
        """Move the attributes in memory; give what is the scheduler from now on."""
        return self


class LargeScheduler(Counting):
    """More attributes than shared keys take: a dictionary of its own."""

    def __init__(self, start: int) -> None:
        for number in range(40):
            setattr(self, f"setting_{number}", number)
        self.begin(start)

    def disturb(self, number: int) -> Any:
        for late in range(30):
            setattr(self, f"late_{number}_{late}", late)
        return self


class SmallScheduler(Counting):
    """Values without a dictionary, until somebody asks for it."""

    def __init__(self, start: int) -> None:
        self.begin(start)

    def disturb(self: Any, number: int) -> Any:
        match number % 4:
            case 0:
                assert vars(self)["step"] == self.step
            case 1:
                self.__class__ = OtherScheduler
            case 2:
                step = self.step
                del self.step
                self.step = step
            case 3:
                for late in range(40):
                    setattr(self, f"late_{late}", late)
        return self


class OtherScheduler(SmallScheduler):
    pass


class SlottedScheduler(Counting):
    __slots__ = ("fifo", "finished", "heap", "step")

    def __init__(self, start: int) -> None:
        self.begin(start)

    def disturb(self, number: int) -> Any:
        return SlottedScheduler(self.step)


class Core:
    def __init__(self, scheduler: Any, seconds: float, truth: TextIO) -> None:
        self.scheduler = scheduler
        self.seconds = seconds
        self.truth = truth
        self.level = Level.LOW
        self.two_heaps = TwoHeaps()
        self.unsized = Unsized()

    def run_busy_loop(self) -> None:
        number = 0
        while True:
            number += 1
            if number % 25 == 0:
                self.scheduler = self.scheduler.disturb(number // 25)
            self.step()

    def step(self) -> None:
        batch = self.scheduler.schedule()
        time.sleep(self.seconds)
        self.write(batch)

    def write(self, batch: Batch) -> None:
        fields = {
            "step": batch.step,
            "requests": len(batch.tokens),
            "token_sum": sum(batch.tokens.values()),
            "general_sum": sum(batch.general.values()),
            "slotted_tokens": sum(request.tokens for request in batch.requests),
            "slotted_computed": sum(request.computed for request in batch.requests),
            "entry_tokens": sum(entry.tokens for entry in batch.entries),
            "length_max": max(batch.lengths),
            "done": len(batch.done),
            "recent": len(batch.recent),
            "mode": int(batch.mode),
            "flag": int(batch.flag),
            "large": batch.large,
            "negative": batch.negative,
            "huge": batch.huge,
            "unset": None,
            "absent": None,
            "fifo": len(self.scheduler.fifo),
            "heap": len(self.scheduler.heap),
            "level": int(self.level),
            "two_heaps": None,
            "unsized": None,
        }
        self.truth.write(json.dumps(fields) + "\n")


class CapturedCore(Core):
    """`self` and the batch are cells, because an inner function uses them.

    The step is called from C, which has a frame of its own in later versions.
    """

    def run_busy_loop(self) -> None:
        def one() -> None:
            deque(map(CapturedCore.step, [self]), maxlen=0)

        while True:
            one()

    def step(self) -> None:
        batch = self.scheduler.schedule()

        def written() -> None:
            self.write(batch)

        time.sleep(self.seconds)
        written()


class PairedCore(Core):
    """The batch is unpacked together with another local, which later versions do in one step."""

    def step(self) -> None:
        batch, seconds = self.scheduler.schedule(), self.seconds
        time.sleep(seconds)
        self.write(batch)
        # An older batch in the same local, as overlapped engines have it.
        seconds, batch = 0.0, older_batch()
        time.sleep(self.seconds / 2 + seconds)


MODES = {
    "large": (Core, LargeScheduler, 240),
    "small": (Core, SmallScheduler, 2**30 - 40),
    "slotted": (Core, SlottedScheduler, 2**60 - 40),
    "captured": (CapturedCore, SmallScheduler, -40),
    "paired": (PairedCore, LargeScheduler, 0),
}


def main() -> None:
    mode, truth, seconds = sys.argv[1:]
    core_type, scheduler_type, start = MODES[mode]
    # A line is there as soon as its step has ended.
    with open(truth, "w", buffering=1) as lines:
        core = core_type(scheduler_type(start), float(seconds), lines)
        print("ready", flush=True)  # noqa: T201
        core.run_busy_loop()


if __name__ == "__main__":
    main()
