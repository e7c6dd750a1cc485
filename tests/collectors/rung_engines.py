# mypy: ignore-errors
# Engines are not typed either, and this runs on Pythons that are not ours.
"""Small engines that run iterations as real ones do, for the sampler's rungs.

usage: rung_engines.py KIND TRUTH

Prints "ready", waits for a line, runs its bursts of iterations, prints "done" and waits for the
end. Every iteration is written to TRUTH, one JSON object a line, with the numbers that it had.
"""

import asyncio
import enum
import json
import sys
import time
from collections import deque
from pathlib import Path

BURSTS = 4
BURST = 25
PAUSE_SECONDS = 0.06
TRUTH = Path(sys.argv[2])


def write(**numbers):
    with TRUTH.open("a") as truth:
        truth.write(json.dumps(numbers) + "\n")


def forward(seconds):
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        time.sleep(0.0005)


def seconds_of(number):
    return 0.006 + 0.002 * (number % 3)


def tell(word):
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def wait_for_go():
    tell("ready")
    sys.stdin.readline()


def stay():
    tell("done")
    sys.stdin.readline()


class Requests:
    def __init__(self, number):
        self.requests = list(range(1 + number % 4))
        self.max_length = 100 + number


class TextService:
    """Like TGI's shard: remote calls are coroutines that compute without awaiting."""

    async def Prefill(self, request):
        start = time.time_ns()
        batch = Requests(request)
        tokens = 10 * request
        self.generate(batch, request, start)
        write(number=request, requests=len(batch.requests), tokens=tokens, prefill=1)
        return tokens

    async def Decode(self, request):
        start = time.time_ns()
        batch = Requests(request)
        tokens = len(batch.requests)
        self.generate(batch, request, start)
        write(number=request, requests=len(batch.requests), tokens=tokens, prefill=0)
        return tokens

    def generate(self, batch, number, start):
        forward(seconds_of(number))
        return batch, start


async def serve_inner(service):
    for number in range(1, BURSTS * BURST + 1):
        await asyncio.create_task((service.Decode if number % 5 else service.Prefill)(number))
        await asyncio.sleep(PAUSE_SECONDS if number % BURST == 0 else 0.001 * (number % 3))


def serve():
    wait_for_go()
    asyncio.run(serve_inner(TextService()))
    stay()


class WorkerBase:
    """Like a worker of vLLM's V0 engine."""

    def execute_model(self, number):
        start_time = time.perf_counter()
        model_input = Requests(number)
        forward(seconds_of(number))
        return model_input, time.perf_counter() - start_time


class LLMEngine:
    def __init__(self):
        self.worker = WorkerBase()
        self.number = 0

    def step(self):
        self.number += 1
        forward(0.001)
        model_input, _ = self.worker.execute_model(self.number)
        write(number=self.number, requests=len(model_input.requests))

    def run_engine_loop(self):
        wait_for_go()
        for number in range(1, BURSTS * BURST + 1):
            self.step()
            if number % BURST == 0:
                time.sleep(PAUSE_SECONDS)
        stay()


class Inputs:
    def __init__(self, number):
        self.is_decoding = number % 5 != 0
        self.max_q_seqlen = 1 if self.is_decoding else number
        self.number = number


class ModelAgent:
    """Like LMDeploy's agent: one iteration is one coroutine that awaits in between."""

    async def _async_step(self, inputs):
        for _ in range(3):
            forward(0.002)
            await asyncio.sleep(0.001)
        write(number=inputs.number, decode=int(inputs.is_decoding), longest=inputs.max_q_seqlen)

    async def _async_loop_background(self):
        following = Inputs(1)
        for number in range(1, BURSTS * BURST + 1):
            inputs, following = following, Inputs(number + 1)
            await self._async_step(inputs)
            if number % BURST == 0:
                await asyncio.sleep(PAUSE_SECONDS)


def run_agent():
    wait_for_go()
    asyncio.run(ModelAgent()._async_loop_background())
    stay()


class SchedulerOutput:
    def __init__(self, number):
        self.number = number
        self.num_scheduled_tokens = dict.fromkeys(range(1 + number % 3), 1 + number)


