"""The part of a batch's duration that physics explains, as a regression on its terms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from river import linear_model
from scipy.optimize import nnls

TERMS = ("weights", "batch", "kv", "prefill", "attention", "mixed", "speculative", "lora")
"""Regressors of about unit size: 1 (reading the weights), padded requests / 100, tokens of
context / 100,000, prompt tokens / 1,000, prompt tokens times mean context / 1,000,000, whether
there is prefill, draft tokens / 100, adapters / 10."""

Terms = tuple[float, float, float, float, float, float, float, float]

# River takes it for the prior's precision in what it predicts by; small, so that 20 batches
# outweigh it.
PRIOR = 1e-4
# A batch may not pull the regression further than this from it, in ln units.
REACH = 3.0
# The first batches are weighted by themselves: nothing is known yet.
FIRST_BATCHES = 20
# Weights are taken over from the regression after so many batches, and sooner on new ground.
REFRESH = 256
REFRESH_NEW = 8


class Backbone:
    """River's Bayesian linear regression on relative errors, with weights that cannot be negative.

    The regression learns each batch divided by its expected duration, so that relative errors
    count alike. What is predicted by are the non-negative weights of least squared error under its
    posterior, taken over now and then: no term of a duration can be below zero, and one that the
    data does not tell from another would otherwise swing.

    Attributes:
        weights: In ms for each of `TERMS`; another list whenever they change.

    References:
        Bishop, Pattern Recognition and Machine Learning, 3.3 (the regression).
        Lawson and Hanson, Solving Least Squares Problems, 23 (non-negative weights).
    """

    def __init__(self) -> None:
        prior: Any = PRIOR
        self._regression: Any = linear_model.BayesianLinearRegression(alpha=prior)
        self._learnt = 0
        self._since = 0
        self.weights = [0.0] * len(TERMS)

    def predict(self, terms: Terms) -> float:
        """Give ms; may be 0 before anything was learnt."""
        # Written out: this runs several times for each batch.
        w = self.weights
        ms = w[0] + w[1] * terms[1] + w[2] * terms[2] + w[6] * terms[6] + w[7] * terms[7]
        if terms[5]:
            ms += w[3] * terms[3] + w[4] * terms[4] + w[5]
        return ms

    def learn(self, terms: Terms, log_ms: float, log_expected: float, *, hurry: bool) -> None:
        """Learn one batch.

        Args:
            terms: Of the batch.

            log_ms: ln of its duration in ms.

            log_expected: ln of what `predict` says.

            hurry: Take new weights over soon: this is new ground.
        """
        self._learnt += 1
        if self._learnt > 1:
            log_ms = log_expected + max(-REACH, min(REACH, log_ms - log_expected))
        scale = math.exp(-(log_ms if self._learnt <= FIRST_BATCHES else log_expected))
        relative = {n: value * scale for n, value in zip(TERMS, terms, strict=True) if value}
        self._regression.learn_one(relative, math.exp(log_ms) * scale)
        self._since += 1
        due = min(REFRESH, max(1, self._learnt // 8))
        if self._since >= (min(due, REFRESH_NEW) if hurry else due):
            self._refresh()

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        regression = self._regression
        return {
            "learnt": self._learnt,
            "since": self._since,
            "weights": self.weights,
            "names": list(regression._idx),
            "precision": regression._ss_arr.tolist(),
            "covariance": regression._ss_inv_arr.tolist(),
            "natural_mean": regression._eta_arr.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._learnt, self._since = state["learnt"], state["since"]
        self.weights = list(state["weights"])
        regression = self._regression
        regression._idx = {name: index for index, name in enumerate(state["names"])}
        regression._cap = size = len(state["natural_mean"])
        regression._ss_arr = np.array(state["precision"]).reshape(size, size)
        covariance = np.array(state["covariance"]).reshape(size, size)
        regression._ss_inv_arr = np.asfortranarray(covariance)
        regression._eta_arr = np.array(state["natural_mean"])
        regression._m_dirty = True

    def _refresh(self) -> None:
        self._since = 0
        regression = self._regression
        names = [name for name in TERMS if name in regression._idx]
        places = [regression._idx[name] for name in names]
        # River starts the precision at 1 / alpha and the covariance too; it predicts by the latter.
        excess = (1 / PRIOR - PRIOR) * np.eye(len(places))
        precision = regression._ss_arr[np.ix_(places, places)] - excess
        try:
            lower = np.linalg.cholesky(precision)
            aim = np.linalg.solve(lower, regression._eta_arr[places])
            found, _ = nnls(lower.T, aim)
        except (np.linalg.LinAlgError, RuntimeError):
            # Too little was learnt to tell; the old weights serve on.
            return
        self.weights = [0.0] * len(TERMS)
        for name, weight in zip(names, found, strict=True):
            self.weights[TERMS.index(name)] = float(weight)
