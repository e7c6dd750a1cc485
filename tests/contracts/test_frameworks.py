"""What every serving framework promises, whichever there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from collectors.discovery import Process, ProcessTable, Scanner
from collectors.engines import Family, available, load
from collectors.engines.base import FOLDER
from collectors.engines.described import read
from schemas.records import Phase, Role

frameworks = pytest.mark.parametrize("name", available())
ROLES: tuple[Role, ...] = ("engine_core", "worker")

FIXTURE = Path(__file__).parents[1] / "fixtures" / "proc"
REDUCTIONS = {"int", "len", "sum", "sum_len", "max", "count_one", "sum_above_one", "bool", "enum"}
UNRELATED = [
    ("/sbin/init",),
    ("bash", "-c", "vllm serve m --port 8000"),
    ("bash", "-c", "python -m sglang.launch_server; transformers serve; llama-server"),
    ("sh", "-c", "exec lmdeploy serve api_server m"),
    ("/bin/bash", "/usr/bin/trtllm-llmapi-launch", "trtllm-serve", "m"),
    ("grep", "VLLM::EngineCore"),
    ("vim", "VLLM::EngineCore"),
    ("vim", "llama-server"),
    ("/usr/bin/python3", "/opt/vllm/bin/vllm", "bench", "serve"),
    ("python3", "-c", "from multiprocessing.resource_tracker import main;main(33)"),
    ("python3", "-c", "from multiprocessing.spawn import spawn_main; spawn_main(pipe_handle=9)"),
    ("python3", "-m", "mpi4py.futures", "my_simulation.py"),
    ("text-generation-server", "download-weights", "m"),
    ("ray::IDLE",),
    ("ray::RayWorkerWrapper",),
    ("nginx: master process",),
    ("",),
    ("VLLM::Worker_TP0",),
    ("xVLLM::EngineCore",),
    ("VLLM::EngineCoreX",),
    ("sglang::detokenizer",),
    ("sglang::scheduler_TP0x",),
]


def table_of(*processes: Process) -> ProcessTable:
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent_pid, []).append(process)
    return ProcessTable({process.pid: process for process in processes}, children)


def families_of(name: str) -> list[Family]:
    return [family for role in ROLES for family in load(name).families(role)]


def numbers_of(family: Family) -> list[dict[str, Any]]:
    return [*family.spec.get("batch", {}).get("fields", []), *family.spec["gauges"]]


def test_every_file_is_a_framework_and_no_helper_is() -> None:
    described = {path.stem for path in FOLDER.glob("*.toml")}
    assert described
    assert described <= set(available())
    assert not {"base", "described", "formula", "processes"} & set(available())


def test_the_files_are_in_what_is_installed() -> None:
    """Packages carry every file under them; nothing but the native crate is left out."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    build = project.split("[tool.hatch.build]")[1].split("\n[")[0]
    assert '"collectors"' in build
    assert re.findall(r"exclude = \[(.*)\]", build) == ['"collectors/native"']


@frameworks
def test_a_framework_bears_its_files_name(name: str) -> None:
    assert load(name).name() == name


@frameworks
def test_a_framework_can_be_read_or_has_a_count_of_its_own(name: str) -> None:
    assert load(name).families() or load(name).metrics.iterations


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
    for family in families_of(name):
        spec = family.spec
        assert json.loads(json.dumps(spec)) == spec
        required = {"root", "step", "counter", "gauges", "phases"}
        assert required <= set(spec) <= required | {"batch", "call", "end"}
        assert spec["root"]
        assert spec["counter"] or spec["call"]["functions"]
        assert {choice["kind"] for choice in spec["counter"]} <= {"int", "pointer"}


@frameworks
def test_the_spec_is_the_callers_own(name: str) -> None:
    framework = load(name)
    for family in framework.families():
        family.spec["phases"].clear()
    assert all(family.spec["phases"] for family in framework.families())


@frameworks
def test_fields_and_gauges_have_unique_names_and_known_reductions(name: str) -> None:
    for family in families_of(name):
        numbers = numbers_of(family)
        names = [number["name"] for number in numbers]
        assert len(set(names)) == len(names)
        assert {number["reduce"] for number in numbers} <= REDUCTIONS


@frameworks
def test_phases_are_known_words_and_no_function_has_two(name: str) -> None:
    for family in families_of(name):
        phases = family.spec["phases"]
        assert phases
        assert {phase["phase"] for phase in phases} <= set(get_args(Phase))
        functions = [(phase["file"], phase["function"]) for phase in phases]
        assert len(set(functions)) == len(functions)


@frameworks
def test_the_sampler_takes_the_spec(name: str) -> None:
    native = pytest.importorskip(
        "latencyprism_native", reason="no native sampler: make native", exc_type=ImportError
    )
    newer = {"root": [{"file": "a.py", "function": "f"}], "call": {"functions": []}}
    for family in families_of(name):
        try:
            native.Sampler(1, json.dumps(family.spec))
        except ValueError as err:
            if "call" not in str(err) and "unknown field" not in str(err):
                raise
            with pytest.raises(ValueError, match="unknown field"):
                native.Sampler(1, json.dumps(newer))
            pytest.skip("the native sampler that is installed is an older one: make native")


def test_vllms_overlapped_step_is_marked_where_the_sampler_knows_the_mark() -> None:
    native = pytest.importorskip(
        "latencyprism_native", reason="no native sampler: make native", exc_type=ImportError
    )
    spec = load("vllm").families()[0].spec
    for step in spec["step"]:
        step["overlap"] = step["function"] == "EngineCore.step_with_batch_queue"
    try:
        native.Sampler(1, json.dumps(spec))
    except ValueError:
        pytest.skip("the native sampler that is installed is an older one: make native")
    # Then vllm.toml has that function in overlap_step.
    marked = [one for one in load("vllm").families()[0].spec["step"] if one.get("overlap")]
    assert [one["function"] for one in marked] == ["EngineCore.step_with_batch_queue"]


@frameworks
def test_without_numbers_there_is_no_workload(name: str) -> None:
    for family in families_of(name):
        assert family.workload({}) is None
        assert not family.is_dummy({})


@frameworks
def test_negative_numbers_are_no_workload(name: str) -> None:
    for family in families_of(name):
        words = {one["name"] for one in numbers_of(family) if one["reduce"] in ("enum", "bool")}
        for word in range(10):
            fields = {one["name"]: -1 for one in numbers_of(family)} | dict.fromkeys(words, word)
            assert family.workload(fields) is None


@frameworks
def test_a_number_that_is_missing_is_never_read_as_zero(name: str) -> None:
    for family in families_of(name):
        names = [number["name"] for number in numbers_of(family)]
        for field in names:
            workload = family.workload(dict.fromkeys(set(names) - {field}, 1))
            if workload is not None and field in ("waiting_requests", "running_requests"):
                assert getattr(workload, field) is None


@frameworks
def test_every_rule_names_what_proves_it(name: str) -> None:
    for family in read(FOLDER / f"{name}.toml").family:
        assert family.evidence in ("live", "source", "text")
        for rule in family.workload:
            assert rule.ignore or rule.check, f"{family.name} believes any number"


@frameworks
def test_metrics_are_named_if_at_all(name: str) -> None:
    metrics = load(name).metrics
    for names in (metrics.iterations, metrics.tokens, metrics.waiting, metrics.running):
        assert all(metric and " " not in metric for metric in names)
    assert metrics.path.startswith("/")
