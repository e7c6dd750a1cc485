"""The vocabulary of workloads: a workload is a row of phases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of time with one kind of load.

    Give `concurrency` for a closed loop (so many clients, each sends its next
    request when the last one is answered) or `requests_per_second` for an open
    loop (arrivals come at random, whether or not the engine keeps up).
    Token ranges are inclusive.
    """

    duration_seconds: float
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    concurrency: int | None = None
    requests_per_second: float | None = None

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.requests_per_second is None):
            raise ValueError("give a phase either concurrency or requests_per_second")
        for name, (least, most) in (
            ("prompt_tokens", self.prompt_tokens),
            ("output_tokens", self.output_tokens),
        ):
            if not 1 <= least <= most:
                raise ValueError(f"{name} is ({least}, {most}): give 1 <= first <= second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A named row of phases."""

    name: str
    summary: str
    phases: tuple[Phase, ...]

    @property
    def duration_seconds(self) -> float:
        """Say how long new requests are sent."""
        return sum(phase.duration_seconds for phase in self.phases)


def clients(count: float, scale: float) -> int:
    """Scale a number of clients, but keep at least one."""
    return max(1, round(count * scale))
