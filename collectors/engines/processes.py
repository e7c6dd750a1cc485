"""Tell which processes of a host make up an engine, from its description and the process table."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from collectors.discovery import (
    EngineProcess,
    Process,
    ProcessTable,
    RankProcess,
    environment_value,
    listening_ports,
)
from collectors.engines.described import GROUPS, Core, Description, Guess, Server

_SPAWNED = "from multiprocessing.spawn import spawn_main"
_MOST_DIGITS = 9
_LARGEST_PORT = 65535
_RANK_GROUPS = tuple(name for name in GROUPS if name not in ("data", "label"))


class Patterns:
    """Regular expressions of which any may match a process's command line or title."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._patterns = [re.compile(text) for text in texts]

    def match(self, process: Process) -> re.Match[str] | None:
        """Give the first match, or None."""
        line = " ".join(process.arguments)
        for pattern in self._patterns:
            match = pattern.search(line)
            if match is not None:
                return match
        return None

    def __bool__(self) -> bool:
        return bool(self._patterns)


@dataclass(frozen=True, slots=True)
class Member:
    """A process that is the core of an engine, or one of its ranks."""

    process: Process
    server: Process | None
    groups: dict[str, str | None]

    @property
    def house(self) -> tuple[object, ...]:
        """What the ranks of one engine share: their server, else their parent, and the rank of
        data parallelism.
        """
        home = self.process.parent_pid if self.server is None else self.server.pid
        return (self.server is None, home, self.groups.get("data"))


