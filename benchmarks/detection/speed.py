"""Batches per second on one core, and bytes of state for each engine."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.detection.data import load
from benchmarks.detection.report import Grid, Report, at_least, at_most, number
from models.judge import Judge
from schemas.codec import decode, encode
from schemas.records import Iteration, PhaseTime
from simulator.datasets import Sample
from streams.offline import Offline

LEAST_JUDGED, LEAST_STREAMED = 30_000, 10_000
MOST_STATE_BYTES = 64 * 1024
ENGINE_ID = "host:8000"
# The best of so many: a machine that does other things meanwhile only adds time.
ROUNDS = 3
FORWARD_RATIO = 0.9


def play(path: Path, seeds: int) -> Report:
    """Time the judge alone, and all that a stream worker does for a batch."""
    samples = load(path).samples
    states, judged = zip(*(judging(samples) for _ in range(ROUNDS)), strict=True)
    messages = [encode(one) for one in iterations(samples)]
    streamed = max(streaming(messages) for _ in range(ROUNDS))
    state = orjson.dumps(states[0], option=orjson.OPT_NON_STR_KEYS)
    packed = len(zlib.compress(state))
    grid = Grid(
        "One core of this machine, by the process's own CPU time",
        ("what", "found", "target", ""),
        [
            _speed("batches/s: predict, judge, learn", max(judged), LEAST_JUDGED),
            _speed("batches/s: decode, analyse, encode", streamed, LEAST_STREAMED),
            _size("state of an engine, bytes of JSON", len(state)),
            _size("the same, compressed (zlib)", packed),
        ],
    )
    figures = {
        "judged_per_second": max(judged),
        "streamed_per_second": streamed,
        "state_bytes": len(state),
        "state_bytes_compressed": packed,
    }
    return Report((grid,), figures)


def judging(samples: Sequence[Sample]) -> tuple[dict[str, Any], float]:
    """Judge all batches; give the state after them, and batches per second."""
    judge = Judge()
    begin = time.process_time()
    for one in samples:
        judge.judge(one.workload, one.duration_ms, one.end_ns)
    return judge.to_state(), len(samples) / (time.process_time() - begin)


def streaming(messages: Sequence[bytes]) -> float:
    """Give batches per second from an iteration's bytes to those of what is told of it."""
    offline = Offline()
    written = 0
    begin = time.process_time()
    for message in messages:
        for result in offline.feed(decode(Iteration, message)):
            written += len(encode(result))
    return len(messages) / (time.process_time() - begin)


def iterations(samples: Sequence[Sample]) -> Iterator[Iteration]:
    """Give the batches as an agent would have told them."""
    for number_, one in enumerate(samples):
        duration_ns = int(one.duration_ms * 1e6)
        forward = PhaseTime(
            phase="forward", duration_ns=int(FORWARD_RATIO * duration_ns), samples=2
        )
        yield Iteration(
            engine_id=ENGINE_ID,
            process_start_ns=1,
            sequence=number_,
            begin_ns=one.end_ns - duration_ns,
            end_ns=one.end_ns,
            uncertainty_ns=1000,
            source="counter",
            workload=one.workload,
            phases=(forward,),
        )


def _speed(name: str, found: float, least: int) -> list[str]:
    return [name, number(found, 0), f">= {least:,}", at_least(found, least)]


def _size(name: str, found: int) -> list[str]:
    target = f"<= {MOST_STATE_BYTES:,}"
    return [name, f"{found:,}", target, at_most(found, MOST_STATE_BYTES)]
