"""The detection benchmark: what it finds on batches whose law is known, and how it says so."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from benchmarks.detection import (
    boosting,
    cold,
    healthy,
    poisoning,
    report,
    slowdowns,
    speed,
    zoo,
)
from benchmarks.detection.__main__ import main, parse
from benchmarks.detection.data import LEAST_BATCHES, Data, files, load
from benchmarks.detection.parts import ALONE, PARTS
from benchmarks.detection.report import Report, at_least, at_most, render
from schemas.codec import decode, encode
from schemas.records import Iteration
from simulator.datasets import DatasetError
from simulator.score.paper import Split
from simulator.score.prequential import FalseIncident

HEADER = "job_name,start_ts,duration_us,batch_size,avg_input_length,avg_output_length"
# As few as the benchmark takes.
JOBS, OUTPUT = 31, 400


def lines() -> Iterator[str]:
    """Give loops of 8 to 32 requests, each of which ends at its 400th token with the others."""
    draw = random.Random(7)
    at_us = 1_765_000_000_000_000.0
    for job in range(JOBS):
        requests = 8 * (job % 4) + 8
        for made in range(1, OUTPUT + 1):
            tokens = requests * (128 + made)
            duration_us = 1e3 * (10 + requests / 2 + tokens / 2000) * draw.gauss(1, 0.01)
            name = f"in128_out{OUTPUT}_conc{requests}_{job}"
            yield f"{name},{at_us:.1f},{duration_us:.1f},{requests},128.0,{made}.0"
            at_us += duration_us + 500
        at_us += 60e6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "vllm_normal_batches.csv"
    file.write_text("\n".join((HEADER, *lines())) + "\n")
    return file


@pytest.fixture(scope="module")
def data(path: Path) -> Data:
    return load(path)


def text_of(found: Report) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(render(found))
    assert isinstance(console.file, io.StringIO)
    # Figures are for a file.
    orjson.dumps(found.figures)
    return console.file.getvalue()


def test_without_data_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path)]) == 0
    assert "LATENCYPRISM_SHARED_DATA" in capsys.readouterr().out


def test_a_file_of_slow_batches_is_not_taken_for_a_healthy_one(tmp_path: Path) -> None:
    for name in ("b.csv", "a_normal.csv.gz", "x_abnormal.csv.gz", "notes.txt"):
        (tmp_path / name).touch()
    assert [one.name for one in files(tmp_path)] == ["a_normal.csv.gz", "b.csv"]


def test_a_file_that_is_too_short_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.csv"
    short.write_text("\n".join((HEADER, *list(lines())[:100])) + "\n")
    with pytest.raises(DatasetError, match=f"{LEAST_BATCHES} are needed"):
        load(short)
    assert main(["--data", str(tmp_path)]) == 0
    assert "short.csv has 100 batches" in capsys.readouterr().out


def test_without_boosting_it_says_how_to_get_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["--data", str(path.parent)]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "latencyprism[bench]" in told
    assert "--only" in told


def test_parts_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--only", "cold, speed"]).only == ("cold", "speed")
    assert ALONE in parse([]).only
    with pytest.raises(SystemExit):
        parse(["--only", "cold,none"])
    assert f"choose of {', '.join(PARTS)}" in capsys.readouterr().err


@pytest.mark.process
def test_parts_run_in_processes_and_leave_their_figures(path: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    arguments = ["--data", str(path.parent), "--only", "cold", "--seeds", "1"]
    assert main([*arguments, "--processes", "1", "--json", str(written)]) == 0
    ((found,),) = orjson.loads(written.read_bytes())[path.name].values()
    assert set(found[0]["lags"]) == {
        cold.key(begin, factor) for begin in cold.BEGINS for factor in cold.FACTORS
    }


def test_healthy_batches_meet_the_target(path: Path) -> None:
    found = healthy.play(path, 1)
    assert len(found.grids) == 1
    assert [row[0] for row in found.grids[0].rows] == ["as they ran", "shuffled 1"]
    assert all(row[-1] == "met" for row in found.grids[0].rows)


def test_a_false_incident_is_shown_with_its_raw_rows(data: Data) -> None:
    incident = FalseIncident(
        job=data.rows[500].job,
        number=500,
        batches=3,
        reason="cusum",
        around=((499, 20.0), (500, None)),
    )
    grid = healthy._rows(data, "as they ran", incident)
    row = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert (row["row"], row["in batch"]) == ("499", str(data.rows[499].requests))
    assert float(row["ratio"]) == pytest.approx(data.rows[499].duration_ms / 20, abs=0.01)
    assert float(row["gap before, ms"]) == pytest.approx(0.5, abs=0.01)
    assert grid.rows[1][-2] == report.NOTHING
    assert "in other jobs of" in healthy._argument(data, "as they ran", incident)


def test_the_first_batch_of_a_job_has_no_gap(data: Data) -> None:
    assert healthy.gap_ms(data.rows, 0) is None
    assert healthy.gap_ms(data.rows, OUTPUT) is None


@pytest.mark.parametrize("split", ["random", "group"])
def test_all_rules_are_played_on_the_same_streams(
    path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slowdowns, "TARGETS", {"2": 0.998, "spikes": 0.9})
    monkeypatch.setattr(boosting, "TREES", 10)
    found = slowdowns.play(path, 1, split)
    ours, beside = found.grids
    assert [row[0] for row in ours.rows] == ["x2", "spikes"]
    rules = [row[0] for row in beside.rows]
    assert rules[0] == "ours"
    assert {"our model, window", "boosting point", "boosting+prefill window3s"} < set(rules)
    assert "F1" in text_of(found)


def test_boosting_sees_prefill_tokens_only_where_it_should(data: Data) -> None:
    some = data.samples[:50]
    without = boosting.matrix(data.rows, some, False)
    assert (boosting.matrix(data.rows, some, True)[:, :-1] == without).all()
    assert without[3, 0] == data.rows[3].requests


def test_boosting_predicts_what_it_was_trained_on(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "TREES", 40)
    some = random.Random(1).sample(list(data.samples), 1000)
    expect = boosting.train(data.rows, some[:800], prefill=True)
    for sample, expected_ms in zip(some[800:], expect(some[800:]), strict=True):
        assert expected_ms == pytest.approx(sample.duration_ms, rel=0.15)


@pytest.mark.parametrize("name", zoo.models())
def test_each_of_rivers_models_passes(name: str, data: Data) -> None:
    make, _ = zoo.models()[name]
    found = zoo.pass_of(name, make(), "as they ran", data.samples[:400])
    assert (found.model, found.batches) == (name, 400)
    assert found.batches_per_second > 0
    assert found.state_bytes > 100


def test_ours_stands_beside_them(data: Data) -> None:
    found = zoo.pass_of_ours("as they ran", data.samples[:2000])
    assert found.within > 0.95
    assert found.median_error < 0.03


def test_a_long_slowdown_is_told_from_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ORDERS": 1,
        "PLACES": 1,
        "SLOW_BATCHES": 400,
        "AFTER_BATCHES": 200,
    }.items():
        monkeypatch.setattr(poisoning, name, value)
    monkeypatch.setattr(poisoning, "SLOWDOWNS", (poisoning.UNTOUCHED, "2"))
    found = poisoning.play(path, 1)
    untouched, twice = found.figures
    assert (untouched["flagged"], untouched["clearing"]) == (0.0, 0)
    assert twice["flagged"] > 0.9
    assert twice["last_flagged"] == 1.0
    assert len(found.grids[0].rows) == 2


def test_a_new_engine_is_judged_and_a_slowdown_found(data: Data) -> None:
    found = cold.start(data.samples[: cold.FIRST_BATCHES])
    assert found.unknown <= cold.MOST_UNKNOWN + 1
    assert found.false_incidents == 0
    lag = found.lags[cold.key(2000, 1.5)]
    assert lag is not None
    assert lag < 20


def test_batches_are_streamed_as_an_agent_tells_them(data: Data) -> None:
    sample = data.samples[7]
    told = list(speed.iterations(data.samples[:300]))
    one = decode(Iteration, encode(told[7]))
    assert one.workload == sample.workload
    assert one.end_ns == sample.end_ns
    assert (one.end_ns - one.begin_ns) / 1e6 == pytest.approx(sample.duration_ms)
    assert speed.streaming([encode(one) for one in told]) > 0


def test_the_state_is_that_after_all_batches(data: Data) -> None:
    state, judged_per_second = speed.judging(data.samples[:500])
    assert state["judged"] == 500
    assert judged_per_second > 0


def test_targets_are_met_or_missed() -> None:
    assert [at_least(0.9, 0.9), at_least(0.89, 0.9), at_least(None, 0.9)] == [
        "met",
        "missed",
        "missed",
    ]
    assert [at_most(0.0, 0), at_most(1, 0), at_most(None, 1)] == ["met", "missed", "missed"]
