"""What is left over of a batch's duration, in the light of what usually is."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from models.baselines import Expectation
from models.features import Features
from models.surprise import Surprise

# A slowdown smaller than this is not worth a word, in ln units.
LEAST_SLOWDOWN = 0.022
# The model itself may be off by as much more: in a new cell, in a new bucket, and in a bucket when
# only so many others were ever seen.
CELL_SLACK = 0.01
BUCKET_SLACK = 0.04
FEW_BUCKETS_SLACK = 0.6
# No engine is steadier than this.
LEAST_SCALE = 0.004
# A bucket seen so often is familiar; a cell or bucket seen so seldom is new.
FAMILIAR_BUCKET = 30
NEW_BUCKET, NEW_CELL = 10, 8
# Before any residual is known: on known ground, in a new cell, in a new bucket.
FIRST_SCALES = {False: (0.03, 0.06, 0.10), True: (0.15, 0.20, 0.25)}
# A bucket's own scale counts as much as that of all after so many visits.
BUCKET_VISITS = 200.0
LEAST_BUCKET_VISITS = 10
BUCKET_GAIN = 0.005
MEAN_TO_SIGMA = 1.25
MAX_BUCKETS = 300
# Batches with prefill come in bursts that share what the model does not know: what the last one
# was off by says something of the next, if it is no further back than this.
ECHO_BATCHES = 2
ECHO_GAIN = 0.02
MOST_ECHO = 0.95


class Residual(NamedTuple):
    """One residual in ln units, and what to make of it.

    Attributes:
        raw: ln(observed / expected).

        value: The same less what the batch before already told.

        scale: What is usual for such a batch.

        surprise: -ln of the probability of one so far above the least slowdown, in nats.

        mixed: Whether the batch computed prefill.

        novelty: 0 on known ground, 1 in a new cell, 2 in a new bucket.

        familiar: Whether batches of this size were seen often.

        before: The residual of the batch with prefill just before, if there was one.

        bucket: Their size.
    """

    raw: float
    value: float
    scale: float
    surprise: float
    mixed: bool
    novelty: int
    familiar: bool
    before: float | None
    bucket: tuple[int, int]

    @property
    def known(self) -> bool:
        """Whether the very workload is known."""
        return self.novelty == 0

    @property
    def z(self) -> float:
        """The residual in units of its scale."""
        return self.value / self.scale

    def to_state(self) -> list[Any]:
        """Give it as plain data."""
        return [*self[:-1], *self.bucket]

    @classmethod
    def from_state(cls, state: list[Any]) -> Residual:
        """Take it back."""
        *rest, size, step = state
        return cls._make([*rest, (size, step)])


class Residuals:
    """The residuals of one engine: their scale and their tail, by regime.

    A regime is whether a batch computes prefill and how new its workload is: what extrapolation is
    worth is told by how well it did before. Within a regime each size of batch has a scale.
    """

    def __init__(self) -> None:
        self._surprises: dict[tuple[bool, int], Surprise] = {}
        self._scales: dict[tuple[int, int], list[Any]] = {}
        self._echo = _Echo()

    @property
    def scale(self) -> float:
        """The usual size of residuals of decode batches on known ground."""
        return self._surprise_of(False, 0).scale

    def take(self, raw: float, features: Features, expected: Expectation) -> Residual:
        """Weigh the next batch's residual; it is not learnt yet."""
        before = self._echo.take(raw, mixed=_mixed(features))
        value = raw if before is None else raw - self._echo.share * before
        return self._weigh(raw, value, before, features, expected)

    def look(self, raw: float, features: Features, expected: Expectation) -> Residual:
        """Weigh a residual of a batch that is not the next one."""
        return self._weigh(raw, raw, None, features, expected)

    def learn(self, one: Residual) -> None:
        """Learn a healthy batch's residual."""
        self._surprise_of(one.mixed, one.novelty).learn(one.value, one.z)
        if one.before is not None:
            self._echo.learn(one.before, one.raw)
        if one.novelty > 1:
            return
        size = abs(one.value)
        entry = self._scales.get(one.bucket)
        if entry is None:
            self._scales[one.bucket] = [1, size]
            if len(self._scales) > MAX_BUCKETS:
                del self._scales[next(iter(self._scales))]
            return
        entry[0] += 1
        # One wild batch does not make all that follow look tame.
        size = min(size, 4 * entry[1] + LEAST_SCALE)
        gain = BUCKET_GAIN if entry[0] * BUCKET_GAIN > 1 else 1 / entry[0]
        entry[1] += gain * (size - entry[1])

    def beyond(self, one: Residual, probability: float) -> float:
        """Give the z that is exceeded with that probability by such batches."""
        return self._surprise_of(one.mixed, one.novelty).beyond(probability)

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {
            "regimes": [[*key, one.to_state()] for key, one in self._surprises.items()],
            "scales": [[*key, *entry] for key, entry in self._scales.items()],
            "echo": self._echo.to_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._surprises.clear()
        for mixed, novelty, one in state["regimes"]:
            self._surprise_of(mixed, novelty).restore(one)
        self._scales = {(a, b): [visits, mean] for a, b, visits, mean in state["scales"]}
        self._echo.restore(state["echo"])

    def _weigh(
        self,
        raw: float,
        value: float,
        before: float | None,
        features: Features,
        expected: Expectation,
    ) -> Residual:
        mixed = _mixed(features)
        visits = expected.bucket_visits
        familiar = visits >= FAMILIAR_BUCKET
        novelty = 2 if visits < NEW_BUCKET else int(expected.cell_visits < NEW_CELL or not familiar)
        surprise = self._surprise_of(mixed, novelty)
        scale = self._scale(surprise, expected.bucket)
        beyond = value - LEAST_SLOWDOWN
        if novelty:
            beyond -= CELL_SLACK if familiar else self._bucket_slack()
        nats = surprise.of(beyond / scale)
        return Residual(raw, value, scale, nats, mixed, novelty, familiar, before, expected.bucket)

    def _bucket_slack(self) -> float:
        # Who saw one size of batch only cannot tell what another costs.
        buckets = max(len(self._scales), 1)
        return BUCKET_SLACK + FEW_BUCKETS_SLACK / (buckets * buckets)

    def _scale(self, surprise: Surprise, bucket: tuple[int, int]) -> float:
        scale = max(surprise.scale, LEAST_SCALE)
        entry = self._scales.get(bucket)
        if entry is None or entry[0] < LEAST_BUCKET_VISITS:
            return scale
        visits, mean = entry
        own = max(MEAN_TO_SIGMA * float(mean), LEAST_SCALE)
        weight = float(visits / (visits + BUCKET_VISITS))
        return scale * math.pow(own / scale, weight)

    def _surprise_of(self, mixed: bool, novelty: int) -> Surprise:
        key = (mixed, novelty)
        found = self._surprises.get(key)
        if found is None:
            found = self._surprises[key] = Surprise(FIRST_SCALES[mixed][novelty])
        return found


class _Echo:
    """Takes out of a residual with prefill what the one before foretold of it.

    First-order autoregression with an exponentially weighted coefficient (Box and Jenkins).
    """

    def __init__(self) -> None:
        self._last = 0.0
        self._since = ECHO_BATCHES + 1
        self._product = 0.0
        self._square = 0.01

    @property
    def share(self) -> float:
        """What part of a residual the one before foretells."""
        return max(0.0, min(MOST_ECHO, self._product / max(self._square, 1e-6)))

    def take(self, raw: float, *, mixed: bool) -> float | None:
        """Give the residual before this one, if it was with prefill and not long ago."""
        if not mixed:
            self._since += 1
            return None
        before = self._last if self._since <= ECHO_BATCHES else None
        self._last, self._since = raw, 0
        return before

    def learn(self, before: float, now: float) -> None:
        """Learn from two healthy batches: a fault foretells itself all too well."""
        before, now = max(-1.0, min(1.0, before)), max(-1.0, min(1.0, now))
        self._product += ECHO_GAIN * (before * now - self._product)
        self._square += ECHO_GAIN * (before * before - self._square)

    def to_state(self) -> list[float]:
        return [self._last, self._since, self._product, self._square]

    def restore(self, state: list[float]) -> None:
        self._last, since, self._product, self._square = state
        self._since = int(since)


def _mixed(features: Features) -> bool:
    return features["prefill_tokens"] > 0
