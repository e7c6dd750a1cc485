"""What an engine's threads did in one capture and not in another, by their sampled stacks.

The idea of a flame graph of differences is Brendan Gregg's ("Differential Flame Graphs", 2014,
https://www.brendangregg.com/blog/2014-11-09/differential-flame-graphs.html). Both captures are made
equally long first. Names of functions, of their files without the folders, and numbers of lines are
all that is kept.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from collectors.difference_svg import Listed, Panel, draw
from collectors.folded import Function, Recorded, clear_change, fold, grow
from schemas.records import Capture

# In the order in which they are drawn.
ROLES = ("engine_core", "worker", "api_server", "other")
PREFIX = "speedscope-"
# Who waits in these waits for others: that shows that something takes longer, and not what.
WAITING_FILES = frozenset({"threading.py", "selectors.py", "queue.py"})
# Some ten minutes of an engine; reading more would keep the agent from its other work.
MOST_BYTES = 64_000_000


class FunctionChange(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the time a function took in both captures.

    ``own_...`` is time in the function itself and in C that it called, the other one includes the
    Python functions that it called.
    """

    role: str
    process: str
    name: str
    file: str
    line: int
    share_reference: float
    share_during: float
    own_share_reference: float
    own_share_during: float

    @property
    def growth(self) -> float:
        """By how much its own share of the time is larger."""
        return self.own_share_during - self.own_share_reference

    @property
    def waits(self) -> bool:
        """Whether it only waits for others."""
        return self.file in WAITING_FILES


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of both captures."""

    capture_id: str
    begin_ns: int | None
    end_ns: int | None
    incident_id: str | None


class ProcessPair(msgspec.Struct, frozen=True, kw_only=True):
    """A process in both captures; its pid may be another in each."""

    role: str
    reference: str
    during: str
    samples_reference: int
    samples_during: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What ``difference.json`` holds.

    Attributes:
        reference: The capture to compare with; of an incident's two the one after the recovery.

        during: The capture whose time is explained.

        functions: Those whose own share changed clearly, those that grew most first, and behind
            all others those that only wait.
    """

    engine_id: str
    reference: Side
    during: Side
    processes: list[ProcessPair]
    functions: list[FunctionChange]
    schema: Literal["difference.v1"] = "difference.v1"


def changes(role: str, process: str, reference: Recorded, during: Recorded) -> list[FunctionChange]:
    """Give the functions whose own share of a process's time changed clearly."""
    sides = [_by_function(recorded) for recorded in (reference, during)]
    counts = (reference.samples, during.samples)
    found = []
    for function in sides[0].keys() | sides[1].keys():
        (own_before, before), (own_during, all_during) = (
            side.get(function, (0.0, 0.0)) for side in sides
        )
        if clear_change(own_before, own_during, counts):
            found.append(
                FunctionChange(
                    role=role,
                    process=process,
                    name=function.name,
                    file=function.file,
                    line=function.line,
                    share_reference=round(before, 4),
                    share_during=round(all_during, 4),
                    own_share_reference=round(own_before, 4),
                    own_share_during=round(own_during, 4),
                )
            )
    return found


def write_difference(
    folder: Path, now: Capture, earlier_folder: Path, earlier: Capture
) -> list[str]:
    """Compare two captures of an engine; write ``difference.svg`` and ``.json`` into ``folder``.

    An incident asks for a capture in its trouble, so an earlier one of an incident shows that, and
    ``now`` is what is normal; otherwise the earlier one is. Gives what could not be compared.

    Raises:
        OSError: The two files cannot be written.
    """
    reference, during = (earlier_folder, earlier), (folder, now)
    if earlier.incident_id is not None:
        reference, during = during, reference
    problems: list[str] = []
    panels: list[Panel] = []
    pairs: list[ProcessPair] = []
    functions: list[FunctionChange] = []
    for role, one, other in _pairs(reference[0], during[0], problems):
        process = _label(other)
        try:
            before, after = fold(_read(one)), fold(_read(other))
        except (OSError, ValueError) as err:
            problems.append(f"no difference of {process}: {err}")
            continue
        pairs.append(_process_pair(role, (_label(one), before), (process, after)))
        functions += changes(role, process, before, after)
        panels.append(Panel(process, (before.samples, after.samples), grow(before, after)))
    if not pairs:
        return [*problems, "no difference: the captures have no stacks of the same process"]
    difference = Difference(
        engine_id=now.engine_id,
        reference=_side(reference[1]),
        during=_side(during[1]),
        processes=pairs,
        functions=sorted(functions, key=lambda one: (one.waits, -one.growth, one.name)),
    )
    text = msgspec.json.format(msgspec.json.encode(difference), indent=1)
    (folder / "difference.json").write_bytes(text + b"\n")
    (folder / "difference.svg").write_text(_picture(difference, panels), encoding="utf-8")
    return problems


