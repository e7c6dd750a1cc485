"""What a batch should cost: a physical backbone that extrapolates, corrected by local memory."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from river import linear_model

from models.features import Features

STATE_VERSION = 1

# Below this a prediction is noise, and its logarithm would explode.
LEAST_MS = 0.05
# Visits at which a cell weighs as much as the backbone; larger values shrink it more.
SHRINKAGE = 4.0
# The least share that a new visit has in a cell's means: a cell forgets within some 100 visits.
FORGETTING = 0.01
# A cell with this many visits needs no help from its bucket.
OWN_MIND = 50
# The first batches are weighted by themselves: the backbone knows nothing yet.
FIRST_BATCHES = 20
# Cells of one engine; the one that was not visited for longest goes first, so that a workload
# that comes to stay always finds room. Keeps the state within some 64 KB.
MAX_CELLS = 400


@dataclass(slots=True)
class Cell:
    """Running means of ln(duration) and of the features at one place of the workload."""

    visits: int = 0
    mean_log_ms: float = 0.0
    mean_terms: dict[str, float] = field(default_factory=dict)

    def learn(self, log_ms: float, terms: dict[str, float]) -> None:
        """Move the means towards one batch."""
        self.visits += 1
        gain = max(1 / self.visits, FORGETTING)
        self.mean_log_ms += gain * (log_ms - self.mean_log_ms)
        for name, value in terms.items():
            mean = self.mean_terms.get(name, 0.0)
            self.mean_terms[name] = mean + gain * (value - mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the baseline expects of a batch.

    Attributes:
        log_ms: ln of the expected duration in ms.

        bucket_visits: Batches learnt with this padded size.

        cell_visits: Batches learnt at this very place of the workload.

        backbone_log_ms: What the physical terms alone say.

        terms_ms: Those terms one by one, in ms; they add up to the backbone's prediction.
    """

    log_ms: float
    bucket_visits: int
    cell_visits: int
    backbone_log_ms: float
    terms_ms: dict[str, float]

    @property
    def expected_ms(self) -> float:
        """The expected duration."""
        return math.exp(self.log_ms)


