"""What is left of batch durations around a smooth fit, for real and for simulated batches alike.

The fit has the form of the simulation's cost: a number of ms for each padded batch size, a slope
over tokens of context, and for batches with prefill a constant and a slope over its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.datasets import Row, samples_of
from simulator.fleet.draws import Floats, Ints
from simulator.fleet.parameters import padded_sizes

Flags = npt.NDArray[np.bool_]

# Shorter batches end outside the engine's own work.
LEAST_MS = 2.0
# Batches of a size that its constant is computed from.
LEAST_BATCHES = 100
# Mixed batches that cost less than this for each 1,000 tokens of prefill were found in the cache:
# of a prompt of 128 tokens 16 are computed then. Hardly any batch lies near.
CACHED_MS = 85.0
MAD = 1.4826
PADDING = 8
# Means are recorded with two digits.
ROUNDED_TOKENS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Batches in the order of time, job by job; one array for each column.

    Attributes:
        job: Number of the load that was played.

        decoding: Requests that decode.

        prompt_tokens: Mean length of their prompts.

        prefill_tokens: As far as the records of that time tell: tokens in the cache included.

        gap_ms: From the end of the batch before, of the same job; nan for a job's first.
    """

    job: Ints
    duration_ms: Floats
    decoding: Ints
    kv_tokens: Floats
    prompt_tokens: Floats
    prefill_tokens: Floats
    gap_ms: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A smooth fit and what it leaves.

    Attributes:
        sizes_ms: By padded batch size, at no context.

        residual: ln(duration / fit) less the job's median; nan where a batch has no fit.

        decode: Which batches decode only; ``mixed`` those with prefill that was computed;
            ``cached`` those whose prompts were in the cache.

        cached_ratio: Share of the batches with prefill whose prompts were in the cache.

        job_sigma: Standard deviation of the jobs' medians.
    """

    sizes_ms: dict[int, float]
    kv_ms: float
    prefill_ms: float
    mixed_ms: float
    residual: Floats
    decode: Flags
    mixed: Flags
    cached: Flags
    cached_ratio: float
    job_sigma: float


def table_of(rows: Sequence[Row]) -> Table:
    """Bring recorded batches into a table."""
    jobs = {name: number for number, name in enumerate(dict.fromkeys(row.job for row in rows))}
    ordered = sorted(rows, key=lambda row: (jobs[row.job], row.begin_us))
    workloads = [sample.workload for sample in samples_of(ordered)]
    job = np.array([jobs[row.job] for row in ordered], np.int64)
    begin = np.array([row.begin_us / 1e3 for row in ordered])
    duration = np.array([row.duration_ms for row in ordered])
    return Table(
        job=job,
        duration_ms=duration,
        decoding=np.array([row.requests for row in ordered], np.int64),
        kv_tokens=np.array([row.requests * (row.mean_input + row.mean_output) for row in ordered]),
        prompt_tokens=np.array([row.mean_input for row in ordered]),
        prefill_tokens=np.array([one.prefill_tokens or 0 for one in workloads], np.float64),
        gap_ms=gaps_ms(job, begin, begin + duration),
    )


def gaps_ms(job: Ints, begin_ms: Floats, end_ms: Floats) -> Floats:
    """Give the time since the batch before."""
    gaps = np.full(len(job), np.nan)
    gaps[1:] = np.where(job[1:] == job[:-1], begin_ms[1:] - end_ms[:-1], np.nan)
    return gaps


def fit(table: Table) -> Fit:
    """Fit a table of batches, robustly."""
    padded = padded_sizes(table.decoding, np.full(len(table.decoding), PADDING))
    decode = _steady(table) & (table.duration_ms > LEAST_MS)
    counts = np.bincount(padded[decode])
    sizes = [size for size, count in enumerate(counts.tolist()) if count >= LEAST_BATCHES]
    context = table.kv_tokens / 1e5
    kv_ms = _common_slope(context[decode], table.duration_ms[decode], padded[decode])
    rest = table.duration_ms - kv_ms * context
    sizes_ms = {size: float(np.median(rest[decode & (padded == size)])) for size in sizes}
    base = np.interp(padded, list(sizes_ms), list(sizes_ms.values())) + kv_ms * context
    decode &= np.isin(padded, sizes)
    prefilling = (table.prefill_tokens > 0) & (table.duration_ms > LEAST_MS)
    prefilling &= np.isin(padded, sizes)
    tokens = np.maximum(table.prefill_tokens, 1.0) / 1e3
    extra = table.duration_ms - base
    mixed = prefilling & (extra / tokens > CACHED_MS)
    prefill_ms, mixed_ms = _line(tokens[mixed], extra[mixed])
    expected = base + np.where(mixed, prefill_ms * tokens + mixed_ms, 0.0)
    residual = np.full(len(expected), np.nan)
    fitted = (decode | mixed) & (expected > 0)
    residual[fitted] = np.log(table.duration_ms[fitted] / expected[fitted])
    places = _centre(table.job, residual, decode)
    return Fit(
        sizes_ms=sizes_ms,
        kv_ms=kv_ms,
        prefill_ms=prefill_ms,
        mixed_ms=mixed_ms,
        residual=residual,
        decode=decode,
        mixed=mixed,
        cached=prefilling & ~mixed,
        cached_ratio=1 - float(mixed.sum()) / max(float(prefilling.sum()), 1.0),
        job_sigma=robust_sigma(places),
    )


def least_deviations(columns: Floats, values: Floats, scale: Floats) -> Floats:
    """Fit by least absolute deviations, each as a share of a scale (iteratively reweighted)."""
    weight = 1 / scale
    found: Floats = np.zeros(columns.shape[1])
    for _ in range(60):
        weighted = np.linalg.lstsq(columns * weight[:, None], values * weight, rcond=None)[0]
        found = weighted.astype(np.float64)
        off = np.abs(values - columns @ found) / scale
        weight = 1 / (scale * np.sqrt(np.maximum(off, 1e-4)))
    return found


def robust_sigma(values: Floats) -> float:
    """Give the standard deviation that the middle of the values speaks for."""
    if not len(values):
        return 0.0
    return MAD * float(np.median(np.abs(values - np.median(values))))


def autocorrelation(table: Table, fitted: Fit, lag: int, limit: float = 0.03) -> float:
    """Correlate decode residuals with those so many batches later, without the outliers."""
    value = np.clip(fitted.residual, -limit, limit)
    # Neighbours in time, with nothing but decode at both ends.
    pair = fitted.decode[lag:] & fitted.decode[:-lag] & (table.job[lag:] == table.job[:-lag])
    first, later = value[:-lag][pair], value[lag:][pair]
    return float((first * later).sum() / max((first**2).sum(), 1e-30))


def _steady(table: Table) -> Flags:
    """Tell batches that surely decode only: nobody comes or goes before the next one.

    Where a recording does not tell the prefill tokens, some of them hide where the batch changes,
    and where one comes as another goes, whose answer was short: then the context grows by less than
    a token for each request.
    """
    found: Flags = table.prefill_tokens == 0
    same = (table.job[1:] == table.job[:-1]) & (table.decoding[1:] == table.decoding[:-1])
    grown = np.diff(table.kv_tokens) - table.decoding[:-1]
    found[:-1] &= same & (np.abs(grown) <= ROUNDED_TOKENS * table.decoding[:-1] + 1)
    found[-1:] = False
    return found


def _common_slope(x: Floats, y: Floats, group: Ints) -> float:
    """Fit one slope over groups that each have a constant of their own."""
    x, y = x.copy(), y.copy()
    for one in np.unique(group):
        chosen = group == one
        x[chosen] -= np.median(x[chosen])
        y[chosen] -= np.median(y[chosen])
    return _through_zero(x, y)


def _through_zero(x: Floats, y: Floats) -> float:
    slope = 0.0
    for _ in range(8):
        slope = float((x * y).sum() / max((x * x).sum(), 1e-30))
        rest = np.abs(y - slope * x)
        kept = rest <= 4 * MAD * np.median(rest) + 1e-12
        x, y = x[kept], y[kept]
    return slope


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Fit a straight line by least absolute deviations (iteratively reweighted)."""
    if len(x) < 10:
        return 0.0, 0.0
    weight = np.ones(len(x))
    slope, constant = 0.0, 0.0
    for _ in range(50):
        columns = np.stack([x, np.ones(len(x))], axis=1) * weight[:, None]
        slope, constant = np.linalg.lstsq(columns, y * weight, rcond=None)[0].tolist()
        weight = 1 / np.sqrt(np.maximum(np.abs(y - slope * x - constant), 1e-3))
    return slope, constant


def _centre(job: Ints, residual: Floats, decode: Flags) -> Floats:
    """Take each job's median away; give those medians."""
    places = []
    for one in np.unique(job):
        chosen = job == one
        middle = float(np.median(residual[chosen & decode])) if (chosen & decode).any() else 0.0
        residual[chosen] -= middle
        places.append(middle)
    return np.array(places)
