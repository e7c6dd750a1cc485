"""The difference of two captures, from what py-spy wrote."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from collectors import difference as difference_module
from collectors.difference import Difference, first_of_alike, read_difference, write_difference
from collectors.difference_svg import MOST_BOXES_OF_THREAD
from collectors.folded import Function, clear_change, fold
from schemas.records import Capture
from tests.schemas.samples import full

SVG = "{http://www.w3.org/2000/svg}"
Stacks = dict[str, int]
"""How many samples each stack has: functions outermost first, with ; between them."""


def speedscope(stacks: Stacks, thread: str = "MainThread", tid: int = 4711) -> bytes:
    """Write stacks of one thread as py-spy 0.4 does."""
    names = sorted({name for stack in stacks for name in stack.split(";")})
    frames = [{"name": f"thread ({tid}): {thread}", "file": "", "line": 0, "col": None}]
    frames += [
        {"name": name, "file": f"/opt/secret/engine/{name}.py", "line": 10, "col": None}
        for name in names
    ]
    indexes = {name: 1 + index for index, name in enumerate(names)}
    samples: list[list[int]] = []
    for stack, count in stacks.items():
        samples += [[0, *(indexes[name] for name in stack.split(";"))]] * count
    profile = {
        "type": "sampled",
        "name": thread,
        "unit": "seconds",
        "startValue": 0.0,
        "endValue": 1.0,
        "samples": samples,
        "weights": [0.02] * len(samples),
    }
    return json.dumps({"shared": {"frames": frames}, "profiles": [profile]}).encode()


class Captures:
    """Two captures in folders of their own."""

    def __init__(self, base: Path) -> None:
        self.folders = (base / "earlier", base / "now")
        for folder in self.folders:
            folder.mkdir()
        self.earlier = replace(full(Capture), capture_id="a" * 32, incident_id=None)
        self.now = replace(full(Capture), capture_id="b" * 32, incident_id=None)

    def write(self, label: str, earlier: bytes | None, now: bytes | None) -> None:
        for folder, content in zip(self.folders, (earlier, now), strict=True):
            if content is not None:
                (folder / f"speedscope-{label}.json").write_bytes(content)

    def compare(self) -> list[str]:
        return write_difference(self.folders[1], self.now, self.folders[0], self.earlier)

    @property
    def found(self) -> Difference:
        return read_difference(self.folders[1] / "difference.json")

    @property
    def svg(self) -> str:
        return (self.folders[1] / "difference.svg").read_text()

    def texts(self, kind: str) -> list[str]:
        return [one.text or "" for one in ElementTree.fromstring(self.svg).iter(SVG + kind)]


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    return Captures(tmp_path)


USUAL: Stacks = {"main;step;forward": 380, "main;step;sample": 120}
SLOW: Stacks = {"main;step;forward": 150, "main;step;sample": 50, "main;step;wait_for_disk": 300}


def test_the_function_that_grew_leads_with_its_shares_before_and_during(
    captures: Captures,
) -> None:
    captures.write("engine_core-1", speedscope(USUAL), speedscope(SLOW))
    assert captures.compare() == []
    first = captures.found.functions[0]
    assert (first.name, first.file, first.line) == ("wait_for_disk", "wait_for_disk.py", 10)
    assert (first.own_share_reference, first.own_share_during) == (0.0, 0.6)
    assert first.process == "engine_core-1"
    # What calls it does no more of its own, and all of the thread's time is below it as before.
    assert {one.name for one in captures.found.functions} == {"wait_for_disk", "forward", "sample"}
    assert [one.growth > 0 for one in captures.found.functions] == [True, False, False]


def test_captures_of_other_lengths_are_the_same_where_the_shares_are(captures: Captures) -> None:
    longer = {stack: 7 * count for stack, count in USUAL.items()}
    captures.write("worker-1", speedscope(USUAL), speedscope(longer, tid=12))
    captures.compare()
    assert captures.found.functions == []
    assert any("nothing that is more than chance" in text for text in captures.texts("text"))


@pytest.mark.parametrize(
    ("reference", "during", "samples", "clear"),
    [
        (0.5, 0.53, 100, False),
        (0.5, 0.53, 100_000, True),
        (0.0, 0.009, 100_000, False),
        (0.0, 0.2, 100, True),
        (16.0, 15.9, 100, False),
    ],
)
def test_what_chance_may_do_is_no_change(
    reference: float, during: float, samples: int, clear: bool
) -> None:
    found = clear_change(reference, during, (samples, samples))
    assert found == (pytest.approx(during - reference) if clear else 0.0)


def test_an_earlier_capture_of_an_incident_shows_the_trouble(captures: Captures) -> None:
    captures.earlier = replace(captures.earlier, incident_id="7")
    captures.now = replace(captures.now, incident_id="7")
    captures.write("worker-1", speedscope(SLOW), speedscope(USUAL))
    captures.compare()
    found = captures.found
    assert (found.during.capture_id, found.reference.capture_id) == ("a" * 32, "b" * 32)
    assert (found.functions[0].name, found.functions[0].growth) == ("wait_for_disk", 0.6)


def test_the_picture_is_red_where_time_grew_and_blue_where_it_shrank(captures: Captures) -> None:
    captures.write("engine_core-1", speedscope(USUAL), speedscope(SLOW))
    captures.compare()
    colours = {}
    for group in ElementTree.fromstring(captures.svg).iter(SVG + "g"):
        title, rect = group.find(SVG + "title"), group.find(SVG + "rect")
        assert title is not None
        assert rect is not None
        red, _, blue = (int(part) for part in rect.attrib["fill"][4:-1].split(","))
        colours[(title.text or "").split(" (")[0]] = (red > blue) - (red < blue)
    assert colours["wait_for_disk"] == 1
    assert colours["forward"] == -1
    assert colours["main"] == colours["step"] == 0
    tips = captures.texts("title")
    assert any(text.endswith("0.0 % -> 60.0 % of the time (+60.0)") for text in tips)


def test_the_picture_needs_no_script_and_names_no_folder(captures: Captures) -> None:
    captures.write("engine_core-1", speedscope(USUAL), speedscope(SLOW))
    captures.compare()
    assert "script" not in captures.svg
    assert "href" not in captures.svg
    written = captures.svg + (captures.folders[1] / "difference.json").read_text()
    assert "secret" not in written


def test_names_cannot_break_out_of_the_picture(captures: Captures) -> None:
    hostile = {"main;<script>\x00\x1b[31m&\"'": 300, "main;" + "x" * 5000: 200}
    captures.write("worker-1", speedscope(USUAL), speedscope(hostile, thread="</text><script>"))
    captures.compare()
    tags = {one.tag.removeprefix(SVG) for one in ElementTree.fromstring(captures.svg).iter()}
    assert tags == {"svg", "style", "rect", "text", "g", "title"}
    assert len(captures.svg) < 50_000


def test_boxes_and_rows_have_a_limit(captures: Captures) -> None:
    deep = ";".join(f"f{number}" for number in range(900))
    wide = {f"main;g{number};h{number}": 1 for number in range(2000)}
    captures.write("worker-1", speedscope({"main;idle": 500}), speedscope({deep: 4000, **wide}))
    captures.compare()
    assert len(captures.texts("title")) <= MOST_BOXES_OF_THREAD
    assert float(ElementTree.fromstring(captures.svg).attrib["height"]) < 3000


def test_processes_are_paired_by_role_the_engine_core_first(captures: Captures) -> None:
    captures.write("worker-999", speedscope(USUAL), None)
    captures.write("worker-1000", speedscope(USUAL), None)
    captures.write("worker-2000", None, speedscope(USUAL))
    captures.write("worker-2001", None, speedscope(SLOW))
    captures.write("engine_core-5", speedscope(USUAL), speedscope(USUAL))
    captures.write("api_server-6", speedscope(USUAL), None)
    [problem] = captures.compare()
    assert problem == "no difference of api_server-6: it is in one of both captures only"
    assert [(one.reference, one.during) for one in captures.found.processes] == [
        ("engine_core-5", "engine_core-5"),
        ("worker-999", "worker-2000"),
        ("worker-1000", "worker-2001"),
    ]


def test_the_same_function_of_many_ranks_is_listed_once(captures: Captures) -> None:
    for rank in range(8):
        captures.write(f"worker-{rank}", speedscope(USUAL), speedscope(SLOW))
    captures.compare()
    grown = first_of_alike(one for one in captures.found.functions if one.growth > 0)
    assert [(one.name, more) for one, more in grown] == [("wait_for_disk", 7)]
    assert any("and 7 more" in text for text in captures.texts("text"))


def test_who_only_waits_comes_after_who_works(captures: Captures) -> None:
    usual = {"main;work": 100, "main;threading": 100, "main;idle": 300}
    slow = {"main;work": 200, "main;threading": 250, "main;idle": 50}
    captures.write("worker-1", speedscope(usual), speedscope(slow))
    captures.compare()
    assert [one.name for one in captures.found.functions] == ["work", "idle", "threading"]
    assert max(captures.found.functions, key=lambda one: one.growth).name == "threading"


def test_threads_of_a_pool_count_together_whatever_their_numbers() -> None:
    names = (("pool-1_0", 5), ("pool-1_12", 99))
    one, other = (fold(speedscope({"work": 10}, thread, tid)).shares for thread, tid in names)
    assert one == other
    assert [stack[0] for stack in one] == [Function("thread pool-N_N")]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"[]",
        speedscope(USUAL)[:-40],
        speedscope(USUAL).replace(b"[0, ", b"[7000, "),
        speedscope(USUAL).replace(b"[0, ", b"[-1, "),
        json.dumps({"shared": {"frames": []}, "profiles": []}).encode(),
    ],
)
def test_a_file_that_is_cut_is_told_and_does_not_keep_the_others_from_being_drawn(
    broken: bytes, captures: Captures
) -> None:
    captures.write("engine_core-1", speedscope(USUAL), broken)
    captures.write("worker-2", speedscope(USUAL), speedscope(SLOW))
    problems = captures.compare()
    assert captures.found.functions[0].process == "worker-2"
    assert len(problems) == 1
    assert problems[0].startswith("no difference of engine_core-1: ")


def test_files_too_large_to_compare_are_left_alone(
    captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difference_module, "MOST_BYTES", 1000)
    captures.write("worker-2", speedscope(USUAL), speedscope(SLOW))
    problems = captures.compare()
    assert "too many to compare; capture for less" in problems[0]
    assert "no stacks of the same process" in problems[1]
    assert not (captures.folders[1] / "difference.svg").exists()
