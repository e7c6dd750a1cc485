"""Engines that disturb what is read of them: nothing wrong passes, nothing hangs or leaks.

The same with made-up memory is in the native crate (`cargo test fuzz`), and both at length are
`make bench-fuzz`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import Score, hostile_engine, rss_bytes, sampler_of, watch
from tests.collectors.engine import needs_native

pytestmark = [pytest.mark.process, needs_native]

STARTS = 50
# The promise is 50 ms; the rest is for a machine that is busy with something else.
STOP_SECONDS = 2.0


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def attach(pid: int) -> Any:
    sampler = sampler_of(pid)
    sampler.start()
    return sampler


def stop_in_time(sampler: Any) -> None:
    begin = time.monotonic()
    sampler.stop()
    assert time.monotonic() - begin < STOP_SECONDS


def ended(sampler: Any, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while sampler.alive and time.monotonic() < deadline:
        sampler.poll(0.1)
    return not sampler.alive


@pytest.mark.parametrize("seed", [1, 2])
def test_no_batch_is_accepted_that_the_engine_never_had(seed: int, tmp_path: Path) -> None:
    with no_more_descriptors():
        score = watch(tmp_path, seconds=2.0, seed=seed)
    assert score.wrong == []
    assert score.counts_wrong == []
    assert score.alive
    assert score.error is None
    assert score.iterations > 50
    assert score.accepted > 5


def test_a_target_killed_in_mid_read_ends_the_reading_only(tmp_path: Path) -> None:
    with no_more_descriptors():
        for number in range(STARTS):
            with hostile_engine(tmp_path / str(number), seed=number) as engine:
                sampler = attach(engine.pid)
                time.sleep(0.01 * (number % 5))
                os.kill(engine.pid, signal.SIGKILL)
                assert ended(sampler)
                assert "has ended" in sampler.last_error() or "gone" in sampler.last_error()
                stop_in_time(sampler)


def test_a_stopped_target_is_waited_for(tmp_path: Path) -> None:
    with hostile_engine(tmp_path, seed=5) as engine:
        sampler = attach(engine.pid)
        for _ in range(10):
            os.kill(engine.pid, signal.SIGSTOP)
            time.sleep(0.02)
            assert sampler.alive
            os.kill(engine.pid, signal.SIGCONT)
            time.sleep(0.02)
        before = sampler.stats()["iterations"]
        deadline = time.monotonic() + 5.0
        while sampler.stats()["iterations"] == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sampler.stats()["iterations"] > before
        os.kill(engine.pid, signal.SIGSTOP)
        stop_in_time(sampler)


def test_another_program_in_the_same_process_is_not_read_on(tmp_path: Path) -> None:
    """Its number and its start time stay: only the memory is another."""
    with hostile_engine(tmp_path, seed=6) as engine:
        sampler = attach(engine.pid)
        os.kill(engine.pid, signal.SIGUSR1)
        assert ended(sampler)
        assert "another program" in sampler.last_error()
        stop_in_time(sampler)


def test_a_target_without_memory_is_refused_with_a_reason() -> None:
    import latencyprism_native as native

    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            with no_more_descriptors(), pytest.raises(native.SamplerError):
                attach(other.pid)
        finally:
            other.kill()


def test_memory_does_not_grow_with_what_is_read(tmp_path: Path) -> None:
    watch(tmp_path / "first", seconds=0.5, seed=8)
    before = rss_bytes()
    score: Score = watch(tmp_path / "second", seconds=2.5, seed=9)
    assert score.iterations
    assert rss_bytes() - before < 16 << 20
