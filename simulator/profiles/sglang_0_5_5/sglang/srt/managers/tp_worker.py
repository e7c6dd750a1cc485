"""The worker of a rank, in the scheduler's thread."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.torch.cuda.streams import Event
from simulator.profiles.sglang_0_5_5.sglang.srt.model_executor.model_runner import ModelRunner


class GenerationBatchResult:
    """The results of a batch, once the device is done."""

    def __init__(self, copy_done: Event) -> None:
        self.copy_done = copy_done
        self.delay_sample_func = None


class TpModelWorker:
    """Launch batches."""

    def __init__(self, host: Host) -> None:
        self.model_runner = ModelRunner(host)

    def forward_batch_generation(self, batch: Any, bs: int) -> GenerationBatchResult:
        """Launch one."""
        copy_done = self.model_runner.forward(batch)
        assert bs == len(batch.reqs)
        return GenerationBatchResult(copy_done)
