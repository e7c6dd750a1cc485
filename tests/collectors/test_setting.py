"""What is told of an engine's command line, and what is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collectors.discovery import EngineProcess, Process
from collectors.engines import available, load
from collectors.engines.described import Server
from collectors.setting import Setting, command_digest, deciding, setting_of

PYTHON = "/opt/venv/bin/python3.11"
SERVE = (PYTHON, "/opt/venv/bin/vllm", "serve", "org/model")
ONLY_NAMES = Process(pid=5000901, parent_pid=1, start_ticks=2, arguments=("VLLM::EngineCore_DP1",))


def engine(*words: str, core: Process = ONLY_NAMES) -> EngineProcess:
    server = Process(pid=5000900, parent_pid=1, start_ticks=1, arguments=words)
    return EngineProcess(framework="vllm", name="8000", core=core, api_server=server)


def digest(*words: str) -> str | None:
    return command_digest(engine(*words))


BASE = digest(*SERVE, "--max-num-seqs", "64", "--enforce-eager")


def test_the_digest_is_sixteen_hex_digits() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", BASE or "")


@pytest.mark.parametrize(
    "words",
    [
        (*SERVE, "--enforce-eager", "--max-num-seqs", "64"),
        (*SERVE, "--max-num-seqs=64", "--enforce-eager"),
        (*SERVE, "--max_num_seqs", "64", "--enforce-eager"),
        ("/usr/bin/python3", "-u", "-X", "dev", *SERVE[1:], "--max-num-seqs=64", "--enforce-eager"),
        ("vllm", *SERVE[2:], "--max-num-seqs", "64", "--enforce-eager"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--port", "8001", "--host", "::1"),
        (*SERVE[:3], "--port", "8001", "org/model", "--max-num-seqs", "64", "--enforce-eager"),
        (*SERVE, "--max-num-seqs", "64", "--api-key", "k1", "k2", "--enforce-eager"),
        (*SERVE, "--max-num-seqs", "64", "--served-model-name", "a", "b", "--enforce-eager"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--log-config-file=/tmp/x.json"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--hf-token", "t", "--uds", "/run/s"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--ssl-keyfile", "f"),
        (
            *SERVE,
            "--max-num-seqs",
            "64",
            "--enforce-eager",
            "--master-addr",
            "h",
            "--master-port=1",
        ),
    ],
    ids=lambda words: " ".join(words[3:]),
)
def test_the_same_setting_has_the_same_digest_wherever_it_serves(words: tuple[str, ...]) -> None:
    assert digest(*words) == BASE


@pytest.mark.parametrize(
    "words",
    [
        (*SERVE, "--max-num-seqs", "65", "--enforce-eager"),
        (*SERVE, "--max-num-seqs", "64"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--tokenizer-mode", "slow"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--max-num-batched-tokens", "8192"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--kv-cache-dtype", "fp8"),
        (*SERVE, "--max-num-seqs", "64", "--enforce-eager", "--speculative-token-map", "m"),
        (*SERVE[:3], "org/other", "--max-num-seqs", "64", "--enforce-eager"),
    ],
    ids=lambda words: " ".join(words[3:]),
)
def test_another_setting_has_another_digest(words: tuple[str, ...]) -> None:
    assert digest(*words) not in (None, BASE)


@pytest.mark.parametrize("option", ["--api-key", "--admin-api-key", "--hf-token", "--password"])
def test_a_secret_is_not_even_hashed(option: str) -> None:
    for words in ((option, "hunter2"), (f"{option}=hunter2",)):
        assert not any("hunter2" in word for word in deciding((*SERVE[1:], *words)))


def test_it_is_the_same_for_another_pid_and_start() -> None:
    server = Process(pid=77, parent_pid=2, start_ticks=99, arguments=(*SERVE, "--max-num-seqs=64"))
    again = EngineProcess(framework="vllm", name="8001", core=ONLY_NAMES, api_server=server)
    assert command_digest(again) == digest(*SERVE, "--max-num-seqs", "64")


def test_ranks_of_data_parallelism_have_the_digest_of_their_server() -> None:
    first = Process(pid=5, parent_pid=1, start_ticks=2, arguments=("VLLM::EngineCore_DP0",))
    second = Process(pid=6, parent_pid=1, start_ticks=2, arguments=("VLLM::EngineCore_DP1",))
    assert command_digest(engine(*SERVE, core=first)) == command_digest(engine(*SERVE, core=second))


def test_a_core_with_options_of_its_own_counts_and_one_that_was_spawned_does_not() -> None:
    shard = ("/usr/bin/text-generation-server", "serve", "m", "--dtype", "bf16", "--uds-path", "/x")
    router = ("text-generation-router", "--port", "80")
    of = [Process(pid=5, parent_pid=1, start_ticks=2, arguments=(*shard[:4], d)) for d in "ab"]
    assert command_digest(engine(*router, core=of[0])) != command_digest(
        engine(*router, core=of[1])
    )
    code = "from multiprocessing.spawn import spawn_main; spawn_main(pipe_handle=9)"
    spawned = (PYTHON, "-c", code, "--multiprocessing-fork")
    core = Process(pid=5, parent_pid=1, start_ticks=2, arguments=spawned)
    assert command_digest(engine(*SERVE, core=core)) == digest(*SERVE)


def test_without_a_command_line_there_is_no_digest() -> None:
    alone = EngineProcess(framework="vllm", name="pid5", core=ONLY_NAMES)
    assert command_digest(alone) is None


def maps(folder: Path, *libraries: str) -> Path:
    process = folder / str(ONLY_NAMES.pid)
    process.mkdir()
    lines = [f"7f00-7f01 r-xp 00000000 08:01 1 /site-packages/{one}\n" for one in libraries]
    (process / "maps").write_text("".join(lines))
    return folder


EAGER = Server(eager_options=("--enforce-eager",))
TORCH = "torch/lib/libtorch_cpu.so"


def graphs(folder: Path, *words: str) -> bool | None:
    return setting_of(engine(*SERVE, *words), EAGER, "0.32.0", folder).cuda_graphs


def test_an_option_may_forbid_cuda_graphs(tmp_path: Path) -> None:
    gpu = maps(tmp_path, TORCH, "torch/lib/libtorch_cuda.so")
    assert graphs(gpu, "--enforce-eager") is False
    assert graphs(gpu, "--enforce_eager") is False
    # The framework may capture some, or none.
    assert graphs(gpu) is None


def test_without_an_accelerators_libraries_there_are_no_cuda_graphs(tmp_path: Path) -> None:
    assert graphs(maps(tmp_path, TORCH, "torch/lib/libtorch.so")) is False


@pytest.mark.parametrize(
    "library", ["libascendcl.so", "torch_npu/lib/libtorch_npu.so", "libcuda.so.1"]
)
def test_with_any_vendors_libraries_they_may_be_there(tmp_path: Path, library: str) -> None:
    assert graphs(maps(tmp_path, TORCH, library)) is None


@pytest.mark.parametrize(("version", "expected"), [("0.32.0+cpu", False), ("0.32.0+cu128", None)])
def test_a_build_for_cpus_has_no_cuda_graphs(
    tmp_path: Path, version: str, expected: bool | None
) -> None:
    # It may come with a PyTorch that could use one.
    linked = maps(tmp_path, TORCH, "torch/lib/libtorch_cuda.so")
    assert setting_of(engine(*SERVE), EAGER, version, linked).cuda_graphs is expected


def test_what_cannot_be_looked_at_is_unknown(tmp_path: Path) -> None:
    assert graphs(tmp_path) is None
    nothing = EngineProcess(framework="vllm", name="pid5", core=ONLY_NAMES)
    assert setting_of(nothing, EAGER, None, tmp_path) == Setting()


@pytest.mark.parametrize("name", available())
def test_options_are_written_as_options(name: str) -> None:
    assert all(option.startswith("--") for option in load(name).server.eager_options)