class Finder:
    """Find the engines of one framework.

    Args:
        framework: Its name.

        described: How its processes look.
    """

    def __init__(self, framework: str, described: Description) -> None:
        self._framework = framework
        self._server: Server = described.server
        self._core: Core = described.core
        self._is_server = Patterns(described.server.match)
        self._is_launcher = Patterns(described.server.launcher)
        self._is_core = Patterns(described.core.match)
        self._is_core_below = Patterns(described.core.below)
        self._is_worker = Patterns(described.worker.match)
        self._is_worker_elsewhere = Patterns(described.worker.elsewhere)
        self._is_other = Patterns(described.other.match)
        self._worker_guess = described.worker.guess

    def claim(self, process: Process, table: ProcessTable) -> EngineProcess | None:
        """Give the engine whose core this process is, or None."""
        member = self._member(process, table)
        if member is not None:
            members = self._ranks_of(member, table) if self._core.ranks else [member]
            if members[0].process.pid != process.pid:
                return None
            return self._engine(member, table, ranks=members[1:])
        server = self._server_of_guess(process, table)
        if server is None:
            return None
        candidates = self._guesses(server, table)
        if not candidates or candidates[0].pid != process.pid:
            return None
        return self._engine(Member(process, server, {}), table, candidates=candidates[1:])

    def _engine(
        self,
        core: Member,
        table: ProcessTable,
        ranks: list[Member] | None = None,
        candidates: list[Process] | None = None,
    ) -> EngineProcess:
        server = core.server
        port = self.port(server) if server is not None else None
        name = str(port) if port is not None else f"pid{core.process.pid}"
        data_rank = core.groups.get("data")
        if data_rank is not None:
            name += f"/dp{data_rank}"
        found = [
            RankProcess(process=one.process, rank=rank, role="engine_core", label=label(one.groups))
            for rank, one in enumerate(ranks or [], start=1)
        ]
        found += [
            RankProcess(process=one, rank=rank, label=text)
            for rank, (one, text) in enumerate(
                self._workers(core.process, table), start=len(found) + 1
            )
        ]
        taken = {core.process.pid, *(rank.process.pid for rank in found)}
        return EngineProcess(
            framework=self._framework,
            name=name,
            core=core.process,
            api_server=server if server is not core.process else None,
            ranks=tuple(found),
            others=tuple(one for one in self._others(server, table) if one.pid not in taken),
            candidates=tuple(candidates or []),
            guessed=candidates is not None,
            port=port,
            model=self.model(server, core.process),
        )

    def _member(self, process: Process, table: ProcessTable) -> Member | None:
        match = self._is_core.match(process)
        if match is not None:
            server = self.server_of(process, table)
            if server is None and self._launcher_of(process, table) is not None:
                # Its server starts after it, and the engine is named by that one's port.
                return None
            return Member(process, server, match.groupdict())
        match = self._is_core_below.match(process)
        if match is not None:
            server = self.server_of(process, table)
            if server is not None:
                return Member(process, server, match.groupdict())
        return None

    def _ranks_of(self, member: Member, table: ProcessTable) -> list[Member]:
        """Give the processes of one engine, the first rank first."""
        every = (self._member(process, table) for process in table.by_pid.values())
        mine = [one for one in every if one is not None and one.house == member.house]
        if len(mine) == 1:
            return mine
        return sorted(mine, key=self._rank_key)

    def _rank_key(self, member: Member) -> tuple[int, ...]:
        key = [number(member.groups.get(name)) or 0 for name in _RANK_GROUPS]
        for name in self._core.rank_environment:
            value = number(environment_value(member.process.pid, name))
            if value is not None:
                key.append(value)
                break
        else:
            key.append(0)
        return (*key, member.process.pid)

    def server_of(self, process: Process, table: ProcessTable) -> Process | None:
        """Give the process that serves this one's requests: above it, or below its launcher."""
        for parent in table.ancestors(process):
            if self._is_server.match(parent):
                return _first_of_its_line(parent, table)
        launcher = self._launcher_of(process, table)
        below = descendants(launcher, table) if launcher is not None else iter(())
        return next((child for child in below if self._is_server.match(child)), None)

    def _launcher_of(self, process: Process, table: ProcessTable) -> Process | None:
        if not self._is_launcher:
            return None
        ancestors = table.ancestors(process)
        return next((parent for parent in ancestors if self._is_launcher.match(parent)), None)

    def _server_of_guess(self, process: Process, table: ProcessTable) -> Process | None:
        """Give the server below which this process may iterate, or None."""
        guess = self._core.guess
        if "server" in guess and self._is_server.match(process) and not _forked(process, table):
            return process
        if not self._looks_like(process, guess, table):
            return None
        server = self.server_of(process, table)
        return server if server is not None and process.parent_pid == server.pid else None

    def _looks_like(
        self, process: Process, guess: tuple[Guess, ...], table: ProcessTable
    ) -> Guess | None:
        if "spawned" in guess and any(_SPAWNED in word for word in process.arguments):
            return "spawned"
        if "forked" in guess and _forked(process, table):
            return "forked"
        return None

    def _guesses(self, server: Process, table: ProcessTable) -> list[Process]:
        """Give the processes that may iterate, likeliest first; none where one is known to."""
        members = (self._member(one, table) for one in table.by_pid.values())
        if any(one is not None and one.server == server for one in members):
            return []
        guess = self._core.guess
        found: list[tuple[int, int, int, Process]] = []
        for process in (server, *table.children.get(server.pid, [])):
            kind: Guess | None = "server"
            if process is not server:
                kind = self._looks_like(process, guess, table)
            if kind is not None and kind in guess:
                children = len(table.children.get(process.pid, []))
                found.append((guess.index(kind), -children, process.pid, process))
        return [process for *_, process in sorted(found, key=lambda one: one[:3])]

    def _workers(self, core: Process, table: ProcessTable) -> list[tuple[Process, str]]:
        """Give the processes that work for this core, with how the framework calls them."""
        children = table.children.get(core.pid, [])
        named = [(one, self._is_worker.match(one)) for one in children]
        if self._is_worker_elsewhere and self._is_alone(table):
            named += [(one, self._is_worker_elsewhere.match(one)) for one in table.by_pid.values()]
        matched = [(one, match.groupdict()) for one, match in named if match is not None]
        if not matched:
            matched = [
                (one, {}) for one in children if self._looks_like(one, self._worker_guess, table)
            ]
        matched.sort(
            key=lambda one: (
                *(number(one[1].get(name)) or 0 for name in _RANK_GROUPS),
                one[0].pid,
            )
        )
        return [(process, label(groups)) for process, groups in matched]

    def _is_alone(self, table: ProcessTable) -> bool:
        """Tell whether this host has one engine of the framework, which then owns all workers."""
        members = (self._member(one, table) for one in table.by_pid.values())
        houses = {one.house for one in members if one is not None}
        if houses:
            return len(houses) == 1
        servers = [one for one in table.by_pid.values() if self._is_server.match(one)]
        return len([one for one in servers if not _forked(one, table)]) <= 1

    def _others(self, server: Process | None, table: ProcessTable) -> Iterator[Process]:
        if server is None or not (self._is_other or self._is_launcher):
            return
        launcher = self._launcher_of(server, table)
        if launcher is not None:
            yield launcher
        for process in descendants(launcher or server, table):
            if self._is_other.match(process):
                yield process

    def port(self, server: Process) -> int | None:
        """Give the port of the HTTP server: the one asked for, else one that it listens on."""
        options = (server.option(name) for name in self._server.port_options)
        wanted = next((value for value in options if value is not None), None)
        asked = number(wanted, most=_LARGEST_PORT)
        if asked:
            return asked
        default = self._server.default_port
        listening = listening_ports(server.pid)
        if default in listening or not listening:
            return default if asked != 0 else None
        return listening[0]

    def model(self, server: Process | None, core: Process) -> str | None:
        """Give the model's name from the command line of the server, else of the core."""
        for process in (server, core):
            if process is None:
                continue
            for option in self._server.model_options:
                named = process.option(option)
                if named is not None:
                    return named
            for word in self._server.model_after:
                after = _word_after(process.words, word)
                if after is not None:
                    return after
        return None


