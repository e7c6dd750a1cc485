"""What the agent is told: section ``[collect]`` of the configuration file."""

from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]


class CollectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent reads this host.

    Attributes:
        host: Name of this host in every record; empty for the system's own name.

        engines: Frameworks to look for; empty for all that this version knows.

        engine_files: Files (TOML) that describe engines of your own; see docs/engines.md.

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

        workers: Whether the further ranks of an engine are read, too. A worker alone is not:
            it is apart from no one.

        worker_poll_hz: Looks at a worker per second, at most ``poll_hz``. They tell how far ranks
            are apart, not when a batch began, so fewer will do.

        xpus: Accelerator vendors to ask, by the names of docs/accelerators.md; ``["auto"]``
            asks those whose devices this host has, an empty list asks none.

        xpu_period_seconds: Pause between two looks at the accelerators.

        xpu_timeout_seconds: A vendor's library or tool that takes longer is killed.

        kernel_tracing: Whether to trace the scheduler and accelerator libraries by bpftrace,
            where it is installed and allowed.

        health_listen: ``host:port`` where the agent tells Prometheus of itself; empty for not.

        captures: Whether captures that arrive on the topic are carried out.

        capture_folder: Where captures are written, each in a folder of its own. It must be the
            agent's or root's, and no link.

        capture_most_seconds: A capture that asks for more is cut to this.

        capture_keep_bytes: The oldest captures go when all of them are larger.

        cpu_budget_ratio: Share of one core that watching one process of an engine may take;
            above it stacks are given up first, then the rate of looks is lowered.
    """

    host: str = ""
    engines: tuple[str, ...] = ()
    engine_files: tuple[str, ...] = ()
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
    workers: bool = True
    worker_poll_hz: Annotated[int, msgspec.Meta(ge=10, le=10_000)] = 250
    xpus: tuple[str, ...] = ("auto",)
    xpu_period_seconds: Positive = 1.0
    xpu_timeout_seconds: Positive = 5.0
    kernel_tracing: bool = False
    health_listen: str = ""
    captures: bool = True
    capture_folder: str = "/var/lib/latencyprism/captures"
    capture_most_seconds: Positive = 60.0
    capture_keep_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1_000_000_000
    cpu_budget_ratio: Positive = 0.02

    def __post_init__(self) -> None:
        """Refuse what each value allows and both together do not."""
        if self.stack_hz > self.poll_hz:
            raise ValueError(
                f"stack_hz is {self.stack_hz} and poll_hz is {self.poll_hz}: give stack_hz no "
                "more than poll_hz"
            )
