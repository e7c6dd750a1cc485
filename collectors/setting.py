"""What tells one engine's setting from another's: its command line, as a hash, and its CUDA graphs.

The arguments themselves are read on the host and stay there.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from collectors.discovery import PROC, EngineProcess, Process
from collectors.engines.described import Server

DIGEST_DIGITS = 16

_INTERPRETER = re.compile(r"python[\d.]*")
# Interpreter options that have a value of their own.
_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
_OPTION = re.compile(r"--?[A-Za-z]")

# Options of which any part says where, for whom and by what name the engine serves: nothing of it
# decides what a batch costs, and some of it is secret.
_PLACES = "host|hostname|port|ip|addr|address|uds|url|uri|endpoint|ssl"
_CLIENTS = "origins|methods|headers|credentials"
_NO_COST = re.compile(
    rf"(.+-)?({_PLACES}|{_CLIENTS})(-.+)?"
    r"|(.+-)?(key|keys|token|secret|password)"
    r"|served-(.+-)?names?|alias|a|p|node-rank|data-parallel-(start-)?rank"
    r"|(.+-)?(log|logs|logging|trace|traces|profiler|crash-dump)(-.+)?-(file|dir|path|folder|config)"
)
# Those of them that take any number of values.
_MANY_VALUES = re.compile(r"served-(.+-)?names?|(.+-)?keys?|(.+-)?(origins|methods|headers)|alias")

_CPU_BUILD = re.compile(r"\+cpu\b")
_TORCH = re.compile(r"/libtorch_cpu\.so")
# Parts of the names of the runtimes of all vendors, and of what binds PyTorch to them.
_ACCELERATED = re.compile(
    r"/[^/\n]*(cuda|nccl|hip|rocm|rccl|xpu|sycl|ze_loader|habana|synapse|npu|ascend|neuron|xla"
    r"|libtpu|musa|cnrt|cnnl|maca|mcc|gcu|topsrt|ixrt|corex|hgai|xpurt|bkcl)[^/\n]*\.so",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """As `Engine` has it."""

    command_digest: str | None = None
    cuda_graphs: bool | None = None


def setting_of(
    engine: EngineProcess, server: Server, version: str | None = None, proc: Path = PROC
) -> Setting:
    """Tell an engine's setting by its processes; what they do not show is unknown."""
    return Setting(
        command_digest=command_digest(engine),
        cuda_graphs=cuda_graphs(engine, server, version, proc),
    )


def command_digest(engine: EngineProcess) -> str | None:
    """Hash the arguments that decide what batches cost; None where no command line is seen.

    It is the same after a restart, on another port and on another host. The hash is one-way and
    cut to 64 bits; options that may hold a secret are left out before.
    """
    commands = list(dict.fromkeys(_commands(engine)))
    if not commands:
        return None
    text = "\0\0".join("\0".join(command) for command in commands)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]


def _commands(engine: EngineProcess) -> Iterator[tuple[str, ...]]:
    """Give the arguments that count of the server, and of a core that has options of its own."""
    for process in (engine.api_server, engine.core):
        words = () if process is None else _program(process)
        # A title without options is no setting: what is in it are the numbers of ranks.
        if any(_OPTION.match(word) for word in words) or (words and process is engine.api_server):
            yield deciding(words)


def _program(process: Process) -> tuple[str, ...]:
    """Give the command line from the program on, without folders; none of code given by ``-c``."""
    words = list(process.words)
    if words and _INTERPRETER.fullmatch(PurePosixPath(words[0]).name):
        del words[0]
        while words and words[0].startswith("-") and words[0] not in ("-m", "-c"):
            del words[: 2 if words[0] in _WITH_VALUE else 1]
        if words and words[0] == "-c":
            return ()
        if words and words[0] == "-m":
            return tuple(words[1:])
    return (PurePosixPath(words[0]).name, *words[1:]) if words else ()


def deciding(words: tuple[str, ...]) -> tuple[str, ...]:
    """Give what may decide the cost of a batch, options in an order of their own."""
    plain: list[str] = []
    options: list[str] = []
    for name, values in _groups(words):
        if name and _NO_COST.fullmatch(name):
            # Whatever follows the one value is no part of the option.
            plain += () if _MANY_VALUES.fullmatch(name) else values[1:]
        elif name:
            options.append("\x1f".join((name, *values)))
        else:
            plain += values
    return (*plain, *sorted(options))


def _groups(words: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Give each option with its values; what stands before the first has no name."""
    name, values = "", list[str]()
    for word in words:
        if _OPTION.match(word):
            yield name, values
            text, equals, value = word.partition("=")
            name, values = text.lstrip("-").replace("_", "-"), [value] if equals else []
        else:
            values.append(word)
    yield name, values


def cuda_graphs(
    engine: EngineProcess, server: Server, version: str | None, proc: Path = PROC
) -> bool | None:
    """Tell whether batches are replayed as CUDA graphs, padded to the sizes that were captured.

    None where neither the command line nor the lack of an accelerator excludes them: the framework
    decides then, and no option proves that it captured any.
    """
    given = {
        name
        for process in (engine.api_server, engine.core)
        if process is not None
        for name, _ in _groups(process.words)
    }
    eager = {option.lstrip("-") for option in server.eager_options}
    is_cpu_build = version is not None and _CPU_BUILD.search(version) is not None
    if given & eager or is_cpu_build or not _may_use_accelerator(engine.core.pid, proc):
        return False
    return None


def _may_use_accelerator(pid: int, proc: Path) -> bool:
    """Tell whether a process may use one: no, if it runs PyTorch with no vendor's libraries."""
    try:
        maps = (proc / str(pid) / "maps").read_text(errors="replace")
    except OSError:
        return True
    return _TORCH.search(maps) is None or _ACCELERATED.search(maps) is not None