def number(text: str | None, most: int | None = None) -> int | None:
    """Give the number that a command line or a user's pattern names; None where it is none.

    Only ASCII digits are one: `str.isdigit` takes more than `int` does.
    """
    if text is None or len(text) > _MOST_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    found = int(text)
    return found if most is None or found <= most else None


def label(groups: dict[str, str | None]) -> str:
    """Give how the framework calls a rank: the group ``label``, else its ranks, as PP1_TP0."""
    if groups.get("label"):
        return str(groups["label"])
    short = {"pipeline": "PP", "context": "CP", "tensor": "TP", "expert": "EP"}
    return "_".join(f"{short[name]}{groups[name]}" for name in short if groups.get(name))


def descendants(process: Process, table: ProcessTable) -> Iterator[Process]:
    """Give children, grandchildren and so on."""
    seen = {process.pid}
    waiting = [process]
    while waiting:
        for child in table.children.get(waiting.pop().pid, []):
            if child.pid not in seen:
                seen.add(child.pid)
                waiting.append(child)
                yield child


def _forked(process: Process, table: ProcessTable) -> bool:
    parent = table.by_pid.get(process.parent_pid)
    return parent is not None and parent.arguments == process.arguments


def _first_of_its_line(process: Process, table: ProcessTable) -> Process:
    """Climb from a forked copy to the process that was started with that command line."""
    for parent in table.ancestors(process):
        if parent.arguments != process.arguments:
            break
        process = parent
    return process


def _word_after(words: tuple[str, ...], word: str) -> str | None:
    for position, found in enumerate(words[:-1]):
        if found == word or found.endswith(f"/{word}"):
            after = words[position + 1]
            return None if after.startswith("-") else after
    return None


def installed_version(pid: int, distribution: str, proc: Path = Path("/proc")) -> str | None:
    """Read a distribution's version from the metadata beside the libraries a process has mapped."""
    name = re.sub(r"[-_.]+", "_", distribution)
    root = proc / str(pid)
    try:
        maps = (root / "maps").read_text(errors="replace")
        for site in sorted(set(re.findall(r"(/\S+/(?:site|dist)-packages)/", maps))):
            # Through the process's own root, which differs from ours in a container.
            found = sorted((root / "root" / site.lstrip("/")).glob(f"{name}-*.dist-info"))
            if found:
                return _version_in(found[0], name)
    except OSError:
        return None
    return None


def _version_in(folder: Path, name: str) -> str:
    """Give the version by the metadata, which tells a build apart (``+cpu``), else by the name."""
    try:
        with (folder / "METADATA").open(errors="replace") as lines:
            for line in lines:
                if line.startswith("Version: "):
                    return line.removeprefix("Version: ").strip()
                if not line.strip():
                    break
    except OSError:
        pass
    return folder.name.removeprefix(f"{name}-").removesuffix(".dist-info")
