"""Say what can be read on this host, what cannot, and what to do about it.

Nothing is changed and nothing is sent. The exit status is 1 if something that was found cannot
be watched batch by batch.
"""

import argparse
import importlib.util
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

from latencyprism import __version__
from schemas.settings import KafkaSettings, read_settings, section

EXTRAS = {
    "collect": ("confluent_kafka", "prometheus_client"),
    "stream": ("faust", "river", "clickhouse_connect", "aiohttp"),
    "simulator": ("numpy", "setproctitle", "prometheus_client", "aiohttp"),
    "demo": ("chdb",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``state`` is ok, note or bad."""

    state: str
    subject: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and print it."""
    settings = read_settings(arguments.config)
    findings = [
        Finding("ok", "version", f"latencyprism {__version__}, Python {platform.python_version()}"),
        *_extras(),
        _native(),
        *_permissions(),
        _broker(section(settings, "kafka", KafkaSettings)),
        *_engines(),
    ]
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    marks = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}
    for finding in findings:
        console.print(
            f"{marks[finding.state]} {finding.subject}: {escape(finding.text)}",
            highlight=False,
            soft_wrap=True,
        )
    return 1 if any(finding.state == "bad" for finding in findings) else 0


def _extras() -> list[Finding]:
    found: list[Finding] = []
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if not _is_installed(name)]
        found.append(
            Finding("ok", f"extra {extra}", "installed")
            if not missing
            else Finding(
                "note",
                f"extra {extra}",
                f"{', '.join(missing)} missing; if this host is to do that: "
                f"pip install 'latencyprism[{extra}]'",
            )
        )
    return found


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        # Imported already, by a package that replaces itself: Faust.
        return True


def _native() -> Finding:
    from collectors.stacks import HOW_TO_GET_IT, WHAT_IS_LOST, native_version

    version = native_version()
    if version is not None:
        return Finding("ok", "native sampler", version)
    return Finding("bad", "native sampler", f"not installed. Lost: {WHAT_IS_LOST}. {HOW_TO_GET_IT}")


def _permissions() -> list[Finding]:
    found: list[Finding] = []
    capabilities = _effective_capabilities()
    can_trace = bool(capabilities >> 19 & 1)
    found.append(
        Finding("ok", "SYS_PTRACE", "held: engines of every user can be read")
        if can_trace
        else Finding(
            "note",
            "SYS_PTRACE",
            "not held: only engines of the same user with no more capabilities can be read. Run "
            "as root, or add the capability (Kubernetes: securityContext.capabilities.add)",
        )
    )
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
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
    return found


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _broker(kafka: KafkaSettings) -> Finding:
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


def _engines() -> list[Finding]:
    from collectors.discovery import Scanner
    from collectors.engines import available, find_engines, load

    names = available()
    engines = find_engines(Scanner().scan(), [load(name) for name in names])
    if not engines:
        return [Finding("note", "engines", f"none is running here (looked for {', '.join(names)})")]
    found: list[Finding] = []
    for engine in engines:
        subject = f"engine {engine.framework} on port {engine.port}, pid {engine.core.pid}"
        found.append(_try_attach(subject, engine.core.pid, load(engine.framework).sampler_spec()))
    return found


def _try_attach(subject: str, pid: int, spec: dict[str, object]) -> Finding:
    from collectors.stacks import AttachRefused, SamplerUnavailable, attach

    try:
        sampler = attach(pid, spec, poll_hz=100, stack_hz=0, realtime=False)
    except (AttachRefused, SamplerUnavailable, ProcessLookupError) as err:
        owner = os.stat(f"/proc/{pid}").st_uid if Path(f"/proc/{pid}").exists() else None
        return Finding(
            "bad", subject, f"cannot be watched batch by batch (its user {owner}): {err}"
        )
    sampler.stop()
    return Finding("ok", subject, "its iteration counter can be read")