class QueueScheduler:
    def __init__(self):
        self.current_step = 0
        self.waiting = 0

    def schedule(self):
        self.current_step += 1
        self.waiting -= 1
        forward(0.001)
        output = SchedulerOutput(self.current_step)
        tokens = output.num_scheduled_tokens
        write(number=output.number, requests=len(tokens), tokens=sum(tokens.values()))
        return output


class Future:
    """Done when a device of its own, which takes one batch after the other, is through."""

    free_at = 0.0

    def __init__(self, seconds):
        Future.free_at = max(Future.free_at, time.perf_counter()) + seconds
        self.done_at = Future.free_at

    def result(self):
        while time.perf_counter() < self.done_at:
            time.sleep(0.0005)


class EngineCore:
    """Like vLLM's overlapped step: it returns once a batch is launched."""

    def __init__(self):
        self.scheduler = QueueScheduler()
        self.batch_queue = deque(maxlen=2)

    def step_with_batch_queue(self):
        batch_queue = self.batch_queue
        if self.scheduler.waiting:
            scheduler_output = self.scheduler.schedule()
            future = Future(seconds_of(scheduler_output.number))
            batch_queue.appendleft((future, scheduler_output))
            if len(batch_queue) < 2:
                return None
        elif not batch_queue:
            return None
        future, scheduler_output = batch_queue.pop()
        future.result()
        return scheduler_output.number

    def run_busy_loop(self):
        wait_for_go()
        for _ in range(BURSTS):
            self.scheduler.waiting = BURST
            while self.scheduler.waiting or self.batch_queue:
                self.step_with_batch_queue()
                # The core looks after its sockets between two steps.
                forward(0.002)
            time.sleep(PAUSE_SECONDS)
        stay()


class ForwardMode(enum.IntEnum):
    EXTEND = enum.auto()
    DECODE = enum.auto()
    MIXED = enum.auto()


class ScheduleBatch:
    def __init__(self):
        self.reqs = []
        self.forward_mode = ForwardMode.EXTEND
        self.extend_num_tokens = None
        self.number = 0


class EventLoop:
    """Like SGLang's scheduler: one batch object for all decodes, and a loop that is never left."""

    def __init__(self):
        self.forward_ct = 0
        self.last_batch = None
        self.running_batch = ScheduleBatch()
        self.waiting = 0

    def get_next_batch_to_run(self):
        if not self.waiting:
            return None
        self.waiting -= 1
        number = self.forward_ct + 1
        batch = self.running_batch if number % 5 else ScheduleBatch()
        batch.number = number
        batch.forward_mode = ForwardMode.DECODE if number % 5 else ForwardMode.EXTEND
        batch.reqs = list(range(1 + number % 4))
        batch.extend_num_tokens = None if number % 5 else 7 * number
        return batch

    def run_batch(self, batch):
        self.forward_ct += 1
        write(
            number=batch.number,
            mode=int(batch.forward_mode == ForwardMode.EXTEND),
            requests=len(batch.reqs),
            extend=batch.extend_num_tokens,
        )
        forward(seconds_of(self.forward_ct))

    def event_loop(self):
        wait_for_go()
        bursts = 0
        idle_until = 0.0
        while bursts < BURSTS or self.waiting or self.last_batch:
            if not self.waiting and not self.last_batch and time.perf_counter() >= idle_until:
                self.waiting = BURST
                bursts += 1
            batch = self.get_next_batch_to_run()
            if batch:
                self.run_batch(batch)
            else:
                idle_until = idle_until if self.last_batch is None else time.perf_counter() + 0.06
                time.sleep(0.001)
            self.last_batch = batch
        stay()


def main():
    kinds = {
        "tgi": serve,
        "v0": lambda: LLMEngine().run_engine_loop(),
        "lmdeploy": run_agent,
        "overlap": lambda: EngineCore().run_busy_loop(),
        "sglang": lambda: EventLoop().event_loop(),
    }
    kinds[sys.argv[1]]()


main()
