"""Eight clients ask for the same kind of answer all the time."""

from simulator.workloads.base import Phase, clients


def phases(duration_seconds: float, scale: float) -> tuple[Phase, ...]:
    """Keep one phase for the whole duration."""
    phase = Phase(
        duration_seconds=duration_seconds,
        concurrency=clients(8, scale),
        prompt_tokens=(64, 192),
        output_tokens=(64, 192),
    )
    return (phase,)
