"""Read the file that describes a serving engine; docs/engines.md explains it key by key."""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from collectors.engines.formula import parse_check, parse_formula
from schemas.records import Phase, Workload

Texts = tuple[str, ...]
Guess = Literal["spawned", "forked", "server"]
Evidence = Literal["live", "source", "text"]
Reduction = Literal[
    "int", "len", "sum", "sum_len", "max", "count_one", "sum_above_one", "bool", "enum"
]

GROUPS = ("data", "pipeline", "context", "tensor", "expert", "label")
"""Names that a group of a process pattern may have; the ranks sort in this order."""

LINE_NEEDS = ("iteration", "elapsed_ms")
LINE_GROUPS = (
    *LINE_NEEDS,
    "prefill_requests",
    "prefill_tokens",
    "decode_requests",
    "decode_tokens",
    "dummy",
    "pid",
    "data",
)
"""Names that a group of a log's line must have, and may have."""

WORKLOAD = tuple(one.name for one in dataclasses.fields(Workload))
WHERE = "see docs/engines.md"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LATENCY = re.compile(r"\S+( / \S+)?")
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\[\](\.[A-Za-z_]\w*)+)?")
_VERSIONS = re.compile(r"(>=|<=|==|>|<)\s*(\d+(?:\.\d+)*)")


class DescriptionError(ValueError):
    """A description cannot be used; the text names file and key and says what to write."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all tables have in common: no key that is not known."""


class Server(Part, frozen=True):
    """``[server]``: the process that users talk to."""

    match: Texts = ()
    launcher: Texts = ()
    port_options: Texts = ("--port",)
    default_port: int | None = None
    model_options: Texts = ()
    model_after: Texts = ()
    eager_options: Texts = ()


class Core(Part, frozen=True):
    """``[core]``: the process that runs whole iterations."""

    match: Texts = ()
    below: Texts = ()
    guess: tuple[Guess, ...] = ()
    ranks: bool = False
    rank_environment: Texts = ()


class Worker(Part, frozen=True):
    """``[worker]``: processes that run a rank's forward pass for the core."""

    match: Texts = ()
    guess: tuple[Guess, ...] = ()
    elsewhere: Texts = ()


class Other(Part, frozen=True):
    """``[other]``: processes that belong to the engine and run no part of an iteration."""

    match: Texts = ()


class Metrics(Part, frozen=True):
    """``[metrics]``: names on the engine's own metrics page."""

    path: str = "/metrics"
    iterations: Texts = ()
    tokens: Texts = ()
    token_latency: Texts = ()
    running: Texts = ()
    waiting: Texts = ()


class FeedText(Part, frozen=True):
    """``[feed]``: what the engine says itself of each iteration, where that is switched on."""

    kind: Literal["log", "forward_pass_metrics"] | None = None
    option: str = ""
    line: str = ""
    draft_options: Texts = ()


class Counter(Part, frozen=True):
    """``[[family.counter]]``: where the engine counts its iterations."""

    path: str
    kind: Literal["int", "pointer"] = "int"


class Call(Part, frozen=True):
    """``[family.call]``: functions of which one call is one iteration."""

    functions: Texts
    identity: Texts = ()
    resumed: bool = False


class End(Part, frozen=True):
    """``[family.end]``: what tells that an iteration has ended."""

    none: str


class Batch(Part, frozen=True):
    """``[family.batch]``: the variable that holds the running batch."""

    local: str
    frame: Literal["step", "root", "call"] = "step"
    queued: str | None = None


class Field(Part, frozen=True):
    """An integer to read: of the batch (``fields``) or of the root's ``self`` (``gauges``)."""

    name: str
    path: str = ""
    local: str | None = None
    reduce: Reduction = "int"
    values: Texts = ()


class Rule(Part, frozen=True):
    """``[[family.workload]]``: what the integers mean, for batches of one kind."""

    when: dict[str, Texts] = {}
    known: Texts = ()
    check: Texts = ()
    ignore: bool = False
    requests: str | None = None
    scheduled_tokens: str | None = None
    prefill_tokens: str | None = None
    decode_requests: str | None = None
    kv_tokens: str | None = None
    speculative_tokens: str | None = None
    waiting_requests: str | None = None
    running_requests: str | None = None
    lora_adapters: str | None = None


