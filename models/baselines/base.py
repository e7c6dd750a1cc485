"""What a baseline is: a River regressor that also says how well it knows a workload."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from river import base

from models.features import Features
from models.plugins import names_in, plugin

FOLDER = Path(__file__).parent


class Expectation(NamedTuple):
    """What a baseline expects of one batch.

    Attributes:
        log_ms: ln of the expected duration in ms.

        bucket: What batches of this size are remembered under.

        bucket_visits: How many of them were learnt.

        cell_visits: Batches learnt at this very place of the workload.

        memo: Of the baseline's own, so that learning need not look everything up again.
    """

    log_ms: float
    bucket: tuple[int, int]
    bucket_visits: int
    cell_visits: int
    memo: Any = None


class Place(NamedTuple):
    """What batches cost at one place of the workload.

    Attributes:
        requests: Size of the batch in tokens of decoding requests, padded.

        context_tokens: Mean context of a request; -1 where it is not known.

        prefill_tokens: Computed beside them.

        visits: Batches learnt there.

        duration_ms: Their expected duration.
    """

    requests: int
    context_tokens: int
    prefill_tokens: int
    visits: int
    duration_ms: float


class Baseline(base.Regressor):
    """Predict the duration of a batch in ms from its features, online.

    A real `river.base.Regressor`: features are those of `models.features.features_of`, the target
    is ms. Keeps a bounded number of values and comes back from `to_state` bit for bit.
    """

    baselines: ClassVar[dict[str, type[Baseline]]] = {}

    learnt: int
    """Batches learnt so far."""

    def __init_subclass__(cls) -> None:
        """Enter the baseline under its file's name."""
        cls.baselines[cls.__module__.rpartition(".")[2]] = cls

    @abstractmethod
    def expect(self, x: Features) -> Expectation | None:
        """Say what to expect of a batch; None before the first one was learnt."""

    @abstractmethod
    def learn(
        self, x: Features, expected: Expectation | None, log_ms: float, *, stable: bool = True
    ) -> None:
        """Learn one batch.

        Args:
            x: Its features.

            expected: What `expect` said of it.

            log_ms: ln of its duration in ms, as far as it is to be believed.

            stable: False while the engine is young: whatever is learnt may still be revised.
        """

    @property
    def drift(self) -> float:
        """By how much what was learnt went up bit by bit since, in ln units; 0 where not known."""
        return 0.0

    def roll_back(self) -> float:
        """Forget that drift: go back to what was learnt at first; give how much it was."""
        return 0.0

    @abstractmethod
    def terms_ms(self, expected: Expectation) -> dict[str, float]:
        """Take an expectation apart into physical terms in ms that add up to it."""

    @abstractmethod
    def places(self) -> list[Place]:
        """Give what is remembered, place by place."""

    @abstractmethod
    def to_state(self) -> dict[str, Any]:
        """Give everything learnt as plain data."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""

    def learn_one(self, x: dict[Any, Any], y: float) -> None:
        """Learn one batch of ``y`` ms, as River's models do."""
        self.learn(x, self.expect(x), math.log(y))

    def predict_one(self, x: dict[Any, Any]) -> float:
        """Give the expected duration in ms; 0 before anything was learnt, as River's models do."""
        expected = self.expect(x)
        return math.exp(expected.log_ms) if expected is not None else 0.0


def available() -> list[str]:
    """Give the names of all baselines, from the files of this folder."""
    return names_in(FOLDER)


def load(name: str) -> Baseline:
    """Make the baseline of that name.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    return plugin(name, FOLDER, "models.baselines", "baseline", Baseline.baselines)
