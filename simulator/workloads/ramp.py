"""The number of clients climbs from one to sixteen and comes down again."""

from simulator.workloads.base import Phase, clients

_CLIENTS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 12, 8, 4)


def phases(duration_seconds: float, scale: float) -> tuple[Phase, ...]:
    """Climb and descend in steps of equal length."""
    return tuple(
        Phase(
            duration_seconds=duration_seconds / len(_CLIENTS),
            concurrency=clients(count, scale),
            prompt_tokens=(64, 256),
            output_tokens=(64, 192),
        )
        for count in _CLIENTS
    )
