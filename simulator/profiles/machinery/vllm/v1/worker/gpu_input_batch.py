"""The batch that model runner V1 keeps from step to step, as far as an observer may read it."""

from __future__ import annotations

from collections.abc import Iterable

from simulator.profiles.machinery.settings import add_settings


class InputBatch:
    """The requests of the step that was prepared last, and the adapters among them."""

    def __init__(self) -> None:
        add_settings(self)
        self.lora_id_to_request_ids: dict[int, set[str]] = {}
        self.request_lora_mapping: dict[str, int] = {}

    def update(self, req_ids: Iterable[str]) -> None:
        """Let go of what this step has no more, then take in what the last one had not."""
        scheduled = dict.fromkeys(req_ids)
        for req_id in [one for one in self.request_lora_mapping if one not in scheduled]:
            self.remove_request(req_id)
        for req_id in scheduled:
            if req_id not in self.request_lora_mapping:
                # Each request asks for an adapter of its own.
                self.add_request(req_id, int(req_id.rpartition("-")[2]))

    def add_request(self, req_id: str, lora_id: int) -> None:
        """Take in a request that asks for an adapter."""
        if lora_id not in self.lora_id_to_request_ids:
            self.lora_id_to_request_ids[lora_id] = set()
        self.request_lora_mapping[req_id] = lora_id
        self.lora_id_to_request_ids[lora_id].add(req_id)

    def remove_request(self, req_id: str) -> None:
        """Let go of one, and of its adapter with the last that asks for it."""
        lora_id = self.request_lora_mapping.pop(req_id)
        lora_req_ids = self.lora_id_to_request_ids[lora_id]
        lora_req_ids.discard(req_id)
        if not lora_req_ids:
            del self.lora_id_to_request_ids[lora_id]
