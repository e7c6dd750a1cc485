"""The model runner."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.torch.cuda.streams import Event


class ModelRunner:
    """Launch forward passes on the pretended device."""

    def __init__(self, host: Host) -> None:
        self.forward_stream = host.stream()

    def forward(self, forward_batch: Any) -> Event:
        """Launch one."""
        extend = forward_batch.forward_mode.is_extend()
        return self.forward_stream.launch(forward_batch.extend_num_tokens if extend else 0)
