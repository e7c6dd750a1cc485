"""'latencyprism score' from files to tables, JSON and pictures, and what it says of mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from latencyprism.__main__ import main
from schemas.codec import encode
from schemas.recording import RecordingWriter
from schemas.records import Record
from schemas.topics import TOPICS, key_of, time_ms_of, topic_of
from tests.simulator.score.tape import batches, fault, incident
from tests.simulator.test_datasets import VLLM, vllm_row

RUN: list[Record] = [*batches(0, 60, slow=[(11, 20)]), fault(10, 20), *incident(11, 21)]


def recorded(path: Path, records: Iterable[Record]) -> str:
    with RecordingWriter(path) as writer:
        for record in records:
            writer.write(record)
    return str(path)


def table(path: Path, rows: int = 1600) -> str:
    """Write a table of a steady engine, with a bad row at its end."""
    lines = [
        vllm_row(40_000 * n, 8, 10 + n % 40, f"in100_out50_conc{n // 200}", 30_000 + n % 7 * 50)
        for n in range(rows)
    ]
    path.write_text("\n".join([VLLM, *lines, "in1_out1,x"]) + "\n")
    return str(path)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["score", *arguments]) == 2
    return capsys.readouterr().err


def test_a_recording_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra [gym]")
    run = recorded(tmp_path / "run.jsonl.gz", RUN)
    out, picture = tmp_path / "score.json", tmp_path / "score.png"
    assert main(["score", run, "--json", str(out), "--picture", str(picture)]) == 0
    assert "cpu_squeeze" in capsys.readouterr().out
    assert orjson.loads(out.read_bytes())["overall"]["incidents"]["found"] == 1
    assert picture.stat().st_size > 10_000


def test_json_alone_goes_to_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", recorded(tmp_path / "run.jsonl", RUN), "--json", "-"]) == 0
    assert orjson.loads(capsys.readouterr().out)["schema"] == "score.v1"


def test_the_guard_and_the_grace_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late: list[Record] = [*batches(0, 60), fault(10, 20), *incident(22, 23)]
    run = recorded(tmp_path / "run.jsonl", late)
    flags = ["--guard-ms", "1000", "--grace-seconds", "1", "--grace-batches", "0"]
    assert main(["score", run, "--json", "-", *flags]) == 0
    plain = orjson.loads(capsys.readouterr().out)
    assert plain["overall"]["incidents"]["found"] == 0
    assert plain["overall"]["points"]["unscored"] > 30


@pytest.mark.pipeline
def test_the_topics_are_scored_as_a_recording_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = pytest.importorskip(
        "confluent_kafka", reason="no Kafka client: pip install 'latencyprism[collect]'"
    )
    from streams.embedded import EmbeddedBroker

    config = tmp_path / "latencyprism.toml"
    with EmbeddedBroker() as broker:
        broker.create_topics([*TOPICS])
        producer: Any = kafka.Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        for record in RUN:
            producer.produce(
                topic_of(record).name,
                key=key_of(record),
                value=encode(record),
                timestamp=time_ms_of(record),
            )
        assert producer.flush(20.0) == 0
        config.write_text(
            f'[kafka]\nbootstrap_servers = "{broker.bootstrap}"\n[stream]\nembedded = true\n'
        )
        flags = ["--config", str(config), "--until", "4000000000", "--json", "-"]
        assert main(["score", "--kafka", *flags]) == 0
    live = capsys.readouterr().out
    assert main(["score", recorded(tmp_path / "run.jsonl", RUN), "--json", "-"]) == 0
    assert live == capsys.readouterr().out


def test_of_a_file_of_truth_its_own_results_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run has the results of another version, which found the fault."""
    run = recorded(tmp_path / "run.jsonl", RUN)
    results = recorded(tmp_path / "results.jsonl", batches(0, 60))
    assert main(["score", results, "--truth", run, "--json", "-"]) == 0
    plain = orjson.loads(capsys.readouterr().out)
    assert (plain["faults"], plain["overall"]["incidents"]["found"]) == (1, 0)


def test_truth_before_the_files_takes_one_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = recorded(tmp_path / "results.jsonl", batches(0, 60))
    truths = [recorded(tmp_path / str(at), [fault(at, at + 5)]) for at in (10, 20)]
    flags = ["--truth", truths[0], "--truth", truths[1], results, "--json", "-"]
    assert main(["score", *flags]) == 0
    assert orjson.loads(capsys.readouterr().out)["faults"] == 2


def test_truth_and_results_may_be_in_two_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = recorded(tmp_path / "truth.jsonl", [fault(10, 20)])
    results = recorded(tmp_path / "results.jsonl", batches(0, 60))
    other = recorded(tmp_path / "other.jsonl", batches(0, 60, engine_id="host:8001"))
    assert main(["score", truth, results, other, "--json", "-"]) == 0
    assert orjson.loads(capsys.readouterr().out)["engines"] == 2


