"""Find engine processes on this host from ``/proc``, without asking anyone."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from schemas.records import Role

PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as ``/proc`` shows it.

    ``arguments`` is its command line; a process that set its own title shows that instead.
    ``start_ticks`` is its start in clock ticks after boot, which with ``pid`` names it for good: a
    process is the same after it changed its title or lost its parent.
    """

    pid: int
    parent_pid: int = field(compare=False)
    start_ticks: int
    arguments: tuple[str, ...] = field(compare=False)

    @property
    def title(self) -> str:
        """The first word of the command line."""
        return self.arguments[0] if self.arguments else ""

    @property
    def words(self) -> tuple[str, ...]:
        """The command line; a title that the process set is one string and is split at blanks."""
        return self.arguments if len(self.arguments) > 1 else tuple(self.title.split())

    def option(self, name: str) -> str | None:
        """Give the value of ``--name value`` or ``--name=value`` on the command line."""
        words = self.words
        for position, argument in enumerate(words):
            if argument == name and position + 1 < len(words):
                return words[position + 1]
            if argument.startswith(f"{name}="):
                return argument.partition("=")[2]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankProcess:
    """A process that runs a rank of an engine beside its core.

    Attributes:
        rank: Rank within the engine, as on `Iteration.rank`.

        role: ``engine_core`` where the process runs whole iterations as the core does (a tensor
            parallel rank of SGLang), ``worker`` where it runs only the forward pass (vLLM).

        label: How the framework calls it, as ``PP1_TP0``.
    """

    process: Process
    rank: int
    role: Role = "worker"
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProcess:
    """An engine that was found: which processes it is made of and how it is called.

    ``core`` is the process that iterates. ``name`` is what follows the host in the engine_id.
    ``ranks`` are the processes that can be watched beside the core, ``others`` those that belong
    to the engine and run no part of an iteration (a detokenizer). ``candidates`` are processes that
    may iterate instead of ``core``, likeliest first: where nothing in the process table tells them
    apart, the functions on their stacks do. ``guessed`` is true where the core was told by its
    place only; it may be another process once the engine has started.
    """

    framework: str
    name: str
    core: Process
    api_server: Process | None = None
    ranks: tuple[RankProcess, ...] = ()
    others: tuple[Process, ...] = ()
    candidates: tuple[Process, ...] = ()
    guessed: bool = False
    port: int | None = None
    model: str | None = None

    @property
    def roles(self) -> dict[int, Role]:
        """Role of each process by pid."""
        roles: dict[int, Role] = {other.pid: "other" for other in self.others}
        roles |= {rank.process.pid: rank.role for rank in self.ranks}
        if self.api_server is not None:
            roles[self.api_server.pid] = "api_server"
        roles[self.core.pid] = "engine_core"
        return roles

    @property
    def rank_of(self) -> dict[int, int]:
        """Rank of each process that has one by pid; the core's is 0."""
        return {rank.process.pid: rank.rank for rank in self.ranks} | {self.core.pid: 0}


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """All processes of the host at one moment."""

    by_pid: dict[int, Process]
    children: dict[int, list[Process]] = field(default_factory=dict)

    def ancestors(self, process: Process) -> list[Process]:
        """Give parent, grandparent and so on, nearest first."""
        found: list[Process] = []
        parent = self.by_pid.get(process.parent_pid)
        while parent is not None and parent not in found:
            found.append(parent)
            parent = self.by_pid.get(parent.parent_pid)
        return found


def parse_stat(text: str) -> tuple[int, int]:
    """Give parent pid and start ticks from ``/proc/<pid>/stat``.

    The command name in it may contain blanks and brackets, so fields count from the last ``)``.
    """
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[19])


def parse_cmdline(data: bytes) -> tuple[str, ...]:
    """Split a command line at its NULs; a title set by the process is padded and has none."""
    text = data.rstrip(b"\0 ").decode(errors="replace")
    return tuple(text.split("\0")) if text else ()


def read_process(pid: int, proc: Path = PROC) -> Process | None:
    """Read one process, or None where it is gone or a kernel thread."""
    try:
        parent_pid, start_ticks = parse_stat((proc / str(pid) / "stat").read_text())
        arguments = parse_cmdline((proc / str(pid) / "cmdline").read_bytes())
    except (OSError, ValueError, IndexError):
        return None
    if not arguments:
        return None
    return Process(pid=pid, parent_pid=parent_pid, start_ticks=start_ticks, arguments=arguments)


