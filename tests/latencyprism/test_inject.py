"""`latencyprism inject`: what it lists, shows, refuses, does, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latencyprism.__main__ import main
from latencyprism.commands import inject
from schemas.recording import read_recording
from schemas.records import Fault
from schemas.topics import FAULTS
from simulator.faults import available, load
from simulator.injection.journal import Journal, Journals, boot_id
from simulator.injection.steps import Run, Step, Write
from simulator.injection.undo import marked

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
Inject = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Journals of our own, so that nobody else's injections are undone."""
    path = tmp_path / "journals"
    for module in ("journal", "run"):
        monkeypatch.setattr(f"simulator.injection.{module}.usual_folder", lambda: path)
    return path


@pytest.fixture
def run(capsys: Capture) -> Inject:
    """Run the command and give exit status, output and errors."""

    def run_it(*arguments: str) -> tuple[int, str, str]:
        before = signal.getsignal(signal.SIGTERM)
        try:
            status = main(["inject", *arguments])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        return status, out, err

    return run_it


def leave_behind(folder: Path, *steps: Step) -> None:
    """Write the journal of a keeper that died."""
    # No process is older than the first one.
    journal = Journal(
        fault_id="0" * 32,
        name="test",
        keeper_pid=os.getpid(),
        keeper_start_ticks=0,
        boot_id=boot_id(),
        steps=steps,
    )
    Journals(folder).write(journal)


def truths(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["topic"] for line in lines} == {FAULTS.name}
    return [line["record"] for line in lines]


