"""How well batches are predicted, how often health is called slow, how soon slowness is found.

The batches are 26,682 real ones of a healthy vLLM, from the data that accompanies the project. Each
is predicted and judged before it is learnt (prequential error), in the order in which they ran and
with the jobs shuffled. Then pieces of them are slowed down: after 1,000 normal batches 200 take so
many times as long, from ten places each. Everything starts from an empty memory. No service is
needed; takes about a minute.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from models.judge import WARM_BATCHES, Judge, Judgement
from simulator.datasets import Sample, read_dataset

FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"
    )
)
FILE = FOLDER / "vllm_normal_batches.csv.gz"

NORMAL, SLOW = 1000, 200
FACTORS = (1.1, 1.2, 1.5, 2.0)
SEEDS = 10
SHUFFLES = 3
# Shorter ones end outside the engine's own work, where relative errors say little.
LEAST_MS = 2.0


def judge_all(
    samples: Sequence[Sample], factor: Callable[[int], float] = lambda _: 1.0
) -> tuple[Judge, list[Judgement], float]:
    """Judge batches one after the other; give the judgements and the seconds they took."""
    judge = Judge()
    begin = time.perf_counter()
    judgements = [
        judge.judge(sample.workload, sample.duration_ms * factor(number), sample.end_ns)
        for number, sample in enumerate(samples)
    ]
    return judge, judgements, time.perf_counter() - begin


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Give the batches with their jobs in another order."""
    jobs: dict[str, list[Sample]] = {}
    for sample in samples:
        jobs.setdefault(sample.job, []).append(sample)
    names = list(jobs)
    random.Random(seed).shuffle(names)
    return [sample for name in names for sample in jobs[name]]


def prediction_row(name: str, samples: Sequence[Sample]) -> list[str]:
    """Judge healthy batches: every verdict of slow is false."""
    judge, judgements, seconds = judge_all(samples)
    errors = [
        abs(judged.expected_ms / sample.duration_ms - 1)
        for sample, judged in zip(samples[WARM_BATCHES:], judgements[WARM_BATCHES:], strict=True)
        if judged.expected_ms is not None and sample.duration_ms > LEAST_MS
    ]
    slow = [judged.verdict == "slow" for judged in judgements]
    incidents = sum(now and not before for before, now in zip([False, *slow], slow, strict=False))
    return [
        name,
        f"{100 * statistics.mean(errors):.2f} %",
        f"{100 * statistics.median(errors):.2f} %",
        f"{100 * sum(error < 0.1 for error in errors) / len(errors):.1f} %",
        str(sum(slow)),
        str(incidents),
        f"{len(samples) / seconds:.0f}",
        f"{len(orjson.dumps(judge.to_state()))}",
    ]


def detection_row(factor: float, samples: Sequence[Sample]) -> list[str]:
    """Slow pieces of the batches down and see how much of it is found, and how soon."""
    hits = misses = false = 0
    lags: list[int] = []
    for seed in range(SEEDS):
        begin = random.Random(seed).randrange(len(samples) - NORMAL - SLOW)
        piece = samples[begin : begin + NORMAL + SLOW]
        _, judgements, _ = judge_all(piece, lambda number: factor if number >= NORMAL else 1.0)
        slow = [judged.verdict == "slow" for judged in judgements]
        false += sum(slow[:NORMAL])
        hits += sum(slow[NORMAL:])
        misses += SLOW - sum(slow[NORMAL:])
        if any(slow[NORMAL:]):
            lags.append(slow[NORMAL:].index(True) + 1)
    precision = hits / (hits + false) if hits else 0.0
    recall = hits / (hits + misses)
    return [
        f"x{factor:g}",
        f"{len(lags)} of {SEEDS}",
        f"{precision:.4f}",
        f"{recall:.4f}",
        f"{2 * precision * recall / (precision + recall) if hits else 0.0:.4f}",
        f"{statistics.median(lags):g}" if lags else "-",
        str(max(lags)) if lags else "-",
        str(false),
    ]


def main() -> int:
    """Run the benchmark."""
    console = Console(width=max(Console().width, 100))
    if not FILE.is_file():
        console.print(
            f"{FILE} is not here, so there is nothing to measure: it is not published with the "
            "project. Set LATENCYPRISM_SHARED_DATA to the folder that has it."
        )
        return 0
    samples = read_dataset(FILE).samples
    healthy = Table(title=f"{len(samples)} batches of a healthy vLLM", title_justify="left")
    for name in ("order", "mean error", "median", "within 10 %", "slow", "incidents"):
        healthy.add_column(name, justify="right")
    for name in ("batches/s", "state bytes"):
        healthy.add_column(name, justify="right")
    healthy.add_row(*prediction_row("as they ran", samples))
    for seed in range(1, SHUFFLES + 1):
        healthy.add_row(*prediction_row(f"shuffled {seed}", shuffled(samples, seed)))
    console.print(healthy)
    found = Table(title=f"{SLOW} slow batches after {NORMAL}", title_justify="left")
    for name in ("slowdown", "found", "precision", "recall", "F1", "lag p50", "lag max", "false"):
        found.add_column(name, justify="right")
    for factor in FACTORS:
        found.add_row(*detection_row(factor, samples))
    console.print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
