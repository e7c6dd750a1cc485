"""A quiet stream of requests is interrupted by bursts that fill the batch."""

from simulator.workloads.base import Phase

_CYCLES = 4


def phases(duration_seconds: float, scale: float) -> tuple[Phase, ...]:
    """Spend four fifths of each cycle quietly and one fifth in a burst."""
    cycle_seconds = duration_seconds / _CYCLES
    quiet = Phase(
        duration_seconds=cycle_seconds * 0.8,
        requests_per_second=1.5 * scale,
        prompt_tokens=(32, 128),
        output_tokens=(32, 96),
    )
    burst = Phase(
        duration_seconds=cycle_seconds * 0.2,
        requests_per_second=15.0 * scale,
        prompt_tokens=(64, 256),
        output_tokens=(32, 96),
    )
    return (quiet, burst) * _CYCLES
