"""The server: a coroutine per call; `start` is a new integer in each."""

from __future__ import annotations

import asyncio
import pickle
import socket
import time
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.recorder import Recorder
from simulator.profiles.tgi_3_3.router import HEADER
from simulator.profiles.tgi_3_3.text_generation_server.models.flash_causal_lm import (
    FlashCausalLM,
    FlashCausalLMBatch,
)


class Cache:
    """The batches between two calls."""

    def __init__(self) -> None:
        self.cache: dict[int, FlashCausalLMBatch] = {}

    def pop(self, batch_id: int) -> FlashCausalLMBatch:
        """Take one out."""
        return self.cache.pop(batch_id)

    def set(self, entry: FlashCausalLMBatch | None) -> None:
        """Put one in."""
        if entry is not None:
            self.cache[entry.batch_id] = entry


class TextGenerationService:
    """What the router calls."""

    def __init__(self, model: FlashCausalLM, cache: Cache, truth: Recorder) -> None:
        self.cache = cache
        self.model = model
        self.quantize = None
        self._truth = truth
        self._calls = 0

    async def Prefill(self, request: Any, context: Any) -> int:
        """Read the prompts of new requests."""
        start = time.time_ns()
        self.begin(request)
        batch = FlashCausalLMBatch.from_pb(request)
        generations, next_batch, timings = self.model.generate_token(batch)
        self.cache.set(next_batch)
        assert context is None
        assert timings
        request.end_ns = time.monotonic_ns()
        return len(generations) + (time.time_ns() - start)

    async def Decode(self, request: Any, context: Any) -> int:
        """Give each request one token."""
        start = time.time_ns()
        self.begin(request)
        batches = [self.cache.pop(batch_id) for batch_id in list(self.cache.cache)]
        batch = joined(batches, request)
        generations, next_batch, timings = self.model.generate_token(batch)
        self.cache.set(next_batch)
        assert context is None
        assert timings
        request.end_ns = time.monotonic_ns()
        return len(generations) + (time.time_ns() - start)

    def begin(self, plan: Any) -> None:
        """Note the truth of a call."""
        self._calls += 1
        plan.sequence, plan.begin_ns = self._calls, time.monotonic_ns()
        self._truth.begun.append(plan)


def joined(batches: list[FlashCausalLMBatch], plan: Any) -> FlashCausalLMBatch:
    """Make the batch of a decode; the router filters it by a call of its own, before."""
    batch = FlashCausalLMBatch.concatenate(batches) if len(batches) > 1 else batches[0]
    batch.filter(plan)
    return batch


def serve(host: Host, connection: socket.socket) -> None:
    """Live as a shard."""

    async def serve_inner() -> None:
        model = FlashCausalLM(host)
        service = TextGenerationService(model, Cache(), host.recorder())
        reader, writer = await asyncio.open_connection(sock=connection)
        host.ready("core")
        while True:
            size = HEADER.unpack(await reader.readexactly(HEADER.size))[0]
            method, plan = pickle.loads(await reader.readexactly(size))
            # A task per call, as gRPC makes one.
            answer = await asyncio.ensure_future(getattr(service, method)(plan, None))
            data = pickle.dumps(answer)
            writer.write(HEADER.pack(len(data)) + data)
            await writer.drain()

    asyncio.run(serve_inner())
