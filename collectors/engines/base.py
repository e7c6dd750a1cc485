"""What the agent must know of a serving framework: one file each, the file's name is its name.

A framework is described by ``<name>.toml`` in this folder, or in a file of a user's own, in the
format of docs/engines.md. Where data does not suffice, ``<name>.py`` beside it holds a subclass of
`Framework`.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from collectors.discovery import EngineProcess, Process, ProcessTable
from collectors.engines.described import (
    Description,
    FamilyText,
    FeedText,
    Field,
    Metrics,
    Rule,
    Server,
    in_versions,
    read,
    rule_formulas,
    sampler_spec,
)
from collectors.engines.formula import parse_check, parse_formula
from collectors.engines.processes import Finder, installed_version
from schemas.records import Role, Workload

log = logging.getLogger("latencyprism.engines")

FOLDER = Path(__file__).parent
_HELPERS = ("base", "described", "formula", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One way to read a process of a framework: where things lie in a range of its versions.

    ``spec`` is data for the native sampler; ``workload`` turns the integers that it read into a
    record, or None where they contradict; ``is_dummy`` tells batches that only keep ranks in step.
    """

    name: str
    spec: dict[str, Any]
    workload: Callable[[dict[str, int]], Workload | None]
    is_dummy: Callable[[dict[str, int]], bool] = lambda fields: False


class Framework:
    """Recognise the processes of one framework and say where its clock and its batch lie.

    Nothing here reads a process's memory: `claim` looks at the process table, `families` are data
    for the native sampler and turn the integers that it read into records.

    Args:
        name: Its name.

        described: What its file says.
    """

    def __init__(self, name: str, described: Description) -> None:
        self._name = name
        self._described = described
        self._finder = Finder(name, described)
        self._meanings = [Meaning(family) for family in described.family]

    def name(self) -> str:
        """Give the framework's name: that of its file."""
        return self._name

    @property
    def server(self) -> Server:
        """What the process that users talk to shows on its command line."""
        return self._described.server

    @property
    def metrics(self) -> Metrics:
        """Names on the engine's own metrics page."""
        return self._described.metrics

    @property
    def feed(self) -> FeedText:
        """What the engine says itself of each iteration, where that is switched on."""
        return self._described.feed

    def claim(self, process: Process, table: ProcessTable) -> EngineProcess | None:
        """Give the engine whose iterating process this is, or None; does not raise."""
        return self._finder.claim(process, table)

    def version(self, engine: EngineProcess) -> str | None:
        """Give the framework's version where it can be told from outside; does not raise."""
        if not self._described.distribution:
            return None
        return installed_version(engine.core.pid, self._described.distribution)

    def families(self, role: Role = "engine_core", version: str | None = None) -> list[Family]:
        """Give the ways to read a process in that role, likeliest first for that version.

        All are given, for a version may be unknown or a fork's own: which one it is the functions
        on the process's stack tell.
        """
        pairs = list(zip(self._described.family, self._meanings, strict=True))
        mine = [pair for pair in pairs if pair[0].role == role]
        if version is not None:
            mine.sort(key=lambda pair: not in_versions(version, pair[0].versions))
        return [
            Family(
                name=text.name,
                spec=sampler_spec(self._described, text),
                workload=meaning.workload,
                is_dummy=meaning.is_dummy,
            )
            for text, meaning in mine
        ]

    def family_texts(self) -> tuple[FamilyText, ...]:
        """Give what the file says of each family, its evidence included."""
        return self._described.family

    def workload(self, fields: dict[str, int]) -> Workload | None:
        """Turn the integers of one batch of the first family into a workload."""
        families = self.families()
        return families[0].workload(fields) if families else None


class Meaning:
    """What the integers of a family's batches mean."""

    def __init__(self, family: FamilyText) -> None:
        self._fields = {one.name: one for one in (*family.fields, *family.gauges)}
        self._rules = [_PreparedRule(rule, self._fields) for rule in family.workload]

    def workload(self, fields: dict[str, int]) -> Workload | None:
        """Give the workload by the first rule that is meant; None where it contradicts itself.

        ``fields`` has the names of the spec; one that could not be read is missing.
        """
        rule = self._rule(fields)
        return None if rule is None or rule.ignore else rule.workload(fields)

    def is_dummy(self, fields: dict[str, int]) -> bool:
        """Tell a batch that only keeps ranks in step."""
        rule = self._rule(fields)
        return rule is not None and rule.ignore

    def _rule(self, fields: dict[str, int]) -> "_PreparedRule | None":
        return next((rule for rule in self._rules if rule.is_meant(fields)), None)


