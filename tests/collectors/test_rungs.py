"""How the sampler counts iterations of engines that keep no counter, overlap, or never leave."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.collectors.engine import needs_native
from tests.pythons.interpreters import VERSIONS, Interpreter, PythonUnavailableError, of_version

pytestmark = [pytest.mark.process, needs_native]

SCRIPT = Path(__file__).parent / "rung_engines.py"
FILE = "collectors/rung_engines.py"
BURSTS = 4
ITERATIONS = 100
TIMEOUT_SECONDS = 30.0

Field = dict[str, Any]


def at(function: str, **more: Any) -> dict[str, Any]:
    return {"file": FILE, "function": function, **more}


def field(name: str, path: str, reduce: str = "int", **more: Any) -> Field:
    return {"name": name, "path": path, "reduce": reduce, **more}


TGI: dict[str, Any] = {
    "root": [at("serve")],
    "counter": [],
    "call": {
        "functions": [at("TextService.Prefill"), at("TextService.Decode")],
        "identity": ["start"],
    },
    "batch": {
        "frame": "call",
        "local": "batch",
        "fields": [
            {"name": "number", "local": "request", "reduce": "int"},
            field("requests", "requests", "len"),
            {"name": "tokens", "local": "tokens", "reduce": "int"},
        ],
    },
}
V0: dict[str, Any] = {
    "root": [at("LLMEngine.run_engine_loop")],
    "step": [at("LLMEngine.step")],
    "counter": [{"path": "scheduler.current_step", "kind": "int"}],
    "call": {"functions": [at("WorkerBase.execute_model")], "identity": ["none", "start_time"]},
    "batch": {
        "frame": "call",
        "local": "model_input",
        "fields": [
            field("number", "", local="number"),
            field("requests", "requests", "len"),
        ],
    },
    "gauges": [field("level", "number")],
}
LMDEPLOY: dict[str, Any] = {
    "root": [at("run_agent")],
    "call": {
        "functions": [at("ModelAgent._async_step")],
        "identity": ["inputs"],
        "resumed": True,
    },
    "batch": {
        "frame": "call",
        "local": "inputs",
        "fields": [
            field("number", "number"),
            field("decode", "is_decoding", "bool"),
            field("longest", "max_q_seqlen"),
        ],
    },
}
OVERLAP: dict[str, Any] = {
    "root": [at("EngineCore.run_busy_loop")],
    "step": [at("EngineCore.step_with_batch_queue", overlap=True)],
    "counter": [{"path": "scheduler.current_step", "kind": "int"}],
    "batch": {
        "local": "scheduler_output",
        "queued": "batch_queue",
        "fields": [
            field("number", "number"),
            field("requests", "num_scheduled_tokens", "len"),
            field("tokens", "num_scheduled_tokens", "sum"),
        ],
    },
}
SGLANG: dict[str, Any] = {
    "root": [at("EventLoop.event_loop")],
    "step": [at("EventLoop.event_loop")],
    "counter": [{"path": "forward_ct", "kind": "int"}],
    "end": {"none": "last_batch"},
    "batch": {
        "frame": "root",
        "local": "batch",
        "fields": [
            field("number", "number"),
            field("mode", "forward_mode", "enum", values=["DECODE", "EXTEND"]),
            field("requests", "reqs", "len"),
            field("extend", "extend_num_tokens"),
        ],
    },
}


@dataclass
class Event:
    kind: int
    code: int
    counter: int
    at_ns: int
    payload: tuple[int, ...]


@dataclass
class Reading:
    """What the sampler told of one run, and what the engine wrote down."""

    events: list[Event]
    truth: list[dict[str, int | None]]
    stats: dict[str, int]
    names: list[str]

    def of_kind(self, kind: int) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def batches(self) -> list[dict[str, int | None]]:
        import latencyprism_native as native

        rows = []
        for event in self.of_kind(native.BATCH):
            named = dict(zip(self.names, event.payload, strict=True))
            rows.append({n: None if v == native.UNKNOWN else v for n, v in named.items()})
        return rows


def unpack(data: bytes) -> Iterator[Event]:
    import latencyprism_native as native

    header, at = struct.Struct(native.EVENT_HEADER), 0
    while at < len(data):
        kind, _, words, code, counter, at_ns, _ = header.unpack_from(data, at)
        at += header.size
        payload = struct.unpack_from(f"<{words}q", data, at)
        at += 8 * words
        yield Event(kind, code, counter, at_ns, payload)


def start(interpreter: Interpreter, kind: str, truth: Path) -> subprocess.Popen[str]:
    ours = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    return subprocess.Popen(
        [interpreter.command, str(SCRIPT), kind, str(truth)],
        env=ours | interpreter.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read(
    version: str,
    kind: str,
    spec: dict[str, Any],
    folder: Path,
    check: Callable[[int, Any], None] = lambda pid, sampler: None,
) -> Reading:
    """Run the engine under the sampler from its first iteration to its last."""
    import latencyprism_native as native

    try:
        interpreter = of_version(version)
    except PythonUnavailableError as error:
        pytest.skip(str(error))
    path = folder / "truth"
    events: list[Event] = []
    with start(interpreter, kind, path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sampler = None
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.05)
            sampler = native.Sampler(
                process.pid, json.dumps(spec), poll_hz=2000, stack_hz=100, realtime=True
            )
            sampler.start()
            # The first look must come before the first iteration.
            time.sleep(0.1)
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            time.sleep(0.1)
            check(process.pid, sampler)
            sampler.stop()
            while data := sampler.poll(0.0):
                events += unpack(data)
            stats = sampler.stats()
        finally:
            process.kill()
            if sampler is not None:
                sampler.stop()
    truth = [json.loads(line) for line in path.read_text().splitlines()]
    names = [one["name"] for one in spec["batch"]["fields"] + spec.get("gauges", [])]
    return Reading(events, truth, stats, names)


def check_batches(reading: Reading, at_least: float = 0.8) -> None:
    """Compare each batch that was read with what the engine wrote down of it."""
    written = {row["number"]: row for row in reading.truth}
    batches = reading.batches()
    assert len(batches) >= at_least * ITERATIONS
    numbers = [batch["number"] for batch in batches]
    assert len(set(numbers)) == len(numbers)
    for batch in batches:
        truth = written[batch["number"]]
        assert {name: truth.get(name, batch[name]) for name in batch} == batch


def check_calls(reading: Reading) -> None:
    """No call may be counted twice, and next to none may be missed."""
    import latencyprism_native as native

    assert len(reading.truth) == ITERATIONS
    [attached] = [e for e in reading.of_kind(native.STATE) if e.code == native.STATE_ATTACHED]
    assert attached.payload == (-1, 2)
    assert reading.stats["rung"] == 2
    begins = [event.counter for event in reading.of_kind(native.BEGIN)]
    assert begins == list(range(1, len(begins) + 1))
    assert 0.95 * ITERATIONS <= len(begins) <= ITERATIONS


def check_counted(reading: Reading) -> None:
    import latencyprism_native as native

    assert len(reading.truth) == ITERATIONS
    [attached] = [e for e in reading.of_kind(native.STATE) if e.code == native.STATE_ATTACHED]
    assert attached.payload == (0, 1)
    begins = reading.of_kind(native.BEGIN)
    assert len(begins) + sum(event.code for event in begins) == ITERATIONS
    assert len(begins) >= 0.95 * ITERATIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_calls_of_a_coroutine_are_told_apart_by_their_start(version: str, tmp_path: Path) -> None:
    reading = read(version, "tgi", TGI, tmp_path)
    check_calls(reading)
    check_batches(reading)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_float_tells_the_calls_of_a_function_apart(version: str, tmp_path: Path) -> None:
    import latencyprism_native as native

    reading = read(version, "v0", V0, tmp_path)
    check_calls(reading)
    check_batches(reading)
    # The step around the call is the iteration, so it ends later than the call.
    assert len(reading.of_kind(native.END)) <= ITERATIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_coroutine_that_is_resumed_stays_one_call(version: str, tmp_path: Path) -> None:
    reading = read(version, "lmdeploy", LMDEPLOY, tmp_path)
    check_calls(reading)
    check_batches(reading)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_overlapped_iteration_ends_with_the_next_or_when_the_queue_is_empty(
    version: str, tmp_path: Path
) -> None:
    import latencyprism_native as native

    reading = read(version, "overlap", OVERLAP, tmp_path)
    check_counted(reading)
    check_batches(reading)
    for event, batch in zip(reading.of_kind(native.BATCH), reading.batches(), strict=True):
        assert event.counter == batch["number"]
    last_of_bursts = [ITERATIONS // BURSTS * burst for burst in range(1, BURSTS + 1)]
    assert [event.counter for event in reading.of_kind(native.END)] == last_of_bursts


@pytest.mark.parametrize("version", VERSIONS)
def test_a_loop_that_is_never_left_ends_its_iteration_by_a_none(
    version: str, tmp_path: Path
) -> None:
    import latencyprism_native as native

    reading = read(version, "sglang", SGLANG, tmp_path)
    check_counted(reading)
    check_batches(reading)
    for event, batch in zip(reading.of_kind(native.BATCH), reading.batches(), strict=True):
        assert event.counter == batch["number"]
    last_of_bursts = [ITERATIONS // BURSTS * burst for burst in range(1, BURSTS + 1)]
    assert [event.counter for event in reading.of_kind(native.END)] == last_of_bursts


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fast_stacks_are_compared_with_py_spys(version: str, tmp_path: Path) -> None:
    def wait(pid: int, sampler: Any) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not sampler.stats()["self_check"] and time.monotonic() < deadline:
            time.sleep(0.05)

    reading = read(version, "v0", V0, tmp_path, wait)
    assert reading.stats["self_check"] == 1
    assert reading.stats["stack_failures"] <= 0.1 * reading.stats["stacks"]


def test_reading_one_batch_takes_few_system_calls(tmp_path: Path) -> None:
    without = {key: value for key, value in OVERLAP.items() if key != "batch"}
    step = [at("EngineCore.step_with_batch_queue")]
    fields = {"local": "x", "fields": []}
    plain = read("3.11", "overlap", {**without, "step": step, "batch": fields}, tmp_path)
    path = tmp_path / "batches"
    path.mkdir()
    reading = read("3.11", "overlap", OVERLAP, path)
    per_poll = plain.stats["syscalls"] / plain.stats["polls"]
    of_batches = reading.stats["syscalls"] - per_poll * reading.stats["polls"]
    assert of_batches / reading.stats["batch_reads"] <= 16
