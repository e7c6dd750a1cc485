"""Engines from their description: processes, families, workload, and a user's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.discovery import EngineProcess, Process, ProcessTable, environment_value
from collectors.engines import (
    DescriptionError,
    Family,
    Framework,
    available,
    find_engines,
    load,
    load_file,
)
from collectors.engines.described import Description, in_versions
from collectors.engines.formula import parse_check, parse_formula
from collectors.engines.processes import installed_version

DOCS = Path(__file__).parents[2] / "docs" / "engines.md"
SPAWN = "python3 -c from multiprocessing.spawn import spawn_main; spawn_main(pipe_handle=9)"
TRACKER = "python3 -c from multiprocessing.resource_tracker import main;main(33)"

SUMS = {
    "scheduled_tokens": 50,
    "requests": 3,
    "token_sum": 50,
    "long_tokens": 48,
    "single_requests": 2,
    "computed_cached": 100,
    "computed_new": 16,
    "waiting_requests": 4,
    "running_requests": 3,
}

# Host processes by pid: the parent's pid and the command line; no such pids exist on any host.
HostProcesses = dict[int, tuple[int, str]]
BASE = 5_000_000


def table_of(processes: HostProcesses) -> ProcessTable:
    by_pid: dict[int, Process] = {}
    children: dict[int, list[Process]] = {}
    for number, (parent, line) in processes.items():
        title = line.startswith(("VLLM::", "sglang::", "ray::", "our-engine"))
        words, code, program = line.partition(" -c ")
        process = Process(
            pid=BASE + number,
            parent_pid=BASE + parent,
            start_ticks=number,
            arguments=(line,) if title else (*words.split(), *(["-c", program] if code else [])),
        )
        by_pid[process.pid] = process
        children.setdefault(process.parent_pid, []).append(process)
    return ProcessTable(by_pid, children)


def engines_of(processes: HostProcesses) -> dict[str, EngineProcess]:
    table = table_of(processes)
    engines = find_engines(table, [load(name) for name in available()])
    assert len({engine.name for engine in engines}) == len(engines)
    return {engine.name: engine for engine in engines}


def pids(*processes: Process) -> list[int]:
    return [process.pid - BASE for process in processes]


def family(framework: str, name: str) -> Family:
    known = load(framework)
    families = known.families() + known.families("worker")
    return next(one for one in families if one.name == name)


def test_a_framework_nobody_wrote_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookupError, match=r"unknown framework 'vlm'; have: .*vllm"):
        load("vlm")


@pytest.mark.parametrize(
    "name", ["base", "described", "formula", "processes", "__init__", "../engines/vllm", ""]
)
def test_what_is_no_framework_is_never_imported(name: str) -> None:
    assert name not in available()
    with pytest.raises(LookupError):
        load(name)


def test_a_process_belongs_to_the_first_framework_that_claims_it() -> None:
    process = Process(pid=5000999, parent_pid=0, start_ticks=1, arguments=("VLLM::EngineCore",))
    vllm: list[Framework] = [load("vllm"), load("vllm")]
    assert len(find_engines(ProcessTable({process.pid: process}), vllm)) == 1


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["²", "٣", "65536", "9" * 5000, "x"])
def test_a_port_that_is_none_hides_no_engine(port: str) -> None:
    engines = engines_of(
        {
            1: (0, f"python /usr/bin/vllm serve m --port {port}"),
            2: (1, "VLLM::EngineCore"),
            3: (0, "python /usr/bin/vllm serve m --port 8001"),
            4: (3, "VLLM::EngineCore"),
        }
    )
    assert sorted(engines) == ["8000", "8001"]


def test_a_rank_that_is_no_number_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(
        "[core]\n"
        "match = ['our-engine rank (?P<tensor>\\w+)']\n"
        "ranks = true\n"
        "[server]\n"
        "match = ['our-server']\n"
        "[metrics]\n"
        "iterations = ['steps_total']\n"
    )
    table = table_of(
        {1: (0, "our-server"), 2: (1, "our-engine rank ²"), 3: (1, "our-engine rank 1")}
    )
    [engine] = find_engines(table, [load_file(path)])
    assert (pids(engine.core), [rank.label for rank in engine.ranks]) == ([2], ["TP1"])


def test_a_process_that_cannot_be_judged_is_told_once_and_hides_no_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Framework):
        def claim(self, process: Process, table: ProcessTable) -> EngineProcess | None:
            if process.pid == BASE + 1:
                raise ValueError("odd")
            return None

    table = table_of({1: (0, "anything"), 2: (0, "VLLM::EngineCore")})
    frameworks = [Broken("broken", Description()), load("vllm")]
    for _ in range(2):
        assert [engine.core.pid - BASE for engine in find_engines(table, frameworks)] == [2]
    [told] = caplog.records
    assert f"Process {BASE + 1} " in told.getMessage()


def test_vllms_ranks_are_the_cores_workers_in_the_order_of_their_stages() -> None:
    [engine] = engines_of(
        {
            1: (0, "systemd"),
            2: (1, "python3 /opt/bin/vllm serve org/m --port 9 --tensor-parallel-size 2"),
            3: (2, TRACKER),
            4: (2, "VLLM::EngineCore"),
            5: (4, "VLLM::Worker_PP1_TP1"),
            6: (4, "VLLM::Worker_PP0_TP1"),
            7: (4, "VLLM::Worker_PP1_TP0"),
            8: (4, "VLLM::Worker_PP0_TP0"),
            9: (2, "VLLM::APIServer_1"),
        }
    ).values()
    assert (engine.framework, engine.name, engine.model) == ("vllm", "9", "org/m")
    labels = [rank.label for rank in engine.ranks]
    assert labels == ["PP0_TP0", "PP0_TP1", "PP1_TP0", "PP1_TP1"]
    assert [rank.rank for rank in engine.ranks] == [1, 2, 3, 4]
    assert {rank.role for rank in engine.ranks} == {"worker"}
    assert pids(*engine.others) == [9]


def test_vllm_without_titles_is_found_below_its_server() -> None:
    [engine] = engines_of(
        {
            1: (0, "systemd"),
            2: (1, "python3 -m vllm.entrypoints.openai.api_server --model m --port 9"),
            3: (2, TRACKER),
            4: (2, SPAWN),
            5: (4, SPAWN),
            6: (4, SPAWN),
        }
    ).values()
    assert (engine.name, engine.model) == ("9", "m")
    assert pids(engine.core) == [4]
    assert pids(*(rank.process for rank in engine.ranks)) == [5, 6]


def test_vllms_forked_copies_of_the_server_are_its_core_and_workers() -> None:
    line = "python3 /opt/bin/vllm serve m --port 9"
    [engine] = engines_of(
        {1: (0, "systemd"), 2: (1, line), 3: (2, line), 4: (3, line), 5: (3, line)}
    ).values()
    assert pids(engine.core) == [3]
    assert engine.api_server is not None
    assert pids(engine.api_server) == [2]
    assert pids(*(rank.process for rank in engine.ranks)) == [4, 5]


def test_two_untitled_children_are_one_engine_and_the_other_may_be_it() -> None:
    [engine] = engines_of(
        {2: (0, "vllm serve m"), 3: (2, SPAWN), 4: (2, SPAWN), 5: (4, SPAWN)}
    ).values()
    assert pids(engine.core) == [4]
    assert pids(*engine.candidates) == [3]


def test_a_core_that_has_its_title_ends_the_guessing() -> None:
    [engine] = engines_of(
        {2: (0, "vllm serve m"), 3: (2, SPAWN), 4: (2, "VLLM::EngineCore")}
    ).values()
    assert pids(engine.core) == [4]
    assert (engine.candidates, engine.guessed) == ((), False)


def test_a_core_is_the_same_process_after_it_took_its_title() -> None:
    server: HostProcesses = {2: (0, "vllm serve m")}
    [starting] = engines_of(server | {3: (2, SPAWN)}).values()
    [started] = engines_of(server | {3: (2, "VLLM::EngineCore")}).values()
    assert (starting.guessed, started.guessed) == (True, False)
    assert (starting.core, starting.name) == (started.core, started.name)


def test_rays_workers_belong_to_the_only_engine_and_to_none_of_two() -> None:
    one: HostProcesses = {
        2: (0, "vllm serve m --port 8"),
        3: (2, "VLLM::EngineCore"),
        4: (0, "raylet"),
        5: (4, "ray::RayWorkerWrapper.execute_method"),
        6: (4, "ray::RayWorkerWrapper"),
        7: (4, "ray::IDLE"),
    }
    [engine] = engines_of(one).values()
    assert pids(*(rank.process for rank in engine.ranks)) == [5, 6]
    two = engines_of(one | {8: (0, "vllm serve m --port 9"), 9: (8, "VLLM::EngineCore")})
    assert {name: engine.ranks for name, engine in two.items()} == {"8": (), "9": ()}


def test_sglangs_ranks_are_one_engine_for_each_rank_of_data_parallelism() -> None:
    engines = engines_of(
        {
            1: (0, "python3 -m sglang.launch_server --model-path org/m --port 30001 --dp 2"),
            2: (1, "sglang::data_parallel_controller"),
            3: (2, "sglang::scheduler_DP0_TP1"),
            4: (2, "sglang::scheduler_DP0_TP0"),
            5: (2, "sglang::scheduler_DP1_TP0"),
            6: (2, "sglang::scheduler_DP1_TP1"),
            7: (1, "sglang::detokenizer"),
        }
    )
    assert sorted(engines) == ["30001/dp0", "30001/dp1"]
    first = engines["30001/dp0"]
    assert pids(first.core) == [4]
    assert [(rank.label, rank.rank, rank.role) for rank in first.ranks] == [
        ("TP1", 1, "engine_core")
    ]
    assert first.model == "org/m"
    assert pids(*first.others) == [2, 7] or set(pids(*first.others)) == {2, 7}


@pytest.mark.parametrize(
    "titles",
    [
        # 0.5.2 names the stage last, 0.5.23 first.
        ["TP0_PP0", "TP1_PP0", "TP0_PP1", "TP1_PP1"],
        ["PP0_TP0", "PP0_TP1", "PP1_TP0", "PP1_TP1"],
    ],
)
def test_sglangs_lowest_rank_is_its_core(titles: list[str]) -> None:
    processes: HostProcesses = {1: (0, "sglang serve --model-path m")}
    for number, title in enumerate(reversed(titles), start=2):
        processes[number] = (1, f"sglang::scheduler_{title}")
    [engine] = engines_of(processes).values()
    assert engine.core.title == f"sglang::scheduler_{titles[0]}"
    assert [rank.label for rank in engine.ranks] == ["PP0_TP1", "PP1_TP0", "PP1_TP1"]


def test_a_scheduler_of_sglang_alone_has_no_rank_in_its_title() -> None:
    [engine] = engines_of(
        {1: (0, "python -m sglang.launch_server --model m"), 2: (1, "sglang::scheduler")}
    ).values()
    assert (engine.framework, engine.name, engine.ranks) == ("sglang", "30000", ())


def test_tgis_shards_are_ranks_behind_the_router_that_starts_after_them() -> None:
    starting: HostProcesses = {
        1: (0, "text-generation-launcher --model-id org/m --num-shard 2"),
        2: (1, "/opt/conda/bin/python /opt/conda/bin/text-generation-server serve org/m --sharded"),
        3: (1, "/opt/conda/bin/python /opt/conda/bin/text-generation-server serve org/m --sharded"),
    }
    assert engines_of(starting) == {}
    [engine] = engines_of(
        starting | {4: (1, "text-generation-router --port 80 --tokenizer-name org/m")}
    ).values()
    assert (engine.framework, engine.name, engine.model) == ("tgi", "80", "org/m")
    assert pids(engine.core, *(rank.process for rank in engine.ranks)) == [2, 3]
    assert engine.ranks[0].role == "engine_core"
    assert pids(*engine.others) == [1]


def test_a_rank_in_the_environment_counts_before_the_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {BASE + 2: "1", BASE + 3: "0"}
    monkeypatch.setattr(
        "collectors.engines.processes.environment_value", lambda pid, name: ranks[pid]
    )
    [engine] = engines_of(
        {
            1: (0, "trtllm-serve org/m --port 9"),
            2: (1, "/usr/bin/python3 -m mpi4py.futures.server"),
            3: (1, "/usr/bin/python3 -m mpi4py.futures.server"),
        }
    ).values()
    assert (engine.framework, engine.model) == ("tensorrt_llm", "org/m")
    assert pids(engine.core, *(rank.process for rank in engine.ranks)) == [3, 2]


def test_only_the_wanted_variable_leaves_an_environment(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "environ").write_bytes(b"MY_RANK=5\0RANK=3\0TOKEN=secret\0")
    assert environment_value(7, "RANK", tmp_path) == "3"
    assert environment_value(7, "WORLD", tmp_path) is None
    assert environment_value(8, "RANK", tmp_path) is None


def test_tensorrt_llm_by_mpirun_finds_its_server_below_the_launcher() -> None:
    [engine] = engines_of(
        {
            1: (0, "mpirun -n 2 trtllm-llmapi-launch trtllm-serve org/m"),
            2: (1, "/bin/bash /usr/bin/trtllm-llmapi-launch trtllm-serve org/m"),
            3: (2, "python3 /usr/bin/trtllm-serve org/m"),
            4: (2, "/usr/bin/python3 -m tensorrt_llm.llmapi.mgmn_leader_node"),
            5: (1, "/bin/bash /usr/bin/trtllm-llmapi-launch trtllm-serve org/m"),
            6: (5, "/usr/bin/python3 -m tensorrt_llm.llmapi.mgmn_worker_node"),
        }
    ).values()
    assert (engine.name, engine.model) == ("8000", "org/m")
    assert pids(engine.core, *(rank.process for rank in engine.ranks)) == [4, 6]


def test_lmdeploys_children_are_asked_before_its_server() -> None:
    alone: HostProcesses = {1: (0, "python3 /opt/bin/lmdeploy serve api_server org/m")}
    [engine] = engines_of(alone).values()
    assert (engine.framework, engine.name, engine.model) == ("lmdeploy", "23333", "org/m")
    assert (pids(engine.core), engine.api_server) == ([1], None)
    [engine] = engines_of(alone | {2: (1, SPAWN), 3: (1, SPAWN), 4: (1, TRACKER)}).values()
    assert pids(engine.core, *engine.candidates) == [2, 3, 1]


@pytest.mark.parametrize(
    ("line", "framework", "name", "model"),
    [
        (
            "/opt/venv/bin/python /opt/venv/bin/transformers serve org/m",
            "transformers",
            "8000",
            "org/m",
        ),
        (
            "/app/llama-server -m /models/q4.gguf --port 8081",
            "llama_cpp",
            "8081",
            "/models/q4.gguf",
        ),
    ],
)
def test_a_server_that_iterates_itself_is_its_own_core(
    line: str, framework: str, name: str, model: str
) -> None:
    [engine] = engines_of({1: (0, line)}).values()
    assert (engine.framework, engine.name, engine.model) == (framework, name, model)
    assert engine.roles == {BASE + 1: "engine_core"}


def test_a_host_of_all_frameworks_has_each_engine_once() -> None:
    engines = engines_of(
        {
            1: (0, "systemd"),
            2: (1, "vllm serve a --port 1"),
            3: (2, "VLLM::EngineCore"),
            4: (1, "python -m sglang.launch_server --model b --port 2"),
            5: (4, "sglang::scheduler_TP0"),
            6: (4, "sglang::scheduler_TP1"),
            7: (1, "python3 /bin/lmdeploy serve api_server c --server-port 3"),
            8: (7, SPAWN),
            9: (1, "python /bin/transformers serve --port 4"),
            10: (1, "llama-server --port 5"),
            11: (1, "trtllm-serve e --port 6"),
            12: (11, "python -m mpi4py.futures.server"),
        }
    )
    assert {name: engine.framework for name, engine in engines.items()} == {
        "1": "vllm",
        "2": "sglang",
        "3": "lmdeploy",
        "4": "transformers",
        "5": "llama_cpp",
        "6": "tensorrt_llm",
    }


def test_the_version_of_a_process_that_is_gone_is_unknown() -> None:
    core = Process(pid=5000999, parent_pid=0, start_ticks=1, arguments=("VLLM::EngineCore",))
    engine = EngineProcess(framework="vllm", name="8000", core=core)
    assert load("vllm").version(engine) is None


def test_the_version_is_that_beside_the_first_libraries_that_have_one(tmp_path: Path) -> None:
    maps = "\n".join(
        f"7f00-7f01 r-xp 0 00:00 1 {site}/some/library.so"
        for site in ("/usr/lib/python3/dist-packages", "/opt/venv/lib/python3.11/site-packages")
    )
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "maps").write_text(maps)
    site = tmp_path / "7" / "root" / "opt/venv/lib/python3.11/site-packages"
    (site / "text_generation_server-3.3.7.dist-info").mkdir(parents=True)
    assert installed_version(7, "text-generation-server", tmp_path) == "3.3.7"
    metadata = site / "text_generation_server-3.3.7.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.4\nVersion: 3.3.7+cpu\n\nVersion: 1\n")
    assert installed_version(7, "text-generation-server", tmp_path) == "3.3.7+cpu"
    metadata.write_text("Metadata-Version: 2.4\n\nVersion: 1\n")
    assert installed_version(7, "text-generation-server", tmp_path) == "3.3.7"
    assert installed_version(7, "vllm", tmp_path) is None


# --- families ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "version", "first"),
    [
        ("vllm", None, "v1"),
        ("vllm", "0.32.0", "v1"),
        ("vllm", "0.6.6.post1", "v0"),
        ("vllm", "0.33.0rc1", "v1"),
        ("sglang", "0.5.23", "loop"),
        ("sglang", "0.4.1", "loop"),
        ("lmdeploy", "0.9.2", "pytorch-before-0.12"),
        ("transformers", "4.56.0", "manager"),
        ("transformers", "5.0.0", "processor"),
    ],
)
def test_a_version_has_its_family_first_and_the_others_after_it(
    framework: str, version: str | None, first: str
) -> None:
    families = load(framework).families(version=version)
    assert families[0].name == first
    assert {one.name for one in families} == {one.name for one in load(framework).families()}


def test_workers_have_families_of_their_own() -> None:
    names = [one.name for one in load("vllm").families("worker", "0.6.6")]
    assert names == ["v0-worker", "v1-worker"]
    assert load("sglang").families("worker") == []
    assert load("llama_cpp").families() == []


@pytest.mark.parametrize(
    ("version", "text", "expected"),
    [
        ("0.10.2", ">=0.8,<0.11", True),
        ("0.11.0", ">=0.8,<0.11", False),
        ("0.9", ">=0.10", False),
        ("0.10.2", "<=0.10", True),
        ("0.10.2", ">0.10", False),
        ("0.10.2", "==0.10", True),
        ("0.10", ">=0.10.1", False),
        ("1.2rc1", "", True),
    ],
)
def test_versions_compare_by_their_numbers(version: str, text: str, expected: bool) -> None:
    assert in_versions(version, text) is expected


def test_an_engine_of_data_parallelism_runs_a_loop_of_its_own() -> None:
    roots = {one["function"] for one in family("vllm", "v1").spec["root"]}
    assert roots == {"EngineCoreProc.run_busy_loop", "DPEngineCoreProc.run_busy_loop"}


def test_a_family_that_is_like_another_differs_by_what_it_says() -> None:
    loop, pipeline = family("sglang", "loop").spec, family("sglang", "pipeline").spec
    differing = {key for key in loop if loop[key] != pipeline[key]}
    assert differing == {"root", "step", "end", "batch"}
    assert loop["batch"]["fields"] == pipeline["batch"]["fields"]


# --- workload ----------------------------------------------------------------------------------


def test_vllm_adds_up_context_and_new_tokens() -> None:
    workload = load("vllm").workload(SUMS)
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (3, 50)
    assert (workload.prefill_tokens, workload.decode_requests) == (48, 2)
    assert (workload.waiting_requests, workload.running_requests) == (4, 3)
    assert workload.kv_tokens == 166


@pytest.mark.parametrize("name", ["v1", "v1-worker"])
@pytest.mark.parametrize(
    "torn",
    [
        {"token_sum": 49},
        {"scheduled_tokens": 51},
        {"requests": 51},
        {"requests": -1},
        {"long_tokens": 47},
        {"single_requests": 3},
    ],
)
def test_vllm_refuses_numbers_that_do_not_add_up(name: str, torn: dict[str, int]) -> None:
    assert family("vllm", name).workload(SUMS) is not None
    assert family("vllm", name).workload(SUMS | torn) is None


@pytest.mark.parametrize("name", ["scheduled_tokens", "requests", "token_sum"])
def test_vllm_gives_no_workload_without_what_proves_it(name: str) -> None:
    assert load("vllm").workload({k: v for k, v in SUMS.items() if k != name}) is None


@pytest.mark.parametrize("name", ["computed_cached", "computed_new"])
def test_vllm_leaves_the_context_unknown_where_half_of_it_is(name: str) -> None:
    workload = load("vllm").workload({k: v for k, v in SUMS.items() if k != name})
    assert workload is not None
    assert workload.kv_tokens is None


def test_a_sum_below_zero_can_only_be_torn() -> None:
    assert load("vllm").workload(SUMS | {"computed_cached": -67}) is None
    assert load("vllm").workload(SUMS | {"waiting_requests": -1}) is None


# One request prefills 40 tokens, one decodes alone, and two verify 3 and 4 drafts.
DRAFTS = SUMS | {
    "requests": 4,
    "long_tokens": 49,
    "single_requests": 1,
    "drafting_requests": 2,
    "draft_tokens": 7,
}


@pytest.mark.parametrize("name", ["v1", "v1-worker"])
def test_vllms_requests_with_drafts_decode(name: str) -> None:
    workload = family("vllm", name).workload(DRAFTS)
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (4, 50)
    assert (workload.prefill_tokens, workload.decode_requests) == (40, 3)
    assert workload.speculative_tokens == 7


def test_vllm_without_drafts_has_none_of_them_and_a_fork_without_the_list_may_have_any() -> None:
    none = load("vllm").workload(SUMS | {"drafting_requests": 0, "draft_tokens": 0})
    assert none is not None
    assert (none.prefill_tokens, none.decode_requests, none.speculative_tokens) == (48, 2, 0)
    unknown = load("vllm").workload(SUMS)
    assert unknown is not None
    assert (unknown.prefill_tokens, unknown.speculative_tokens) == (48, None)


@pytest.mark.parametrize("name", ["v1", "v1-worker"])
@pytest.mark.parametrize(
    "torn",
    [
        {"drafting_requests": 4},
        {"draft_tokens": 1},
        {"draft_tokens": 48},
        {"token_sum": 49},
        {"single_requests": 3},
    ],
)
def test_vllm_refuses_drafts_that_do_not_add_up(name: str, torn: dict[str, int]) -> None:
    assert family("vllm", name).workload(DRAFTS | torn) is None


def test_vllm_refuses_a_batch_whose_drafts_cannot_be_read() -> None:
    assert load("vllm").workload({k: v for k, v in DRAFTS.items() if k != "draft_tokens"}) is None


def test_vllms_padding_batches_are_dummies_and_no_workload() -> None:
    worker = family("vllm", "v1-worker")
    assert worker.is_dummy(SUMS | {"dummy": 1})
    assert worker.workload(SUMS | {"dummy": 1}) is None
    assert not worker.is_dummy(SUMS | {"dummy": 0})
    assert worker.workload(SUMS | {"dummy": 0}) is not None


def test_vllms_old_engine_has_its_numbers_from_the_attention_metadata() -> None:
    fields = {"prefills": 2, "prefill_tokens": 40, "decode_tokens": 5, "context_tokens": 900}
    workload = family("vllm", "v0").workload(fields)
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (7, 45)
    assert (workload.prefill_tokens, workload.decode_requests) == (40, 5)
    assert workload.kv_tokens == 900
    assert family("vllm", "v0").workload(fields | {"prefills": 41}) is None


def mode(name: str) -> int:
    [field] = [
        one for one in family("sglang", "loop").spec["batch"]["fields"] if one["name"] == "mode"
    ]
    values: list[str] = field["values"]
    return values.index(name)


EXTENDED = {
    "requests": 3,
    "extend_tokens": 30,
    "extend_requests": 3,
    "extend_sum": 30,
    "extend_long": 29,
    "extend_single": 1,
    "context_tokens": 200,
    "waiting_requests": 2,
}


@pytest.mark.parametrize("name", ["EXTEND", "MIXED", "PREFILL"])
def test_sglangs_prefill_is_told_by_the_lengths_of_its_requests(name: str) -> None:
    workload = family("sglang", "loop").workload(EXTENDED | {"mode": mode(name)})
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (3, 30)
    assert (workload.prefill_tokens, workload.decode_requests) == (29, 1)
    assert (workload.kv_tokens, workload.waiting_requests) == (200, 2)
    assert workload.running_requests is None


@pytest.mark.parametrize(
    "torn", [{"extend_sum": 31}, {"extend_requests": 2}, {"extend_long": 30}, {"requests": 31}]
)
def test_sglangs_prefill_that_does_not_add_up_is_refused(torn: dict[str, int]) -> None:
    assert family("sglang", "loop").workload(EXTENDED | {"mode": mode("EXTEND")} | torn) is None


def test_sglangs_decode_does_not_look_at_what_the_prefill_left() -> None:
    stale = EXTENDED | {"mode": mode("DECODE"), "speculation": 0, "requests": 7}
    workload = family("sglang", "loop").workload(stale)
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (7, 7)
    assert (workload.prefill_tokens, workload.decode_requests) == (0, 7)


def test_sglangs_decode_with_speculation_has_an_unknown_number_of_tokens() -> None:
    workload = family("sglang", "loop").workload({"mode": mode("DECODE"), "requests": 7})
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (7, None)


@pytest.mark.parametrize("name", ["IDLE", "PREBUILT"])
def test_sglangs_idle_batches_are_dummies(name: str) -> None:
    loop = family("sglang", "loop")
    assert loop.is_dummy({"mode": mode(name), "requests": 1})
    assert loop.workload({"mode": mode(name), "requests": 1}) is None


def test_a_mode_that_is_not_known_has_no_workload() -> None:
    assert family("sglang", "loop").workload(EXTENDED) is None
    assert family("sglang", "loop").workload(EXTENDED | {"mode": 99}) is None


def test_tgis_lengths_mean_new_tokens_only_where_the_cached_are_apart() -> None:
    lengths = {"requests": 2, "new_requests": 2, "new_tokens": 12, "new_long": 12, "new_single": 0}
    shard = family("tgi", "shard")
    newer = shard.workload(lengths | {"cached_tokens": 100})
    assert newer is not None
    assert (newer.scheduled_tokens, newer.kv_tokens) == (12, 112)
    decode = shard.workload(lengths | {"decoded_batches": 1})
    assert decode is not None
    assert (decode.scheduled_tokens, decode.decode_requests, decode.kv_tokens) == (2, 2, 12)
    prefill = shard.workload(lengths)
    assert prefill is not None
    assert (prefill.requests, prefill.scheduled_tokens) == (2, None)


def test_transformers_adds_up_in_one_place_or_in_the_other() -> None:
    processor = family("transformers", "processor")
    new = {
        "requests": 3,
        "tokens": 9,
        "token_sum": 9,
        "prefill_tokens": 7,
        "decode_requests": 2,
    }
    workload = processor.workload(new)
    assert workload is not None
    assert (workload.scheduled_tokens, workload.prefill_tokens) == (9, 7)
    early = {"early_requests": 3, "early_listed": 3, "early_tokens": 9, "early_context": 90}
    workload = processor.workload(early)
    assert workload is not None
    assert (workload.scheduled_tokens, workload.prefill_tokens) == (9, None)
    assert processor.workload(early | {"early_listed": 4}) is None


def test_tensorrt_llm_counts_requests_only() -> None:
    workload = family("tensorrt_llm", "pytorch").workload(
        {"context_requests": 2, "generation_requests": 5}
    )
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (7, None)


# --- formulas ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("a", 3), ("0", 0), ("a + b - 2", 8), (" -a+ 10 ", 7), ("a + nobody", None)],
)
def test_a_formula_adds_up_and_knows_what_it_cannot(text: str, value: int | None) -> None:
    assert parse_formula(text).value({"a": 3, "b": 7}) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a * b", "a +", "+", "1.5", "a.b", "f(a)", "a == b", "__import__('os')"],
)
def test_what_is_no_sum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a sum of names and whole numbers"):
        parse_formula(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [("a == 3", True), ("a + b <= 9", False), ("a < b", True), ("a >= nobody", False)],
)
def test_a_check_holds_or_does_not(text: str, holds: bool) -> None:
    assert parse_check(text).holds({"a": 3, "b": 7}) is holds


@pytest.mark.parametrize("text", ["a", "a = b", "a == b == c", "a == ", "a != b"])
def test_what_is_no_comparison_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_check(text)


# --- a user's own ------------------------------------------------------------------------------


def example() -> str:
    """Give the in-house engine of docs/engines.md as a reader would copy it."""
    text = DOCS.read_text().split("## An engine of your own")[1]
    return text.split("```toml\n")[1].split("```")[0]


def test_the_example_of_the_docs_is_read_and_works(tmp_path: Path) -> None:
    path = tmp_path / "our_engine.toml"
    path.write_text(example())
    framework = load_file(path)
    assert framework.name() == "our_engine"
    [engine] = find_engines(
        table_of(
            {
                1: (0, "python3 -m our_engine.serve --port 7001 --model org/m"),
                2: (1, "our-engine-rank_TP0"),
                3: (1, "our-engine-rank_TP1"),
            }
        ),
        [framework],
    )
    assert (engine.framework, engine.name, engine.model) == ("our_engine", "7001", "org/m")
    assert (pids(engine.core), [rank.label for rank in engine.ranks]) == ([2], ["TP1"])
    [loop] = framework.families()
    assert loop.spec["counter"] == [{"path": "batches.started", "kind": "int"}]
    workload = loop.workload({"kind": 0, "requests": 2, "new_tokens": 20, "token_sum": 20})
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (2, 20)
    assert loop.is_dummy({"kind": 2})


SMALL = """
[core]
match = ['^our-engine']
[files]
loop = "ours/loop.py"
[phases.all]
forward = ["loop:Loop.forward"]
[[family]]
name = "loop"
root = ["loop:Loop.run"]
counter = [{ path = "count" }]
batch = { local = "batch" }
fields = [{ name = "requests", path = "requests", reduce = "len" }]
phases = ["all"]
[[family.workload]]
check = ["requests > 0"]
requests = "requests"
"""


def test_the_small_description_is_good(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(SMALL)
    [loop] = load_file(path).families()
    assert loop.spec["root"] == [{"file": "ours/loop.py", "function": "Loop.run"}]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[core]", "[core", r"is no TOML: .*line 2.*correct that place"),
        ("match =", "mach =", r"unknown field `mach`.*\$\.core"),
        ("'^our-engine'", "'^our-(engine'", r"core\.match: .*no regular expression.*correct it"),
        ("'^our-engine'", "'^our-(?P<rank>x)'", r"group 'rank' is unknown: use data, pipeline"),
        ("match = ['^our-engine']", "", r"core\.match: .*give match, below or guess"),
        ("['^our-engine']", "['a']\nguess = ['spawned']", r"server\.match: .*say how to tell it"),
        ("['^our-engine']", "['a']\nguess = ['grown']", r"Invalid enum value 'grown'"),
        ('"ours/loop.py"', '"ours/loop"', r"files\.loop: .*ends in \.py"),
        ("forward =", "forwards =", r"Invalid enum value 'forwards'"),
        ('"loop:Loop.forward"', '"Loop.forward"', r"write 'file\.py:Class\.function'"),
        ('"loop:Loop.forward"', '"lop:Loop.forward"', r"'lop' is neither in \[files\]"),
        ('["loop:Loop.run"]', "[]", r"family 'loop', root: it is empty: name the function"),
        ('counter = [{ path = "count" }]', "", r"neither counter nor call is given"),
        ('{ path = "count" }', '{ path = "a..b" }', r"'a\.\.b' is no path: write names"),
        ('{ path = "count" }', '{ path = "a", kind = "float" }', r"Invalid enum value 'float'"),
        ('{ local = "batch" }', '{ local = "b", frame = "call" }', r"give \[family\.call\]"),
        ('phases = ["all"]', 'phases = ["al"]', r"there is no \[phases\.al\]"),
        ('phases = ["all"]', 'phases = ["all", "all"]', r"stands in two phases"),
        ('name = "loop"', 'name = "loop"\nversions = "0.8-0.9"', r"write as '>=0\.8,<0\.11'"),
        ('name = "loop"', 'name = "loop"\nlike = "base"', r"no family above is named 'base'"),
        ('reduce = "len"', 'reduce = "enum"', r"requests: values belong to reduce = 'enum'"),
        ('reduce = "len"', 'reduce = "mean"', r"Invalid enum value 'mean'"),
        ('path = "requests", reduce = "len"', 'path = "r[].n"', r"reduce them by sum, max or len"),
        ('requests = "requests"', 'requests = "request"', r"'request' is neither in fields nor"),
        ('requests = "requests"', 'requests = "2 * requests"', r"no formula: write a sum"),
        ('["requests > 0"]', '["requests"]', r"is no check: write two sums"),
        ('requests = "requests"', "", r"a rule says nothing: give requests, or ignore = true"),
        ('check = ["requests > 0"]', 'when = { requests = ["A"] }', r"requests is never 'A'"),
    ],
)
def test_a_description_that_is_wrong_is_told_by_file_key_and_remedy(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in SMALL
    path = tmp_path / "ours.toml"
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(DescriptionError, match=told) as caught:
        load_file(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_or_ill_named_is_told(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"cannot be read: .*correct \[collect\] engine_fi"):
        load_file(tmp_path / "absent.toml")
    with pytest.raises(DescriptionError, match="use small letters, digits and _"):
        load_file(tmp_path / "Our Engine.toml")
