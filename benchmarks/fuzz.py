"""Fuzzed engine memory: what was read of it, what was refused, and whether anything wrong passed.

Made-up memory by the native crate's own fuzz tests (needs Rust), and engines that disturb what is
read of them as fast as they can, against what they wrote down themselves. A row of the table is one
kind; wrong values and panics must be 0, and the exit status says so. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from collectors.clock import BATCH, BEGIN, STATE, STATE_ATTACHED, UNKNOWN, Event, unpack
from collectors.engines.base import Family, load
from schemas.records import Workload

ROOT = Path(__file__).resolve().parents[1]
CRATE = ROOT / "collectors" / "native"
ENGINE = ROOT / "tests" / "collectors" / "hostile_engine.py"
STEP_SECONDS = 0.008
POLL_HZ = 2000


def family() -> Family:
    """Give vLLM's map, whose checks these are."""
    return load("vllm").families()[0]


def sampler_of(pid: int) -> Any:
    """Make a sampler of a process by vLLM's map."""
    import latencyprism_native

    return latencyprism_native.Sampler(pid, json.dumps(family().spec), poll_hz=POLL_HZ)


def rss_bytes() -> int:
    """Give this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def hostile_engine(folder: Path, *, seed: int) -> Iterator[subprocess.Popen[str]]:
    """Run the engine where vLLM has its core; its truth is in ``folder``."""
    script = folder / "vllm" / "v1" / "engine" / "core.py"
    script.parent.mkdir(parents=True)
    shutil.copy(ENGINE, script)
    command = [sys.executable, str(script), str(folder / "truth"), str(STEP_SECONDS), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        try:
            assert engine.stdout.readline() == "ready\n"
            yield engine
        finally:
            engine.kill()


@dataclass(slots=True)
class Score:
    """What watching a hostile engine came to."""

    iterations: int = 0
    batches: int = 0
    accepted: int = 0
    refused: int = 0
    torn: int = 0
    wrong: list[str] = field(default_factory=list)
    counts_wrong: list[str] = field(default_factory=list)
    alive: bool = False
    error: str | None = None
    longest_poll_ms: float = 0.0


def watch(folder: Path, *, seconds: float, seed: int) -> Score:
    """Watch a hostile engine and hold every batch that vLLM's checks accept against its truth."""
    score = Score()
    events: list[Event] = []
    with hostile_engine(folder, seed=seed) as engine:
        sampler = sampler_of(engine.pid)
        sampler.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begin = time.monotonic()
            events += unpack(sampler.poll(0.1))
            score.longest_poll_ms = max(
                score.longest_poll_ms, 1000 * (time.monotonic() - begin - 0.1)
            )
        score.alive, score.error = sampler.alive, sampler.last_error()
        stats = sampler.stats()
        score.torn = stats["torn"] + stats["batch_failures"]
        sampler.stop()
        time.sleep(3 * STEP_SECONDS)
    judge(events, read_truth(folder / "truth"), score)
    return score


def read_truth(path: Path) -> dict[int, Workload]:
    """Give the one workload that each step had."""
    truth = {}
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        step = json.loads(line)
        scheduled = sum(step["tokens"])
        truth[step["step"]] = Workload(
            requests=len(step["tokens"]),
            scheduled_tokens=scheduled,
            prefill_tokens=scheduled,
            decode_requests=0,
            kv_tokens=scheduled + sum(step["cached"]) + sum(step["new"]),
        )
    return truth


def judge(events: list[Event], truth: dict[int, Workload], score: Score) -> None:
    """Add what the events came to; a count is wrong that the engine had not, or had before."""
    spec = family().spec
    names = [one["name"] for one in (*spec["batch"]["fields"], *spec["gauges"])]
    last = 0
    for event in events:
        if event.kind == STATE and event.code == STATE_ATTACHED and last == 0:
            last = event.counter
        if event.kind == BEGIN:
            score.iterations += 1
            if event.counter not in truth or event.counter <= last:
                score.counts_wrong.append(f"{event.counter} after {last}")
            last = event.counter
        if event.kind == BATCH:
            score.batches += 1
            pairs = zip(names, event.payload, strict=True)
            read = {name: value for name, value in pairs if value != UNKNOWN}
            judge_batch(event.counter, family().workload(read), truth, score)


