"""What the agent is told: section ``[collect]`` of the configuration file."""

from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]


class CollectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent reads this host.

    Attributes:
        host: Name of this host in every record; empty for the system's own name.

        engines: Frameworks to look for; empty for all that this version knows.

        ports: Watch only engines that serve on these ports; empty for all.

        poll_hz: Reads of an engine's iteration counter per second, where one may begin or end.

        stack_hz: Stack samples of an engine per second, at most ``poll_hz``.

        realtime: Whether the thread that reads an engine asks for real-time priority. Without
            it, iterations go unseen on a host whose CPUs are all busy. It gives the priority
            back if it ever takes more than a quarter of a core.

        open_iteration_seconds: A running iteration is reported again every so often.

        discovery_period_seconds: Pause between two looks for engines that came or went.

        reading_period_seconds: Pause between two readings of host and processes.

        metrics_period_seconds: Pause between two scrapes of an engine's /metrics.

        metrics_timeout_seconds: How long one scrape may take.

        queue_records: Records kept while the broker is away; beyond that the oldest go.

        cpu_budget_ratio: Share of one core that the thread which reads one engine may take;
            above it the rates are halved.
    """

    host: str = ""
    engines: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    poll_hz: Annotated[int, msgspec.Meta(ge=10, le=10_000)] = 1000
    stack_hz: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 50
    realtime: bool = True
    open_iteration_seconds: Positive = 0.1
    discovery_period_seconds: Positive = 2.0
    reading_period_seconds: Positive = 1.0
    metrics_period_seconds: Positive = 1.0
    metrics_timeout_seconds: Positive = 2.0
    queue_records: Annotated[int, msgspec.Meta(ge=100)] = 100_000
    cpu_budget_ratio: Positive = 0.02

    def __post_init__(self) -> None:
        """Refuse what each value allows and both together do not."""
        if self.stack_hz > self.poll_hz:
            raise ValueError(
                f"stack_hz is {self.stack_hz} and poll_hz is {self.poll_hz}: give stack_hz no "
                "more than poll_hz"
            )
