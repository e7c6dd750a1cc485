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
