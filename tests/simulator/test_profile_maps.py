"""The map of each engine, tried on the profiles of its versions under each Python at hand.

What the agent counts and reads from outside is compared with what the profile says it did. Several
profiles run at a time, ahead of the tests that look at them, for they mostly sleep.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from collectors.discovery import EngineProcess, Scanner
from collectors.engines import base
from schemas.records import Role
from simulator.profiles.__main__ import load
from simulator.profiles.process import ProfileProcess, available
from simulator.replica.truth import TruthIteration
from tests.pythons.interpreters import Interpreter
from tests.simulator.watched_profile import (
    NO_PYTHON,
    Watched,
    compare,
    framework,
    pythons,
    watch,
)

pytestmark = pytest.mark.process

WATCHED_SECONDS = 1.5
FEWEST_ITERATIONS = 40
PERIOD_MS = 15.0
AT_A_TIME = 5

EXACT_RATIO = 0.98

OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = pythons()
# Roles of the ranks that are watched beside the core.
RANKS: dict[str, Role] = {
    "vllm_workers": "worker",
    "sglang_0_5_5": "engine_core",
    "sglang_0_5_23": "engine_core",
}
SPECULATE = ("vllm_0_33_async",)
# Each request asks for an adapter of its own.
HAVE_ADAPTERS = ("vllm_0_12", "vllm_workers")
Case = tuple[str, str]
CASES: list[Case] = [(n, v) for n in available() if n not in NO_PYTHON for v in PYTHONS]


@dataclass(frozen=True)
class Look:
    """What was seen of one running profile, and what it was."""

    core: Watched | None
    rank: Watched | None
    engines: list[EngineProcess]
    process: ProfileProcess
    truth: list[TruthIteration]


def look_at(name: str, python: Interpreter, folder: Path) -> Look:
    """Run a profile for a while and watch its core and, of another role, its first rank."""
    role = RANKS.get(name)
    known = framework(name)
    with (
        ProfileProcess(
            name,
            python=(python.command,),
            environment=python.environment,
            truth=folder / f"{name}-{python.release}.csv",
            period_ms=PERIOD_MS,
        ) as running,
        ThreadPoolExecutor(2) as pool,
    ):

        def start(pid: int, families: list[base.Family]) -> Future[Watched]:
            return pool.submit(watch, pid, families, WATCHED_SECONDS, FEWEST_ITERATIONS)

        engines = base.find_engines(Scanner().scan(), [known])
        core = rank = None
        if name not in NO_PYTHON:
            core = start(running.core_pid, known.families("engine_core"))
        if role is not None:
            rank = start(running.rank_pids[0], known.families(role))
        of_core, of_rank = (None if one is None else one.result() for one in (core, rank))
        # The truth has the batch that was seen last once that has ended.
        time.sleep(10 * PERIOD_MS / 1000)
        running.stop()
        return Look(of_core, of_rank, engines, running, running.read_truth())


@pytest.fixture(scope="module")
def look(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Look]]:
    """Give the look at a profile under a version; those of all chosen tests begin at once."""
    folder = tmp_path_factory.mktemp("truth")
    chosen = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    cases = dict.fromkeys((str(one["name"]), str(one["version"])) for one in chosen)
    pool = ThreadPoolExecutor(AT_A_TIME)
    looks = {
        (name, version): pool.submit(look_at, name, PYTHONS[version], folder)
        for name, version in cases
    }
    yield lambda name, version: looks[name, version].result()
    pool.shutdown(cancel_futures=True)


@pytest.fixture(autouse=True)
def _native() -> None:
    pytest.importorskip("latencyprism_native", reason="no native sampler: make native")


def check(
    watched: Watched | None, truth: list[TruthIteration], *, by_sequence: bool = False
) -> None:
    assert watched is not None
    seen = watched.iterations
    assert len(seen) > 20, watched.stats
    sequences = [one.sequence for one in seen]
    assert all(after > before for before, after in itertools.pairwise(sequences))
    found = compare(seen, truth, by_sequence=by_sequence)
    allowed = 0
    if seen[0].source != "counter":
        # A call may be taken for two; benchmarks/profiles.py shows how many are. A stall of this
        # machine hides calls; the record's uncertainty says that it may have.
        allowed = 1 + sum(2 * one.uncertainty_ns // int(PERIOD_MS * 1e6) for one in seen)
    assert abs(found.drift) <= allowed, watched.stats
    readable, wrong = len(found.readable), found.wrong
    assert readable > 10, watched.stats
    assert len(wrong) <= (1 - EXACT_RATIO) * readable, (wrong, readable, watched.stats)


@pytest.mark.parametrize(("name", "version"), CASES)
def test_the_map_counts_and_reads_the_core(
    look: Callable[[str, str], Look], name: str, version: str
) -> None:
    seen = look(name, version)
    check(seen.core, seen.truth)


@pytest.mark.parametrize(("name", "version"), [case for case in CASES if case[0] in SPECULATE])
def test_drafts_are_counted_where_an_engine_speculates(
    look: Callable[[str, str], Look], name: str, version: str
) -> None:
    seen = look(name, version)
    assert seen.core is not None
    drafts = [one.workload.speculative_tokens for one in seen.core.iterations]
    # That each number is the true one is a part of what the map is checked for.
    assert len([one for one in drafts if one]) > 10
    assert 0 in drafts


@pytest.mark.parametrize(("name", "version"), [c for c in CASES if c[0] in HAVE_ADAPTERS])
def test_adapters_are_those_of_the_batch_or_of_the_one_before(
    look: Callable[[str, str], Look], name: str, version: str
) -> None:
    seen = look(name, version)
    runner = seen.rank or seen.core
    assert runner is not None
    before = {after.sequence: one.requests for one, after in itertools.pairwise(seen.truth)}
    found = [
        (one.workload.lora_adapters, (row.requests, before.get(row.sequence)))
        for one, row in compare(runner.iterations, seen.truth).readable
    ]
    known = [(adapters, either) for adapters, either in found if adapters is not None]
    assert len(known) >= EXACT_RATIO * len(found)
    wrong = [one for one in known if one[0] not in one[1]]
    assert len(wrong) <= (1 - EXACT_RATIO) * len(found), wrong
    # Where it is late, it is so by the moment of a look: for few of the batches that changed.
    changed = [one for one in known if one[1][0] != one[1][1]]
    assert len([one for one in changed if one[0] == one[1][0]]) > len(changed) / 2


@pytest.mark.parametrize(("name", "version"), [("vllm_workers", OURS)])
def test_a_core_knows_nothing_of_adapters_in_other_processes(
    look: Callable[[str, str], Look], name: str, version: str
) -> None:
    seen = look(name, version).core
    assert seen is not None
    assert {one.workload.lora_adapters for one in seen.iterations} == {None}


@pytest.mark.parametrize(("name", "version"), [case for case in CASES if case[0] in RANKS])
def test_the_map_counts_and_reads_another_rank(
    look: Callable[[str, str], Look], name: str, version: str
) -> None:
    seen = look(name, version)
    check(seen.rank, seen.truth, by_sequence=RANKS[name] == "engine_core")


@pytest.mark.parametrize("version", [OURS])
@pytest.mark.parametrize("name", available())
def test_the_map_finds_the_processes(
    look: Callable[[str, str], Look], name: str, version: str
) -> None:
    seen = look(name, version)
    running = seen.process
    mine = [engine for engine in seen.engines if engine.core.pid == running.core_pid]
    assert len(mine) == 1
    ranks = {rank.process.pid for rank in mine[0].ranks}
    assert ranks == set(running.rank_pids)
    if load(name).metrics:
        assert mine[0].port == running.port
        assert mine[0].model in ("tiny", "tiny.gguf")
