"""The tokens on their way from the device."""

from __future__ import annotations

from simulator.profiles.machinery.torch.cuda.streams import Event


class AsyncOutput:
    """The tokens of one batch."""

    def __init__(self, req_ids: list[str], copy_event: Event) -> None:
        self.req_ids = req_ids
        self.copy_event = copy_event

    def get_output(self) -> list[str]:
        """Wait until they have arrived."""
        self.copy_event.synchronize()
        return self.req_ids
