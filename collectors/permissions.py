"""Why the kernel refuses to let the agent read an engine, from what both of them are."""

from dataclasses import dataclass
from pathlib import Path

from collectors.host.files import read_int, read_text_or_none

PROC = Path("/proc")

SYS_PTRACE = 19
ALL_USERS = "4294967295"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What counts of a process where one reads another.

    ``uids`` and ``gids`` are real, effective and saved; ``capabilities`` is the permitted set.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    capabilities: int
    seccomp: int = 0


def parse_credentials(status: str) -> Credentials | None:
    """Read ``/proc/<pid>/status``; None where it lacks what is needed."""
    found = {
        name: rest.split()
        for name, _, rest in (line.partition(":") for line in status.splitlines())
    }
    try:
        return Credentials(
            uids=tuple(map(int, found["Uid"][:3])),
            gids=tuple(map(int, found["Gid"][:3])),
            capabilities=int(found["CapPrm"][0], 16),
            seccomp=int(found.get("Seccomp", ["0"])[0]),
        )
    except (KeyError, ValueError, IndexError):
        return None


def explain_refusal(pid: int, proc: Path = PROC) -> str:
    """Say why reading a process is refused, and what to do; the likeliest reason alone."""
    agent = parse_credentials(read_text_or_none(f"{proc}/self/status") or "")
    engine = parse_credentials(read_text_or_none(f"{proc}/{pid}/status") or "")
    refused = f"reading process {pid} is refused"
    if agent is None or engine is None:
        return f"{refused}: give the agent CAP_SYS_PTRACE and share the host's PID namespace"
    yama = read_int(f"{proc}/sys/kernel/yama/ptrace_scope")
    reason = (
        _despite_capability(agent, yama, proc)
        if agent.capabilities >> SYS_PTRACE & 1
        else _without_capability(agent, engine, yama)
    )
    return f"{refused}: {reason}"


def _without_capability(agent: Credentials, engine: Credentials, yama: int | None) -> str:
    here = agent.uids[1]
    if set(engine.uids) != {agent.uids[0]} or set(engine.gids) != {agent.gids[0]}:
        return (
            f"it belongs to user {engine.uids[0]} and the agent runs as user {here}: run the agent "
            "as the engine's user and group, or give it CAP_SYS_PTRACE"
        )
    more = engine.capabilities & ~agent.capabilities
    if more:
        return (
            f"it has capabilities that the agent lacks (mask {more:#x}): give the agent at least "
            "the engine's capabilities, or CAP_SYS_PTRACE"
        )
    if yama:
        return (
            f"Yama (kernel.yama.ptrace_scope is {yama}) lets only a parent read its children: "
            "give the agent CAP_SYS_PTRACE, or 'sysctl kernel.yama.ptrace_scope=0'"
            if yama < 3
            else _YAMA_FORBIDS
        )
    if agent.seccomp:
        return _SECCOMP
    return (
        "it has the same user and no more capabilities, so it is marked as not to be read (it "
        "changed its user after its start): give the agent CAP_SYS_PTRACE"
    )


def _despite_capability(agent: Credentials, yama: int | None, proc: Path) -> str:
    if yama is not None and yama >= 3:
        return _YAMA_FORBIDS
    users = (read_text_or_none(f"{proc}/self/uid_map") or "").split()
    if users and users[-1] != ALL_USERS:
        return (
            "the agent has CAP_SYS_PTRACE in a user namespace of its own, where it does not count "
            "for processes outside: run its container with the host's users (Docker: "
            "--userns=host, Kubernetes: hostUsers: true)"
        )
    profile = (read_text_or_none(f"{proc}/self/attr/current") or "").strip("\0\n ")
    if profile and not profile.startswith("unconfined") and "enforce" in profile:
        return (
            f"the agent has CAP_SYS_PTRACE, and AppArmor confines it ({profile}): run its "
            "container with apparmor:unconfined (Kubernetes: appArmorProfile.type: Unconfined)"
        )
    if agent.seccomp:
        return _SECCOMP
    return (
        "the agent has CAP_SYS_PTRACE, so a security module refuses (SELinux, AppArmor, Landlock): "
        "look for a denial with 'dmesg' or 'ausearch -m avc', and allow the agent to read "
        "processes"
    )


_YAMA_FORBIDS = (
    "Yama (kernel.yama.ptrace_scope is 3) lets nobody read another process until the next boot: "
    "set kernel.yama.ptrace_scope to 1 in /etc/sysctl.d, restart the host, and give the agent "
    "CAP_SYS_PTRACE"
)
_SECCOMP = (
    "a seccomp filter holds the agent and seems to refuse process_vm_readv: give its container "
    "CAP_SYS_PTRACE, with which Docker's default profile allows that call, or a profile that "
    "allows it"
)
