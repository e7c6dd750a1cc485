"""What the native sampler reads of each CPython equals what the process itself wrote down."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.collectors.engine import needs_native
from tests.pythons import interpreters
from tests.pythons.interpreters import VERSIONS, Interpreter, PythonUnavailableError

pytestmark = [pytest.mark.process, needs_native]

SCRIPT = Path(__file__).parent / "tiny_engine.py"
FILE = "collectors/tiny_engine.py"
STEP_SECONDS = 0.008
SECONDS = 1.0

FIELDS = [
    ("step", "step", "int"),
    ("requests", "tokens", "len"),
    ("token_sum", "tokens", "sum"),
    ("general_sum", "general", "sum"),
    ("slotted_tokens", "requests[].tokens", "sum"),
    ("slotted_computed", "requests[].computed", "sum"),
    ("entry_tokens", "entries[].tokens", "sum"),
    ("length_max", "lengths", "max"),
    ("done", "done", "len"),
    ("recent", "recent", "len"),
    ("mode", "mode", "int"),
    ("flag", "flag", "int"),
    ("large", "large", "int"),
    ("negative", "negative", "int"),
    ("huge", "huge", "int"),
    ("unset", "unset", "int"),
    ("absent", "absent", "len"),
]
GAUGES = [
    ("fifo", "scheduler.fifo", "len"),
    ("heap", "scheduler.heap", "len"),
    ("level", "level", "int"),
    ("two_heaps", "two_heaps", "len"),
    ("unsized", "unsized", "len"),
]
NAMES = [name for name, _, _ in FIELDS + GAUGES]
SPEC: dict[str, Any] = {
    "root": [
        {"file": FILE, "function": "Core.run_busy_loop"},
        {"file": FILE, "function": "CapturedCore.run_busy_loop"},
    ],
    "step": [
        {"file": FILE, "function": "Core.step"},
        {"file": FILE, "function": "CapturedCore.step"},
        {"file": FILE, "function": "PairedCore.step"},
    ],
    "counter": [{"path": "scheduler.step", "kind": "int"}],
    "batch": {
        "local": "batch",
        "fields": [{"name": n, "path": p, "reduce": r} for n, p, r in FIELDS],
    },
    "gauges": [{"name": n, "path": p, "reduce": r} for n, p, r in GAUGES],
    "phases": [
        {"phase": "write", "file": FILE, "function": "Core.write"},
        {"phase": "step", "file": FILE, "function": "Core.step"},
        {"phase": "step", "file": FILE, "function": "CapturedCore.step"},
        {"phase": "step", "file": FILE, "function": "PairedCore.step"},
    ],
}
BY_POINTER = SPEC | {"counter": [{"path": "scheduler.finished", "kind": "pointer"}]}

Truth = dict[int, dict[str, int | None]]


@dataclass
class Event:
    kind: int
    code: int
    counter: int
    payload: tuple[int, ...]


@dataclass
class Reading:
    """What the sampler told of one process, and what that process wrote down."""

    python_version: str
    events: list[Event]
    truth: Truth
    stacks: str

    def of_kind(self, kind: int) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def had(find: Callable[[str], Interpreter], version: str) -> Interpreter:
    try:
        return find(version)
    except PythonUnavailableError as error:
        pytest.skip(str(error))


def unpack(data: bytes) -> Iterator[Event]:
    import latencyprism_native as native

    header, at = struct.Struct(native.EVENT_HEADER), 0
    while at < len(data):
        kind, _, words, code, counter, _, _ = header.unpack_from(data, at)
        at += header.size
        payload = struct.unpack_from(f"<{words}q", data, at)
        at += 8 * words
        # The header has it as 64 bits without a sign.
        signed = counter - 2**64 if counter >= 2**63 else counter
        yield Event(kind, code, signed, payload)


@contextmanager
def engine(interpreter: Interpreter, mode: str, truth: Path) -> Iterator[int]:
    process = interpreter.start(str(SCRIPT), mode, str(truth), str(STEP_SECONDS))
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()


def read_truth(path: Path) -> Truth:
    lines = path.read_text().splitlines(keepends=True)
    steps = [json.loads(line) for line in lines if line.endswith("\n")]
    return {step["step"]: step for step in steps}


def read(interpreter: Interpreter, mode: str, folder: Path, spec: dict[str, Any] = SPEC) -> Reading:
    import latencyprism_native as native

    truth = folder / "truth"
    events: list[Event] = []
    with ExitStack() as stack:
        pid = stack.enter_context(engine(interpreter, mode, truth))
        sampler = native.Sampler(pid, json.dumps(spec), poll_hz=2000, realtime=True)
        stack.callback(sampler.stop)
        sampler.start()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            events += unpack(sampler.poll(0.1))
        stacks = native.dump_stacks(pid)
        # The step that was read last must have been written down.
        time.sleep(3 * STEP_SECONDS)
    return Reading(sampler.python_version, events, read_truth(truth), stacks)


def check_batches(reading: Reading) -> None:
    import latencyprism_native as native

    batches = reading.of_kind(native.BATCH)
    assert len(batches) >= 0.8 * len(reading.of_kind(native.BEGIN)) > 20
    for event in batches:
        named = dict(zip(NAMES, event.payload, strict=True))
        known = {n: None if value == native.UNKNOWN else value for n, value in named.items()}
        step = named["step"]
        assert known == reading.truth[step]


@pytest.mark.parametrize("mode", ["large", "small", "slotted", "captured", "paired"])
@pytest.mark.parametrize("version", VERSIONS)
def test_counters_and_batches_are_what_the_engine_wrote_down(
    version: str, mode: str, tmp_path: Path
) -> None:
    import latencyprism_native as native

    interpreter = had(interpreters.of_version, version)
    reading = read(interpreter, mode, tmp_path)
    assert reading.python_version == interpreter.release
    check_batches(reading)
    for event in reading.of_kind(native.BATCH):
        assert event.counter == event.payload[0]
    begins = reading.of_kind(native.BEGIN)
    counted = len(begins) + sum(event.code for event in begins)
    assert counted == begins[-1].counter - reading.events[0].counter
    told = [event.code for event in reading.of_kind(native.STATE)]
    assert native.STATE_SLOT_LOST not in told


@pytest.mark.parametrize("version", VERSIONS)
def test_a_replaced_object_counts_as_an_iteration(version: str, tmp_path: Path) -> None:
    import latencyprism_native as native

    reading = read(had(interpreters.of_version, version), "small", tmp_path, BY_POINTER)
    check_batches(reading)
    begins = [event.counter for event in reading.of_kind(native.BEGIN)]
    assert begins == list(range(1, len(begins) + 1))


@pytest.mark.parametrize("version", VERSIONS)
def test_stacks_name_the_phase(version: str, tmp_path: Path) -> None:
    import latencyprism_native as native

    reading = read(had(interpreters.of_version, version), "large", tmp_path)
    phases = [event.payload[0] for event in reading.of_kind(native.STACK)]
    assert phases.count(1) > 0.5 * len(phases) > 10
    assert phases.count(native.PHASE_TORN) < 0.1 * len(phases)
    (main,) = json.loads(reading.stacks)
    names = [frame["name"] for frame in main["frames"]]
    assert names[-3:] == ["Core.run_busy_loop", "main", "<module>"]


def test_an_older_version_is_refused_and_the_text_names_those_that_are_read(
    tmp_path: Path,
) -> None:
    import latencyprism_native as native

    interpreter = had(interpreters.installed, "3.10")
    with (
        engine(interpreter, "large", tmp_path / "truth") as pid,
        pytest.raises(native.UnsupportedPython, match=r"runs Python 3\.10.*CPython 3\.11 to 3\.14"),
    ):
        native.Sampler(pid, json.dumps(SPEC)).start()


@pytest.mark.parametrize("version", VERSIONS)
def test_another_patch_release_is_read_too(version: str, tmp_path: Path) -> None:
    interpreter = had(interpreters.downloaded, version)
    try:
        if interpreters.installed(version).release == interpreter.release:
            pytest.skip(f"the installed python{version} is {interpreter.release} as well")
    except PythonUnavailableError:
        pytest.skip("the downloaded one is read by the other tests")
    reading = read(interpreter, "small", tmp_path)
    assert reading.python_version == interpreter.release
    check_batches(reading)
