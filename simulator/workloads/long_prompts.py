"""Prompts grow from short to very long while everything else stays the same."""

from simulator.workloads.base import Phase, clients

_LONGEST_PROMPT_TOKENS = (128, 256, 512, 1_024, 1_536, 2_048)


def phases(duration_seconds: float, scale: float) -> tuple[Phase, ...]:
    """Let each phase ask with longer prompts than the one before."""
    return tuple(
        Phase(
            duration_seconds=duration_seconds / len(_LONGEST_PROMPT_TOKENS),
            concurrency=clients(4, scale),
            prompt_tokens=(longest * 3 // 4, longest),
            output_tokens=(48, 96),
        )
        for longest in _LONGEST_PROMPT_TOKENS
    )
