"""The engine as the API server's handlers see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from simulator.replica.config import ReplicaConfig
from simulator.replica.disturbances import Disturbances
from simulator.replica.vllm.v1.engine import EngineCoreReady, EngineCoreRequest
from simulator.replica.vllm.v1.engine.core_client import AsyncMPClient, EngineDeadError
from simulator.replica.vllm.v1.engine.output_processor import (
    OutputProcessor,
    RequestOutput,
    RequestState,
)
from simulator.replica.vllm.v1.metrics.loggers import PrometheusStatLogger


class AsyncLLM:
    """Add requests to the engine core and pass its outputs on."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.config = config
        self.engine_core = AsyncMPClient(config)
        self.output_processor = OutputProcessor()
        self.logger_manager = PrometheusStatLogger(config)
        self.died = asyncio.Event()
        self.death_reason = ""
        self._output_handler: asyncio.Task[None] | None = None

    async def start(self) -> EngineCoreReady:
        """Wait until the engine core can serve, then begin to listen to it."""
        ready = await self.engine_core.wait_until_ready()
        self._run_output_handler()
        return ready

    def _run_output_handler(self) -> None:
        engine_core = self.engine_core
        output_processor = self.output_processor
        logger_manager = self.logger_manager

        async def output_handler() -> None:
            while True:
                try:
                    outputs = await engine_core.get_output_async()
                except EngineDeadError as err:
                    output_processor.propagate_error(err)
                    self.death_reason = str(err)
                    self.died.set()
                    return
                iteration_stats = output_processor.process_outputs(outputs)
                logger_manager.record(outputs, iteration_stats)

        self._output_handler = asyncio.create_task(output_handler(), name="output_handler")

    def add_request(self, request: EngineCoreRequest) -> RequestState:
        """Send a request on its way."""
        state = self.output_processor.add_request(request)
        try:
            self.engine_core.add_request(request)
        except EngineDeadError:
            self.output_processor.abort_request(request.request_id)
            raise
        return state

    async def generate(self, request: EngineCoreRequest) -> AsyncGenerator[RequestOutput]:
        """Yield the tokens of a request as they come; leaving early aborts it."""
        state = self.add_request(request)
        try:
            while True:
                output = await state.queue.get()
                if isinstance(output, Exception):
                    raise output
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            if self.output_processor.abort_request(request.request_id):
                self.engine_core.abort_requests([request.request_id])
                self.logger_manager.record_abort()

    async def set_clock_ratio(self, ratio: float) -> float:
        """Slow the worker's model to this fraction of its full speed."""
        result: float = await self.engine_core.call_utility("set_clock_ratio", ratio)
        return result

    async def get_clock_ratio(self) -> float:
        """Say at which fraction of its full speed the worker's model runs."""
        result: float = await self.engine_core.call_utility("get_clock_ratio")
        return result

    async def change_disturbances(self, changes: dict[str, float]) -> Disturbances:
        """Turn some knobs of the engine core and its worker; give all of them."""
        result: Disturbances = await self.engine_core.call_utility("change_disturbances", changes)
        return result

    async def get_disturbances(self) -> Disturbances:
        """Give the knobs as they are."""
        result: Disturbances = await self.engine_core.call_utility("get_disturbances")
        return result

    async def shutdown(self) -> None:
        """End the engine core and everything that waits for it."""
        if self._output_handler is not None:
            self._output_handler.cancel()
        self.output_processor.propagate_error(EngineDeadError("the replica shuts down"))
        await self.engine_core.shutdown()