class Baseline:
    """Predict the duration of a batch from its features, online.

    The backbone is River's Bayesian linear regression on physical terms, each batch weighted by
    1 / duration so that relative errors count alike. Around it, cells remember by how much the
    backbone is off at their place: a bucket of batch size where a cell is young, the cell itself
    once it has seen enough. Both are shrunk towards the backbone, so that an unseen workload is
    extrapolated rather than guessed.

    >>> from schemas.records import Workload
    >>> from models.features import features_of
    >>> baseline = Baseline()
    >>> for kv_tokens in range(1000, 21000, 100):
    ...     batch = features_of(Workload(requests=8, scheduled_tokens=8, kv_tokens=kv_tokens))
    ...     baseline.learn(batch, 10 + kv_tokens / 4000)
    >>> unseen = features_of(Workload(requests=8, scheduled_tokens=8, kv_tokens=40_000))
    >>> abs(baseline.predict(unseen).expected_ms / 20 - 1) < 0.02
    True

    References:
        Bishop, Pattern Recognition and Machine Learning, 3.3 (the regression).
        Efron and Morris, Stein's paradox in statistics, 1977 (the shrinkage).
    """

    def __init__(self) -> None:
        # Small, so that 20 batches outweigh it.
        prior_precision: Any = 1e-4
        self._backbone: Any = linear_model.BayesianLinearRegression(alpha=prior_precision)
        self._buckets: dict[tuple[int, ...], Cell] = {}
        self._cells: dict[tuple[int, ...], Cell] = {}
        self.learnt = 0

    def predict(self, features: Features) -> Prediction | None:
        """Predict a batch; None before the first one was learnt."""
        if self.learnt == 0:
            return None
        backbone_ms = self._backbone_ms(features.terms)
        backbone_log = math.log(backbone_ms)
        bucket = self._buckets.get(features.bucket)
        cell = self._cells.get(features.cell)
        cell_visits = cell.visits if cell is not None else 0
        log_ms = backbone_log
        if bucket is not None and cell_visits < OWN_MIND:
            log_ms += self._correction(bucket)
        if cell is not None:
            weight = cell.visits / (cell.visits + SHRINKAGE)
            own = backbone_log + cell.mean_log_ms - self._log_backbone(cell.mean_terms)
            log_ms = (1 - weight) * log_ms + weight * own
        weights = self._weights()
        return Prediction(
            log_ms=log_ms,
            bucket_visits=bucket.visits if bucket is not None else 0,
            cell_visits=cell_visits,
            backbone_log_ms=backbone_log,
            terms_ms={name: weights.get(name, 0.0) * v for name, v in features.terms.items()},
        )

    def learn(self, features: Features, observed_ms: float, limit_log: float | None = None) -> None:
        """Learn one batch.

        Args:
            features: Of the batch.

            observed_ms: Its duration, above 0.

            limit_log: How far from the prediction, in ln units, it may pull the memory; None for
                no limit.
        """
        observed_log = math.log(observed_ms)
        prediction = self.predict(features)
        weight_ms = target_ms = observed_ms
        if prediction is not None:
            if limit_log is not None:
                observed_log = _clamp(observed_log, prediction.log_ms, limit_log)
            target_ms = math.exp(_clamp(observed_log, prediction.backbone_log_ms, 3.0))
            if self.learnt > FIRST_BATCHES:
                weight_ms = math.exp(prediction.backbone_log_ms)
        weight = 1 / max(weight_ms, LEAST_MS)
        self._backbone.learn_one(
            {name: value * weight for name, value in features.terms.items()}, target_ms * weight
        )
        self.learnt += 1
        for memory, key in ((self._buckets, features.bucket), (self._cells, features.cell)):
            # Taken out and put back: the order of the dictionary is that of the last visits.
            cell = memory.pop(key, None) or Cell()
            cell.learn(observed_log, features.terms)
            memory[key] = cell
        if len(self._cells) > MAX_CELLS:
            del self._cells[next(iter(self._cells))]

    def to_state(self) -> dict[str, Any]:
        """Give everything learnt as plain data."""
        backbone = self._backbone
        return {
            "version": STATE_VERSION,
            "learnt": self.learnt,
            "names": list(backbone._idx),
            "precision": backbone._ss_arr.tolist(),
            "covariance": backbone._ss_inv_arr.tolist(),
            "natural_mean": backbone._eta_arr.tolist(),
            "buckets": _cells_to_state(self._buckets),
            "cells": _cells_to_state(self._cells),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Baseline":
        """Rebuild a baseline exactly.

        Raises:
            ValueError: The state is of another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"baseline state of version {state.get('version')!r}: this worker reads "
                f"{STATE_VERSION}; let the engine be learnt anew"
            )
        baseline = cls()
        baseline.learnt = state["learnt"]
        backbone = baseline._backbone
        backbone._idx = {name: index for index, name in enumerate(state["names"])}
        backbone._cap = len(state["natural_mean"])
        backbone._ss_arr = np.array(state["precision"]).reshape(backbone._cap, backbone._cap)
        backbone._ss_inv_arr = np.asfortranarray(
            np.array(state["covariance"]).reshape(backbone._cap, backbone._cap)
        )
        backbone._eta_arr = np.array(state["natural_mean"])
        backbone._m_dirty = True
        baseline._buckets = _cells_from_state(state["buckets"])
        baseline._cells = _cells_from_state(state["cells"])
        return baseline

    def _backbone_ms(self, terms: dict[str, float]) -> float:
        return max(float(self._backbone.predict_one(terms)), LEAST_MS)

    def _log_backbone(self, terms: dict[str, float]) -> float:
        return math.log(self._backbone_ms(terms))

    def _correction(self, cell: Cell) -> float:
        weight = cell.visits / (cell.visits + SHRINKAGE)
        return weight * (cell.mean_log_ms - self._log_backbone(cell.mean_terms))

    def _weights(self) -> dict[str, float]:
        self._backbone._ensure_m()
        return {
            name: float(self._backbone._m_arr[index]) for name, index in self._backbone._idx.items()
        }


def _clamp(value: float, centre: float, reach: float) -> float:
    return centre + max(-reach, min(reach, value - centre))


def _cells_to_state(cells: dict[tuple[int, ...], Cell]) -> list[list[Any]]:
    return [
        [list(key), cell.visits, cell.mean_log_ms, cell.mean_terms] for key, cell in cells.items()
    ]


def _cells_from_state(rows: list[list[Any]]) -> dict[tuple[int, ...], Cell]:
    return {
        (int(key[0]), *(bool(k) if len(key) == 2 else int(k) for k in key[1:])): Cell(
            visits, mean_log_ms, dict(mean_terms)
        )
        for key, visits, mean_log_ms, mean_terms in rows
    }
