"""The API server's account of each request: what came back, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from simulator.replica.vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest, RequestTimes


@dataclass(slots=True)
class RequestOutput:
    """The next tokens of a request, for the handler that waits for them."""

    num_new_tokens: int
    finish_reason: str | None


@dataclass(slots=True)
class RequestState:
    """A request between its arrival and its last token."""

    num_prompt_tokens: int
    arrived_at_seconds: float
    queue: asyncio.Queue[RequestOutput | Exception]
    num_output_tokens: int = 0
    last_token_at_seconds: float = 0.0


@dataclass(slots=True)
class FinishedRequest:
    """The latencies of a request that got all its tokens."""

    finish_reason: str
    e2e_seconds: float
    times: RequestTimes
    num_output_tokens: int
    num_prompt_tokens: int


@dataclass(slots=True)
class IterationStats:
    """What one iteration meant to the clients."""

    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    times_to_first_token_seconds: list[float] = field(default_factory=list)
    inter_token_latencies_seconds: list[float] = field(default_factory=list)
    finished: list[FinishedRequest] = field(default_factory=list)


class OutputProcessor:
    """Give the outputs of an iteration to the handlers of its requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.request_states: dict[str, RequestState] = {}

    def add_request(self, request: EngineCoreRequest) -> RequestState:
        """Open the account of a request."""
        state = RequestState(
            num_prompt_tokens=len(request.prompt_token_ids),
            arrived_at_seconds=self._clock(),
            queue=asyncio.Queue(),
        )
        self.request_states[request.request_id] = state
        return state

    def process_outputs(self, engine_core_outputs: EngineCoreOutputs) -> IterationStats:
        """Account for one iteration and wake the handlers."""
        now_seconds = self._clock()
        stats = IterationStats()
        for output in engine_core_outputs.outputs:
            state = self.request_states.get(output.request_id)
            if state is None:
                continue
            num_new_tokens = len(output.new_token_ids)
            stats.num_generation_tokens += num_new_tokens
            if state.num_output_tokens == 0:
                stats.num_prompt_tokens += state.num_prompt_tokens
                stats.times_to_first_token_seconds.append(now_seconds - state.arrived_at_seconds)
            else:
                stats.inter_token_latencies_seconds.append(
                    now_seconds - state.last_token_at_seconds
                )
            state.num_output_tokens += num_new_tokens
            state.last_token_at_seconds = now_seconds
            if output.finish_reason is not None and output.times is not None:
                del self.request_states[output.request_id]
                stats.finished.append(
                    FinishedRequest(
                        finish_reason=output.finish_reason,
                        e2e_seconds=now_seconds - state.arrived_at_seconds,
                        times=output.times,
                        num_output_tokens=state.num_output_tokens,
                        num_prompt_tokens=state.num_prompt_tokens,
                    )
                )
            state.queue.put_nowait(RequestOutput(num_new_tokens, output.finish_reason))
        return stats

    def abort_request(self, request_id: str) -> bool:
        """Close the account of a request; say whether it was open."""
        return self.request_states.pop(request_id, None) is not None

    def propagate_error(self, error: Exception) -> None:
        """Tell every handler that nothing more will come."""
        for state in self.request_states.values():
            state.queue.put_nowait(error)
        self.request_states.clear()
