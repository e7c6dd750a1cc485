"""What happens on stage: learn, drift, a real disturbance, recovery, another one, recovery."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from simulator.faults import Target
from simulator.injection.run import injected
from simulator.load import LoadReport, run_load
from simulator.workloads import Phase, Workload

INTENSITIES = {
    # Busy processes per CPU of the host: enough to take most of every one.
    "cpu_squeeze": 3.0,
    # A third is left: the slowdown must stand out even where the machine's own noise is heavy.
    "replica_clock": 0.67,
}
# Should the demo hang, the fault ends all the same.
SLACK_SECONDS = 5.0


@dataclass(slots=True)
class Scene:
    """One stretch of the story.

    Attributes:
        name: What the reader sees.

        seconds: How long it lasts.

        load: What the clients ask for.

        fault: Name of the fault that is injected, or none.

        causes: Causes that an alert may rightly name; none where no alert may be raised.
    """

    name: str
    seconds: float
    load: str
    fault: str | None = None
    causes: tuple[str, ...] = ()
    begin_ns: int = 0
    end_ns: int = 0


LOADS = {
    "chat": Phase(
        duration_seconds=1.0, concurrency=6, prompt_tokens=(32, 160), output_tokens=(48, 160)
    ),
    # More clients, longer prompts, longer answers: everything about a batch is different.
    "documents": Phase(
        duration_seconds=1.0, concurrency=12, prompt_tokens=(200, 600), output_tokens=(64, 220)
    ),
}


def scenes(scale: float = 1.0) -> list[Scene]:
    """Write the story; ``scale`` stretches it."""
    return [
        Scene("warm up: learn what a batch costs", 30 * scale, "chat"),
        Scene("drift: twice the clients, longer prompts", 25 * scale, "documents"),
        Scene("back to the first workload", 8 * scale, "chat"),
        Scene(
            "disturbance: CPU hogs beside the engine",
            14 * scale,
            "chat",
            "cpu_squeeze",
            ("host_cpu_contention",),
        ),
        Scene("recovery", 10 * scale, "chat"),
        Scene(
            "disturbance: the accelerator's clock drops to a third",
            12 * scale,
            "chat",
            "replica_clock",
            ("forward_slower",),
        ),
        Scene("recovery", 10 * scale, "chat"),
    ]


@dataclass(slots=True)
class Load:
    """Clients of the engine, on a thread of their own."""

    base_url: str
    workload: Workload
    seed: int
    report: LoadReport | None = None
    error: str | None = None
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Begin to send requests."""
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def join(self, timeout_seconds: float) -> None:
        """Wait for the last answers."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self.report = asyncio.run(run_load(self.base_url, self.workload, seed=self.seed))
        except ConnectionError as err:
            self.error = str(err)


def workload_of(story: list[Scene]) -> Workload:
    """Give the load of the whole story as one workload."""
    return Workload(
        name="demo",
        summary="The demonstration's clients",
        phases=tuple(phase_of(scene.load, scene.seconds) for scene in story),
    )


def phase_of(load: str, seconds: float) -> Phase:
    """Give a named load for so long."""
    return replace(LOADS[load], duration_seconds=seconds)


@contextlib.contextmanager
def disturbed(scene: Scene, base_url: str) -> Iterator[None]:
    """Inject the scene's fault for the length of the block."""
    if scene.fault is None:
        yield
        return
    with injected(
        scene.fault,
        intensity=INTENSITIES[scene.fault],
        target=Target(url=base_url),
        seconds=scene.seconds + SLACK_SECONDS,
    ):
        yield


def play(
    story: list[Scene], base_url: str, show: Callable[[Scene], None], period_seconds: float = 0.25
) -> Load:
    """Play the story from beginning to end.

    Args:
        story: Its scenes; their times are written into them.

        base_url: The engine.

        show: Called several times a second with the scene that is on.

        period_seconds: How often.
    """
    load = Load(base_url, workload_of(story), seed=7)
    load.start()
    for scene in story:
        scene.begin_ns = time.time_ns()
        deadline = time.monotonic() + scene.seconds
        with disturbed(scene, base_url):
            while time.monotonic() < deadline:
                show(scene)
                time.sleep(period_seconds)
        scene.end_ns = time.time_ns()
        show(scene)
    load.join(20.0)
    return load
