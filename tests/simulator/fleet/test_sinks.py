"""Where a fleet's messages go; none is lost without a word."""

from __future__ import annotations

import builtins
import json
import time
from pathlib import Path
from typing import Any

import pytest

from schemas.recording import RecordingError, read_recording
from schemas.settings import KafkaSettings
from simulator.fleet import presets
from simulator.fleet.__main__ import KAFKA, begin_of, main, paced
from simulator.fleet.fleet import BEGIN_NS, Fleet
from simulator.fleet.rows import Message
from simulator.fleet.sinks import Callback, Kafka, Recording, SinkError


def messages(seconds: float = 2.0) -> list[Message]:
    return list(Fleet([presets.load("a100_vllm")] * 2, seed=1).messages(seconds))


class Producer:
    """A Kafka client with little room and a broker that may refuse."""

    def __init__(self, options: dict[str, Any], *, refuses: bool = False, stuck: int = 0) -> None:
        self.options = options
        self.queue: list[tuple[Any, ...]] = []
        self.sent: list[tuple[Any, ...]] = []
        self.refuses = refuses
        self.stuck = stuck

    def produce(self, topic: str, *, value: bytes, key: bytes, timestamp: int) -> None:
        if len(self.queue) >= 10:
            raise BufferError
        self.queue.append((topic, key, value, timestamp))

    def poll(self, timeout: float) -> int:
        if self.refuses:
            self.options["on_delivery"](Refusal(), Refusal())
        self.sent += self.queue
        self.queue.clear()
        return 0

    def flush(self, timeout: float) -> int:
        self.poll(0)
        return self.stuck

    def purge(self) -> None:
        self.queue.clear()


class Refusal:
    def str(self) -> builtins.str:
        return "message too large"

    def topic(self) -> builtins.str:
        return "latencyprism.iterations.v1"


def kafka(**more: Any) -> tuple[Kafka, Producer]:
    made: list[Producer] = []

    def make(options: dict[str, Any]) -> Producer:
        made.append(Producer(options, **more))
        return made[0]

    return Kafka(KafkaSettings(), make), made[0]


def test_a_recording_has_all_records_in_order(tmp_path: Path) -> None:
    path = tmp_path / "fleet.jsonl.gz"
    with Recording(path) as sink:
        for message in messages():
            sink.send(message)
    records = list(Fleet([presets.load("a100_vllm")] * 2, seed=1).records(2.0))
    assert list(read_recording(path)) == records


def test_a_recording_that_fails_half_way_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.jsonl"
    sink = Recording(path)
    sink.send(messages()[0])
    sink.__exit__(KeyError, KeyError(), None)
    assert list(tmp_path.iterdir()) == []


def test_kafka_gets_every_message_with_key_and_event_time() -> None:
    sink, producer = kafka()
    sent = messages()
    with sink:
        for message in sent:
            sink.send(message)
    assert producer.sent == [(one.topic, one.key, one.value, one.time_ms) for one in sent]


def test_messages_that_kafka_refuses_are_told() -> None:
    sink, _ = kafka(refuses=True)

    def send_all() -> None:
        with sink:
            for message in messages():
                sink.send(message)

    with pytest.raises(SinkError, match=r"message too large.*check the broker"):
        send_all()


def test_messages_that_never_arrive_are_told() -> None:
    sink, _ = kafka(stuck=3)
    with pytest.raises(SinkError, match="3 of 1 messages"), sink:
        sink.send(messages()[0])


def test_a_function_gets_the_messages() -> None:
    got: list[Message] = []
    with Callback(got.append) as sink:
        for message in messages():
            sink.send(message)
    assert got == messages()


def test_real_time_holds_messages_back_until_they_are_due() -> None:
    sent = [message for message in messages() if message.at_ns < BEGIN_NS + 1e9]
    late = [seconds for _, seconds in paced(iter(sent), BEGIN_NS, 20.0)]
    assert len(late) == len(sent)
    assert min(late) >= 0.0


def test_the_command_writes_a_file_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.jsonl"
    options = ["--engines", "4", "--seconds", "3", "--preset", "a100_vllm,cpu_replica", "--json"]
    faults = ["--faults", "cpu_squeeze:heavy@1-2/3"]
    assert main([*options, *faults, "--to", str(path)]) == 0
    summary = json.loads(capsys.readouterr().out)
    lines = path.read_bytes().splitlines()
    assert sum(summary["messages"].values()) == len(lines)
    assert summary["engines"] == 4
    assert [one["name"] for one in summary["episodes"]] == ["cpu_squeeze"]
    assert summary["episodes"][0]["true_ratio"] > 1.5


def test_what_goes_to_kafka_is_of_now_and_what_goes_to_a_file_is_always_the_same() -> None:
    now = time.time_ns()
    assert begin_of("fleet.jsonl", 60.0, None) == BEGIN_NS
    assert begin_of(KAFKA, 60.0, None) == pytest.approx(now - 60e9, abs=10e9)
    assert begin_of(None, 60.0, 1.0) == pytest.approx(now, abs=10e9)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engines", "1", "--seconds", "2", "--faults", "cpu_squeeze@0-1"]) == 0
    out = capsys.readouterr().out
    assert "iterations" in out
    assert "Truth" in out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--engines", "0"], "give 1 or more"),
        (["--preset", "h900"], "choose one of"),
        (["--faults", "cpu_squeeze"], "write name:severity"),
        (["--controls", "cpu_squeeze@1-2"], "give it with --faults"),
        (["--seconds", "0"], "give more than 0"),
        (["--speed", "0"], "give more than 0"),
        (["--to", "/nowhere/fleet.jsonl"], "choose another file"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert reason in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(RecordingError, match="choose another file"):
        Recording(Path("/nowhere/fleet.jsonl"))
