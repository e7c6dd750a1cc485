"""What every serving framework promises, whichever there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from collectors.discovery import Process, ProcessTable, Scanner
from collectors.engines import available, load
from schemas.records import Phase

frameworks = pytest.mark.parametrize("name", available())

FIXTURE = Path(__file__).parents[1] / "fixtures" / "proc"
REDUCTIONS = {"int", "len", "sum", "max", "count_one", "sum_above_one"}
UNRELATED = [
    ("/sbin/init",),
    ("bash", "-c", "vllm serve m --port 8000"),
    ("grep", "VLLM::EngineCore"),
    ("vim", "VLLM::EngineCore"),
    ("/usr/bin/python3", "/opt/vllm/bin/vllm", "bench", "serve"),
    ("python3", "-c", "from multiprocessing.resource_tracker import main;main(33)"),
    ("python3", "-c", "from multiprocessing.spawn import spawn_main; spawn_main(pipe_handle=9)"),
    ("ray::IDLE",),
    ("nginx: master process",),
    ("",),
    ("VLLM::Worker_TP0",),
    ("xVLLM::EngineCore",),
    ("VLLM::EngineCoreX",),
]


def table_of(*processes: Process) -> ProcessTable:
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent_pid, []).append(process)
    return ProcessTable({process.pid: process for process in processes}, children)


def test_there_are_frameworks_and_base_is_none() -> None:
    assert available()
    assert "base" not in available()


@frameworks
def test_a_framework_bears_its_files_name(name: str) -> None:
    assert load(name).name() == name
    assert type(load(name)).name() == name


@frameworks
@pytest.mark.parametrize("arguments", UNRELATED, ids=lambda value: " ".join(value)[:40])
def test_an_unrelated_process_is_never_claimed(name: str, arguments: tuple[str, ...]) -> None:
    process = Process(pid=5000999, parent_pid=5000998, start_ticks=1, arguments=arguments)
    parent = Process(pid=5000998, parent_pid=0, start_ticks=1, arguments=("systemd",))
    assert load(name).claim(process, table_of(parent, process)) is None


@frameworks
def test_claiming_never_raises_and_names_are_unique_on_a_host(name: str) -> None:
    table = Scanner(FIXTURE).scan()
    claimed = [load(name).claim(process, table) for process in table.by_pid.values()]
    engines = [engine for engine in claimed if engine is not None]
    assert len({engine.name for engine in engines}) == len(engines)
    assert all(engine.framework == name for engine in engines)
    assert all(engine.core.pid in engine.roles for engine in engines)


@frameworks
def test_the_spec_is_json_with_the_keys_that_the_sampler_knows(name: str) -> None:
    spec = load(name).sampler_spec()
    assert json.loads(json.dumps(spec)) == spec
    assert set(spec) == {"root", "step", "counter", "batch", "gauges", "phases"}
    assert spec["root"]
    assert spec["counter"]
    assert {choice["kind"] for choice in spec["counter"]} <= {"int", "pointer"}


@frameworks
def test_the_spec_is_the_callers_own(name: str) -> None:
    framework = load(name)
    framework.sampler_spec()["phases"].clear()
    assert framework.sampler_spec()["phases"]


@frameworks
def test_fields_and_gauges_have_unique_names_and_known_reductions(name: str) -> None:
    spec = load(name).sampler_spec()
    numbers = spec["batch"]["fields"] + spec["gauges"]
    names = [number["name"] for number in numbers]
    assert len(set(names)) == len(names)
    assert {number["reduce"] for number in numbers} <= REDUCTIONS


@frameworks
def test_phases_are_known_words_and_no_function_has_two(name: str) -> None:
    phases = load(name).sampler_spec()["phases"]
    assert phases
    assert {phase["phase"] for phase in phases} <= set(get_args(Phase))
    functions = [(phase["file"], phase["function"]) for phase in phases]
    assert len(set(functions)) == len(functions)


@frameworks
def test_the_sampler_takes_the_spec(name: str) -> None:
    native = pytest.importorskip(
        "latencyprism_native", reason="no native sampler: make native", exc_type=ImportError
    )
    native.Sampler(1, json.dumps(load(name).sampler_spec()))


@frameworks
def test_without_numbers_there_is_no_workload(name: str) -> None:
    assert load(name).workload({}) is None


@frameworks
def test_numbers_that_contradict_are_no_workload(name: str) -> None:
    spec = load(name).sampler_spec()
    names = [field["name"] for field in spec["batch"]["fields"]]
    assert (
        load(name).workload({field: 7 + 1000 * place for place, field in enumerate(names)}) is None
    )
    assert load(name).workload(dict.fromkeys(names, -1)) is None


@frameworks
def test_a_number_that_is_missing_is_never_read_as_zero(name: str) -> None:
    framework = load(name)
    names = [field["name"] for field in framework.sampler_spec()["batch"]["fields"]]
    for field in names:
        workload = framework.workload(dict.fromkeys(set(names) - {field}, 1))
        assert workload is None or workload.waiting_requests is None


@frameworks
def test_metrics_are_named_if_at_all(name: str) -> None:
    framework = load(name)
    for metric in (
        framework.iteration_count_metric,
        framework.iteration_tokens_metric,
        framework.waiting_metric,
        framework.running_metric,
    ):
        assert metric is None or (metric and " " not in metric)
