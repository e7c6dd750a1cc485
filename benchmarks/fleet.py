"""How fast a fleet is simulated, and how like a real engine's its batches are.

First the speed on one core: a thousand engines as bytes in memory, into a file and into Kafka's
protocol (the embedded broker). Then the batches of a healthy vLLM, from the data that accompanies
the project, beside the same loads simulated: what is left of their durations around a smooth fit of
the same form (`simulator.fleet.smooth`). ``--picture FILE`` draws both. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
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
from simulator.datasets import job_of, read_rows
from simulator.fleet import presets
from simulator.fleet.fleet import Fleet
from simulator.fleet.rows import OPEN, WORKLOAD, Message
from simulator.fleet.setting import Noise, Tokens, Traffic
from simulator.fleet.sinks import Kafka, Recording
from simulator.fleet.smooth import (
    Fit,
    Table,
    autocorrelation,
    fit,
    gaps_ms,
    proxy_prefill,
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
RECORDED_SECONDS = 10.0
OUTPUT_SPREAD = 0.05
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


def simulated(real: Table, names: Sequence[str], cached: Sequence[bool]) -> Table:
    """Play the recorded loads on simulated engines, and give what a recording of them would have.

    Args:
        real: Says how many batches each load had.

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
            # Real clients are not in step, and would stay so for ever if all answers were alike.
            output_tokens=Tokens(median=load["out"], spread=OUTPUT_SPREAD),
            cached_ratio=float(is_cached),
        )
        settings.append(replace(base, traffic=traffic, max_requests=256, kv_blocks=40_000))
    fleet = Fleet(settings, seed=SEED)
    begin_ns = fleet.begin_ns + int(WARM_SECONDS * 1e9)
    found = [window.rows for window in fleet.windows(WARM_SECONDS + RECORDED_SECONDS)]
    rows = np.concatenate(found)
    rows = rows[(rows["end_ns"] != OPEN) & (rows["begin_ns"] >= begin_ns)]
    rows = rows[np.lexsort((rows["begin_ns"], rows["engine"]))]
    counts = np.bincount(real.job, minlength=len(names))
    place = np.arange(len(rows)) - np.searchsorted(rows["engine"], rows["engine"])
    rows = rows[place < counts[rows["engine"]]]
    work = rows["workload"]
    decoding = work[:, _COLUMN["decode_requests"]]
    prompts = np.array([setting.traffic.prompt_tokens.median for setting in settings], np.int64)
    joined = work[:, _COLUMN["requests"]] - decoding
    prompt = prompts[rows["engine"]]
    begin_ms = (rows["begin_ns"] - begin_ns) / 1e6
    end_ms = (rows["end_ns"] - begin_ns) / 1e6
    kv = work[:, _COLUMN["kv_tokens"]] - joined * prompt
    return Table(
        job=rows["engine"].astype(np.int64),
        duration_ms=end_ms - begin_ms,
        decoding=decoding,
        kv_tokens=np.maximum(kv, 0).astype(np.float64),
        prefill_tokens=proxy_prefill(joined, prompt, decoding),
        gap_ms=gaps_ms(rows["engine"].astype(np.int64), begin_ms, end_ms),
    )


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


def show_comparison(console: Console, real: dict[str, float], made: dict[str, float]) -> None:
    """Print real and simulated side by side."""
    table = Printed(title=f"Around a smooth fit: {FILE.name}", title_justify="left")
    for heading in ("", "real", "simulated", "simulated / real"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, value in real.items():
        ratio = made[name] / value if value else float("nan")
        table.add_row(name, f"{value:.5g}", f"{made[name]:.5g}", f"{ratio:.2f}")
    console.print(table)


def draw(path: Path, real: tuple[Table, Fit], made: tuple[Table, Fit], noise: Noise) -> None:
    """Draw durations against batch sizes, and how often residuals exceed what."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.2))
    chance = np.random.default_rng(0)
    looks = (("real vLLM", real, "#1f5fa8", -0.02), ("simulated", made, "#d9622b", 0.02))
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
    left.set_title("Pure decode, 126 loads", loc="left")
    left.legend(frameon=False)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlim(0.05, 200)
    right.set_ylim(1e-4, 1.2)
    right.axvline(100 * noise.outlier_ratio, color="0.7", linewidth=0.8)
    right.text(100 * noise.outlier_ratio * 1.05, 0.7, "10 %", color="0.5", fontsize=9)
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
    console = Console(width=max(Console().width, 110))
    if not given.skip_speed:
        show_speed(console, given.engines, given.seconds)
    if not FILE.is_file():
        console.print(
            f"{FILE} is not here, so there is nothing to compare with: it is not published with "
            "the project. Set LATENCYPRISM_SHARED_DATA to the folder that has it."
        )
        return 0
    _, rows, _ = read_rows(FILE)
    real = table_of(rows)
    real_fit = fit(real)
    names = list(dict.fromkeys(row.job for row in rows))
    made = simulated(real, names, cached_jobs(real, real_fit, len(names)))
    made_fit = fit(made)
    found = measures(real, real_fit), measures(made, made_fit)
    show_comparison(console, *found)
    if given.json is not None:
        given.json.write_bytes(orjson.dumps({"real": found[0], "simulated": found[1]}))
    if given.picture is not None:
        draw(given.picture, (real, real_fit), (made, made_fit), presets.A100_VLLM.noise)
        console.print(f"drawn into {given.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
