"""The installation, the permissions of this process, and the broker."""

import importlib.util
import os
import platform
import shutil
import socket
from pathlib import Path

from latencyprism import __version__
from latencyprism.checks.finding import Finding
from schemas.settings import KafkaSettings

EXTRAS = {
    "collect": ("confluent_kafka", "prometheus_client"),
    "capture": ("py_spy",),
    "feeds": ("zmq",),
    "nvidia": ("pynvml",),
    "stream": ("faust", "river", "clickhouse_connect", "aiohttp"),
    "simulator": ("numpy", "setproctitle", "prometheus_client", "aiohttp"),
    "demo": ("chdb",),
}

# Bits of CapEff, from linux/capability.h, and what each is good for.
CAPABILITIES = {
    "SYS_PTRACE": (19, "engines of every user can be read", "only engines of the same user with no "
        "more capabilities can be read"),
    "SYS_NICE": (23, "the reader keeps its time on a busy host", "on a host whose CPUs are all "
        "busy, iterations go unseen"),
}  # fmt: skip


def check_installation() -> list[Finding]:
    """Look at this installation: version, extras, native sampler, py-spy."""
    version = f"latencyprism {__version__}, Python {platform.python_version()}"
    return [Finding("ok", "version", version), *check_extras(), check_native()]


def check_extras() -> list[Finding]:
    """Look for the packages of each extra."""
    found: list[Finding] = []
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if not _is_installed(name)]
        text = (
            f"{', '.join(missing)} missing; if this host is to do that: "
            f"pip install 'latencyprism[{extra}]'"
        )
        state = Finding("ok", f"extra {extra}", "installed")
        found.append(Finding("note", f"extra {extra}", text) if missing else state)
    return found


def _is_installed(name: str) -> bool:
    if name == "py_spy":
        # A command, not a module.
        from collectors.capture import find_py_spy

        return find_py_spy() is not None
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        # Imported already, by a package that replaces itself: Faust.
        return True


def check_native() -> Finding:
    """Look for the native sampler."""
    from collectors.stacks import HOW_TO_GET_IT, WHAT_IS_LOST, native_version

    version = native_version()
    if version is not None:
        return Finding("ok", "native sampler", version)
    return Finding("bad", "native sampler", f"not installed. Lost: {WHAT_IS_LOST}. {HOW_TO_GET_IT}")


def check_permissions() -> list[Finding]:
    """Look at the capabilities and the kernel's settings."""
    held = effective_capabilities()
    found = [
        Finding("ok", name, f"held: {with_it}", {"held": True})
        if held >> bit & 1
        else Finding(
            "note",
            name,
            f"not held: {without}. Run as root, or add the capability (Kubernetes: "
            "securityContext.capabilities.add; systemd: AmbientCapabilities)",
            {"held": False},
        )
        for name, (bit, with_it, without) in CAPABILITIES.items()
    ]
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    can_trace = bool(held >> CAPABILITIES["SYS_PTRACE"][0] & 1)
    if yama.exists() and yama.read_text().strip() != "0" and not can_trace:
        found.append(
            Finding(
                "bad",
                "Yama",
                "ptrace_scope is not 0, so only a parent may read a process: give the agent "
                "SYS_PTRACE, or 'sysctl kernel.yama.ptrace_scope=0'",
            )
        )
    if not Path("/proc/pressure/cpu").exists():
        found.append(
            Finding("note", "PSI", "the kernel keeps none: boot with psi=1 for better causes")
        )
    if shutil.which("bpftrace") is None:
        found.append(
            Finding(
                "note",
                "kernel tracing",
                "bpftrace is not installed; only [collect] kernel_tracing = true needs it: install "
                "the package of that name",
            )
        )
    return found


def effective_capabilities() -> int:
    """Give this process's effective capabilities as a bit mask."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def check_broker(kafka: KafkaSettings) -> Finding:
    """Look whether one of the brokers takes connections."""
    for server in kafka.bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=2):
                return Finding("ok", "Kafka", f"{server} answers")
        except (OSError, ValueError):
            continue
    return Finding(
        "note",
        "Kafka",
        f"{kafka.bootstrap_servers} does not answer: check [kafka] bootstrap_servers "
        "(not needed for 'latencyprism demo')",
    )


def owner_of(pid: int) -> int | None:
    """Give the user id that a process runs as."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
