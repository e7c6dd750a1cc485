"""An engine that changes, frees and moves what is read of it, as fast as it can.

usage: core.py TRUTH_FILE STEP_SECONDS SEED

It has the names of vLLM's, so it is put where that has its core. Prints "ready" and runs until it
is killed, or until SIGUSR1, when another program takes its process. Each step appends a line of
JSON, before its batch can be seen: its count and the numbers of its batch. Threads then replace
these by equal ones, and make them unreadable or contradictory for moments; at no time there is
another set of numbers that fit together. Standard library only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

THREADS = 2


class Cached:
    def __init__(self, computed: list[int]) -> None:
        self.num_computed_tokens = computed


class NewRequest:
    __slots__ = ("num_computed_tokens", "req_id")

    def __init__(self, computed: int) -> None:
        self.req_id = "secret"
        self.num_computed_tokens = computed


class SchedulerOutput:
    def __init__(self, truth: dict[str, Any]) -> None:
        self.truth = truth
        self.renew_tokens()
        self.renew_computed()

    def renew_tokens(self) -> None:
        """Put other objects of the same values into the same attributes."""
        tokens = {f"request {n}": again(value) for n, value in enumerate(self.truth["tokens"])}
        self.num_scheduled_tokens: Any = tokens
        self.total_num_scheduled_tokens = again(sum(tokens.values()))

    def renew_computed(self) -> None:
        self.scheduled_cached_reqs = Cached([again(one) for one in self.truth["cached"]])
        self.scheduled_new_reqs = [NewRequest(again(one)) for one in self.truth["new"]]


def again(number: int) -> int:
    """Give another object of the same value; Python shares the small ones."""
    return int(str(number))


class Scheduler:
    def __init__(self, step: int) -> None:
        for number in range(40):  # more than shared keys take: a dictionary of its own
            setattr(self, f"setting_{number}", number)
        self.waiting: deque[int] = deque([1, 2, 3])
        self.running = [1] * 5
        self.current_step = step
        self.finished_req_ids: set[int] = set()


class OtherScheduler(Scheduler):
    pass


class EngineCore:
    def __init__(self, truth: str, seconds: float, seed: int) -> None:
        self.scheduler = Scheduler(2**30 - 200)
        self.random = random.Random(seed)
        self.lines = open(truth, "w", buffering=1)  # noqa: SIM115  # open as long as it runs
        self.seconds = seconds
        self.batch: SchedulerOutput | None = None
        self.lock = threading.Lock()

    def schedule(self) -> SchedulerOutput:
        number = self.random.randrange
        truth = {
            "tokens": [number(300, 5000) for _ in range(number(1, 24))],
            "cached": [number(1000, 10**6) for _ in range(number(1, 24))],
            "new": [number(1000, 10**6) for _ in range(number(4))],
        }
        with self.lock:
            self.scheduler.current_step += 1
            step = self.scheduler.current_step
            self.lines.write(json.dumps({"step": step} | truth) + "\n")
            self.batch = SchedulerOutput(truth)
            return self.batch

    def step(self) -> None:
        scheduler_output = self.schedule()
        time.sleep(self.seconds)
        # The name may have been deleted from the outside: it is only held here.
        del scheduler_output


class EngineCoreProc(EngineCore):
    def run_busy_loop(self) -> None:
        while True:
            self.step()


class Vandal(threading.Thread):
    """Disturbs what is there now, without a pause."""

    def __init__(self, core: EngineCore, seed: int) -> None:
        super().__init__(daemon=True)
        self.core = core
        self.random = random.Random(seed)

    def run(self) -> None:
        deeds: list[Callable[[EngineCore, SchedulerOutput], None]] = [
            renew,
            renew_computed,
            resize,
            empty,
            change_type,
            drop_attributes,
            swap_scheduler,
            churn_scheduler,
            churn_queue,
        ]
        while True:
            batch = self.core.batch
            if batch is not None:
                self.random.choice(deeds)(self.core, batch)
            if self.random.random() < 0.1:
                # Others get the interpreter, and the reader sometimes a whole batch.
                time.sleep(self.random.random() * 0.004)


def renew(core: EngineCore, batch: SchedulerOutput) -> None:
    for _ in range(20):
        with core.lock:
            batch.renew_tokens()


def renew_computed(core: EngineCore, batch: SchedulerOutput) -> None:
    for _ in range(20):
        batch.renew_computed()


def resize(core: EngineCore, batch: SchedulerOutput) -> None:
    with core.lock:
        tokens = batch.num_scheduled_tokens
        for number in range(90):
            tokens[f"late {number}"] = 10**6 + number
        for number in range(90):
            del tokens[f"late {number}"]


def empty(core: EngineCore, batch: SchedulerOutput) -> None:
    with core.lock:
        # First the total: at no time does a part of the batch look whole.
        batch.total_num_scheduled_tokens = -1
        batch.num_scheduled_tokens.clear()
        batch.renew_tokens()


def change_type(core: EngineCore, batch: SchedulerOutput) -> None:
    with core.lock:
        for other in ("text", None, 1.5, object(), (1, "a"), {"a": "b"}, [], batch, 2**80):
            batch.num_scheduled_tokens = other
        batch.renew_tokens()


def drop_attributes(core: EngineCore, batch: SchedulerOutput) -> None:
    with core.lock:
        del batch.num_scheduled_tokens
        del batch.total_num_scheduled_tokens
        batch.renew_tokens()


def swap_scheduler(core: EngineCore, batch: SchedulerOutput) -> None:
    with core.lock:
        kind = OtherScheduler if type(core.scheduler) is Scheduler else Scheduler
        core.scheduler = kind(core.scheduler.current_step)


def churn_scheduler(core: EngineCore, batch: SchedulerOutput) -> None:
    with core.lock:
        scheduler = core.scheduler
        for number in range(60):
            setattr(scheduler, f"late_{number}", number)
        for number in range(60):
            delattr(scheduler, f"late_{number}")
        scheduler.__dict__ = dict(scheduler.__dict__)
        scheduler.__class__ = OtherScheduler
        scheduler.current_step = again(scheduler.current_step)


def churn_queue(core: EngineCore, batch: SchedulerOutput) -> None:
    with core.lock:
        waiting = core.scheduler.waiting
        for _ in range(5):
            waiting.clear()
            waiting.extend([1, 2, 3] * 50)
            while len(waiting) > 3:
                waiting.popleft()
        core.scheduler.waiting = deque([1, 2, 3])


def become_another() -> None:
    """Run another program in this process."""
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])


def main() -> None:
    truth, seconds, seed = sys.argv[1:]
    sys.setswitchinterval(0.0005)
    core = EngineCoreProc(truth, float(seconds), int(seed))
    for number in range(THREADS):
        Vandal(core, int(seed) + number + 1).start()
    signal.signal(signal.SIGUSR1, lambda *_: become_another())
    print("ready", flush=True)  # noqa: T201
    core.run_busy_loop()


if __name__ == "__main__":
    main()
