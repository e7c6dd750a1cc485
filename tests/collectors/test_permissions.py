"""Why an engine may not be read: one reason, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collectors.permissions import Credentials, explain_refusal, parse_credentials

PTRACE = 1 << 19
RAW = 1 << 13
PID = 77


def status(uid: int = 1000, capabilities: int = 0, seccomp: int = 0, gid: int = 1000) -> str:
    return (
        f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n"
        f"CapPrm:\t{capabilities:016x}\nSeccomp:\t{seccomp}\n"
    )


class Host:
    def __init__(self, proc: Path) -> None:
        self.proc = proc

    def write(self, path: str, text: str) -> None:
        (self.proc / path).parent.mkdir(parents=True, exist_ok=True)
        (self.proc / path).write_text(text)

    def between(self, agent: str, engine: str, yama: int | None = None) -> str:
        self.write("self/status", agent)
        self.write(f"{PID}/status", engine)
        if yama is not None:
            self.write("sys/kernel/yama/ptrace_scope", f"{yama}\n")
        return explain_refusal(PID, self.proc)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_another_user_is_named(host: Host) -> None:
    text = host.between(status(uid=65534), status(uid=1000))
    assert "belongs to user 1000 and the agent runs as user 65534" in text
    assert text.endswith("or give it CAP_SYS_PTRACE")


def test_another_group_counts_as_well(host: Host) -> None:
    assert "user and group" in host.between(status(gid=5), status(gid=6))


def test_more_capabilities_are_named(host: Host) -> None:
    text = host.between(status(), status(capabilities=RAW))
    assert "mask 0x2000" in text
    assert "at least the engine's capabilities" in text


@pytest.mark.parametrize("scope", [1, 2])
def test_yama_is_named_where_it_is_what_refuses(host: Host, scope: int) -> None:
    text = host.between(status(), status(), yama=scope)
    assert f"ptrace_scope is {scope}" in text
    assert "CAP_SYS_PTRACE, or 'sysctl kernel.yama.ptrace_scope=0'" in text


def test_yama_that_forbids_everything_does_so_for_root_as_well(host: Host) -> None:
    for agent in (status(), status(uid=0, gid=0, capabilities=PTRACE)):
        text = host.between(agent, status(), yama=3)
        assert "ptrace_scope is 3" in text
        assert "restart the host" in text


def test_a_kernel_without_yama_is_not_blamed_on_it(host: Host) -> None:
    assert "Yama" not in host.between(status(), status())
    assert "Yama" not in host.between(status(), status(), yama=0)


def test_a_process_that_changed_its_user_is_not_to_be_read(host: Host) -> None:
    assert "changed its user after its start" in host.between(status(), status())


def test_seccomp_is_named_with_both_ways_out(host: Host) -> None:
    for agent in (status(seccomp=2), status(capabilities=PTRACE, seccomp=2)):
        text = host.between(agent, status())
        assert "process_vm_readv" in text
        assert text.endswith("or a profile that allows it")


def test_a_capability_in_a_user_namespace_does_not_count_outside(host: Host) -> None:
    host.write("self/uid_map", "         0     100000      65536\n")
    text = host.between(status(capabilities=PTRACE), status())
    assert "--userns=host" in text
    host.write("self/uid_map", "         0          0 4294967295\n")
    assert "namespace" not in host.between(status(capabilities=PTRACE), status())


def test_apparmor_is_named_where_it_confines_the_agent(host: Host) -> None:
    host.write("self/attr/current", "docker-default (enforce)\n")
    assert "docker-default" in host.between(status(capabilities=PTRACE), status())
    host.write("self/attr/current", "unconfined\n")
    assert "AppArmor confines" not in host.between(status(capabilities=PTRACE), status())


def test_what_cannot_be_looked_at_leaves_the_general_advice(host: Host) -> None:
    assert "give the agent CAP_SYS_PTRACE" in explain_refusal(PID, host.proc)
    assert parse_credentials("Uid:\tx\n") is None


def test_this_process_has_credentials() -> None:
    found = parse_credentials(Path("/proc/self/status").read_text())
    assert isinstance(found, Credentials)
    assert found.uids[1] == os.geteuid()