class FamilyText(Part, frozen=True, rename={"role": "for"}):
    """``[[family]]``: where things lie in a range of versions."""

    name: str
    versions: str = ""
    role: Literal["engine_core", "worker"] = "engine_core"
    like: str | None = None
    evidence: Evidence = "text"
    note: str = ""
    root: Texts = ()
    step: Texts = ()
    overlap_step: Texts = ()
    counter: tuple[Counter, ...] = ()
    call: Call | None = None
    end: End | None = None
    batch: Batch | None = None
    fields: tuple[Field, ...] = ()
    gauges: tuple[Field, ...] = ()
    phases: Texts = ()
    workload: tuple[Rule, ...] = ()


class Description(Part, frozen=True):
    """A whole file."""

    distribution: str = ""
    server: Server = Server()
    core: Core = Core()
    worker: Worker = Worker()
    other: Other = Other()
    metrics: Metrics = Metrics()
    feed: FeedText = FeedText()
    files: dict[str, str] = {}
    phases: dict[str, dict[Phase, Texts]] = {}
    family: tuple[FamilyText, ...] = ()


def read(path: Path) -> Description:
    """Read and check a description.

    Raises:
        DescriptionError: It cannot be used; the text names file and key and says what to write.
    """
    if _NAME.fullmatch(path.stem) is None:
        raise DescriptionError(
            f"{path}: the file's name is the framework's name: use small letters, digits and _"
        )
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as err:
        raise DescriptionError(
            f"{path} cannot be read: {err.strerror}: correct [collect] engine_files"
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise DescriptionError(f"{path} is no TOML: {err}: correct that place") from err
    try:
        described = msgspec.convert(_with_likes(raw), Description)
        for key, problem in problems(described):
            raise ValueError(f"{key}: {problem}")
    except (msgspec.ValidationError, ValueError) as err:
        raise DescriptionError(f"{path}: {err}; {WHERE}") from err
    return described


def _with_likes(raw: dict[str, Any]) -> dict[str, Any]:
    """Give each family what it does not say itself from the one that it is like."""
    families = raw.get("family")
    if not isinstance(families, list) or not all(isinstance(one, dict) for one in families):
        return raw
    done: dict[str, dict[str, Any]] = {}
    for position, family in enumerate(families):
        like = family.get("like")
        if like is not None and like not in done:
            raise ValueError(f"family[{position}].like: no family above is named {like!r}")
        done[str(family.get("name", position))] = {**done.get(str(like), {}), **family}
    if len(done) < len(families):
        raise ValueError("family: two have the same name: give each one of its own")
    return raw | {"family": list(done.values())}


def problems(described: Description) -> Iterator[tuple[str, str]]:
    """Give each key that is wrong with what to write instead."""
    yield from _process_problems(described)
    yield from _feed_problems(described.feed)
    for alias, file in described.files.items():
        if not file.endswith(".py"):
            yield f"files.{alias}", f"{file!r} is no Python file: write a path that ends in .py"
    for name, phases in described.phases.items():
        for phase, functions in phases.items():
            yield from _function_problems(described, f"phases.{name}.{phase}", functions)
    for text in described.metrics.token_latency:
        if _LATENCY.fullmatch(text) is None:
            yield (
                "metrics.token_latency",
                f"{text!r}: write a histogram's name or 'seconds / count'",
            )
    for family in described.family:
        for key, problem in _family_problems(described, family):
            yield f"family {family.name!r}, {key}", problem
    if not described.family and not described.metrics.iterations:
        yield "family", "neither a family nor metrics.iterations is given: give one of them"
    if not described.metrics.path.startswith("/"):
        yield "metrics.path", f"{described.metrics.path!r} is no path: begin it with /"


def _process_problems(described: Description) -> Iterator[tuple[str, str]]:
    patterns = {
        "server.match": described.server.match,
        "server.launcher": described.server.launcher,
        "core.match": described.core.match,
        "core.below": described.core.below,
        "worker.match": described.worker.match,
        "worker.elsewhere": described.worker.elsewhere,
        "other.match": described.other.match,
    }
    for key, texts in patterns.items():
        for text in texts:
            try:
                groups = re.compile(text).groupindex
            except re.error as err:
                yield key, f"{text!r} is no regular expression ({err}): correct it"
                continue
            unknown = set(groups) - set(GROUPS)
            if unknown:
                yield key, f"group {sorted(unknown)[0]!r} is unknown: use {', '.join(GROUPS)}"
    if not (described.core.match or described.core.below or described.core.guess):
        yield "core.match", "nothing tells the engine's process: give match, below or guess"
    if (described.core.below or described.core.guess) and not described.server.match:
        yield "server.match", "core.below and core.guess look below the server: say how to tell it"


def _feed_problems(feed: FeedText) -> Iterator[tuple[str, str]]:
    if (feed.kind == "log") != bool(feed.line):
        yield "feed.line", "it belongs to kind = 'log' and only there: correct one"
    if feed.kind == "forward_pass_metrics" and not feed.option:
        yield "feed.option", "nothing tells that the feed is on: name the option of the engine"
    if feed.kind != "log" or not feed.line:
        return
    try:
        groups = set(re.compile(feed.line.encode()).groupindex)
    except re.error as err:
        yield "feed.line", f"{feed.line!r} is no regular expression ({err}): correct it"
        return
    if not (feed.line.startswith("^") and feed.line.endswith("$")):
        yield "feed.line", "text within a line could pass for one: begin it with ^, end it with $"
    for name in sorted(groups - set(LINE_GROUPS)):
        yield "feed.line", f"group {name!r} is unknown: use {', '.join(LINE_GROUPS)}"
    for name in LINE_NEEDS:
        if name not in groups:
            yield "feed.line", f"no group is named {name!r}: name the one that tells it"


def _function_problems(
    described: Description, key: str, functions: Iterable[str]
) -> Iterator[tuple[str, str]]:
    for text in functions:
        file, colon, function = text.partition(":")
        if not colon or not function:
            yield key, f"{text!r} names no function: write 'file.py:Class.function'"
        elif not described.files.get(file, file).endswith(".py"):
            yield key, f"{text!r}: {file!r} is neither in [files] nor a path that ends in .py"


def _family_problems(described: Description, family: FamilyText) -> Iterator[tuple[str, str]]:
    functions = {
        "root": family.root,
        "step": family.step,
        "overlap_step": family.overlap_step,
        "call.functions": family.call.functions if family.call else (),
    }
    for key, texts in functions.items():
        yield from _function_problems(described, key, texts)
    if not family.root:
        yield "root", "it is empty: name the function whose thread runs the iterations"
    if not family.counter and family.call is None:
        yield "counter", "neither counter nor call is given: say what tells one iteration"
    if family.call is not None and not family.call.functions:
        yield "call.functions", "it is empty: name the function of which a call is an iteration"
    if family.overlap_step and not (family.batch and family.batch.queued):
        yield "batch.queued", "overlap_step needs the deque of the launched batches: name it"
    if family.batch and family.batch.frame == "call" and family.call is None:
        yield "batch.frame", "it is 'call' and there is no call: give [family.call]"
    if family.fields and family.batch is None:
        yield "fields", "nothing says where the batch lies: give [family.batch]"
    if versions_problem(family.versions):
        yield "versions", f"{family.versions!r} is no range: write as '>=0.8,<0.11'"
    for name in family.phases:
        if name not in described.phases:
            yield "phases", f"there is no [phases.{name}]: name those that there are"
    seen: set[str] = set()
    for _, function in phase_functions(described, family):
        if function in seen:
            yield "phases", f"{function!r} stands in two phases: leave it in one"
        seen.add(function)
    yield from _field_problems(family)
    yield from _rule_problems(family)


def _field_problems(family: FamilyText) -> Iterator[tuple[str, str]]:
    paths = [("counter", one.path) for one in family.counter]
    paths += [(one.name, one.path) for one in (*family.fields, *family.gauges) if one.path]
    paths += [("end.none", family.end.none)] if family.end else []
    for key, path in paths:
        if _PATH.fullmatch(path) is None:
            yield key, f"{path!r} is no path: write names as 'a.b', or 'list[].a' once"
    names = [one.name for one in (*family.fields, *family.gauges)]
    for name in names:
        if names.count(name) > 1:
            yield "fields", f"{name!r} is there twice: give each a name of its own"
    for field in (*family.fields, *family.gauges):
        if (field.reduce == "enum") != bool(field.values):
            yield field.name, "values belong to reduce = 'enum' and only there: correct one"
        if "[]" in field.path and field.reduce in ("int", "bool", "enum"):
            yield field.name, "the path gives many numbers: reduce them by sum, max or len"
    for gauge in family.gauges:
        if not gauge.path or gauge.local is not None:
            yield gauge.name, "a gauge starts at the root's self: give it a path and no local"


def _rule_problems(family: FamilyText) -> Iterator[tuple[str, str]]:
    fields = {one.name: one for one in (*family.fields, *family.gauges)}
    for rule in family.workload:
        try:
            used = set(rule.known) | set(rule.when)
            for text in rule.check:
                used |= parse_check(text).names
            for text in rule_formulas(rule).values():
                used |= parse_formula(text).names
        except ValueError as err:
            yield "workload", str(err)
            continue
        for name in sorted(used - set(fields)):
            yield "workload", f"{name!r} is neither in fields nor in gauges: correct the name"
        for name, wanted in rule.when.items():
            yield from _when_problems(fields.get(name), wanted)
        if not rule.ignore and not rule_formulas(rule):
            yield "workload", "a rule says nothing: give requests, or ignore = true"


def _when_problems(field: Field | None, wanted: Texts) -> Iterator[tuple[str, str]]:
    if field is None:
        return
    words = ("false", "true") if field.reduce == "bool" else field.values
    for word in wanted:
        if word not in words:
            yield (
                "workload.when",
                f"{field.name} is never {word!r}: use {', '.join(words) or 'an enum or a bool'}",
            )


def rule_formulas(rule: Rule) -> dict[str, str]:
    """Give the formulas of a rule by the workload's field."""
    texts = {name: getattr(rule, name) for name in WORKLOAD}
    return {name: text for name, text in texts.items() if text is not None}


def versions_problem(text: str) -> bool:
    """Tell whether this is no range of versions."""
    return bool(text) and not all(_VERSIONS.fullmatch(one.strip()) for one in text.split(","))


def in_versions(version: str, text: str) -> bool:
    """Tell whether a version lies in a range as ``>=0.8,<0.11``; the empty range has them all."""
    wanted = _numbers(version)
    for sign, bound_text in _VERSIONS.findall(text):
        bound = _numbers(bound_text)
        # 0.10 bounds 0.10.2 as a whole: '<=0.10' has it and '>0.10' does not.
        mine = wanted if sign in (">=", "<") else wanted[: len(bound)]
        if not {
            ">=": mine >= bound,
            "<": mine < bound,
            "<=": mine <= bound,
            ">": mine > bound,
            "==": mine == bound,
        }[sign]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def phase_functions(described: Description, family: FamilyText) -> Iterator[tuple[Phase, str]]:
    """Give phase and function of the sets that a family names, in their order."""
    for name in family.phases:
        for phase, functions in described.phases.get(name, {}).items():
            for function in functions:
                yield phase, function


def sampler_spec(described: Description, family: FamilyText) -> dict[str, Any]:
    """Give the family as the native sampler's JSON wants it; keys at their default are left out."""

    def function(text: str) -> dict[str, Any]:
        file, _, name = text.partition(":")
        return {"file": described.files.get(file, file), "function": name}

    spec: dict[str, Any] = {
        "root": [function(text) for text in family.root],
        "step": [function(text) for text in family.step]
        + [function(text) | {"overlap": True} for text in family.overlap_step],
        "counter": [{"path": one.path, "kind": one.kind} for one in family.counter],
        "gauges": [_field(one) for one in family.gauges],
        "phases": [
            {"phase": phase} | function(text) for phase, text in phase_functions(described, family)
        ],
    }
    if family.call is not None:
        spec["call"] = {
            "functions": [function(text) for text in family.call.functions],
            "identity": list(family.call.identity),
            "resumed": family.call.resumed,
        }
    if family.end is not None:
        spec["end"] = {"none": family.end.none}
    if family.batch is not None:
        spec["batch"] = _batch(family.batch) | {"fields": [_field(one) for one in family.fields]}
    return spec


def _batch(batch: Batch) -> dict[str, Any]:
    found: dict[str, Any] = {"local": batch.local}
    if batch.frame != "step":
        found["frame"] = batch.frame
    if batch.queued is not None:
        found["queued"] = batch.queued
    return found


def _field(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {"name": field.name, "reduce": field.reduce}
    if field.path:
        found["path"] = field.path
    if field.local is not None:
        found["local"] = field.local
    if field.values:
        found["values"] = list(field.values)
    return found
