"""The engine core turns requests into batches and batches into tokens, one iteration at a time."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NoReturn

from setproctitle import setproctitle

from simulator.replica.config import ReplicaConfig
from simulator.replica.disturbances import CoreDisturbances, Disturbances
from simulator.replica.lifeline import die_with_parent
from simulator.replica.truth import TruthIteration, TruthWriter
from simulator.replica.vllm.v1.core.sched.output import SchedulerOutput
from simulator.replica.vllm.v1.core.sched.scheduler import Scheduler
from simulator.replica.vllm.v1.engine import (
    EngineCoreDead,
    EngineCoreOutputs,
    EngineCoreReady,
    EngineCoreRequest,
)
from simulator.replica.vllm.v1.executor.multiproc_executor import MultiprocExecutor
from simulator.replica.vllm.v1.request import Request

# Messages from the API server are pairs of a kind and its data.
ADD = "add"
ABORT = "abort"
UTILITY = "utility"
SHUTDOWN = "shutdown"

ClientRequest = tuple[str, Any]


class EngineCore:
    """The inner loop: schedule, execute, sample, update."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.config = config
        self.truth = None if config.truth is None else TruthWriter(config.truth)
        self.scheduler = Scheduler(config)
        self.model_executor = MultiprocExecutor(config)
        self.aborts_queue: queue.Queue[list[str]] = queue.Queue()
        self.disturbances = CoreDisturbances()
        self.step_fn = self.step

    def step(self) -> tuple[EngineCoreOutputs | None, bool]:
        """Run one iteration; never one without tokens."""
        if not self.scheduler.has_unfinished_requests():
            return None, False
        begin_monotonic_ns = time.monotonic_ns()
        scheduler_output = self.scheduler.schedule()
        future = self.model_executor.execute_model(scheduler_output)
        model_output = future.result()
        if model_output is None:
            model_output = self.model_executor.sample_tokens()
        # Aborts that came meanwhile: their tokens are not wanted any more.
        self._process_aborts_queue()
        outputs = self.scheduler.update_from_output(scheduler_output, model_output)
        if self.truth is not None:
            self._record_truth(self.truth, scheduler_output, begin_monotonic_ns)
        engine_core_outputs = EngineCoreOutputs(
            outputs=outputs,
            scheduler_stats=self.scheduler.make_stats(scheduler_output),
            iteration_ran=True,
        )
        return engine_core_outputs, scheduler_output.total_num_scheduled_tokens > 0

    def _record_truth(
        self, truth: TruthWriter, scheduler_output: SchedulerOutput, begin_monotonic_ns: int
    ) -> None:
        end_monotonic_ns = time.monotonic_ns()
        query_lengths = scheduler_output.num_scheduled_tokens.values()
        truth.append(
            TruthIteration(
                sequence=self.scheduler.current_step,
                begin_monotonic_ns=begin_monotonic_ns,
                end_monotonic_ns=end_monotonic_ns,
                requests=len(query_lengths),
                scheduled_tokens=scheduler_output.total_num_scheduled_tokens,
                prefill_tokens=sum(length for length in query_lengths if length > 1),
                decode_requests=sum(length == 1 for length in query_lengths),
                kv_tokens=self.scheduler.last_kv_tokens,
                waiting_requests=self.scheduler.last_waiting_requests,
            )
        )

    def _process_aborts_queue(self) -> None:
        while not self.aborts_queue.empty():
            self.scheduler.finish_requests(self.aborts_queue.get_nowait())

    def add_request(self, core_request: EngineCoreRequest) -> None:
        """Queue a request."""
        self.scheduler.add_request(Request(core_request, queued_at_seconds=time.monotonic()))

    def abort_requests(self, request_ids: list[str]) -> None:
        """Forget requests whose clients have gone."""
        self.scheduler.finish_requests(request_ids)

    def set_clock_ratio(self, ratio: float) -> float:
        """Slow the worker's model to this fraction of its full speed."""
        result: float = self.model_executor.collective_rpc(
            "set_clock_ratio", args=(ratio,)
        ).result()
        return result

    def get_clock_ratio(self) -> float:
        """Say at which fraction of its full speed the worker's model runs."""
        result: float = self.model_executor.collective_rpc("get_clock_ratio").result()
        return result

    def change_disturbances(self, changes: dict[str, float]) -> Disturbances:
        """Turn some knobs, here and in the worker; give all of them."""
        knobs = self.disturbances.change(changes)
        self.model_executor.collective_rpc(
            "disturb", args=(knobs.compile_pause_ms, knobs.worker_delay_ms)
        ).result()
        return knobs

    def get_disturbances(self) -> Disturbances:
        """Give the knobs as they are."""
        return self.disturbances.knobs

    def shutdown(self) -> None:
        """End the worker and write out the truth."""
        if self.truth is not None:
            self.truth.close()
        self.model_executor.shutdown()


