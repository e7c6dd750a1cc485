"""What a detector is: one file each, the file's name is its name."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from models.plugins import names_in, plugin

FOLDER = Path(__file__).parent


class Evidence(NamedTuple):
    """What one batch says against its engine.

    Attributes:
        residual: ln(observed / expected); positive is slower than expected.

        scale: The usual size of residuals of such batches.

        surprise: -ln of the probability, by the engine's own healthy batches, that a residual is
            this much above the least slowdown worth a word; in nats.

        mixed: Whether the batch computed prefill.

        novelty: 0 on ground well known, 1 for a context or prefill hardly seen with this size of
            batch, 2 for a size hardly seen.
    """

    residual: float
    scale: float
    surprise: float
    mixed: bool
    novelty: int


class Detector(ABC):
    """Watch one engine for slow batches.

    Called once per judged batch, in order. Must not keep more than a bounded number of values,
    and must come back from `to_state` bit for bit.
    """

    detectors: ClassVar[dict[str, type["Detector"]]] = {}

    def __init_subclass__(cls) -> None:
        """Enter the detector under its file's name."""
        cls.detectors[cls.__module__.rpartition(".")[2]] = cls

    @abstractmethod
    def score_one(self, evidence: Evidence, log_spacing: float) -> float:
        """Take the next batch and give the score; 1 and above is an alarm.

        Args:
            evidence: Of the batch.

            log_spacing: ln of how many healthy batches there shall be between two false alarms.
        """

    @property
    def doubt(self) -> float:
        """How much speaks against the engine, in nats of a calibrated e-value; 0 for nothing."""
        return 0.0

    @property
    def shift(self) -> float:
        """By how much an alarm's batches are slower than expected, in ln units; 0 without one."""
        return 0.0

    def false_alarms(self, log_spacing: float) -> float:
        """Give the false alarms per batch that the engine's own healthy past foretells."""
        del log_spacing
        return 0.0

    def presume(self, shift: float) -> None:
        """Take an alarm for raised, by batches that are so much slower, in ln units."""
        del shift

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
    return names_in(FOLDER)


def load(name: str) -> Detector:
    """Make the detector of that name.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    return plugin(name, FOLDER, "models.detectors", "detector", Detector.detectors)
