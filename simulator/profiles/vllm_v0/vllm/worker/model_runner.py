"""The V0 model runner."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_v0.vllm.model_executor.layers.sampler import Sampler


class AttentionMetadata:
    """Sizes of the batch."""

    def __init__(self, execute_model_req: Any) -> None:
        self.num_prefills = execute_model_req.num_prefills
        self.num_prefill_tokens = execute_model_req.num_prefill_tokens
        self.num_decode_tokens = execute_model_req.num_decode_tokens
        self.seq_lens = execute_model_req.seq_lens


class ModelInput:
    """What the model gets."""

    def __init__(self, execute_model_req: Any) -> None:
        self.attn_metadata = AttentionMetadata(execute_model_req)
        self.seq_lens = execute_model_req.seq_lens


class ModelRunner:
    """Run batches on the pretended device."""

    def __init__(self, host: Host) -> None:
        self.model = host.stream()
        self.sampler = Sampler()

    def prepare_model_input(self, execute_model_req: Any) -> ModelInput:
        """Make the input."""
        return ModelInput(execute_model_req)

    def execute_model(self, model_input: ModelInput, num_steps: int) -> Any:
        """Forward and sample."""
        assert num_steps == 1
        prefill_meta = model_input.attn_metadata
        graph_batch_size = len(model_input.seq_lens)
        self.model.launch(prefill_meta.num_prefill_tokens).synchronize()
        return self.sampler.forward(graph_batch_size)
