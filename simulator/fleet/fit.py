"""Fit the constants of a preset to recorded batches of a real engine, and print them.

``python -m simulator.fleet.fit FILE`` reads a CSV file of batches (`simulator.datasets`) and prints
``Cost`` and ``Noise`` as Python text; `presets` says which were made so.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simulator.datasets import DatasetError, Row, read_rows
from simulator.fleet.draws import Floats, keys_of
from simulator.fleet.setting import Cost, Noise, Work
from simulator.fleet.smooth import (
    Fit,
    Table,
    autocorrelation,
    fit,
    least_deviations,
    robust_sigma,
    table_of,
)

OUTLIER_RATIO = 0.1
CLIP = 0.03
LAGS = (1, 2, 3, 5, 8, 12, 20, 30, 50)
# Work of the host within an iteration of vLLM 0.10; a file of durations cannot tell it from the
# accelerator's. From the captures of the public artifact: some 1 to 2 ms of CPU before the launch.
PREPARE = Work(fixed_us=500.0, request_us=5.0)
DISPATCH = Work(fixed_us=250.0)
SAMPLE = Work(fixed_us=150.0, request_us=1.0)
HOST_US = sum(work.fixed_us for work in (PREPARE, DISPATCH, SAMPLE))
REQUEST_US = sum(work.request_us for work in (PREPARE, DISPATCH, SAMPLE))
BLOCK_TOKENS = 16
MIXED_KNOTS = (1, 32, 64, 128, 192, 256, 320, 384, 512, 640, 1024, 1536, 2048)


def fit_cost(table: Table, fitted: Fit) -> Cost:
    """Give the coefficients of the iteration-time model, without overlap."""
    knots = tuple(
        (size, round(ms - (HOST_US + size * REQUEST_US) / 1e3, 2))
        for size, ms in fitted.sizes_ms.items()
    )
    known = np.isfinite(table.gap_ms) & fitted.decode
    slope, constant = np.polyfit(table.decoding[known], table.gap_ms[known], 1).tolist()
    mixed_tokens_ms, mixed_request_ms, _ = fit_mixed(table, fitted)
    return Cost(
        decode_ms=knots,
        kv_ms=round(fitted.kv_ms, 2),
        mixed_tokens_ms=mixed_tokens_ms,
        mixed_request_ms=mixed_request_ms,
        prepare=PREPARE,
        dispatch=DISPATCH,
        sample=SAMPLE,
        gap=Work(fixed_us=round(1e3 * constant, 1), request_us=round(1e3 * slope, 2)),
    )


def fit_noise(table: Table, fitted: Fit, cost: Cost) -> Noise:
    """Give what the cost does not explain."""
    decode = fitted.residual[fitted.decode]
    ratios = np.expm1(decode[decode > math.log1p(OUTLIER_RATIO)])
    exponent = len(ratios) / float(np.log(ratios / OUTLIER_RATIO).sum()) if len(ratios) else 2.0
    sigma = robust_sigma(decode)
    # The correlations are those of clipped residuals, and so are the shares of their variance.
    spread = float(np.clip(decode, -CLIP, CLIP).std())
    white, drift, correlation, clock, seconds = _fit_drift(table, fitted)
    tail_share, tail_sigma = _fit_tail(np.abs(decode[decode < math.log1p(OUTLIER_RATIO)]), sigma)
    known = np.isfinite(table.gap_ms) & fitted.decode & (table.gap_ms > 0)
    usual = (cost.gap.fixed_us + cost.gap.request_us * table.decoding[known]) / 1e3
    # A large step goes on for a while, which blurs the tails: fewer and larger ones, of the same
    # variance, keep the kurtosis of what was found.
    blur = (1 - correlation**2) / (1 + correlation**2)
    tail_share, tail_sigma = round(tail_share * blur, 4), round(tail_sigma / math.sqrt(blur), 4)
    steps = max(drift * spread**2 - tail_share * tail_sigma**2, 0.0)
    return Noise(
        sigma=round(spread * math.sqrt(white), 5),
        drift_sigma=round(math.sqrt(steps), 5),
        correlation=correlation,
        clock_ratio=round(2 * spread * math.sqrt(clock), 5),
        clock_seconds=seconds,
        tail_share=tail_share,
        tail_sigma=tail_sigma,
        outlier_share=round(len(ratios) / len(decode), 5),
        outlier_ratio=OUTLIER_RATIO,
        outlier_exponent=round(exponent, 2),
        outlier_most=round(float(ratios.max(initial=OUTLIER_RATIO)), 2),
        mixed_sigma=round(math.sqrt(max(fit_mixed(table, fitted)[2] ** 2 - sigma**2, 0.0)), 4),
        gap_spread=round(robust_sigma(np.log(table.gap_ms[known] / usual)), 3),
        engine_sigma=round(fitted.job_sigma, 4),
    )


def fit_mixed(table: Table, fitted: Fit) -> tuple[tuple[tuple[int, float], ...], float, float]:
    """Give what batches with prefill cost by their tokens and by decoding request; and the noise.

    Of a prompt in the cache the last block is computed.
    """
    some = fitted.mixed | fitted.cached
    joined = table.prefill_tokens / table.prompt_tokens
    last = (table.prompt_tokens - 1) % BLOCK_TOKENS + 1
    prefill = np.where(fitted.cached, joined * last, table.prefill_tokens)[some]
    tokens = table.decoding[some] + prefill
    rest = table.duration_ms - fitted.kv_ms * table.kv_tokens / 1e5
    rest = rest[some] - (HOST_US + REQUEST_US * (table.decoding + joined)[some]) / 1e3
    hats = [np.interp(tokens, MIXED_KNOTS, one) for one in np.eye(len(MIXED_KNOTS))]
    columns = np.stack([*hats, table.decoding[some].astype(np.float64)], axis=1)
    *values, request_ms = least_deviations(columns, rest, table.duration_ms[some]).tolist()
    knots = tuple((size, round(ms, 1)) for size, ms in zip(MIXED_KNOTS, values, strict=True))
    off = (rest - columns @ np.array([*values, request_ms])) / table.duration_ms[some]
    return knots, round(request_ms, 4), robust_sigma(off[fitted.mixed[some]])


def halves(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Split batches by the hash of their job's name: one half to fit, the other to compare with."""
    parts: tuple[list[Row], list[Row]] = ([], [])
    jobs = sorted({row.job for row in rows})
    side = dict(zip(jobs, (keys_of(0, jobs) % 2).tolist(), strict=True))
    for row in rows:
        parts[side[row.job]].append(row)
    return parts


