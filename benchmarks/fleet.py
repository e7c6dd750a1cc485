"""How fast a fleet is simulated, and how like a real engine's its batches are.

First the speed on one core: a thousand engines as bytes in memory, into a file and into Kafka's
protocol (the embedded broker). Then the batches of a healthy vLLM, from the data that accompanies
the project, beside simulated ones: what is left of their durations around a smooth fit
(`simulator.fleet.smooth`). The preset was fitted to one half of the jobs; the loads of the other
half are simulated, written down as the recorder did, and compared. Both halves are printed, so that
one sees how much real batches differ among themselves. ``--picture FILE`` draws the held-out half
and the simulated one. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table as Printed

from schemas.settings import KafkaSettings
from simulator.datasets import Row, job_of, read_rows
from simulator.fleet import presets
from simulator.fleet.draws import Floats, Ints
from simulator.fleet.fit import halves
from simulator.fleet.fleet import Fleet
from simulator.fleet.reading import WORKLOAD
from simulator.fleet.rows import OPEN, Message
from simulator.fleet.setting import Setting, Tokens, Traffic
from simulator.fleet.sinks import Kafka, Recording
from simulator.fleet.smooth import (
    Fit,
    Table,
    autocorrelation,
    fit,
    table_of,
)
from streams.embedded import EmbeddedBroker

FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"
    )
)
FILE = FOLDER / "vllm_normal_batches.csv.gz"
SEED = 1
# Time that a load runs before it is recorded.
WARM_SECONDS = 20.0
RECORDED_SECONDS = 13.0
# Assumed: some of the recorded answers end early.
EARLY_RATIO = 0.04
BLOCK_TOKENS = 16
LARGE = 0.1
QUANTILES = (0.5, 0.9, 0.99, 0.999)
_COLUMN = {name: number for number, name in enumerate(WORKLOAD)}


def speed_row(
    name: str, preset: str, engines: int, seconds: float, open_sink: Callable[[], Any]
) -> list[str]:
    """Simulate into a sink and tell how fast that was."""
    fleet = Fleet([presets.load(preset)] * engines, seed=SEED)
    sent_bytes = messages = 0
    wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    with open_sink() as sink:
        for message in fleet.messages(seconds):
            sink.send(message)
            sent_bytes += len(message.value)
            messages += 1
        produced = time.thread_time() - own
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    per_engine = fleet.iterations / engines / seconds
    return [
        name,
        preset,
        f"{per_engine:.1f}",
        f"{fleet.iterations / produced:,.0f}",
        f"{messages / produced:,.0f}",
        f"{sent_bytes / produced / 1e6:.0f}",
        f"{engines * seconds / produced:,.0f}",
        f"{engines * seconds / wall:,.0f}",
        f"{cpu:.1f}",
    ]


class Memory:
    """Keep nothing but the last message."""

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def send(self, message: Message) -> None:
        """Take it."""
        self.last = message


def show_speed(console: Console, engines: int, seconds: float) -> None:
    """Measure and print the speed."""
    table = Printed(
        title=f"{engines} engines, {seconds:g} simulated seconds, one core", title_justify="left"
    )
    for heading in (
        "into",
        "preset",
        "iterations/s\neach",
        "iterations\n/CPU s",
        "messages\n/CPU s",
        "MB\n/CPU s",
        "engines in real\ntime, by CPU",
        "by wall\nclock",
        "CPU s of\nall threads",
    ):
        table.add_column(heading, justify="right")
    for preset in presets.available():
        table.add_row(*speed_row("memory", preset, engines, seconds, Memory))
    preset = presets.available()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name in ("fleet.jsonl", "fleet.jsonl.gz"):
            path = Path(folder) / name
            table.add_row(*speed_row(name, preset, engines, seconds, partial(Recording, path)))
        broker = stack.enter_context(EmbeddedBroker())
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap)
        table.add_row(*speed_row("Kafka", preset, engines, seconds, partial(Kafka, settings)))
    console.print(table)


def loads_of(names: Sequence[str], cached: Sequence[bool]) -> list[Setting]:
    """Give engines that serve the recorded loads.

    Args:
        names: Of the loads, as ``in128_out512_conc8``.

        cached: Whether a load's prompts were in the cache.
    """
    base = presets.load("a100_vllm")
    settings = []
    for name, is_cached in zip(names, cached, strict=True):
        load = job_of(name)
        traffic = Traffic(
            concurrency=load["conc"],
            prompt_tokens=Tokens(median=load["in"]),
            output_tokens=Tokens(median=load["out"]),
            # Some end early, which shifts the clients against each other, too.
            early_ratio=EARLY_RATIO,
            cached_ratio=float(is_cached),
        )
        settings.append(replace(base, traffic=traffic, max_requests=256, kv_blocks=40_000))
    return settings


def simulated(names: Sequence[str], cached: Sequence[bool], counts: Sequence[int]) -> list[Row]:
    """Play the recorded loads, and give the rows that a recording of them would have.

    Args:
        names: Of the loads; likewise whether their prompts were ``cached``.

        counts: Batches that were recorded of each.
    """
    settings = loads_of(names, cached)
    fleet = Fleet(settings, seed=SEED)
    found = [window.rows for window in fleet.windows(WARM_SECONDS + RECORDED_SECONDS)]
    rows = np.concatenate(found)
    rows = rows[rows["end_ns"] != OPEN]
    begin_ns = fleet.begin_ns + int(WARM_SECONDS * 1e9)
    recorded: list[Row] = []
    for engine, (name, count) in enumerate(zip(names, counts, strict=True)):
        own = rows[rows["engine"] == engine]
        own = own[np.argsort(own["begin_ns"])]
        traffic = settings[engine].traffic
        outputs = mean_outputs(own["workload"], int(traffic.prompt_tokens.median), cached[engine])
        for place in np.flatnonzero(own["begin_ns"] >= begin_ns)[:count].tolist():
            recorded.append(
                Row(
                    begin_us=float(own["begin_ns"][place] - fleet.begin_ns) / 1e3,
                    duration_ms=float(own["end_ns"][place] - own["begin_ns"][place]) / 1e6,
                    requests=int(own["workload"][place, _COLUMN["decode_requests"]]),
                    mean_input=traffic.prompt_tokens.median,
                    mean_output=round(float(outputs[place]), 2),
                    job=name,
                )
            )
    return [row for row in recorded if row.requests]


def mean_outputs(work: Ints, prompt: int, cached: bool) -> Floats:
    """Give the tokens made so far, over the decoding requests, from a whole run's workloads.

    Prompts are computed one after the other, so their sum tells how much of the last is computed.
    """
    decoding = work[:, _COLUMN["decode_requests"]]
    computed = (prompt - 1) % BLOCK_TOKENS + 1 if cached else prompt
    after = np.cumsum(work[:, _COLUMN["scheduled_tokens"]] - decoding)
    before = np.concatenate([[0], after[:-1]])
    rest = after % computed
    context = (after // computed - before // computed) * prompt
    context += np.where((rest > 0) & (after > before), prompt - computed + rest, 0)
    made = work[:, _COLUMN["kv_tokens"]] - context - decoding * prompt
    # The tokens of an iteration are counted in its context, and have not been made yet.
    found: Floats = made / np.maximum(decoding, 1) - 1
    return np.maximum(found, 0.0)


def cached_jobs(table: Table, fitted: Fit, jobs: int) -> list[bool]:
    """Tell which loads had their prompts in the cache: most of their prefill cost nothing."""
    found = []
    for job in range(jobs):
        own = (table.job == job) & (table.prefill_tokens > 0)
        found.append(bool(own.any()) and fitted.mixed[own].mean() < 0.5)
    return found


def measures(table: Table, fitted: Fit) -> dict[str, float]:
    """Give the numbers that are compared."""
    decode = fitted.residual[fitted.decode]
    mixed = fitted.residual[fitted.mixed]
    found: dict[str, float] = {
        "batches": len(table.job),
        "pure decode": len(decode),
        "with prefill": len(mixed),
        "prefill found in the cache": fitted.cached_ratio,
    }
    for name, values in (("decode", decode), ("prefill", mixed)):
        sizes = np.abs(values - np.median(values))
        found[f"{name}: MAD sigma"] = 1.4826 * float(np.median(sizes))
        for quantile in QUANTILES:
            found[f"{name}: |ln| q{100 * quantile:g}"] = float(np.quantile(sizes, quantile))
        found[f"{name}: more than 10 % off"] = float((np.abs(np.expm1(values)) > LARGE).mean())
    for lag in (1, 5, 20):
        found[f"decode: correlation, lag {lag}"] = autocorrelation(table, fitted, lag)
    gaps = table.gap_ms[np.isfinite(table.gap_ms)]
    for quantile in (0.1, 0.5, 0.9):
        found[f"gap ms, q{100 * quantile:g}"] = float(np.quantile(gaps, quantile))
    return found


def show_comparison(console: Console, columns: dict[str, dict[str, float]]) -> None:
    """Print real and simulated side by side; the last of each kind are compared."""
    table = Printed(title=f"Around a smooth fit: {FILE.name}", title_justify="left")
    for heading in ("", *columns, "simulated /\nheld-out"):
        table.add_column(heading, justify="right" if heading else "left")
    *_, held_out, made = columns.values()
    for name, value in held_out.items():
        ratio = made[name] / value if value else float("nan")
        cells = [f"{column[name]:.5g}" for column in columns.values()]
        table.add_row(name, *cells, f"{ratio:.2f}")
    console.print(table)


def draw(path: Path, real: tuple[Table, Fit], made: tuple[Table, Fit], loads: int) -> None:
    """Draw durations against batch sizes, and how often residuals exceed what."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.2))
    chance = np.random.default_rng(0)
    looks = (("real vLLM, held out", real, "#1f5fa8", -0.02), ("simulated", made, "#d9622b", 0.02))
    for name, (table, fitted), colour, shift in looks:
        chosen = np.flatnonzero(fitted.decode)
        chosen = chance.permutation(chosen)[:6000]
        width = np.exp(shift + 0.012 * chance.standard_normal(len(chosen)))
        left.plot(
            table.decoding[chosen] * width,
            table.duration_ms[chosen],
            ".",
            markersize=2.5,
            alpha=0.35,
            color=colour,
            markeredgewidth=0,
        )
        left.plot([], [], "o", color=colour, label=name)
        for kind, which, style in (("decode", fitted.decode, "-"), ("prefill", fitted.mixed, "--")):
            sizes = np.sort(np.abs(fitted.residual[which]))
            share = 1 - (np.arange(len(sizes)) + 0.5) / len(sizes)
            right.plot(100 * np.expm1(sizes), share, style, color=colour, label=f"{name}, {kind}")
    left.set_xscale("log", base=2)
    left.set_xticks([1, 2, 4, 8, 16, 32, 64, 128, 256], labels=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    left.set_ylim(25, 100)
    left.set_xlabel("requests in the batch")
    left.set_ylabel("duration (ms)")
    left.set_title(f"Pure decode, {loads} loads", loc="left")
    left.legend(frameon=False)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlim(0.05, 200)
    right.set_ylim(1e-4, 1.2)
    right.axvline(100 * LARGE, color="0.7", linewidth=0.8)
    right.text(100 * LARGE * 1.05, 0.7, "10 %", color="0.5", fontsize=9)
    right.set_xlabel("distance from the smooth fit (%)")
    right.set_ylabel("share of batches further away")
    right.set_title("What the fit does not explain", loc="left")
    right.legend(frameon=False, loc="lower left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="simulated (%(default)g)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw a .png or .svg")
    parser.add_argument("--skip-speed", action="store_true", help="only the comparison")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison")
    given = parser.parse_args(arguments)
    console = Console(width=max(Console().width, 130))
    if not given.skip_speed:
        show_speed(console, given.engines, given.seconds)
    if not FILE.is_file():
        console.print(
            f"{FILE} is not here, so there is nothing to compare with: it is not published with "
            "the project. Set LATENCYPRISM_SHARED_DATA to the folder that has it."
        )
        return 0
    _, rows, _ = read_rows(FILE)
    fitted_half, held_out = halves(rows)
    tables = {
        "real,\nfitted half": table_of(fitted_half),
        "real,\nheld-out half": table_of(held_out),
    }
    fits = {name: fit(table) for name, table in tables.items()}
    real, real_fit = tables["real,\nheld-out half"], fits["real,\nheld-out half"]
    counts = Counter(row.job for row in held_out)
    names = list(dict.fromkeys(row.job for row in held_out))
    cached = cached_jobs(real, real_fit, len(names))
    made = table_of(simulated(names, cached, [counts[name] for name in names]))
    made_fit = fit(made)
    tables["simulated,\nheld-out loads"], fits["simulated,\nheld-out loads"] = made, made_fit
    columns = {name: measures(table, fits[name]) for name, table in tables.items()}
    show_comparison(console, columns)
    if given.json is not None:
        told = {name.replace(",\n", " "): values for name, values in columns.items()}
        given.json.write_bytes(orjson.dumps(told))
    if given.picture is not None:
        draw(given.picture, (real, real_fit), (made, made_fit), len(names))
        console.print(f"drawn into {given.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
