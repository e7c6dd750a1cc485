"""The engine core's process, as all versions of the V1 engine have it; `step` differs."""

from __future__ import annotations

import queue
import time
from typing import Any, NoReturn

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.traffic import Plan
from simulator.profiles.machinery.vllm.v1.core.sched.output import SchedulerOutput
from simulator.profiles.machinery.vllm.v1.core.sched.scheduler import Scheduler


class EngineCore:
    """The inner loop; a version says what a step is."""

    batch_queue: Any = None
    num_spec_tokens = 0

    def __init__(self, host: Host, executor: Any, *, with_current_step: bool = True) -> None:
        add_settings(self, 20)
        self.scheduler = Scheduler(
            host, with_current_step=with_current_step, num_spec_tokens=self.num_spec_tokens
        )
        self.model_executor = executor

    def step(self) -> tuple[Any, bool]:
        """Run one iteration."""
        raise NotImplementedError

    def step_fn(self) -> tuple[Any, bool]:
        """Call what this version calls a step."""
        return self.step()

    def end_of(self, scheduler_output: SchedulerOutput) -> None:
        """Stamp the end of an iteration."""
        plan: Plan | None = scheduler_output.plan
        assert plan is not None
        plan.end_ns = time.monotonic_ns()


class EngineCoreProc(EngineCore):
    """The engine core in a process of its own."""

    def __init__(self, host: Host, executor: Any, *, with_current_step: bool = True) -> None:
        super().__init__(host, executor, with_current_step=with_current_step)
        self.input_queue: queue.Queue[Any] = queue.Queue()
        self._traffic = host.traffic(self.input_queue.put_nowait, "process_input_sockets")
        self._traffic.start()
        host.ready("core")

    def run_busy_loop(self) -> NoReturn:
        """Wait for work, run one iteration, and again."""
        while True:
            self._process_input_queue()
            self._process_engine_step()

    def _process_input_queue(self) -> None:
        while not self.has_work():
            self._handle_client_request(self.input_queue.get())
        while not self.input_queue.empty():
            self._handle_client_request(self.input_queue.get_nowait())

    def has_work(self) -> bool:
        """Say whether a request is unfinished or a batch is in flight."""
        return self.scheduler.has_requests() or bool(self.batch_queue)

    def _handle_client_request(self, requests: list[Any]) -> None:
        for request in requests:
            self.scheduler.add_request(request)

    def _process_engine_step(self) -> bool:
        outputs, model_executed = self.step_fn()
        if outputs:
            self._traffic.finished += outputs
        return model_executed
