"""What a reader gets: tables, JSON and a picture, also where there is little to tell."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console, RenderableType

from schemas.records import Record
from simulator.score import render, score, to_json
from tests.simulator.score.tape import (
    STRICT,
    alert,
    batches,
    control,
    engine,
    fault,
    incident,
)

EMPTY: dict[str, list[Record]] = {
    "nothing": [],
    "truth alone": [fault(10, 20), control(30, 40)],
    "batches alone": [*batches(0, 5)],
    "an incident alone": [alert(5)],
    "inventory alone": [engine()],
    "a fault of an unknown host": [*batches(0, 5), fault(1, 2, engine_ids=(), host="elsewhere")],
    "a fault without batches": [*batches(0, 5), *batches(30, 40), fault(10, 20)],
    "controls alone": [*batches(0, 5), control(1, 2)],
    "a fault all the time": [*batches(0, 5, slow=[(0, 5)]), fault(0, 5), alert(1)],
}


def text_of(shown: RenderableType) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers_in(one)]
    if isinstance(value, list):
        return [number for one in value for number in numbers_in(one)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("name", EMPTY)
def test_little_to_tell_is_told(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra [gym]")
    from simulator.score.picture import draw

    found = score(EMPTY[name], STRICT)
    assert found.notes
    assert any(note in text_of(render(found)).replace("\n", " ") for note in found.notes)
    assert "nan" not in text_of(render(found))
    orjson.loads(to_json(found))
    draw(found, tmp_path / "score.png")


def test_what_cannot_be_told_is_null_in_json() -> None:
    plain = orjson.loads(to_json(score([], STRICT)))
    overall = plain["overall"]
    assert overall["points"]["precision"]["value"] is None
    assert overall["incidents"]["false_per_engine_week"]["value"] is None
    assert overall["causes"]["right_first"]["value"] is None


def test_json_has_every_fault_and_every_false_incident() -> None:
    records: list[Record] = [
        *batches(0, 60),
        fault(10, 20),
        fault(30, 40, name="other"),
        *incident(11, 21, others=("slow_rank",)),
        *incident(50, 51),
    ]
    plain = orjson.loads(to_json(score(records, STRICT)))
    assert [one["status"] for one in plain["outcomes"]] == ["found", "missed"]
    assert plain["outcomes"][0]["other_causes"] == ["slow_rank"]
    assert plain["outcomes"][0]["right_first"] is True
    assert plain["outcomes"][1]["incident_id"] is None
    assert [one["cause"] for one in plain["false_incidents"]] == ["host_cpu_contention"]
    assert all(math.isfinite(number) for number in numbers_in(plain))


def test_the_tables_state_how_strictly_was_scored() -> None:
    text = text_of(render(score([*batches(0, 5)])))
    assert "Guard 250 ms" in text
    assert "grace 5 s or 20 batches" in text


def test_the_tables_show_each_fault_severity_size_and_control() -> None:
    records: list[Record] = [*batches(0, 60), fault(10, 20), control(30, 40), *incident(11, 21)]
    text = text_of(render(score(records, STRICT)))
    for word in ("cpu_squeeze", "heavy", "5-8", "prompt_ramp", "host_cpu_contention", "1/1"):
        assert word in text


def test_the_column_of_what_users_feel_is_empty_where_nobody_knows_it() -> None:
    def rows_of(true_ratio: float | None) -> dict[str, list[str]]:
        told = fault(10, 20, true_ratio=true_ratio)
        text = text_of(render(score([*batches(0, 60), told, *incident(11, 21)], STRICT)))
        assert "faults that slow batches by 1.05 and more" in text
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
        return {row[0]: row[1:] for row in rows if row}

    known, unknown = rows_of(1.3), rows_of(None)
    assert known["faults found, per engine"] == ["1 of 1 (faults: 1)"] * 2
    assert unknown["faults found, per engine"] == ["1 of 1 (faults: 1)", "–"]
    assert unknown["false incidents"] == ["0", "–"]
    assert unknown["incidents per fault found"][0] == "1.00"


def test_the_same_records_give_the_same_score() -> None:
    records: list[Record] = [
        *batches(0, 60, slow=[(11, 19)]),
        fault(10, 20),
        fault(30, 40),
        *incident(11, 21),
    ]
    assert to_json(score(records, STRICT)) == to_json(score(records[::-1], STRICT))


@pytest.mark.parametrize("name", ["score.png", "score.svg"])
def test_a_picture_is_written_in_the_format_of_its_name(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra [gym]")
    from simulator.score.picture import draw

    records: list[Record] = [*batches(0, 60), fault(10, 20), control(30, 40), *incident(11, 21)]
    draw(score([*records, *incident(33, 34)], STRICT), tmp_path / name)
    begin = (tmp_path / name).read_bytes()[:5]
    assert begin == (b"\x89PNG\r" if name.endswith("png") else b"<?xml")