def judge_batch(
    counter: int, read: Workload | None, truth: dict[int, Workload], score: Score
) -> None:
    """Hold one batch against the truth; what could not be read is not wrong."""
    if read is None:
        score.refused += 1
        return
    score.accepted += 1
    right = truth.get(counter)
    for name in ("requests", "scheduled_tokens", "prefill_tokens", "decode_requests", "kv_tokens"):
        value = getattr(read, name)
        if value is not None and value != getattr(right, name, None):
            score.wrong.append(f"{counter}: {name} {value} for {getattr(right, name, None)}")


def fuzz_crate(cases: int, seed: int) -> list[dict[str, Any]]:
    """Run the crate's fuzz tests and give a row for each kind."""
    settings = {"LATENCYPRISM_FUZZ_CASES": str(cases), "LATENCYPRISM_FUZZ_SEED": str(seed)}
    command = ["cargo", "test", "--locked", "--profile", "fuzz", "fuzz", "--", "--nocapture"]
    done = subprocess.run(
        command, cwd=CRATE, env=os.environ | settings, text=True, capture_output=True
    )
    lines = [line.partition("fuzz {")[2] for line in done.stdout.splitlines()]
    rows: list[dict[str, Any]] = [json.loads("{" + line) for line in lines if line]
    if not rows:
        raise SystemExit(f"cargo test failed, correct this first:\n{done.stdout}{done.stderr}")
    if done.returncode and not any(row["wrong"] or row["panics"] for row in rows):
        raise SystemExit(f"a bound was exceeded:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return rows


def fuzz_engines(runs: int, seconds: float, seed: int) -> dict[str, Any]:
    """Watch so many hostile engines and give their row."""
    row: dict[str, Any] = dict.fromkeys(
        ("cases", "reads", "errors", "right", "refused", "wrong", "panics", "longest_us"), 0
    )
    row["kind"] = "hostile processes"
    for number in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            score = watch(Path(folder), seconds=seconds, seed=seed + number)
        row["cases"] += score.iterations
        row["reads"] += score.batches
        row["errors"] += score.torn
        row["right"] += score.accepted - len(score.wrong)
        row["refused"] += score.refused
        row["wrong"] += len(score.wrong) + len(score.counts_wrong)
        row["panics"] += not score.alive
        row["longest_us"] = max(row["longest_us"], round(1000 * score.longest_poll_ms))
        for text in (*score.wrong, *score.counts_wrong)[:5]:
            Console(stderr=True).print(f"seed {seed + number}: {text}")
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table()
    columns = {
        "kind": "Kind",
        "cases": "Cases",
        "reads": "Reads",
        "errors": "Errors",
        "right": "Right",
        "refused": "Refused",
        "wrong": "Wrong values accepted",
        "panics": "Panics",
        "longest_us": "Longest operation, µs",
    }
    for key, title in columns.items():
        table.add_column(title, justify="left" if key == "kind" else "right")
    for row in rows:
        table.add_row(*(str(row[key]) for key in columns))
    Console(width=max(Console().width, 120)).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything and print the table; 1 if anything wrong passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="of each kind in the crate")
    parser.add_argument("--runs", type=int, default=6, help="hostile engines")
    parser.add_argument("--seconds", type=float, default=10.0, help="to watch each of them")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    rows = fuzz_crate(asked.cases, asked.seed)
    rows.append(fuzz_engines(asked.runs, asked.seconds, asked.seed))
    show(rows)
    return int(any(row["wrong"] or row["panics"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
