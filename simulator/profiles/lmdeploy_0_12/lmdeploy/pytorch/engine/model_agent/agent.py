"""The model agent: a coroutine per step, which leaves the stack at each await."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NoReturn

from simulator.profiles.lmdeploy_0_12.lmdeploy.pytorch.model_inputs import (
    ModelInputs,
    ModelInputsDelta,
)
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.torch.cuda.streams import Stream


def model_forward(stream: Stream, inputs: ModelInputs) -> int:
    """Compute a batch on the pretended device."""
    prefill_tokens = 0 if inputs.is_decoding else inputs.input_ids.size()
    stream.launch(prefill_tokens).synchronize()
    return inputs.seq_length.size()


class BaseModelAgent:
    """Run steps from a queue of inputs."""

    def __init__(self, host: Host) -> None:
        add_settings(self)
        self.rank = 0
        self.stream = host.stream()
        self._truth = host.recorder()
        self._steps = 0
        self.tasks: set[Any] = set()
        self.step_inputs: ModelInputs | None = None

    def start(self) -> None:
        """Start the task that runs the model."""
        self._in_que: asyncio.Queue[Any] = asyncio.Queue()
        self._out_que: asyncio.Queue[Any] = asyncio.Queue()
        self._background_task = asyncio.ensure_future(self._async_loop_background())
        self.tasks.add(self._background_task)

    def set_forward_inputs(self, inputs: dict[str, Any]) -> None:
        """Queue the inputs of a step."""
        self._in_que.put_nowait(inputs)

    async def get_output_async(self) -> Any:
        """Wait for the outputs of a step."""
        return await self._out_que.get()

    async def _async_loop_background(self) -> NoReturn:
        while True:
            forward_inputs = await self._in_que.get()
            await self._async_step(**forward_inputs)

    async def _async_step(
        self, inputs: ModelInputs | None, delta: ModelInputsDelta | None = None
    ) -> None:
        self._begin(inputs or delta)
        if inputs is None:
            assert delta is not None
            inputs = self._get_inputs_from_delta(delta)
        # Kept for the next step, whose inputs are made from these.
        self.step_inputs = inputs
        output = await self._async_model_forward(inputs)
        next_token_ids = await self.async_sampling_logits(output)
        inputs.plan.end_ns = time.monotonic_ns()
        self._out_que.put_nowait(next_token_ids)

    def _begin(self, inputs: Any) -> None:
        plan = inputs.plan
        self._steps += 1
        plan.sequence, plan.begin_ns = self._steps, time.monotonic_ns()
        self._truth.begun.append(plan)

    def _get_inputs_from_delta(self, delta: ModelInputsDelta) -> ModelInputs:
        return ModelInputs(delta.plan)

    async def _async_model_forward(self, inputs: ModelInputs) -> int:
        return await self.async_forward(inputs)

    async def async_forward(self, inputs: ModelInputs) -> int:
        """Compute, then let other tasks run."""
        output = self._forward_impl(inputs)
        await asyncio.sleep(0)
        return output

    def _forward_impl(self, inputs: ModelInputs) -> int:
        output = model_forward(self.stream, inputs)
        return output

    async def async_sampling_logits(self, logits: int) -> list[int]:
        """Choose the tokens."""
        await asyncio.sleep(0)
        return list(range(logits))