class EngineCoreProc(EngineCore):
    """The engine core in a process of its own, with a thread per direction of its socket."""

    def __init__(
        self, config: ReplicaConfig, request_reader: Connection, output_writer: Connection
    ) -> None:
        super().__init__(config)
        self.input_queue: queue.Queue[ClientRequest] = queue.Queue()
        self.output_queue: queue.Queue[object] = queue.Queue()
        self.shutdown_requested = False
        self.input_thread = threading.Thread(
            target=self.process_input_sockets,
            args=(request_reader,),
            name="process_input_sockets",
            daemon=True,
        )
        self.output_thread = threading.Thread(
            target=self.process_output_sockets,
            args=(output_writer,),
            name="process_output_sockets",
            daemon=True,
        )
        self.input_thread.start()
        self.output_thread.start()
        self.output_queue.put_nowait(
            EngineCoreReady(core_pid=os.getpid(), worker_pid=self.model_executor.worker_pid)
        )

    @staticmethod
    def run_engine_core(
        config: ReplicaConfig,
        request_reader: Connection,
        output_writer: Connection,
        api_pid: int,
    ) -> None:
        """Live as the engine core process until the API server closes the connection."""
        # SIGTERM, not SIGKILL: the last second of the truth file is still in memory.
        signal.signal(signal.SIGTERM, _exit_on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(api_pid, signal.SIGTERM)
        setproctitle("VLLM::EngineCore")
        engine_core: EngineCoreProc | None = None
        try:
            engine_core = EngineCoreProc(config, request_reader, output_writer)
            # A collection of what lives as long as the process would only delay a batch.
            gc.collect()
            gc.freeze()
            engine_core.run_busy_loop()
        except SystemExit:
            pass
        except Exception as err:
            if engine_core is None:
                # Could not start: the message says what to do, a traceback would hide it.
                output_writer.send(EngineCoreDead(str(err)))
            else:
                traceback.print_exc()
                engine_core.output_queue.put_nowait(EngineCoreDead(f"{type(err).__name__}: {err}"))
                engine_core.output_queue.put_nowait(None)
                engine_core.output_thread.join(1.0)
        finally:
            if engine_core is not None:
                engine_core.shutdown()

    def run_busy_loop(self) -> NoReturn:
        """Wait for work, run one iteration, and again."""
        while self._handle_shutdown():
            self._process_input_queue()
            self._process_engine_step()
        raise SystemExit

    def _handle_shutdown(self) -> bool:
        return not self.shutdown_requested

    def has_work(self) -> bool:
        """Say whether an iteration would find tokens to compute."""
        return self.scheduler.has_unfinished_requests()

    def _process_input_queue(self) -> None:
        while not self.has_work() and not self.shutdown_requested:
            if self.truth is not None:
                self.truth.flush()
            req = self.input_queue.get()
            self._handle_client_request(*req)
        while not self.input_queue.empty():
            req = self.input_queue.get_nowait()
            self._handle_client_request(*req)

    def _process_engine_step(self) -> bool:
        outputs, model_executed = self.step_fn()
        if outputs is not None:
            self.output_queue.put_nowait(outputs)
        return model_executed

    def _handle_client_request(self, kind: str, data: Any) -> None:
        if kind == ADD:
            self.add_request(data)
        elif kind == ABORT:
            self.abort_requests(data)
            # No iteration follows when these were the last: the gauges still have to fall.
            self.output_queue.put_nowait(
                EngineCoreOutputs(scheduler_stats=self.scheduler.make_stats(None))
            )
        elif kind == UTILITY:
            call_id, method, args = data
            self.output_queue.put_nowait(
                EngineCoreOutputs(
                    utility_call_id=call_id, utility_result=getattr(self, method)(*args)
                )
            )
        else:
            self.shutdown_requested = True

    def process_input_sockets(self, request_reader: Connection) -> None:
        """Take messages from the API server until it closes the connection."""
        kind: str
        data: Any
        while True:
            try:
                kind, data = request_reader.recv()
            except (EOFError, OSError):
                kind, data = SHUTDOWN, None
            if kind == ABORT:
                # In both queues: seen early by a running step, and in order by the loop.
                self.aborts_queue.put_nowait(data)
            self.input_queue.put_nowait((kind, data))
            if kind == SHUTDOWN:
                return

    def process_output_sockets(self, output_writer: Connection) -> None:
        """Send messages to the API server until there are no more."""
        while True:
            outputs = self.output_queue.get()
            if outputs is None:
                return
            try:
                output_writer.send(outputs)
            except OSError:
                # The API server is gone; the input thread sees it, too, and ends the loop.
                return


def _exit_on_signal(signal_number: int, frame: FrameType | None) -> NoReturn:
    del signal_number, frame
    raise SystemExit
