"""What a detector is: one file each, the file's name is its name."""

from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar


class Detector(ABC):
    """Watch standardised residuals of one engine for a slowdown.

    Called once per judged batch, in order. Must not keep more than a bounded number of values,
    and must come back from `to_state` bit for bit.
    """

    detectors: ClassVar[dict[str, type["Detector"]]] = {}

    def __init_subclass__(cls) -> None:
        """Enter the detector under its file's name."""
        cls.detectors[cls.__module__.rpartition(".")[2]] = cls

    @abstractmethod
    def score_one(self, z: float, *, sigma: float, mixed: bool) -> float:
        """Take the next residual in units of its scale and give the score.

        Args:
            z: (ln observed - ln expected) / sigma; positive is slower than expected.

            sigma: That scale, in ln units: ``z * sigma`` is the residual itself.

            mixed: Whether the batch computed prefill, whose tail is heavier.
        """

    @abstractmethod
    def rest(self) -> None:
        """Forget what has built up: the engine was idle, or the incident is over."""

    @abstractmethod
    def to_state(self) -> dict[str, Any]:
        """Give the state as plain data."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take a state back."""


def available() -> list[str]:
    """Give the names of all detectors, from the files of this folder."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem != "base")


def load(name: str) -> Detector:
    """Make the detector of that name.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    if name not in available():
        raise LookupError(f"unknown detector {name!r}; have: {', '.join(available())}")
    import_module(f"{__package__}.{name}")
    return Detector.detectors[name]()
