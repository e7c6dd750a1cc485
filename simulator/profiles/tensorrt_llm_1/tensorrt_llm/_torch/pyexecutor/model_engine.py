"""The model engine: it launches, and notes the sizes of the batch."""

from __future__ import annotations

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.torch.cuda.streams import Event
from simulator.profiles.tensorrt_llm_1.tensorrt_llm._torch.pyexecutor.scheduler import (
    ScheduledRequests,
)


class PyTorchModelEngine:
    """Launch batches on the pretended device."""

    def __init__(self, host: Host) -> None:
        self.stream = host.stream()
        self.iter_counter = 0
        self.iter_states = {"num_ctx_requests": 0, "num_ctx_tokens": 0, "num_generation_tokens": 0}

    def forward(self, scheduled_requests: ScheduledRequests) -> Event:
        """Launch one."""
        num_ctx_tokens = self._prepare_tp_inputs(scheduled_requests)
        self.stream.spend_launch()
        return self.stream.launch(num_ctx_tokens)

    def _prepare_tp_inputs(self, scheduled_requests: ScheduledRequests) -> int:
        num_ctx_requests = len(scheduled_requests.context_requests)
        num_ctx_tokens = 0
        for request in scheduled_requests.context_requests:
            num_ctx_tokens += request.context_chunk_size
        num_generation_tokens = len(scheduled_requests.generation_requests)
        total_num_tokens = num_ctx_tokens + num_generation_tokens
        assert total_num_tokens
        self.iter_states["num_ctx_requests"] = num_ctx_requests
        self.iter_states["num_ctx_tokens"] = num_ctx_tokens
        self.iter_states["num_generation_tokens"] = num_generation_tokens
        return num_ctx_tokens