class _PreparedRule:
    def __init__(self, rule: Rule, fields: dict[str, Field]) -> None:
        self.ignore = rule.ignore
        self._known = (*rule.known, *rule.when)
        self._when = {
            name: {_words(fields[name]).index(word) for word in words}
            for name, words in rule.when.items()
        }
        self._checks = [parse_check(text) for text in rule.check]
        texts = rule_formulas(rule)
        for gauge in ("waiting_requests", "running_requests"):
            if gauge in fields:
                texts.setdefault(gauge, gauge)
        self._formulas = {name: parse_formula(text) for name, text in texts.items()}

    def is_meant(self, fields: dict[str, int]) -> bool:
        return all(name in fields for name in self._known) and all(
            fields[name] in values for name, values in self._when.items()
        )

    def workload(self, fields: dict[str, int]) -> Workload | None:
        if not all(check.holds(fields) for check in self._checks):
            return None
        found = {name: formula.value(fields) for name, formula in self._formulas.items()}
        # A negative number can only be a torn read.
        if any(value is not None and value < 0 for value in found.values()):
            return None
        if all(value is None for name, value in found.items() if not name.startswith(_GAUGES)):
            return None
        return Workload(**found)


_GAUGES = ("waiting_", "running_")


def _words(field: Field) -> tuple[str, ...]:
    return ("false", "true") if field.reduce == "bool" else field.values


# Read once: an agent that gave up its rights may not look into this folder again.
@functools.cache
def _names() -> tuple[str, ...]:
    described = {path.stem for path in FOLDER.glob("[!_]*.toml")}
    written = {path.stem for path in FOLDER.glob("[!_]*.py")} - set(_HELPERS)
    return tuple(sorted(described | written))


@functools.cache
def _described(name: str) -> Description:
    path = FOLDER / f"{name}.toml"
    return read(path) if path.exists() else Description()


def available() -> list[str]:
    """Give the names of all frameworks, from the files of this folder."""
    return list(_names())


def load(name: str) -> Framework:
    """Make the framework of that name.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    if name not in available():
        raise LookupError(f"unknown framework {name!r}; have: {', '.join(available())}")
    described = _described(name)
    if not (FOLDER / f"{name}.py").exists():
        return Framework(name, described)
    module = import_module(f"{__package__}.{name}")
    written = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Framework) and one is not Framework
    ]
    if len(written) != 1:
        raise LookupError(f"{module.__file__} must define one subclass of Framework: correct it")
    return written[0](name, described)


def load_file(path: Path) -> Framework:
    """Make the framework that a user's own file describes; the file's name is its name.

    Raises:
        DescriptionError: The file cannot be used; the text names the key and what to write.
    """
    return Framework(path.stem, read(path))


# Processes that could not be judged, so that each is told of once.
_troubled: set[Process] = set()


def find_engines(table: ProcessTable, frameworks: list[Framework]) -> list[EngineProcess]:
    """Give the engines of a host: each process is claimed by at most one framework.

    A process that cannot be judged is left out, and hides no other.
    """
    _troubled.intersection_update(table.by_pid.values())
    found = (_claimed(process, table, frameworks) for process in table.by_pid.values())
    return [engine for engine in found if engine is not None]


def _claimed(
    process: Process, table: ProcessTable, frameworks: list[Framework]
) -> EngineProcess | None:
    for framework in frameworks:
        try:
            engine = framework.claim(process, table)
        except Exception:
            _tell(process, framework)
            continue
        if engine is not None:
            return engine
    return None


def _tell(process: Process, framework: Framework) -> None:
    if process in _troubled:
        return
    _troubled.add(process)
    log.exception(
        "Process %d cannot be judged by the description of %s and is left out: correct the "
        "patterns of that description, or report this.",
        process.pid,
        framework.name(),
    )