def read_difference(path: Path) -> Difference:
    """Read a ``difference.json``.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Difference)
    except msgspec.DecodeError as err:
        raise ValueError(f"{path} is no difference of two captures: {err}") from err


def first_of_alike(functions: Iterable[FunctionChange]) -> list[tuple[FunctionChange, int]]:
    """Give each function once for all processes of a role, with how many more of them have it."""
    found: dict[tuple[str, str, str, int], list[FunctionChange]] = {}
    for one in functions:
        found.setdefault((one.role, one.name, one.file, one.line), []).append(one)
    return [(alike[0], len(alike) - 1) for alike in found.values()]


def _picture(difference: Difference, panels: list[Panel]) -> str:
    in_trouble = difference.during.incident_id is not None
    now, then = ("in the trouble", "afterwards") if in_trouble else ("now", "before")
    notes = (f"{now}: {_told(difference.during)}", f"{then}: {_told(difference.reference)}")
    grown = [one for one in difference.functions if one.growth > 0]
    shrunk = [one for one in difference.functions if one.growth < 0]
    shrunk.sort(key=lambda change: (change.waits, change.growth))
    title = f"{difference.engine_id}: where its time goes {now}, compared with {then}"
    return draw(title, notes, _listed(grown), _listed(shrunk), panels)


def _listed(functions: list[FunctionChange]) -> list[Listed]:
    return [
        Listed(
            f"{one.process} and {more} more" if more else one.process,
            Function(one.name, one.file, one.line),
            one.own_share_reference,
            one.own_share_during,
        )
        for one, more in first_of_alike(functions)
    ]


def _told(side: Side) -> str:
    """Say which capture one is, and when that was."""
    moment = "at an unknown time"
    if side.begin_ns is not None:
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(side.begin_ns / 1e9))
    incident = f", of incident {side.incident_id}" if side.incident_id else ""
    return f"capture {side.capture_id}, {moment}{incident}"


def _by_function(recorded: Recorded) -> dict[Function, tuple[float, float]]:
    """Give the share of each function, its own and all of it; once a stack where it recurs."""
    own: defaultdict[Function, float] = defaultdict(float)
    whole: defaultdict[Function, float] = defaultdict(float)
    for stack, share in recorded.shares.items():
        for function in set(stack):
            whole[function] += share
        own[stack[-1]] += share
    return {function: (own[function], whole[function]) for function in whole}


def _process_pair(
    role: str, reference: tuple[str, Recorded], during: tuple[str, Recorded]
) -> ProcessPair:
    return ProcessPair(
        role=role,
        reference=reference[0],
        during=during[0],
        samples_reference=reference[1].samples,
        samples_during=during[1].samples,
    )


def _pairs(reference: Path, during: Path, problems: list[str]) -> list[tuple[str, Path, Path]]:
    """Give the files that belong together, by role; the same process first, then in order."""
    found = []
    for role in ROLES:
        left, right = (
            {
                _label(path): path
                for path in sorted(folder.glob(f"{PREFIX}{role}-*.json"), key=_in_order)
            }
            for folder in (reference, during)
        )
        same = left.keys() & right.keys()
        rest = [[label for label in side if label not in same] for side in (left, right)]
        labels = [(label, label) for label in left if label in same]
        labels += zip(*rest, strict=False)
        found += [(role, left[one], right[other]) for one, other in labels]
        paired = {label for pair in labels for label in pair}
        problems += [
            f"no difference of {label}: it is in one of both captures only"
            for label in sorted((left.keys() | right.keys()) - paired)
        ]
    return found


def _in_order(path: Path) -> tuple[int, str]:
    # By pid: 999 comes before 1000.
    return len(path.name), path.name


def _label(path: Path) -> str:
    return path.stem.removeprefix(PREFIX)


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path.name} has {size:,} bytes, too many to compare; capture for less")
    return path.read_bytes()


def _side(capture: Capture) -> Side:
    return Side(
        capture_id=capture.capture_id,
        begin_ns=capture.begin_ns,
        end_ns=capture.end_ns,
        incident_id=capture.incident_id,
    )