def test_the_list_has_every_fault_and_whether_it_can_be_made_here(
    run: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = run("--list")
    assert status == 0
    assert all(name in out for name in available())
    assert "give its processes with --pid" in " ".join(out.split())


def test_the_list_for_programs_has_all_that_a_fault_declares(run: Inject) -> None:
    status, out, _ = run("--list", "--json")
    told = {one["name"]: one for one in json.loads(out)}
    assert status == 0
    assert tuple(told) == available()
    squeeze = told["cpu_squeeze"]
    assert squeeze["summary"] == load("cpu_squeeze").summary
    assert squeeze["levels"] == {"light": 0.5, "medium": 1.0, "heavy": 2.0}
    assert squeeze["needs"]["modules"] == ["numpy"]
    assert squeeze["obstacles"] == []


def test_a_dry_run_shows_each_step_and_its_undo_and_does_nothing(run: Inject, folder: Path) -> None:
    status, out, err = run("cpu_squeeze", "--dry-run", "--intensity", "1.5", "--seconds", "7")
    assert (status, err) == (0, "")
    assert "simulator.injection.worker cpu_squeeze" in out
    assert "undo: kill them" in out
    assert "all undone after 7 s" in out
    assert not folder.exists()


def test_a_dry_run_tells_what_is_in_the_way(run: Inject) -> None:
    status, out, _ = run("cpu_quota", "--dry-run")
    assert status == 0
    assert "in the way: it is aimed at an engine: give its processes with --pid" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "'latencyprism inject --list' shows them"),
        (["no_such"], "no fault 'no_such': choose one of "),
        (["cpu_quota", "--no-truth"], "give its processes with --pid"),
        (["cpu_squeeze", "--no-truth", "--intensity", "99"], "give 0.01 to 8 (busy processes"),
        (["cpu_squeeze", "--no-truth", "--seconds", "3601"], "at most 3600 s"),
        (["cpu_squeeze", "--no-truth", "--seconds", "nan"], "give more than 0"),
        (["cpu_squeeze", "--no-truth", "--scratch", "/no/such"], "make it, or name another"),
        (["cpu_squeeze", "--truth", "/no/such/file"], "choose another --truth"),
        (["cpu_squeeze", "--no-truth", "--engine", "no-such:1"], "name one by its engine_id"),
        (["cpu_squeeze", "--severity", "deadly"], "invalid choice: 'deadly'"),
    ],
)
def test_what_is_refused_is_exit_2_with_what_to_do(
    arguments: list[str], told: str, run: Inject, folder: Path
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert not list(folder.glob("*.journal"))


def test_all_reasons_are_told_at_once(run: Inject) -> None:
    status, _, err = run("cpu_quota", "--no-truth", "--seconds", "0", "--intensity", "99")
    assert status == 2
    assert "--pid" in err
    assert "intensity 99" in err
    assert "0 s is not allowed" in err
    assert err.count("\n") == 1


def test_without_kafka_nothing_is_injected(
    run: Inject, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("confluent_kafka", reason="pip install 'latencyprism[collect]'")
    config = tmp_path / "latencyprism.toml"
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    monkeypatch.setattr("streams.broker.ANSWER_SECONDS", 0.3)
    status, out, err = run("cpu_squeeze", "--seconds", "1", "--config", str(config))
    assert (status, out) == (2, "")
    assert "nothing was injected" in err
    assert "--truth FILE or --no-truth" in err
    assert not list(folder.glob("*.journal"))


@pytest.mark.process
def test_the_truth_is_printed_and_appended_to_a_recording(run: Inject, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    flags = ("--intensity", "0.5", "--seconds", "0.3", "--truth", str(truth))
    for _ in range(2):
        status, out, err = run("cpu_squeeze", *flags)
        assert status == 0
        assert [one["state"] for one in truths(out)] == ["begun", "ended"]
        assert "cpu_squeeze is undone" in err
    recorded = list(read_recording(truth))
    assert len(recorded) == 4
    assert all(isinstance(one, Fault) for one in recorded)


@pytest.fixture
def broker() -> Iterator[Any]:
    embedded = pytest.importorskip("streams.embedded", reason="pip install 'latencyprism[collect]'")
    with embedded.EmbeddedBroker() as one:
        one.create_topics([FAULTS.name])
        yield one


@pytest.fixture
def config(broker: Any, tmp_path: Path) -> Path:
    path = tmp_path / "latencyprism.toml"
    path.write_text(f'[kafka]\nbootstrap_servers = "{broker.bootstrap}"\n')
    return path


@pytest.mark.process
def test_the_truth_is_on_its_topic(run: Inject, broker: Any, config: Path) -> None:
    from confluent_kafka import Consumer, TopicPartition

    status, out, _ = run(
        "cpu_squeeze", "--intensity", "0.5", "--seconds", "0.2", "--config", str(config)
    )
    assert status == 0
    consumer: Any = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "test"})
    partitions = consumer.list_topics(FAULTS.name, timeout=10).topics[FAULTS.name].partitions
    consumer.assign([TopicPartition(FAULTS.name, one, 0) for one in partitions])
    messages: list[Any] = []
    deadline = time.monotonic() + 20
    while len(messages) < 2 and time.monotonic() < deadline:
        messages += consumer.consume(2, timeout=0.5)
    consumer.close()
    assert [json.loads(message.value()) for message in messages] == truths(out)
    assert {message.key().decode() for message in messages} == {truths(out)[0]["fault_id"]}


@pytest.mark.process
def test_kafka_that_goes_away_meanwhile_is_exit_1_and_all_is_undone(
    run: Inject, broker: Any, config: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(inject, "DELIVERY_SECONDS", 1.0)
    # Called when the truth about the beginning has arrived.
    monkeypatch.setattr(inject, "_tell_begun", lambda *_: broker.stop())
    status, out, err = run(
        "cpu_squeeze", "--intensity", "0.5", "--seconds", "0.3", "--config", str(config)
    )
    assert status == 1
    assert [one["state"] for one in truths(out)] == ["begun", "ended"]
    assert "did not take the truth" in err
    assert not list(folder.glob("*.journal"))


@pytest.mark.process
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_undoes_it_and_then_ends_the_command(number: int, expected: int) -> None:
    command = [sys.executable, "-m", "latencyprism", "inject", "cpu_squeeze", "--no-truth"]
    with subprocess.Popen(
        [*command, "--intensity", "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        [begun] = truths(process.stdout.readline())
        time.sleep(0.1)
        process.send_signal(number)
        [ended] = truths(process.stdout.read())
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == expected
    assert (ended["state"], ended["error"]) == ("ended", None)
    assert not marked(begun["fault_id"])


@pytest.mark.process
def test_undo_undoes_what_was_left_and_says_so(run: Inject, folder: Path, tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_text("during")
    leave_behind(folder, Write(path=str(setting), text="during", before="before"))
    status, out, _ = run("--undo")
    assert status == 0
    assert "test had been left behind by a process that died: undone" in out
    assert setting.read_text() == "before"
    assert run("--undo")[:2] == (0, "nothing was left behind\n")


def test_undo_of_a_journal_that_cannot_be_read_is_exit_1_with_what_to_do(
    run: Inject, folder: Path
) -> None:
    Journals(folder)
    (folder / "0.journal").write_text('{"version": 2}')
    status, out, _ = run("--undo")
    assert status == 1
    assert f"{folder / '0.journal'} is broken, not yours, or of another version: run that" in out


@pytest.mark.process
def test_undo_that_fails_is_exit_1_with_the_command_to_run_by_hand(
    run: Inject, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.injection.undo.PAUSES_SECONDS", (0.0,))
    leave_behind(folder, Run(argv=("true",), undo_argv=("false", "now")))
    status, out, _ = run("--undo")
    assert status == 1
    assert "undo: false now" in out
    assert len(Journals(folder).all()) == 1
