"""Chats, summaries of long texts and long answers take turns."""

from simulator.workloads.base import Phase, clients


def phases(duration_seconds: float, scale: float) -> tuple[Phase, ...]:
    """Turn three times through the three kinds of requests."""
    share_seconds = duration_seconds / 9
    chat = Phase(
        duration_seconds=share_seconds,
        concurrency=clients(8, scale),
        prompt_tokens=(32, 256),
        output_tokens=(32, 160),
    )
    summary = Phase(
        duration_seconds=share_seconds,
        concurrency=clients(4, scale),
        prompt_tokens=(768, 1_536),
        output_tokens=(16, 64),
    )
    essay = Phase(
        duration_seconds=share_seconds,
        requests_per_second=1.5 * scale,
        prompt_tokens=(32, 64),
        output_tokens=(192, 384),
    )
    return (chat, summary, essay) * 3
