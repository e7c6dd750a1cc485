"""The extension on real processes: tiny engines under tests/targets."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

native = pytest.importorskip(
    "latencyprism_native", reason="pip install ./collectors/native to test it"
)

TARGETS = Path(__file__).parent / "targets"
HEADER = struct.Struct(native.EVENT_HEADER)
FIELDS = [
    ("scheduled_tokens", "total_num_scheduled_tokens", "int"),
    ("requests", "num_scheduled_tokens", "len"),
    ("token_sum", "num_scheduled_tokens", "sum"),
    ("token_max", "num_scheduled_tokens", "max"),
    ("prefill_tokens", "num_scheduled_tokens", "sum_above_one"),
    ("decode_requests", "num_scheduled_tokens", "count_one"),
    ("new_requests", "scheduled_new_reqs", "len"),
    ("computed_cached", "scheduled_cached_reqs.num_computed_tokens", "sum"),
    ("computed_new", "scheduled_new_reqs[].num_computed_tokens", "sum"),
    ("text", "scheduled_new_reqs[].req_id", "sum"),
    ("absent", "no_such_attribute", "int"),
    ("nothing", "nothing", "len"),
]
GAUGES = [
    ("waiting_requests", "scheduler.waiting", "len"),
    ("running_requests", "scheduler.running", "len"),
]
FILE = "targets/engine/core.py"
SPEC: dict[str, Any] = {
    "root": [
        {"file": FILE, "function": "EngineCoreProc.run_busy_loop"},
        {"file": FILE, "function": "CapturedCoreProc.run_busy_loop"},
    ],
    "step": [
        {"file": FILE, "function": "EngineCore.step"},
        {"file": FILE, "function": "EngineCore.step_with_batch_queue"},
        {"file": FILE, "function": "CapturedCoreProc.step"},
    ],
    "counter": [
        {"path": "scheduler.current_step", "kind": "int"},
        {"path": "scheduler.finished_req_ids", "kind": "pointer"},
    ],
    "batch": {
        "local": "scheduler_output",
        "queued": "batch_queue",
        "fields": [{"name": n, "path": p, "reduce": r} for n, p, r in FIELDS],
    },
    "gauges": [{"name": n, "path": p, "reduce": r} for n, p, r in GAUGES],
    "phases": [
        {"phase": "schedule", "file": FILE, "function": "Scheduler.schedule"},
        {"phase": "forward", "file": FILE, "function": "Executor.execute"},
        {"phase": "idle", "file": FILE, "function": "EngineCoreProc._process_input_queue"},
    ],
}
NAMES = [name for name, _, _ in FIELDS + GAUGES]


@dataclass
class Event:
    kind: int
    flags: int
    code: int
    counter: int
    at_ns: int
    gap_ns: int
    payload: tuple[int, ...] = field(default=())

    def named(self) -> dict[str, int]:
        return dict(zip(NAMES, self.payload, strict=True))


def unpack(data: bytes) -> list[Event]:
    events, at = [], 0
    while at < len(data):
        kind, flags, words, *rest = HEADER.unpack_from(data, at)
        at += HEADER.size
        payload = struct.unpack_from(f"<{words}q", data, at)
        at += 8 * words
        code, counter, at_ns, gap_ns = rest
        events.append(Event(kind, flags, code, counter, at_ns, gap_ns, payload))
    return events


def collect(sampler: Any, seconds: float) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and sampler.alive:
        events += unpack(sampler.poll(min(left, 0.2)))
    return events


def of_kind(events: list[Event], kind: int) -> list[Event]:
    return [event for event in events if event.kind == kind]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a target and wait until it says that it is ready."""
    running: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: object) -> subprocess.Popen[str]:
        target = subprocess.Popen(
            [sys.executable, str(TARGETS / name), *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(target)
        assert target.stdout is not None
        assert target.stdout.readline() == "ready\n"
        time.sleep(0.1)
        return target

    yield start
    for target in running:
        target.kill()
        target.wait()
        assert target.stdout is not None
        target.stdout.close()


@pytest.fixture
def sample() -> Iterator[Callable[..., Any]]:
    """Make samplers that are stopped at the end."""
    made: list[Any] = []

    def sample(pid: int, spec: dict[str, Any] = SPEC, **options: int) -> Any:
        # Where it is allowed: a busy machine must not decide what these tests say.
        sampler = native.Sampler(pid, json.dumps(spec), **{"realtime": True} | options)
        made.append(sampler)
        sampler.start()
        return sampler

    yield sample
    for sampler in made:
        sampler.stop()


def check_batch(event: Event) -> None:
    """What the target's scheduler puts together for this step number."""
    step, batch = event.counter, event.named()
    new = step % 3 == 0
    assert batch == {
        "scheduled_tokens": 3 + step * new,
        "requests": 3 + new,
        "token_sum": 3 + step * new,
        "token_max": step if new else 1,
        "prefill_tokens": step if new and step > 1 else 0,
        "decode_requests": 3,
        "new_requests": int(new),
        "computed_cached": step + 1 + 2**40,
        "computed_new": (1000 + step) * new,
        "text": native.UNKNOWN if new else 0,
        "absent": native.UNKNOWN,
        "nothing": native.UNKNOWN,
        "waiting_requests": 3,
        "running_requests": 5,
    }


def test_every_iteration_is_counted_and_its_batch_is_right(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.008, 0.05)
    events = collect(sample(engine.pid), 2.0)
    assert events[0].kind == native.STATE
    assert (events[0].code, events[0].payload) == (native.STATE_ATTACHED, (0, 1))
    begins = of_kind(events, native.BEGIN)
    assert len(begins) > 60
    counted = len(begins) + sum(event.code for event in begins)
    assert counted == begins[-1].counter - events[0].counter
    assert sum(event.code for event in begins) <= counted // 20
    batches = of_kind(events, native.BATCH)
    assert len(batches) >= 0.9 * len(begins)
    assert len({event.counter for event in batches}) == len(batches)
    for event in batches:
        check_batch(event)


def test_edges_lie_between_polls_and_in_order(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.008, 0.05)
    before = native.monotonic_ns()
    events = collect(sample(engine.pid), 1.0)
    edges = [e for e in events if e.kind in (native.BEGIN, native.END)]
    times = [e.at_ns for e in edges]
    assert times == sorted(times)
    assert before < times[0] < times[-1] < native.monotonic_ns()
    assert all(e.gap_ns > 0 for e in edges)
    assert sorted(e.gap_ns for e in edges)[len(edges) // 2] < 5_000_000


def test_the_end_of_a_step_before_an_idle_time_is_seen(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.004, 0.1)
    events = collect(sample(engine.pid), 2.0)
    begins = {e.counter: e.at_ns for e in of_kind(events, native.BEGIN)}
    ends = {e.counter: e.at_ns for e in of_kind(events, native.END)}
    idle = [n for n in begins if n % 40 == 0 and n + 1 in begins]
    assert idle
    seen = [n for n in idle if n in ends]
    assert len(seen) >= 0.8 * len(idle)
    for number in seen:
        assert begins[number] <= ends[number] < begins[number + 1] - 50_000_000


def test_stacks_name_the_phase_nearest_to_the_leaf(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.01, 0.4)
    events = collect(sample(engine.pid, stack_hz=200), 2.0)
    stacks = of_kind(events, native.STACK)
    assert len(stacks) > 100
    counts = dict.fromkeys(range(-2, 3), 0)
    for event in stacks:
        (phase,) = event.payload
        counts[phase] += 1
        if phase == 1:
            assert event.flags & native.FLAG_INSIDE_STEP
        if phase == 2:
            assert not event.flags & native.FLAG_INSIDE_STEP
    assert counts[1] > 0.2 * len(stacks)
    assert counts[2] > 0.2 * len(stacks)
    assert counts[native.PHASE_TORN] < 0.05 * len(stacks)


def test_an_idle_engine_can_be_attached_to(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.01, 1.0)
    events = collect(sample(engine.pid), 2.5)
    assert events[0].code == native.STATE_ATTACHED
    assert of_kind(events, native.BATCH)


def test_a_replaced_object_counts_as_an_iteration(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.01, 0.05)
    spec = SPEC | {
        "counter": [
            {"path": "scheduler.no_such_counter", "kind": "int"},
            {"path": "scheduler.finished_req_ids", "kind": "pointer"},
        ]
    }
    events = collect(sample(engine.pid, spec), 1.5)
    assert events[0].payload == (1, 1)
    begins = of_kind(events, native.BEGIN)
    assert [e.counter for e in begins] == list(range(1, len(begins) + 1))
    assert len(of_kind(events, native.BATCH)) >= 0.9 * len(begins)


def test_an_overlapped_step_never_shows_the_older_batch(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.012, 0.05, "overlap")
    events = collect(sample(engine.pid), 2.0)
    batches = of_kind(events, native.BATCH)
    assert len(batches) >= 0.8 * len(of_kind(events, native.BEGIN))
    for event in batches:
        check_batch(event)


def test_an_overlapped_batch_is_found_in_the_queue(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.012, 0.05, "late")
    events = collect(sample(engine.pid), 2.0)
    batches = of_kind(events, native.BATCH)
    assert len(batches) >= 0.8 * len(of_kind(events, native.BEGIN))
    for event in batches:
        check_batch(event)


def test_a_loop_that_was_left_is_found_again(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.01, 0.01)
    sampler = sample(engine.pid)
    collect(sampler, 0.5)
    engine.send_signal(signal.SIGUSR2)
    events = collect(sampler, 2.5)
    codes = [e.code for e in of_kind(events, native.STATE) if e.code != native.STATE_LAGGING]
    assert codes == [native.STATE_SLOT_LOST, native.STATE_ATTACHED]
    found = next(e for e in events if e.code == native.STATE_ATTACHED and e.kind == native.STATE)
    begins = [e for e in of_kind(events, native.BEGIN) if e.at_ns > found.at_ns]
    assert begins[0].counter == found.counter + 1 + begins[0].code


def test_real_time_priority_is_asked_for_and_a_refusal_is_no_error(
    start: Start, sample: Any
) -> None:
    engine = start("engine/core.py", 0.01, 0.05)
    sampler = sample(engine.pid)
    assert of_kind(collect(sampler, 0.5), native.BEGIN)
    assert sampler.stats()["realtime"] in (0, 1)


def test_captured_variables_are_followed(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.01, 0.05, "captured")
    events = collect(sample(engine.pid), 1.5)
    batches = of_kind(events, native.BATCH)
    assert len(batches) >= 0.8 * len(of_kind(events, native.BEGIN))
    for event in batches:
        check_batch(event)


def test_a_growing_object_does_not_lose_the_counter(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.01, 0.05)
    sampler = sample(engine.pid)
    events = collect(sampler, 0.5)
    engine.send_signal(signal.SIGUSR1)
    events += collect(sampler, 1.0)
    assert sampler.stats()["resolves"] > 1
    begins = of_kind(events, native.BEGIN)
    counted = len(begins) + sum(event.code for event in begins)
    assert counted == begins[-1].counter - events[0].counter
    assert not [e for e in events if e.kind == native.STATE and e.code == native.STATE_SLOT_LOST]


def test_a_dead_process_ends_the_reading_with_a_state(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.01, 0.05)
    sampler = sample(engine.pid)
    collect(sampler, 0.3)
    engine.kill()
    engine.wait()
    events = collect(sampler, 5.0)
    events += unpack(sampler.poll(1.0))
    assert (events[-1].kind, events[-1].code) == (native.STATE, native.STATE_PROCESS_GONE)
    assert not sampler.alive
    assert "gone" in sampler.last_error()
    assert sampler.poll(60.0) == b""


def test_attaching_tells_what_is_wrong_and_what_to_do(start: Start, tmp_path: Path) -> None:
    idle = start("idle.py")
    with pytest.raises(native.AnchorMissing, match=r"run_busy_loop.*correct"):
        native.Sampler(idle.pid, json.dumps(SPEC)).start()
    engine = start("engine/core.py", 0.01, 0.05)
    wrong = SPEC | {"counter": [{"path": "scheduler.stepp", "kind": "int"}]}
    with pytest.raises(native.AnchorMissing, match=r"scheduler\.stepp"):
        native.Sampler(engine.pid, json.dumps(wrong)).start()
    with subprocess.Popen(["sleep", "30"]) as sleep:
        with pytest.raises(native.UnsupportedPython, match="/metrics"):
            native.Sampler(sleep.pid, json.dumps(SPEC)).start()
        sleep.kill()
    with pytest.raises(native.ProcessGone, match="discover"):
        native.Sampler(sleep.pid, json.dumps(SPEC)).start()
    with pytest.raises(native.ProcessGone):
        native.dump_stacks(sleep.pid)


def test_a_refusal_names_the_capability(start: Start) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user: sudo pytest")
    engine = start("engine/core.py", 0.01, 0.05)
    code = (
        "import os, sys, latencyprism_native as native\n"
        "spec = sys.stdin.read()\n"
        "os.setgid(65534), os.setuid(65534)\n"
        "try:\n"
        "    native.Sampler(int(sys.argv[1]), spec).start()\n"
        "except native.PermissionRefused as error:\n"
        "    print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(engine.pid)],
        input=json.dumps(SPEC),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CAP_SYS_PTRACE" in answer.stdout
    assert "shareProcessNamespace" in answer.stdout


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("{}", "root"),
        ("not json", "not valid"),
        (json.dumps(SPEC | {"colour": 1}), "colour"),
        (json.dumps(SPEC | {"counter": [{"path": "a b", "kind": "int"}]}), "a b"),
        (json.dumps(SPEC | {"counter": [{"path": "a", "kind": "float"}]}), "float"),
    ],
)
def test_a_bad_spec_is_refused_by_name(spec: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        native.Sampler(1, spec)


@pytest.mark.parametrize(
    "options", [{"poll_hz": 0}, {"poll_hz": 99999}, {"stack_hz": 2000}, {"queue_capacity": 1}]
)
def test_impossible_numbers_are_refused_by_name(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        native.Sampler(1, json.dumps(SPEC), **options)


def test_polling_waits_without_the_gil(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.001, 3.0)
    sampler = sample(engine.pid, stack_hz=0)
    collect(sampler, 0.2)
    while sampler.poll(0.2):
        pass
    began = time.monotonic()
    turns = 0
    waiter = threading.Thread(target=sampler.poll, args=(0.5,))
    waiter.start()
    while waiter.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns > 50
    assert time.monotonic() - began < 2.0


def test_a_sampler_must_be_started_and_is_started_once(start: Start, sample: Any) -> None:
    with pytest.raises(native.SamplerError, match="call start"):
        native.Sampler(1, json.dumps(SPEC)).poll(0.0)
    engine = start("engine/core.py", 0.01, 0.05)
    sampler = sample(engine.pid)
    with pytest.raises(native.SamplerError, match="new Sampler"):
        sampler.start()
    assert sampler.python_version.startswith("3.11.")


def test_stopping_twice_is_harmless_and_hands_out_the_rest(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.005, 0.05)
    sampler = sample(engine.pid)
    time.sleep(0.3)
    sampler.stop()
    sampler.stop()
    assert not sampler.alive
    assert of_kind(unpack(sampler.poll(0.0)), native.BEGIN)
    assert sampler.poll(60.0) == b""
    assert sampler.last_error() is None


def test_a_slow_reader_loses_the_oldest_events_and_is_told(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.002, 0.0)
    sampler = sample(engine.pid, queue_capacity=16)
    time.sleep(1.0)
    sampler.stop()
    events = unpack(sampler.poll(0.0))
    assert len(events) == 16
    assert sampler.stats()["dropped_events"] > 0


def test_the_rates_can_change_and_the_cost_is_small(start: Start, sample: Any) -> None:
    engine = start("engine/core.py", 0.008, 0.05)
    sampler = sample(engine.pid)
    collect(sampler, 2.0)
    stats = sampler.stats()
    assert stats["polls"] > 1000
    assert stats["thread_cpu_ns"] < 0.1 * 2e9
    sampler.set_rates(50, 10)
    collect(sampler, 0.2)
    before = sampler.stats()["polls"]
    collect(sampler, 1.0)
    assert 25 <= sampler.stats()["polls"] - before <= 75


def test_all_stacks_are_dumped_as_json(start: Start) -> None:
    engine = start("engine/core.py", 0.01, 2.0)
    threads = json.loads(native.dump_stacks(engine.pid))
    (main,) = threads
    assert set(main) == {"thread_id", "thread_name", "os_thread_id", "active", "frames"}
    names = [frame["name"] for frame in main["frames"]]
    assert "EngineCoreProc.run_busy_loop" in names
    assert names[-1] == "<module>"
    assert main["frames"][-1]["filename"].endswith("engine/core.py")
