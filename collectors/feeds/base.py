"""What all feeds have in common."""

from dataclasses import dataclass, field
from typing import Protocol

from schemas.records import Workload


class FeedUnavailable(LookupError):
    """The engine has no such feed, or it cannot be read; the text says what to do."""


class FeedEnded(RuntimeError):
    """The feed will say nothing more; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an engine said of one iteration.

    Attributes:
        index: The feed's own number of it, one more than the one before.

        duration_ns: How long it took by the engine's own clock.

        after_ns: When nothing of it was there yet, monotonic; it ended later.

        at_ns: When it was read, monotonic; it ended before.

        is_dummy: It only keeps ranks in step.

        is_heartbeat: It is no iteration, only a sign of life that has a number.
    """

    index: int
    duration_ns: int
    after_ns: int
    at_ns: int
    workload: Workload = field(default_factory=Workload)
    is_dummy: bool = False
    is_heartbeat: bool = False


class Feed(Protocol):
    """An open feed; one thread at a time may use it."""

    @property
    def name(self) -> str:
        """What it is to the reader of a note, as ``its iteration log``."""
        ...

    def poll(self, timeout_seconds: float) -> list[Said]:
        """Give what was said since the last call, waiting for it at most so long.

        Raises:
            FeedEnded: It will say nothing more.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...
