"""What the agent must know of a serving framework: one file each, the file's name is its name."""

from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from collectors.discovery import EngineProcess, Process, ProcessTable
from schemas.records import Workload


class Framework(ABC):
    """Recognise the processes of one framework and say where its clock and its batch lie.

    Nothing here touches a process: `claim` looks at the process table only, `sampler_spec` is
    data for the native sampler, `workload` turns the integers that it read into a record.
    """

    frameworks: ClassVar[dict[str, type["Framework"]]] = {}

    iteration_count_metric: ClassVar[str | None] = None
    """Name on /metrics of the engine's own count of iterations (a histogram's ``_count``)."""

    iteration_tokens_metric: ClassVar[str | None] = None
    """Name on /metrics of the sum of tokens over those iterations."""

    token_latency_metrics: ClassVar[tuple[str, ...]] = ()
    """Histograms of the seconds between a request's tokens; the first that exists counts."""

    waiting_metric: ClassVar[str | None] = None
    running_metric: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        """Enter the framework under its file's name."""
        cls.frameworks[cls.__module__.rpartition(".")[2]] = cls

    @classmethod
    def name(cls) -> str:
        """Give the framework's name: that of its file."""
        return cls.__module__.rpartition(".")[2]

    @abstractmethod
    def claim(self, process: Process, table: ProcessTable) -> EngineProcess | None:
        """Give the engine whose iterating process this is, or None; must not raise."""

    def version(self, engine: EngineProcess) -> str | None:
        """Give the framework's version where it can be told from outside; must not raise."""
        return None

    @abstractmethod
    def sampler_spec(self) -> dict[str, Any]:
        """Say where counter, batch and phases lie, as the native sampler's JSON wants it."""

    @abstractmethod
    def workload(self, fields: dict[str, int]) -> Workload | None:
        """Turn the integers of one batch into a workload.

        ``fields`` has the names that `sampler_spec` gave them; one that could not be read is
        missing. None where an invariant fails, so that a torn read is never published.
        """


def available() -> list[str]:
    """Give the names of all frameworks, from the files of this folder."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem != "base")


def load(name: str) -> Framework:
    """Make the framework of that name.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    if name not in available():
        raise LookupError(f"unknown framework {name!r}; have: {', '.join(available())}")
    import_module(f"{__package__}.{name}")
    return Framework.frameworks[name]()


def find_engines(table: ProcessTable, frameworks: list[Framework]) -> list[EngineProcess]:
    """Give the engines of a host: each process is claimed by at most one framework."""
    engines: list[EngineProcess] = []
    for process in table.by_pid.values():
        for framework in frameworks:
            engine = framework.claim(process, table)
            if engine is not None:
                engines.append(engine)
                break
    return engines
