"""A tiny engine with the frames and attributes of a real one.

usage: core.py STEP_SECONDS IDLE_SECONDS [overlap|late|captured]

Prints "ready", then runs 40 steps and idles, over and over. On SIGUSR1 the scheduler gets more
attributes, so that its dictionary moves; on SIGUSR2 the busy loop is left for a second.
"""

import signal
import sys
import time
from collections import deque


class NewRequest:
    def __init__(self, computed):
        self.req_id = "secret"
        self.num_computed_tokens = computed


class CachedRequests:
    def __init__(self, computed):
        self.num_computed_tokens = computed


class SchedulerOutput:
    def __init__(self, new, cached, tokens):
        self.scheduled_new_reqs = new
        self.scheduled_cached_reqs = cached
        self.num_scheduled_tokens = tokens
        self.total_num_scheduled_tokens = sum(tokens.values())
        self.nothing = None


class WaitingQueue(deque):
    """A subclass of deque, as engines have."""


class Scheduler:
    def __init__(self):
        for number in range(40):  # more than shared keys take: a dictionary of its own
            setattr(self, f"setting_{number}", number)
        self.waiting = WaitingQueue(["a", "b", "c"])
        self.running = ["r"] * 5
        self.finished_req_ids = set()
        self.current_step = 0

    def schedule(self):
        self.current_step += 1
        step = self.current_step
        new = [NewRequest(1000 + step)] if step % 3 == 0 else []
        tokens = {f"request {index}": 1 for index in range(3)}
        if new:
            tokens["new"] = step
        cached = CachedRequests([step, 1, 2**40])
        output = SchedulerOutput(new, cached, tokens)
        self.finished_req_ids = set()
        return output

    def grow(self):
        for number in range(60):
            setattr(self, f"late_{number}", number)


class Executor:
    def execute(self, seconds):
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            self.forward()

    def forward(self):
        time.sleep(0.0005)


class EngineCore:
    def __init__(self, step_seconds):
        self.scheduler = Scheduler()
        self.executor = Executor()
        self.step_seconds = step_seconds
        self.batch_queue = deque()
        self.early_share = 0.5

    def step(self):
        scheduler_output = self.scheduler.schedule()
        self.executor.execute(self.step_seconds)
        return scheduler_output.total_num_scheduled_tokens

    def step_with_batch_queue(self):
        scheduler_output = self.scheduler.schedule()
        self.executor.execute(self.step_seconds * self.early_share)
        self.batch_queue.appendleft((object(), scheduler_output, object()))
        if len(self.batch_queue) < 2:
            return 0
        _, scheduler_output, _ = self.batch_queue.pop()
        self.executor.execute(self.step_seconds * (1 - self.early_share))
        return scheduler_output.total_num_scheduled_tokens


class EngineCoreProc(EngineCore):
    def __init__(self, step_seconds, idle_seconds, overlap):
        super().__init__(step_seconds)
        self.idle_seconds = idle_seconds
        self.step_fn = self.step_with_batch_queue if overlap else self.step
        if overlap == "late":
            self.early_share = 0.0

    def run_busy_loop(self):
        while True:
            self._process_input_queue()
            self._process_engine_step()

    def _process_input_queue(self):
        if self.scheduler.current_step % 40 == 0:
            time.sleep(self.idle_seconds)

    def _process_engine_step(self):
        return self.step_fn()


class Left(Exception):
    pass


class CapturedCoreProc(EngineCoreProc):
    """`self` and the batch are cells, because an inner function uses them."""

    def run_busy_loop(self):
        def one():
            self._process_input_queue()
            self._process_engine_step()

        while True:
            one()

    def step(self):
        scheduler_output = self.scheduler.schedule()

        def tokens():
            return scheduler_output.total_num_scheduled_tokens

        self.executor.execute(self.step_seconds)
        return tokens()


def main():
    step_seconds, idle_seconds = float(sys.argv[1]), float(sys.argv[2])
    mode = sys.argv[3] if len(sys.argv) > 3 else ""
    kind = CapturedCoreProc if mode == "captured" else EngineCoreProc
    core = kind(step_seconds, idle_seconds, mode if mode in ("overlap", "late") else "")
    signal.signal(signal.SIGUSR1, lambda *_: core.scheduler.grow())

    def leave(*_):
        raise Left

    signal.signal(signal.SIGUSR2, leave)
    print("ready", flush=True)
    while True:
        try:
            core.run_busy_loop()
        except Left:
            core.batch_queue.clear()
            time.sleep(1.0)


main()
