"""What the worker answers for one batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ModelRunnerOutput:
    """One list of new tokens per request, empty while its prompt is not yet all computed."""

    req_ids: list[str]
    sampled_token_ids: list[list[int]]
