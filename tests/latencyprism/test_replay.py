from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latencyprism.__main__ import main
from latencyprism.commands import replay as replay_command
from schemas.recording import RecordingWriter, read_recording, seen_ns
from schemas.records import Alert, Batch, Record
from tests.streams.feed import BEGIN_NS, Feed

pytest.importorskip("river", reason="no river: pip install 'latencyprism[stream]'")


def recorded(path: Path, records: list[Record]) -> Path:
    with RecordingWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


def records(engine_id: str = "host:8000") -> list[Record]:
    feed = Feed(engine_id=engine_id)
    return [
        feed.engine(),
        *feed.batches(400),
        *feed.batches(100, factor=2.0, others=0.8),
        *feed.batches(400),
    ]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # Handlers of this process belong to pytest.
    monkeypatch.setattr(replay_command, "start_logging", lambda _: None)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    return recorded(tmp_path / "stream.gz", records())


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["replay", "--json", *map(str, arguments)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["replay", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_it_tells_batches_verdicts_and_incidents(
    stream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, stream)
    assert found["batches"] == found["iterations"] == 900
    assert found["verdicts"]["host:8000"]["slow"] > 50
    assert len(found["incidents"]) == 1
    assert main(["replay", str(stream)]) == 0
    printed = capsys.readouterr().out
    assert "900 batches and 1 incidents" in printed
    assert found["incidents"][0]["cause"] in printed


def test_two_runs_write_the_same_bytes(stream: Path, tmp_path: Path) -> None:
    for name in ("one.gz", "two.gz"):
        assert main(["replay", str(stream), "--to", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert {type(one) for one in read_recording(tmp_path / "one.gz")} == {Batch, Alert}


def test_results_equal_themselves(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    told(capsys, stream, "--to", results)
    difference = told(capsys, stream, "--compare", results, "--fail-on-difference")["difference"]
    assert difference["equal"]
    assert len(difference["pairs"]) == 1


def test_results_within_the_stream_can_be_compared(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    told(capsys, stream, "--to", results)
    both = recorded(tmp_path / "both", [*read_recording(stream), *read_recording(results)])
    assert told(capsys, both, "--compare", "recorded", "--fail-on-difference")["difference"][
        "equal"
    ]


def test_a_difference_is_an_exit_status_where_that_is_wanted(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    told(capsys, stream, "--to", results)
    batches = [one for one in read_recording(results) if isinstance(one, Batch)]
    quiet = recorded(tmp_path / "quiet", [*batches])
    assert main(["replay", str(stream), "--compare", str(quiet)]) == 0
    assert main(["replay", str(stream), "--compare", str(quiet), "--fail-on-difference"]) == 1
    printed = capsys.readouterr().out
    assert "1 only here, 0 only there" in printed
    assert "They differ." in printed


def test_engines_and_times_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = sorted([*records("host:1"), *records("host:2")], key=seen_ns)
    path = recorded(tmp_path / "stream", both)
    assert list(told(capsys, path, "--engine", "host:2")["verdicts"]) == ["host:2"]
    two_seconds = str(BEGIN_NS // 1_000_000_000 + 2)
    until = told(capsys, path, "--until", two_seconds)
    after = told(capsys, path, "--from", two_seconds)
    assert 0 < until["iterations"] < 1800
    assert until["iterations"] + after["iterations"] == 1800


def test_a_file_may_follow_the_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = sorted([*records("host:1"), *records("host:2")], key=seen_ns)
    path = recorded(tmp_path / "stream", both)
    assert list(told(capsys, "--engine", "host:2", path)["verdicts"]) == ["host:2"]
    found = told(capsys, "--engine", "host:2", "--engine", "host:1", path)
    assert list(found["verdicts"]) == ["host:1", "host:2"]


def test_an_incident_at_the_end_of_a_stream_is_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from streams.offline import Offline

    cut = records()[:-400]
    path = recorded(tmp_path / "cut", cut)
    (incident,) = told(capsys, path)["incidents"]
    assert incident["end_ns"] > seen_ns(cut[-1])
    # A recording of the live results was cut at the same place, and has it open.
    offline = Offline()
    live = [one for record in cut for one in offline.feed(record)]
    both = recorded(tmp_path / "both", [*cut, *live])
    assert told(capsys, both, "--compare", "recorded")["difference"]["equal"]


def test_a_speed_paces_the_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feed = Feed()
    path = recorded(tmp_path / "stream", [feed.engine(), *feed.batches(60)])
    length_seconds = (feed.now_ns - BEGIN_NS) / 1e9
    assert told(capsys, path, "--speed", "4")["seconds"] > length_seconds / 4 * 0.8


def test_what_is_cut_off_is_told(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream.write_bytes(stream.read_bytes()[: stream.stat().st_size // 2])
    assert main(["replay", str(stream)]) == 0
    assert "cut or damaged" in capsys.readouterr().err


def test_a_stream_that_cannot_be_replayed_says_what_to_do(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = recorded(tmp_path / "empty", [])
    assert "record again with the topic 'iterations'" in refused(capsys, empty)
    readings = recorded(tmp_path / "readings", [Feed().engine()])
    assert "though readings of host:8000" in refused(capsys, readings)
    assert "no iterations of host:7: check --engine" in refused(
        capsys, stream, "--engine", "host:7"
    ).replace(" in this time", "")
    assert "check the name" in refused(capsys, tmp_path / "none")
    text = tmp_path / "text"
    text.write_text("hello\n")
    assert "line 1 is no record" in refused(capsys, text)


def test_a_failed_replay_leaves_no_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path / "stream", records())
    with path.open("ab") as file:
        file.write(b"hello\n")
    assert "is no record" in refused(capsys, path, "--to", tmp_path / "results")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "give either the FILE of a recording, or --kafka"),
        (
            ["stream", "--kafka"],
            "give either the FILE of a recording, or --kafka",
        ),
        (["stream", "--fail-on-difference"], "needs --compare"),
        (["stream", "--to", "stream"], "choose another file"),
        (["stream", "--to", "./stream"], "choose another file"),
        (["stream", "--to", "link"], "choose another file"),
        (["stream", "--compare", "other", "--to", "../here/other"], "choose another file"),
        (["stream", "--config", "c.toml"], "--config is read with --kafka alone"),
        (["stream", "--speed", "0"], "give a number above 0, or 'max'"),
        (["stream", "--from", "yesterday"], "--from is 'yesterday': give a time as"),
        (["stream", "--from", "20", "--until", "10"], "give --until a later time"),
        (["stream", "--until", "1790000000000"], "--until is '1790000000000': give a time"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = recorded(Path("stream"), records()[:10]).read_bytes()
    Path("link").symlink_to("stream")
    assert what in refused(capsys, *arguments)
    assert Path("stream").read_bytes() == before


def test_a_stream_without_results_cannot_be_compared(
    stream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no batches and no alerts" in refused(capsys, stream, "--compare", "recorded")
    assert "has no batches and no alerts" in refused(capsys, stream, "--compare", stream)