class Scanner:
    """Read the process table again and again, at the price of what is new in it.

    A process takes its title some time after it starts, so young ones are read each time; one
    that is older than ``settle_seconds`` is kept as it was, but not for longer than that again:
    its pid may belong to another process by then.

    Args:
        proc: Root of the process file system.

        settle_seconds: Age at which a process counts as settled.
    """

    def __init__(self, proc: Path = PROC, settle_seconds: float = 120.0) -> None:
        self._proc = proc
        self._settle_seconds = settle_seconds
        self._settled: dict[int, Process] = {}
        self._forgot_at_seconds = 0.0

    def scan(self) -> ProcessTable:
        """Give all processes of this moment."""
        by_pid: dict[int, Process] = {}
        children: dict[int, list[Process]] = {}
        settled: dict[int, Process] = {}
        uptime_seconds = float((self._proc / "uptime").read_text().split()[0])
        if uptime_seconds - self._forgot_at_seconds > self._settle_seconds:
            self._settled = {}
            self._forgot_at_seconds = uptime_seconds
        for entry in os.listdir(self._proc):
            if not entry.isdigit():
                continue
            pid = int(entry)
            process = self._settled.get(pid) or read_process(pid, self._proc)
            if process is None:
                continue
            by_pid[pid] = process
            children.setdefault(process.parent_pid, []).append(process)
            age_seconds = uptime_seconds - process.start_ticks / os.sysconf("SC_CLK_TCK")
            if age_seconds > self._settle_seconds:
                settled[pid] = process
        self._settled = settled
        return ProcessTable(by_pid, children)


def environment_value(pid: int, name: str, proc: Path = PROC) -> str | None:
    """Give one variable that a process was started with; None where it may not be read.

    The others may hold secrets: they are neither kept nor returned.
    """
    try:
        data = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    wanted = name.encode() + b"="
    for entry in data.split(b"\0"):
        if entry.startswith(wanted):
            return entry.removeprefix(wanted).decode(errors="replace")
    return None


def is_running(process: Process, proc: Path = PROC) -> bool:
    """Tell whether this very process, not a later one of the same pid, still runs.

    One that ended and whose parent has not collected it (a zombie) does not.
    """
    return (_state_of(process, proc) or "X") not in "ZX"


def is_stopped(process: Process, proc: Path = PROC) -> bool:
    """Tell whether a process was stopped, by SIGSTOP or a debugger, and waits to be continued."""
    return (_state_of(process, proc) or "X") in "Tt"


def _state_of(process: Process, proc: Path) -> str | None:
    """Give the letter of its state; None where it is gone, or another process has its pid."""
    try:
        text = (proc / str(process.pid) / "stat").read_text()
        _, start_ticks = parse_stat(text)
    except (OSError, ValueError, IndexError):
        return None
    return text.rpartition(")")[2].split()[0] if start_ticks == process.start_ticks else None


def parse_boot_ns(text: str) -> int:
    """Give the boot time in ns since the epoch from ``/proc/stat``."""
    match = re.search(r"^btime (\d+)$", text, re.MULTILINE)
    if match is None:
        raise ValueError("no btime in /proc/stat")
    return int(match[1]) * 1_000_000_000


def start_ns(process: Process, proc: Path = PROC) -> int:
    """Give the start of a process in ns since the epoch; the same each time it is asked."""
    boot_ns = parse_boot_ns((proc / "stat").read_text())
    return boot_ns + process.start_ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def parse_listening(text: str) -> dict[int, int]:
    """Give port by socket inode of the listening sockets in ``/proc/net/tcp``."""
    ports: dict[int, int] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A":
            ports[int(fields[9])] = int(fields[1].rpartition(":")[2], 16)
    return ports


def listening_ports(pid: int, proc: Path = PROC) -> list[int]:
    """Give the TCP ports that a process listens on; empty where that may not be read."""
    listening: dict[int, int] = {}
    for table in ("tcp", "tcp6"):
        try:
            listening |= parse_listening((proc / str(pid) / "net" / table).read_text())
        except (OSError, ValueError):
            continue
    ports: set[int] = set()
    try:
        for entry in os.scandir(proc / str(pid) / "fd"):
            try:
                target = os.readlink(entry.path)
            except OSError:
                continue
            if target.startswith("socket:["):
                port = listening.get(int(target[8:-1]))
                if port is not None:
                    ports.add(port)
    except OSError:
        return []
    return sorted(ports)
