"""River's regressors beside our judge: each batch is predicted before it is learnt."""

from __future__ import annotations

import math
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson

from benchmarks.detection.data import load
from benchmarks.detection.report import Grid, Report, number, percent
from models.judge import WARM_BATCHES, Judge
from simulator.datasets import Sample
from simulator.score.prequential import LEAST_MS, NEAR, shuffled

# Of forests, that take minutes otherwise.
FEW, SOME = 3000, 6000
SEED = 1
KNN_WINDOW = 1000
# Predictions of ln(ms) beyond are of a model that has run away.
MOST_LOG = 20.0
PADDING = 8


@dataclass(frozen=True, slots=True)
class Passed:
    """One pass of one model.

    Attributes:
        batches: The first so many.

        within: Share with an error below 10 %.

        state_bytes: JSON of ours, pickle of River's.
    """

    model: str
    order: str
    batches: int
    mean_error: float
    median_error: float
    within: float
    batches_per_second: float
    state_bytes: int


def models() -> dict[str, tuple[Callable[[], Any], int | None]]:
    """Give how each model is made, and for how many batches there is time."""
    from river import compose, forest, linear_model, neighbors, preprocessing, tree
    from river.neighbors import LazySearch

    def scaled(model: Any) -> Any:
        return compose.Pipeline(preprocessing.StandardScaler(), model)

    return {
        "ARFRegressor": (lambda: forest.ARFRegressor(seed=SEED), FEW),
        "AMFRegressor": (lambda: forest.AMFRegressor(seed=SEED), SOME),
        "HoeffdingTreeRegressor": (tree.HoeffdingTreeRegressor, None),
        "HoeffdingAdaptiveTreeRegressor": (
            lambda: tree.HoeffdingAdaptiveTreeRegressor(seed=SEED),
            None,
        ),
        "KNNRegressor": (
            lambda: scaled(neighbors.KNNRegressor(engine=LazySearch(window_size=KNN_WINDOW))),
            None,
        ),
        "LinearRegression": (lambda: scaled(linear_model.LinearRegression()), None),
        "BayesianLinearRegression": (linear_model.BayesianLinearRegression, None),
    }


def play(path: Path, seeds: int) -> Report:
    """Play each model in the order of time and with the jobs shuffled."""
    samples = load(path).samples
    found = []
    for order, batches in (("as they ran", samples), ("shuffled 1", shuffled(samples, 1))):
        found.append(pass_of_ours(order, batches))
        for name, (make, most) in models().items():
            found.append(pass_of(name, make(), order, batches[:most]))
    return Report(
        (_grid(found),),
        msgspec.to_builtins(found),
        (
            "All see the same features of a batch and learn ln(ms). Ours learns nothing that it "
            "judges slow, and its speed includes the judging. A model that follows every batch "
            "predicts well and finds nothing: it has learnt the fault before it stands out.",
        ),
    )


def features(sample: Sample) -> dict[str, float]:
    """Give what the models see, of about unit size."""
    work = sample.workload
    decoding, prefill = work.decode_requests or 0, work.prefill_tokens or 0
    context = work.kv_tokens or 0
    return {
        "decoding": decoding / 100,
        "padded": math.ceil(decoding / PADDING) * PADDING / 100,
        "context": context / 1e5,
        "mean_context": context / max(work.requests or 0, 1) / 1e3,
        "prefill": prefill / 1e3,
        "mixed": float(prefill > 0),
        # River's own intercept is not weighed as the others are.
        "weights": 1.0,
    }


def pass_of(name: str, model: Any, order: str, samples: Sequence[Sample]) -> Passed:
    """Let one of River's models pass."""
    errors = []
    begin = time.process_time()
    for place, sample in enumerate(samples):
        x = features(sample)
        predicted = model.predict_one(x)
        model.learn_one(x, math.log(sample.duration_ms))
        if place >= WARM_BATCHES and sample.duration_ms > LEAST_MS:
            ln_ms = max(-MOST_LOG, min(float(predicted or 0.0), MOST_LOG))
            errors.append(abs(math.exp(ln_ms) / sample.duration_ms - 1))
    seconds = time.process_time() - begin
    return _passed(name, order, len(samples), errors, seconds, len(pickle.dumps(model)))


def pass_of_ours(order: str, samples: Sequence[Sample]) -> Passed:
    """Let our judge pass."""
    judge, errors = Judge(), []
    begin = time.process_time()
    for place, sample in enumerate(samples):
        judged = judge.judge(sample.workload, sample.duration_ms, sample.end_ns)
        is_long = place >= WARM_BATCHES and sample.duration_ms > LEAST_MS
        if is_long and judged.expected_ms is not None:
            errors.append(abs(judged.expected_ms / sample.duration_ms - 1))
    seconds = time.process_time() - begin
    state = orjson.dumps(judge.to_state(), option=orjson.OPT_NON_STR_KEYS)
    return _passed("ours", order, len(samples), errors, seconds, len(state))


def _passed(
    name: str, order: str, batches: int, errors: list[float], seconds: float, state_bytes: int
) -> Passed:
    return Passed(
        model=name,
        order=order,
        batches=batches,
        mean_error=statistics.fmean(errors),
        median_error=statistics.median(errors),
        within=statistics.fmean(error < NEAR for error in errors),
        batches_per_second=batches / max(seconds, 1e-9),
        state_bytes=state_bytes,
    )


def _grid(found: Sequence[Passed]) -> Grid:
    return Grid(
        "Models beside each other, each batch predicted before it is learnt",
        (
            *("order", "model", "first batches", "mean error", "median", "within 10 %"),
            *("batches/s", "state, bytes"),
        ),
        [
            [
                one.order,
                one.model,
                f"{one.batches:,}",
                percent(one.mean_error) if one.mean_error < 100 else "runs away",
                percent(one.median_error),
                percent(one.within, 1),
                number(one.batches_per_second, 0),
                f"{one.state_bytes:,}",
            ]
            for one in found
        ],
        words=2,
    )
