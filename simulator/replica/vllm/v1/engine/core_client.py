"""The API server's end of the connection to the engine core."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
from typing import Any

from simulator.replica.config import ReplicaConfig
from simulator.replica.vllm.v1.engine import (
    EngineCoreDead,
    EngineCoreOutputs,
    EngineCoreReady,
    EngineCoreRequest,
)
from simulator.replica.vllm.v1.engine import core as engine_core


class EngineDeadError(Exception):
    """The engine core ended; nothing more will be answered."""


class AsyncMPClient:
    """Start the engine core process and talk to it without blocking the event loop."""

    def __init__(self, config: ReplicaConfig) -> None:
        context = multiprocessing.get_context("spawn")
        request_reader, self._request_writer = context.Pipe(duplex=False)
        self._output_reader, output_writer = context.Pipe(duplex=False)
        self.process = context.Process(
            target=engine_core.EngineCoreProc.run_engine_core,
            args=(config, request_reader, output_writer, os.getpid()),
            name="VLLM::EngineCore",
        )
        self.process.start()
        request_reader.close()
        output_writer.close()
        self._messages: asyncio.Queue[object] = asyncio.Queue()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._next_call_id = 0
        self._is_dead = False
        asyncio.get_running_loop().add_reader(self._output_reader.fileno(), self._read_message)

    def _read_message(self) -> None:
        try:
            message: object = self._output_reader.recv()
        except (EOFError, OSError):
            message = EngineCoreDead("the engine core ended")
        if isinstance(message, EngineCoreDead):
            self._is_dead = True
            asyncio.get_running_loop().remove_reader(self._output_reader.fileno())
            for pending in self._calls.values():
                if not pending.done():
                    pending.set_exception(EngineDeadError(message.reason))
        elif isinstance(message, EngineCoreOutputs) and message.utility_call_id is not None:
            call = self._calls.get(message.utility_call_id)
            if call is not None and not call.done():
                call.set_result(message.utility_result)
            return
        self._messages.put_nowait(message)

    async def wait_until_ready(self, timeout_seconds: float = 90.0) -> EngineCoreReady:
        """Wait for the engine core's first message."""
        async with asyncio.timeout(timeout_seconds):
            message = await self._messages.get()
        if isinstance(message, EngineCoreReady):
            return message
        reason = message.reason if isinstance(message, EngineCoreDead) else repr(message)
        raise EngineDeadError(reason)

    async def get_output_async(self) -> EngineCoreOutputs:
        """Wait for the outputs of the next iteration."""
        message = await self._messages.get()
        if isinstance(message, EngineCoreOutputs):
            return message
        reason = message.reason if isinstance(message, EngineCoreDead) else repr(message)
        raise EngineDeadError(reason)

    def add_request(self, request: EngineCoreRequest) -> None:
        """Hand a request to the engine core."""
        self._send(engine_core.ADD, request)

    def abort_requests(self, request_ids: list[str]) -> None:
        """Tell the engine core that nobody waits for these any more."""
        with contextlib.suppress(EngineDeadError):
            self._send(engine_core.ABORT, request_ids)

    async def call_utility(self, method: str, *args: object) -> Any:
        """Call a method of the engine core between two iterations."""
        call_id = self._next_call_id
        self._next_call_id += 1
        call = self._calls[call_id] = asyncio.get_running_loop().create_future()
        try:
            self._send(engine_core.UTILITY, (call_id, method, args))
            return await call
        finally:
            del self._calls[call_id]

    def _send(self, kind: str, data: object) -> None:
        if self._is_dead:
            raise EngineDeadError("the engine core ended")
        try:
            self._request_writer.send((kind, data))
        except OSError as err:
            raise EngineDeadError("the engine core ended") from err

    async def shutdown(self, grace_seconds: float = 1.0) -> None:
        """End the engine core: ask, then signal, then kill."""
        with contextlib.suppress(EngineDeadError):
            self._send(engine_core.SHUTDOWN, None)
        if not self._is_dead:
            asyncio.get_running_loop().remove_reader(self._output_reader.fileno())
        self._request_writer.close()
        # Closed here, not later: a core that blocks on a full pipe must wake up.
        self._output_reader.close()
        await asyncio.to_thread(self.process.join, grace_seconds)
        if self.process.is_alive():
            self.process.kill()
            await asyncio.to_thread(self.process.join, grace_seconds)
