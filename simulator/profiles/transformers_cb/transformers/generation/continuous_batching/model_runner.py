"""The runner of the model."""

from __future__ import annotations

from simulator.profiles.machinery.torch.cuda.streams import Stream


class ModelRunner:
    """Compute batches on the pretended device."""

    def compute_batch(self, model: Stream, batch_data: int) -> None:
        """Forward and sample."""
        self._forward_process_and_sample(model, batch_data)

    def _forward_process_and_sample(self, model: Stream, batch_data: int) -> None:
        model.launch(batch_data).synchronize()
