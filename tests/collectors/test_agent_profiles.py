"""One agent beside several engines at once: each is found, read its own way, and left alone."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.records import Engine, Iteration, Source
from simulator.profiles.process import ProfileProcess
from tests.collectors.engine import Collector, needs_native, wait_for, write_config

pytestmark = pytest.mark.process

PROFILES = Path(__file__).resolve().parents[2] / "simulator" / "profiles"
OWN_ENGINE = PROFILES / "inhouse" / "acme.toml"
BLOCK_NATIVE = "import sys; sys.modules['latencyprism_native'] = None"

PERIOD_MS = 25.0
ENOUGH = 40
# Where the machine is kept busy an iteration is missed, or its batch, now and then.
MOST = 0.9

# Framework, model, and the source of the core's iterations.
EXPECTED: dict[str, tuple[str, str, Source]] = {
    "vllm_0_33_async": ("vllm", "tiny", "counter"),
    "vllm_workers": ("vllm", "tiny", "counter"),
    "sglang_0_5_23": ("sglang", "tiny", "counter"),
    "tgi_3_3": ("tgi", "tiny", "stack"),
    "inhouse": ("acme", "tiny", "counter"),
    "llama_cpp": ("llama_cpp", "tiny.gguf", "metrics"),
}
READ = {name for name, (_, _, source) in EXPECTED.items() if source != "metrics"}
# How many ranks run iterations of their own beside the core.
RANKS = {"vllm_workers": 2, "sglang_0_5_23": 1}
RESTARTED = "vllm_0_33_async"

# SGLang counts no iterations on its page, and nobody told how the engine of one's own does.
WITH_METRICS = {"vllm_0_33_async", "vllm_workers", "tgi_3_3", "llama_cpp"}


def id_of(port: int) -> str:
    return f"h:{port}"


@dataclass
class Fleet:
    """Engines that run beside each other, by the names of their profiles."""

    running: dict[str, ProfileProcess]

    def id_of(self, name: str) -> str:
        return id_of(self.running[name].port)

    def configuration(self, folder: Path) -> Path:
        ports = [one.port for one in self.running.values()]
        return write_config(
            folder,
            0,
            ports=ports,
            engine_files=f'["{OWN_ENGINE}"]',
            metrics_period_seconds=0.3,
            reading_period_seconds=5.0,
        )

    def restart(self, name: str) -> None:
        """Kill an engine outright, and start it again on its port."""
        killed = self.running[name]
        os.kill(killed.pid, signal.SIGKILL)
        killed.stop()
        again = ProfileProcess(name, port=killed.port, period_ms=PERIOD_MS)
        again.start()
        self.running[name] = again


@dataclass(frozen=True)
class Seen:
    """What the agent said of one engine."""

    iterations: list[Iteration]
    inventory: list[Engine]

    @property
    def core(self) -> list[Iteration]:
        return [one for one in self.iterations if one.rank == 0 and one.end_ns is not None]

    def of_rank(self, rank: int) -> list[Iteration]:
        return [one for one in self.iterations if one.rank == rank and one.end_ns is not None]

    @property
    def starts(self) -> list[int]:
        """The starts of its process, each once, in the order of the records."""
        return [start for start, _ in itertools.groupby(e.process_start_ns for e in self.inventory)]


def seen_of(collector: Collector, engine_id: str) -> Seen:
    return Seen(
        [one for one in collector.iterations if one.engine_id == engine_id],
        [one for one in collector.engines if one.engine_id == engine_id],
    )


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        engines = {name: ProfileProcess(name, period_ms=PERIOD_MS) for name in EXPECTED}
        found = Fleet({})
        stack.callback(lambda: [one.stop() for one in found.running.values()])
        for name, engine in engines.items():
            engine.start()
            found.running[name] = engine
        yield found


@dataclass(frozen=True)
class Watch:
    """One stretch of watching all: before an engine was killed, and to the end."""

    collector: Collector
    before: dict[str, Seen]
    after: dict[str, Seen]


def is_watched(fleet: Fleet, collector: Collector, name: str) -> bool:
    seen = seen_of(collector, fleet.id_of(name))
    return all(
        len(seen.of_rank(rank)) >= (ENOUGH if name in READ else 3)
        for rank in range(1 + RANKS.get(name, 0))
    )


@pytest.fixture(scope="module")
def watch(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    """Watch all, restart one while the others go on, and end the agent."""
    config = fleet.configuration(tmp_path_factory.mktemp("watch"))

    def look() -> dict[str, Seen]:
        return {name: seen_of(collector, fleet.id_of(name)) for name in EXPECTED}

    def goes_on(name: str) -> bool:
        return len(look()[name].core) >= len(before[name].core) + ENOUGH // 2

    with Collector(config, ["--stdout"]) as collector:
        # What does not come is missed by the test that is about it.
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all(is_watched(fleet, collector, name) for name in EXPECTED))
        before = look()
        fleet.restart(RESTARTED)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all(goes_on(name) for name in READ))
        collector.stop()
    return Watch(collector, before, look())


@needs_native
@pytest.mark.parametrize("name", EXPECTED)
def test_each_engine_is_found_under_its_own_name(fleet: Fleet, watch: Watch, name: str) -> None:
    framework, model, source = EXPECTED[name]
    inventory = watch.after[name].inventory
    assert {one.framework for one in inventory} == {framework}
    assert {one.port for one in inventory} == {fleet.running[name].port}
    assert {one.model for one in inventory} == {model}
    assert inventory[-1].source == source


@needs_native
def test_nothing_else_is_found(fleet: Fleet, watch: Watch) -> None:
    expected = {fleet.id_of(name) for name in EXPECTED}
    assert {one.engine_id for one in watch.collector.engines} == expected
    assert {one.engine_id for one in watch.collector.iterations} == expected


@needs_native
@pytest.mark.parametrize("name", EXPECTED)
def test_each_record_names_the_way_it_was_read(watch: Watch, name: str) -> None:
    # Before it was attached to, an engine may have been seen by its metrics for a moment.
    sources = [one.source for one in watch.before[name].core]
    assert sources[-1] == EXPECTED[name][2]
    assert sources.count(EXPECTED[name][2]) >= MOST * len(sources)


@needs_native
@pytest.mark.parametrize("name", EXPECTED)
def test_sequences_grow_from_record_to_record(watch: Watch, name: str) -> None:
    for start in watch.after[name].starts:
        mine = [one for one in watch.after[name].iterations if one.process_start_ns == start]
        for rank, source in {(one.rank, one.source) for one in mine}:
            sequences = [
                one.sequence
                for one in mine
                if (one.rank, one.source) == (rank, source) and one.end_ns is not None
            ]
            assert all(one < two for one, two in itertools.pairwise(sequences))


@needs_native
def test_the_ranks_of_sglang_carry_the_same_numbers(watch: Watch) -> None:
    seen = watch.after["sglang_0_5_23"]
    first, second = ({one.sequence: one for one in seen.of_rank(rank)} for rank in (0, 1))
    start, end = max(min(first), min(second)), min(max(first), max(second))
    both = [number for number in range(start, end + 1) if number in first and number in second]
    assert len(both) >= MOST * (end - start + 1)
    same = [number for number in both if first[number].workload == second[number].workload]
    assert len(same) >= MOST * len(both)
    assert {one.role for one in seen.iterations} == {"engine_core"}
    assert {one.rank for one in seen.iterations} == {0, 1}


@needs_native
def test_every_rank_of_sglang_is_counted(watch: Watch) -> None:
    last = watch.after["sglang_0_5_23"].inventory[-1]
    assert last.ranks == 2
    assert last.watched_ranks == (0, 1)
    assert last.sources == ("counter", "counter")


@needs_native
@pytest.mark.parametrize("rank", [1, 2])
def test_a_workers_share_bears_the_number_of_the_cores_iteration(watch: Watch, rank: int) -> None:
    seen = watch.after["vllm_workers"]
    core = {one.sequence: one for one in seen.core}
    shares = seen.of_rank(rank)
    assert {one.role for one in shares} == {"worker"}
    known = [one for one in shares if one.sequence in core]
    assert len(known) >= MOST * len(shares)
    inside = [
        one
        for one in known
        if one.begin_ns < (core[one.sequence].end_ns or 0) + one.uncertainty_ns
        and core[one.sequence].begin_ns - one.uncertainty_ns < (one.end_ns or 0)
    ]
    assert len(inside) >= MOST * len(known)


@needs_native
def test_workers_are_watched_and_are_no_ranks_of_their_own(watch: Watch) -> None:
    last = watch.after["vllm_workers"].inventory[-1]
    assert last.ranks == 1
    assert last.watched_ranks == (0, 1, 2)


@needs_native
def test_a_killed_engine_goes_on_under_its_name_with_a_later_start(
    fleet: Fleet, watch: Watch
) -> None:
    seen = watch.after[RESTARTED]
    first, second = seen.starts
    assert second > first
    states = [state for state, _ in itertools.groupby(one.state for one in seen.inventory)]
    assert states == ["running", "gone", "running"]
    assert {one.process_start_ns for one in seen.core[-ENOUGH // 4 :]} == {second}
    assert fleet.running[RESTARTED].core_pid in seen.inventory[-1].pids


@needs_native
@pytest.mark.parametrize("name", [name for name in EXPECTED if name != RESTARTED])
def test_the_others_go_on_meanwhile(watch: Watch, name: str) -> None:
    before, after = watch.before[name], watch.after[name]
    assert len(after.core) > len(before.core)
    assert len(after.starts) == 1
    assert {one.state for one in after.inventory} == {"running"}


@needs_native
def test_it_has_nothing_to_complain_about(watch: Watch) -> None:
    # Llama.cpp has no Python, which is no fault; a busy machine makes reading dear, neither.
    complaints = [line for line in watch.collector.complaints if "of a core" not in line]
    assert complaints == []
    assert "Traceback" not in "\n".join(watch.collector.lines)


def test_without_the_sampler_those_with_metrics_go_on_and_the_others_say_why(
    fleet: Fleet, tmp_path: Path
) -> None:
    def look(names: set[str]) -> list[Seen]:
        return [seen_of(collector, fleet.id_of(name)) for name in names]

    with Collector(fleet.configuration(tmp_path), ["--stdout"], BLOCK_NATIVE) as collector:
        wait_for(lambda: all(len(one.core) >= 3 for one in look(WITH_METRICS)))
        wait_for(lambda: all(one.inventory for one in look(set(EXPECTED))))
        collector.stop()
    assert {one.source for one in collector.iterations} == {"metrics"}
    for name in EXPECTED:
        last = seen_of(collector, fleet.id_of(name)).inventory[-1]
        assert last.source == ("metrics" if name in WITH_METRICS else None), name
        assert "metrics" in (last.note or ""), name
        if name in READ:
            assert "make native" in (last.note or ""), name