def test_what_was_left_out_of_a_recording_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.jsonl"
    recorded(run, RUN)
    foreign = b'{"topic":"latencyprism.later.v9","record":{}}\n'
    run.write_bytes(foreign + run.read_bytes() + b'{"topic":')
    assert main(["score", str(run), "--json", "-"]) == 0
    told = capsys.readouterr().err
    assert "left out 1 x records of latencyprism.later.v9" in told
    assert "half a line at the end" in told


def test_the_papers_protocol_is_played_on_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(tmp_path / "rows.csv")
    flags = ["--seeds", "1", "--factors", "2,+20ms", "--strategy", "window,ours"]
    assert main(["score", "--normal", rows, "--json", "-", *flags]) == 0
    plain = orjson.loads(capsys.readouterr().out)["score"]
    assert list(plain["scores"]) == ["2", "+20ms"]
    assert list(plain["scores"]["2"]) == ["window", "ours"]
    assert any("1 bad rows" in note and "start_ts" in note for note in plain["notes"])
    assert any("prefill tokens derived" in note for note in plain["notes"])


def test_slow_batches_may_come_from_another_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, slow = table(tmp_path / "rows.csv"), table(tmp_path / "slow.csv", rows=60)
    flags = ["--abnormal", slow, "--seeds", "1", "--strategy", "point"]
    assert main(["score", "--normal", rows, *flags]) == 0
    out = capsys.readouterr().out
    assert "abnormal file" in out
    assert "drawn with replacement from 60" in out


def test_a_prequential_run_is_played_on_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(tmp_path / "rows.csv", rows=500)
    assert main(["score", "--normal", rows, "--protocol", "prequential", "--seeds", "1"]) == 0
    assert "shuffled 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give one of"),
        (("run.jsonl", "--kafka"), "give one of"),
        (("missing.jsonl",), "missing.jsonl"),
        (("run.jsonl", "--picture", "score.pdf"), ".png or .svg"),
        (("run.jsonl", "--json", "./run.jsonl"), "would replace what is read"),
        (("run.jsonl", "again.jsonl"), "both have results of host:8000"),
        (("run.jsonl", "alerts.jsonl"), "both have results of host:8000"),
        (("truth.jsonl",), "no judged batches"),
        (("empty.jsonl",), "no judged batches"),
        (("batches.jsonl",), "there is no truth"),
        (("run.jsonl", "--from", "0"), "--from has no place without --kafka"),
        (("run.jsonl", "--config", "x"), "--config has no place without --kafka"),
        (("run.jsonl", "--strategy", "ours"), "--strategy has no place without --normal"),
        (("run.jsonl", "--decode-only"), "--decode-only has no place without --normal"),
        (("--normal", "rows.csv", "--truth", "run.jsonl"), "--truth has no place with --normal"),
        (("--normal", "rows.csv", "--guard-ms", "0"), "--guard-ms has no place with --normal"),
        (("--normal", "rows.csv", "--until", "0"), "--until has no place with --normal"),
        (("run.jsonl", "--guard-ms", "-1"), "--guard-ms"),
        (("run.jsonl", "--grace-seconds", "nan"), "--grace-seconds"),
        (("run.jsonl", "--json", "no/such/folder.json"), "choose another file"),
        (("run.jsonl", "--picture", "no/such/folder.png"), "choose another file"),
        (("--normal", "missing.csv"), "check the name"),
        (("--normal", "run.jsonl"), "no known format"),
        (("--normal", "rows.csv", "--seeds", "0"), "--seeds"),
        (("--normal", "rows.csv", "--strategy", "best"), "choose of"),
        (("--normal", "rows.csv", "--factors", "2,fast"), "write a factor"),
        (("--normal", "rows.csv", "--protocol", "prequential", "--abnormal", "x"), "no place"),
        (("--normal", "rows.csv", "--protocol", "prequential", "--split", "group"), "no place"),
        (("--normal", "short.csv"), "too few"),
    ],
)
def test_a_mistake_is_one_line_that_ends_with_what_to_do(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded(Path("run.jsonl"), RUN)
    recorded(Path("again.jsonl"), batches(0, 1))
    recorded(Path("alerts.jsonl"), incident(1, 2))
    recorded(Path("truth.jsonl"), [fault(10, 20)])
    recorded(Path("batches.jsonl"), batches(0, 60))
    recorded(Path("empty.jsonl"), [])
    table(Path("rows.csv"))
    table(Path("short.csv"), rows=30)
    said = failure(capsys, *arguments)
    assert told in said
    assert said.startswith("latencyprism score: ")
    assert said.count("\n") == 1


def test_the_help_says_where_prefill_tokens_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    assert "prefill tokens" in capsys.readouterr().out
