"""Who may read whom: users, capabilities and PID namespaces, with real processes.

Everything runs as a user other than root. It keeps DAC_READ_SEARCH, engine and agent alike, so that
it can run this environment's Python wherever that lies; the kernel weighs only what one has more
than the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.discovery import Scanner
from simulator.replica.process import ReplicaProcess
from tests.collectors.engine import (
    ROOT,
    Collector,
    free_port,
    load,
    needs_native,
    wait_for,
    write_config,
)

ENGINE_USER, OTHER_USER = 65534, 65533
SMALL = 0.3

pytestmark = [
    pytest.mark.process,
    needs_native,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become other users"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv: install util-linux"),
]


def become(user: int, *capabilities: str) -> list[str]:
    """Give the command that runs another as a user with these capabilities and no others."""
    kept = ",".join(f"+{name}" for name in ("dac_read_search", *capabilities))
    return [
        *("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"),
        *("--inh-caps", f"-all,{kept}", "--ambient-caps", f"-all,{kept}"),
        *("--bounding-set", f"-all,{kept}", "--no-new-privs", "--"),
    ]


def allowed(command: list[str]) -> bool:
    return subprocess.run([*command, "true"], capture_output=True, timeout=60).returncode == 0


class Started(ReplicaProcess):
    """A replica that another command starts."""

    def __init__(self, by: list[str], port: int) -> None:
        super().__init__(port=port, work_ratio=SMALL)
        self._command = [*by, *self._command]


def agent(command: list[str], config: Path) -> Collector:
    """Start an agent that first becomes another user, as a service manager would do it."""
    before = (
        "import os, sys\n"
        "if os.environ.pop('STILL_ROOT', None):\n"
        f"    os.execvp('setpriv', {command!r} + [sys.executable] + sys.orig_argv[1:])\n"
    )
    os.environ["STILL_ROOT"] = "1"
    try:
        return Collector(config, ["--stdout"], before)
    finally:
        del os.environ["STILL_ROOT"]


@pytest.fixture(scope="module")
def replica() -> Iterator[ReplicaProcess]:
    command = become(ENGINE_USER)
    if not allowed(command):
        pytest.skip("this host does not let setpriv change users and capabilities")
    with Started(command, free_port()) as running:
        yield running


def port_of(replica: ReplicaProcess) -> int:
    return int(replica.base_url.rpartition(":")[2])


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(
    ("user", "capabilities"),
    [(ENGINE_USER, ()), (OTHER_USER, ("sys_ptrace",))],
    ids=["same user", "another user with SYS_PTRACE"],
)
def test_an_engine_is_read_batch_by_batch_without_root(
    replica: ReplicaProcess, tmp_path: Path, user: int, capabilities: tuple[str, ...]
) -> None:
    config = write_config(tmp_path, port_of(replica))
    with agent(become(user, *capabilities), config) as collector, load(replica.base_url):
        wait_for(lambda: len(collector.iterations) >= 20 or collector.process.poll() is not None)
        status = status_of(collector.process.pid)
    assert status["Uid"].split() == [str(user)] * 4
    assert {one.source for one in collector.iterations} == {"counter"}
    assert collector.complaints == []


def test_an_engine_of_another_user_is_refused_with_what_to_do(
    replica: ReplicaProcess, tmp_path: Path
) -> None:
    config = write_config(tmp_path, port_of(replica), metrics_period_seconds=0.3)
    with agent(become(OTHER_USER), config) as collector, load(replica.base_url):
        wait_for(lambda: collector.complaints or collector.process.poll() is not None)
        wait_for(lambda: collector.iterations or collector.process.poll() is not None)
    [complaint] = collector.complaints
    assert "watched by /metrics only" in complaint
    assert "CAP_SYS_PTRACE" in complaint
    assert {one.source for one in collector.iterations} == {"metrics"}


def test_the_explanation_names_both_users(replica: ReplicaProcess) -> None:
    code = f"from collectors.permissions import explain_refusal as e\nprint(e({replica.core_pid}))"
    done = subprocess.run(
        [*become(OTHER_USER), sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"belongs to user {ENGINE_USER} and the agent runs as user {OTHER_USER}" in done.stdout


def test_an_engine_with_more_capabilities_than_the_agent_is_refused(tmp_path: Path) -> None:
    port = free_port()
    command = become(ENGINE_USER, "net_bind_service")
    if not allowed(command):
        pytest.skip("this host does not let setpriv give capabilities")
    with (
        Started(command, port),
        agent(become(ENGINE_USER), write_config(tmp_path, port)) as collector,
    ):
        wait_for(lambda: collector.complaints or collector.process.poll() is not None)
    assert "at least the engine's capabilities" in collector.complaints[0]


def test_an_engine_in_a_pid_namespace_is_read_by_the_hosts_pids(tmp_path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or not allowed(inside):
        pytest.skip("this host does not let unshare make a PID namespace")
    port = free_port()
    with (
        Started([*inside, "--"], port) as replica,
        Collector(write_config(tmp_path, port), ["--stdout"]) as collector,
        load(replica.base_url),
    ):
        wait_for(lambda: len(collector.iterations) >= 20)
        wait_for(lambda: collector.engines and len(collector.engines[-1].pids) >= 3)
        pids = collector.engines[-1].pids
        in_namespace = {pid: status_of(pid)["NSpid"].split() for pid in pids}
        assert set(pids) <= set(Scanner().scan().by_pid)
    assert {one.source for one in collector.iterations} == {"counter"}
    assert all(numbers[0] == str(pid) for pid, numbers in in_namespace.items())
    # The engine itself knows them by other numbers.
    theirs = {int(numbers[1]) for numbers in in_namespace.values()}
    assert {replica.core_pid, replica.worker_pid} <= theirs
    assert theirs.isdisjoint(pids)