def _fit_drift(table: Table, fitted: Fit) -> tuple[float, float, float, float, float]:
    """Split the variance into white noise, a drift and a toggling clock by its correlation."""
    found = np.array([autocorrelation(table, fitted, lag) for lag in LAGS])
    period = float(np.median(table.duration_ms[fitted.decode])) / 1e3
    lags = np.array(LAGS, np.float64)
    best = (math.inf, 1.0, 0.0, 0.5, 0.0, 1.0)
    for correlation, seconds in itertools.product(
        np.arange(0.3, 0.96, 0.05), np.arange(0.4, 4.1, 0.2)
    ):
        columns = np.stack(
            # A state that is drawn anew every so many seconds is the same until then.
            [correlation**lags, np.clip(1 - lags * period / seconds, 0.0, None)],
            axis=1,
        )
        shares = np.clip(np.linalg.lstsq(columns, found, rcond=None)[0], 0.0, 1.0)
        shares /= max(float(shares.sum()), 1.0)
        error = float(((columns @ shares - found) ** 2).sum())
        if error < best[0]:
            drift, clock = shares.tolist()
            best = (error, 1 - drift - clock, drift, float(correlation), clock, float(seconds))
    _, white, drift, correlation, clock, seconds = best
    return max(white, 0.0), drift, round(correlation, 2), clock, round(seconds, 1)


def _fit_tail(sizes: Floats, sigma: float) -> tuple[float, float]:
    """Give share and width of a second normal distribution, by how many exceed what."""
    limits = np.array([2.0, 2.5, 3.0, 4.0, 6.0, 8.0]) * sigma
    found = np.array([(sizes > limit).mean() for limit in limits])
    best = (math.inf, 0.0, 0.0)
    for share, width in itertools.product(np.arange(0.0, 0.2, 0.005), np.arange(1.0, 8.1, 0.25)):
        spread = sigma * math.hypot(1.0, width)
        model = np.array(
            [(1 - share) * _beyond(x / sigma) + share * _beyond(x / spread) for x in limits]
        )
        error = float(((np.log(model + 1e-4) - np.log(found + 1e-4)) ** 2).sum())
        if error < best[0]:
            best = (error, float(share), float(width) * sigma)
    return round(best[1], 4), round(best[2], 4)


def _beyond(sigmas: float) -> float:
    return math.erfc(sigmas / math.sqrt(2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit a file and print the constants."""
    parser = argparse.ArgumentParser(prog="python -m simulator.fleet.fit", description=__doc__)
    parser.add_argument("file", type=Path, help="recorded batches, CSV, compressed or not")
    parser.add_argument("--half", action="store_true", help="hold the other half of the jobs out")
    given = parser.parse_args(arguments)
    try:
        _, rows, _ = read_rows(given.file)
    except DatasetError as err:
        parser.error(str(err))
    table = table_of(halves(rows)[0] if given.half else rows)
    fitted = fit(table)
    cost = fit_cost(table, fitted)
    noise = fit_noise(table, fitted, cost)
    sys.stdout.write(f"{cost}\n{noise}\ncached_ratio={fitted.cached_ratio:.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
