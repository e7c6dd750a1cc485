"""Engines found in a recorded process table."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from collectors.discovery import (
    EngineProcess,
    Process,
    ProcessTable,
    Scanner,
    is_running,
    listening_ports,
    parse_boot_ns,
    parse_cmdline,
    parse_listening,
    parse_stat,
    read_process,
    start_ns,
)
from collectors.engines import find_engines, load

FIXTURES = Path(__file__).parents[1] / "fixtures"
PROC = FIXTURES / "proc"
SERVER, TRACKER, CORE, WORKERS = 5000200, 5000201, 5000202, (5000203, 5000204)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(PROC, tmp_path / "proc"))


def engines_of(table: ProcessTable) -> dict[str, EngineProcess]:
    return {engine.name: engine for engine in find_engines(table, [load("vllm")])}


def test_an_engine_is_found_with_its_server_and_workers() -> None:
    engine = engines_of(Scanner(PROC).scan())["8001"]
    assert engine.framework == "vllm"
    assert engine.core.pid == CORE
    assert engine.core.title == "VLLM::EngineCore"
    assert engine.api_server is not None
    assert engine.api_server.pid == SERVER
    assert sorted(rank.process.pid for rank in engine.ranks) == sorted(WORKERS)
    assert (engine.port, engine.model) == (8001, "facebook/opt-125m")


def test_each_process_has_its_role_and_the_resource_tracker_none() -> None:
    engine = engines_of(Scanner(PROC).scan())["8001"]
    assert engine.roles == {
        SERVER: "api_server",
        CORE: "engine_core",
        WORKERS[0]: "worker",
        WORKERS[1]: "worker",
    }


def test_ranks_of_data_parallelism_have_a_name_each() -> None:
    engines = engines_of(Scanner(PROC).scan())
    assert sorted(engines) == ["8000/dp0", "8000/dp1", "8001"]
    assert engines["8000/dp1"].core.title == "VLLM::EngineCore_DP1"
    assert engines["8000/dp0"].model == engines["8000/dp1"].model == "prod"


def test_a_core_whose_server_is_not_to_be_seen_is_named_by_its_pid(proc: Path) -> None:
    shutil.rmtree(proc / str(SERVER))
    engine = engines_of(Scanner(proc).scan())[f"pid{CORE}"]
    assert (engine.api_server, engine.port, engine.model) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "port", "model"),
    [
        ("vllm serve m", 8000, "m"),
        ("vllm serve m --port 9", 9, "m"),
        ("vllm serve m --port=9", 9, "m"),
        ("vllm serve --port 0", None, None),
        ("vllm serve --model m --served-model-name n", 8000, "n"),
    ],
)
def test_port_and_model_come_from_the_servers_command_line(
    line: str, port: int | None, model: str | None
) -> None:
    server = Process(pid=5000998, parent_pid=1, start_ticks=1, arguments=tuple(line.split()))
    core = Process(pid=5000999, parent_pid=5000998, start_ticks=2, arguments=("VLLM::EngineCore",))
    table = ProcessTable({one.pid: one for one in (server, core)}, {server.pid: [core]})
    [engine] = find_engines(table, [load("vllm")])
    assert (engine.port, engine.model) == (port, model)


def test_a_server_that_set_its_title_is_read_at_its_blanks() -> None:
    server = Process(
        pid=5000998, parent_pid=1, start_ticks=1, arguments=("vllm serve my/model --port 9",)
    )
    assert (server.option("--port"), server.option("--model")) == ("9", None)
    assert Process(pid=1, parent_pid=0, start_ticks=1, arguments=()).option("--port") is None
    core = Process(pid=5000999, parent_pid=5000998, start_ticks=2, arguments=("VLLM::EngineCore",))
    [engine] = find_engines(ProcessTable({5000998: server, 5000999: core}), [load("vllm")])
    assert (engine.port, engine.model) == (9, "my/model")


def test_ancestors_that_form_a_ring_end_all_the_same() -> None:
    one = Process(pid=1, parent_pid=2, start_ticks=1, arguments=("a",))
    two = Process(pid=2, parent_pid=1, start_ticks=1, arguments=("b",))
    assert ProcessTable({1: one, 2: two}).ancestors(one) == [two, one]


def test_a_name_with_blanks_and_brackets_moves_no_field() -> None:
    text = "77 (my (odd) na) me) S 42 77 77 0 -1 0 1 0 2 0 3 4 0 0 20 0 12 0 99000 1 2 3"
    assert parse_stat(text) == (42, 99000)
    odd = read_process(5000301, PROC)
    assert odd is not None
    assert (odd.parent_pid, odd.start_ticks, odd.title) == (5000001, 99000, "/usr/bin/odd name")


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (b"", ()),
        (b"\0\0\0", ()),
        (b"a\0b c\0\0d\0", ("a", "b c", "", "d")),
        (b"VLLM::EngineCore" + b"\0" * 90, ("VLLM::EngineCore",)),
        (b"nginx: master process  ", ("nginx: master process",)),
        (b"caf\xff\0", ("caf\ufffd",)),
    ],
)
def test_a_command_line_is_split_at_its_nuls(data: bytes, arguments: tuple[str, ...]) -> None:
    assert parse_cmdline(data) == arguments


def test_a_kernel_thread_and_a_process_that_is_gone_are_none(proc: Path) -> None:
    assert read_process(5000002, proc) is None
    assert read_process(4999999, proc) is None
    (proc / str(CORE) / "stat").write_text("")
    assert read_process(CORE, proc) is None
    (proc / str(WORKERS[0]) / "stat").unlink()
    assert read_process(WORKERS[0], proc) is None


def test_a_process_that_vanishes_during_the_scan_harms_no_other(proc: Path) -> None:
    (proc / str(TRACKER) / "stat").unlink()
    table = Scanner(proc).scan()
    assert TRACKER not in table.by_pid
    assert CORE in table.by_pid


def set_uptime(proc: Path, seconds: float) -> None:
    (proc / "uptime").write_text(f"{seconds} 1.0\n")


def set_title(proc: Path, pid: int, title: str) -> None:
    (proc / str(pid) / "cmdline").write_bytes(title.encode() + b"\0")


def test_a_young_process_is_read_each_time_because_its_title_comes_late(proc: Path) -> None:
    # Started 985 s after boot.
    set_uptime(proc, 1000)
    set_title(proc, CORE, "python3 -c spawn_main")
    scanner = Scanner(proc, settle_seconds=120)
    assert "8001" not in engines_of(scanner.scan())
    set_title(proc, CORE, "VLLM::EngineCore")
    assert "8001" in engines_of(scanner.scan())


def test_a_settled_process_is_kept_and_not_read_again(proc: Path) -> None:
    scanner = Scanner(proc, settle_seconds=120)
    scanner.scan()
    set_title(proc, CORE, "something else")
    (proc / str(CORE) / "stat").unlink()
    assert "8001" in engines_of(scanner.scan())


def test_a_settled_process_is_forgotten_when_it_is_gone(proc: Path) -> None:
    scanner = Scanner(proc, settle_seconds=120)
    scanner.scan()
    shutil.rmtree(proc / str(CORE))
    assert "8001" not in engines_of(scanner.scan())


def test_a_pid_that_another_process_took_over_is_noticed_in_the_end(proc: Path) -> None:
    scanner = Scanner(proc, settle_seconds=120)
    set_uptime(proc, 2000)
    scanner.scan()
    set_title(proc, CORE, "something else")
    set_uptime(proc, 2119)
    assert "8001" in engines_of(scanner.scan())
    set_uptime(proc, 2121)
    assert "8001" not in engines_of(scanner.scan())


def rewrite_stat(proc: Path, pid: int, old: str, new: str) -> None:
    stat = proc / str(pid) / "stat"
    text = stat.read_text()
    assert old in text
    stat.write_text(text.replace(old, new))


def test_a_process_runs_until_it_is_gone_or_a_zombie_or_another_one(proc: Path) -> None:
    core = read_process(CORE, proc)
    assert core is not None
    assert is_running(core, proc)
    rewrite_stat(proc, CORE, ") S ", ") Z ")
    assert not is_running(core, proc)
    rewrite_stat(proc, CORE, ") Z ", ") R ")
    assert is_running(core, proc)
    rewrite_stat(proc, CORE, " 98500 ", " 98501 ")
    assert not is_running(core, proc)
    shutil.rmtree(proc / str(CORE))
    assert not is_running(core, proc)


def test_the_start_of_a_process_counts_from_the_boot() -> None:
    core = read_process(CORE, PROC)
    assert core is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert start_ns(core, PROC) == 1_700_000_000 * 10**9 + 98500 * 10**9 // ticks
    with pytest.raises(ValueError, match="btime"):
        parse_boot_ns("cpu 1 2\n")


def test_only_sockets_that_listen_have_a_port() -> None:
    text = (PROC / str(SERVER) / "net/tcp").read_text()
    assert parse_listening(text) == {700001: 8001, 700002: 22}
    assert parse_listening("") == {}


def test_a_process_listens_on_the_ports_of_its_own_sockets(proc: Path) -> None:
    fd = proc / str(SERVER) / "fd"
    fd.mkdir()
    for number, target in enumerate(
        ["/dev/null", "socket:[700004]", "socket:[700001]", "socket:[700003]", "pipe:[700002]"]
    ):
        (fd / str(number)).symlink_to(target)
    assert listening_ports(SERVER, proc) == [8001, 8080]


def test_where_sockets_may_not_be_read_there_is_no_port(proc: Path) -> None:
    assert listening_ports(SERVER, proc) == []
    assert listening_ports(4999999, proc) == []


def test_this_process_listens_where_it_says() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] in listening_ports(os.getpid())
