"""What a fault does to a simulated engine: which path gets dearer, and what the counters show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from schemas.records import Phase, Role, ThrottleReason

How = Literal["add", "times", "set"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a counter changes: ``add`` a number, take it ``times`` a number, or ``set`` it."""

    how: How
    number: float

    def of(self, value: float) -> float:
        """Give the changed value."""
        if self.how == "add":
            return value + self.number
        return value * self.number if self.how == "times" else self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A fault at one strength, in terms of the iteration-time model.

    T = max(host path, device path) + communication (+ queue); without overlap the sum of the paths.

    Attributes:
        host_ratio: The host's path (schedule, prepare, dispatch, sample, postprocess) takes so many
            times as long.

        device_ratio: The forward pass on the accelerator; on an engine that computes on the CPU the
            host's ratio counts for it too.

        link_ratio: Communication between ranks.

        added_ms: Milliseconds more in each iteration, in `phase`.

        pauses_per_second: Pauses of `pause_ms` at random moments, so many a second of work.

        on_new_shapes: A pause comes only with a batch of another shape than the one before, and
            at most `pauses_per_second` of them.

        stops: The batch that begins meanwhile stands still, in `phase`, until the fault is over.

        phase: Where added time, pauses and standstill show on the stack.

        one_rank: Only one rank is hit; the others wait for it.

        kv_ratio: Share of the KV cache that is left.

        arrivals_ratio: Share of the requests that still arrives at the engine.

        host: Fields of `HostReading` that change; likewise ``process`` (`ProcessReading`) and
            ``device`` (`XpuReading`, of the devices that are hit).

        process_role: Processes whose counters change; None for all of the engine's.

        throttle_reasons: Why those devices say that their clock is held down.
    """

    host_ratio: float = 1.0
    device_ratio: float = 1.0
    link_ratio: float = 1.0
    added_ms: float = 0.0
    pauses_per_second: float = 0.0
    pause_ms: float = 0.0
    on_new_shapes: bool = False
    stops: bool = False
    phase: Phase = "forward"
    one_rank: bool = False
    kv_ratio: float = 1.0
    arrivals_ratio: float = 1.0
    host: dict[str, Change] = field(default_factory=dict)
    process: dict[str, Change] = field(default_factory=dict)
    device: dict[str, Change] = field(default_factory=dict)
    process_role: Role | None = None
    throttle_reasons: tuple[ThrottleReason, ...] = ()


def add(number: float) -> Change:
    """Say that a counter grows by a number."""
    return Change(how="add", number=number)


def times(number: float) -> Change:
    """Say that a counter is multiplied."""
    return Change(how="times", number=number)


def to(number: float) -> Change:
    """Say that a counter has a certain value."""
    return Change(how="set", number=number)
