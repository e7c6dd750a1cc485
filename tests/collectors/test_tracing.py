"""Kernel tracing: what bpftrace prints, how it is run, and, where this host lets it, for real."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collectors import tracing
from collectors.discovery import EngineProcess, Process
from collectors.host.reading import Traced
from collectors.tracing import (
    FUNCTIONS,
    MOST_CALLS_PER_SECOND,
    Call,
    Output,
    Second,
    Tracer,
    explain,
    find_libraries,
    make_program,
    parse_libraries,
    quantile,
    traced_of,
)

# Printed by bpftrace 0.17 for the program of make_program, shortened.
PRINTED = """\
{"type": "attached_probes", "data": {"probes": 6}}
{"type": "hist", "data": {"@waits": {"1": [{"min": 1024, "max": 2047, "count": 90}, \
{"min": 2048, "max": 4095, "count": 0}, {"min": 1048576, "max": 2097151, "count": 10}], \
"2": [{"min": 0, "max": 1, "count": 4}]}}}
{"type": "stats", "data": {"@calls": {"1,ncclAllReduce": {"count": 4, "average": 2000000, \
"total": 8000000}, "2,cudaGraphLaunch": {"count": 2, "average": 10000, "total": 20000}}}}
{"type": "printf", "data": "tick\\n"}


{"type": "printf", "data": "tick\\n"}
"""
ONE_SECOND = PRINTED.partition("tick")[0] + 'tick\\n"}\n'
ENDS = '{"type": "map", "data": {"@ours": {"22394": 1}}}\n'


def engine(*pids: int) -> EngineProcess:
    processes = [
        Process(pid=pid, parent_pid=1, start_ticks=1, arguments=("engine",)) for pid in pids
    ]
    return EngineProcess(
        framework="vllm", name=str(pids[0]), core=processes[0], others=tuple(processes[1:])
    )


def feed(text: str) -> list[dict[int, Second]]:
    output = Output()
    seconds = [output.feed(line) for line in text.splitlines()]
    return [second for second in seconds if second is not None]


def test_each_second_has_the_waits_and_calls_of_each_engine() -> None:
    first, second = feed(PRINTED)
    assert set(first) == {1, 2}
    assert first[1].calls == {"ncclAllReduce": (4, 8_000_000)}
    assert first[2].waits == [(0, 1, 4)]
    assert second == {}


def test_what_is_printed_at_the_end_is_no_second() -> None:
    assert feed(ENDS) == []


@pytest.mark.parametrize("line", ["ERROR: no", '{"a": 1}', "[1]", "12"])
def test_what_bpftrace_says_itself_is_told_apart(line: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the text is the line
        Output().feed(line)
    assert str(caught.value) == line


def test_a_second_has_quantiles_in_seconds_and_the_mean_of_each_call() -> None:
    traced = traced_of(feed(PRINTED)[0][1])
    assert traced.run_queue_latency_p50_seconds == pytest.approx(1.6e-6, rel=0.01)
    # Nine tenths into the bucket from 1 to 2 ms.
    assert traced.run_queue_latency_p99_seconds == pytest.approx(1.99e-3, rel=0.01)
    assert traced.calls == {"ncclAllReduce": 0.002}


def test_a_second_without_a_wait_has_unknown_quantiles() -> None:
    traced = traced_of(Second())
    assert traced.run_queue_latency_p50_seconds is None
    assert traced.run_queue_latency_p99_seconds is None
    assert traced.calls == {}


def test_a_quantile_lies_within_its_bucket() -> None:
    buckets = [(0, 1, 1), (2, 3, 2), (4, 7, 1)]
    for share in (0.0, 0.25, 0.5, 0.75, 0.99, 1.0):
        found = quantile(buckets, share)
        assert found is not None
        assert 0 <= found <= 8
    assert quantile([], 0.5) is None
    assert quantile([(4, 7, 0)], 0.5) is None


def test_libraries_are_known_by_their_names_wherever_they_lie() -> None:
    maps = "\n".join(
        f"7f00-7f01 {rights} 00000000 00:1b 77 {path}"
        for rights, path in [
            ("r--p", "/usr/lib/libcuda.so.1"),
            ("r-xp", "/usr/lib/libcuda.so.550.54"),
            ("r-xp", "/v/nvidia/cuda_runtime/lib/libcudart.so.12"),
            ("r-xp", "/v/torch/lib/libcudart-d0da41ae.so.11.0"),
            ("r-xp", "/v/nvidia/nccl/lib/libnccl.so.2"),
            ("r-xp", "/usr/lib/libnccl-net.so"),
            ("r-xp", "/usr/lib/librccl.so.1 (deleted)"),
            ("r-xp", "/opt/rocm/lib/libamdhip64.so.6"),
            ("r-xp", "[vdso]"),
        ]
    )
    assert parse_libraries(maps + "\n7f00-7f01 r-xp 0 0:0 0\n") == {
        "libcuda": "/usr/lib/libcuda.so.550.54",
        "libcudart": "/v/nvidia/cuda_runtime/lib/libcudart.so.12",
        "libnccl": "/v/nvidia/nccl/lib/libnccl.so.2",
        "libamdhip64": "/opt/rocm/lib/libamdhip64.so.6",
    }


def test_a_library_that_several_processes_share_is_traced_once(tmp_path: Path) -> None:
    library = tmp_path / "libnccl.so.2"
    library.write_text("")
    for pid in (7, 8, 9):
        (tmp_path / f"{pid}/root").mkdir(parents=True)
        (tmp_path / f"{pid}/maps").write_text("7f00-7f01 r-xp 0 0:0 1 /lib/libnccl.so.2\n")
    for pid in (7, 8):
        (tmp_path / f"{pid}/root/lib").mkdir()
        (tmp_path / f"{pid}/root/lib/libnccl.so.2").hardlink_to(library)
    assert find_libraries([7, 8, 9, 10], tmp_path) == {
        f"{tmp_path}/7/root/lib/libnccl.so.2": "libnccl"
    }


@pytest.mark.parametrize("odd", ['a" {system("x")}', "a b", "a\\", "a*", "ä", "a:b"])
def test_a_path_that_could_end_its_quotes_never_gets_into_the_program(
    tmp_path: Path, odd: str
) -> None:
    path = f"/lib/{odd}/libnccl.so"
    assert "uprobe" not in make_program([[11]], [Call(path, "ncclAllReduce")])
    (tmp_path / f"7/root/lib/{odd}").mkdir(parents=True)
    (tmp_path / f"7/root{path}").write_text("")
    (tmp_path / "7/maps").write_text(f"7f00-7f01 r-xp 0 0:0 1 {path}\n")
    assert find_libraries([7], tmp_path) == {}


def test_the_program_tells_the_engines_apart_and_times_each_call() -> None:
    program = make_program([[11, 12], [21]], [Call("/lib/libnccl.so", "ncclAllReduce")])
    assert "pid == 21 ? 2 : (pid == 12 ? 1 : (pid == 11 ? 1 : (0)))" in program
    assert 'uretprobe:"/lib/libnccl.so":ncclAllReduce' in program
    assert "@calls" not in make_program([[11]], [])


@pytest.mark.parametrize(
    ("said", "lockdown", "expected"),
    [
        ("ERROR: bpftrace currently only supports running as the root user.", "", "as root"),
        ("ERROR: Error loading program", "none integrity [confidentiality]", "locked down"),
        ("stdin:1:1-5: ERROR: tracepoint not found: sched:sched_switch", "", "mount -t tracefs"),
        (
            "ERROR: failed to create  map: Operation not permitted",
            "",
            "capabilities BPF and PERFMON",
        ),
        ("ERROR: Failed to open perf buffer", "", "capabilities BPF and PERFMON"),
        ("ERROR: something new", "", "something new"),
        ("", "", "it said nothing"),
    ],
)
def test_a_refusal_is_explained_with_what_to_do(
    tmp_path: Path, said: str, lockdown: str, expected: str
) -> None:
    (tmp_path / "kernel/security").mkdir(parents=True)
    (tmp_path / "kernel/security/lockdown").write_text(lockdown)
    text = explain([said] if said else [], tmp_path)
    assert expected in text
    assert text.endswith("or set [collect] kernel_tracing = false")


# Running it: a command of ours in place of bpftrace.


class Fake:
    """A command that prints what bpftrace printed, and writes down how it was called."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bpftrace"
        self.starts = folder / "starts"
        self.does("")

    def does(self, then: str, printed: str = ONE_SECOND, listed: str = "") -> None:
        self.path.write_text(
            f"#!{sys.executable} -S\n"
            "import sys, time\n"
            f"open({str(self.starts)!r}, 'a').write(repr(sys.argv[1:]) + '\\n')\n"
            "if '-l' in sys.argv:\n"
            f"    print({listed!r})\n"
            "    sys.exit(0)\n"
            f"print({printed!r}, flush=True)\n"
            f"{then}\n"
        )
        self.path.chmod(0o755)

    @property
    def programs(self) -> list[str]:
        lines = self.starts.read_text().splitlines() if self.starts.exists() else []
        return [line for line in lines if "'-l'" not in line]


def wait_for(condition: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextmanager
def tracing_by(command: Path) -> Iterator[Tracer]:
    tracer = Tracer((str(command),), settle_seconds=0.0)
    tracer.start()
    try:
        yield tracer
    finally:
        tracer.stop()
    assert not any(thread.name == "tracing" for thread in threading.enumerate())


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


@pytest.mark.process
def test_what_it_prints_is_given_by_engine_until_it_is_old(fake: Fake) -> None:
    fake.does("time.sleep(600)")
    with tracing_by(fake.path) as tracer:
        tracer.follow({"h:1": engine(11), "h:2": engine(21)})
        wait_for(tracer.latest)
        latest = tracer.latest()
        assert latest["h:1"].calls == {"ncclAllReduce": 0.002}
        assert latest["h:2"].calls == {"cudaGraphLaunch": 1e-5}
        wait_for(lambda: not tracer.latest())


@pytest.mark.process
def test_other_processes_start_it_anew_and_the_same_do_not(fake: Fake) -> None:
    fake.does("time.sleep(600)")
    with tracing_by(fake.path) as tracer:
        tracer.follow({"h:1": engine(11)})
        wait_for(lambda: len(fake.programs) == 1)
        tracer.follow({"h:1": engine(11)})
        tracer.follow({"h:1": engine(11, 12)})
        wait_for(lambda: len(fake.programs) == 2)
        assert "pid == 12 ? 1" in fake.programs[1]
        tracer.follow({})
    assert len(fake.programs) == 2


@pytest.mark.process
def test_one_that_does_not_want_to_end_is_killed(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "STOP_SECONDS", 0.5)
    fake.does("import signal\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(600)")
    with tracing_by(fake.path) as tracer:
        tracer.follow({"h:1": engine(11)})
        wait_for(tracer.latest)
        time.sleep(0.2)


@pytest.mark.process
def test_a_failure_is_told_once_and_tried_again(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(tracing, "LONGEST_PAUSE_SECONDS", 0.05)
    fake.does("sys.exit(1)", "ERROR: currently only supports running as the root user.")
    with tracing_by(fake.path) as tracer:
        tracer.follow({"h:1": engine(11)})
        wait_for(lambda: len(fake.programs) >= 3)
        assert tracer.note is not None
        assert tracer.note.startswith("bpftrace runs as root only")
        fake.does("time.sleep(600)")
        wait_for(tracer.latest)
        assert tracer.note is None
    assert len([one for one in caplog.messages if "does not work" in one]) == 1


def test_a_command_that_is_missing_is_told_with_how_to_get_it(tmp_path: Path) -> None:
    with tracing_by(tmp_path / "bpftrace") as tracer:
        tracer.follow({"h:1": engine(11)})
        wait_for(lambda: tracer.note)
        assert tracer.note is not None
        assert "is not installed" in tracer.note
        assert "apt-get install bpftrace" in tracer.note


@pytest.mark.process
def test_a_function_that_is_called_too_often_is_traced_no_longer(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FUNCTIONS, "libc", ("usleep", "read"))
    often = ONE_SECOND.replace("ncclAllReduce", "usleep").replace(
        '"count": 4', f'"count": {MOST_CALLS_PER_SECOND + 1}'
    )
    fake.does("time.sleep(600)", often, listed="uprobe:/x:usleep\nuprobe:/x:read\nuprobe:/x:y")
    with tracing_by(fake.path) as tracer:
        tracer.follow({"h:1": engine(os.getpid())})
        wait_for(lambda: len(fake.programs) >= 2)
        assert ":usleep" in fake.programs[0]
        assert ":usleep" not in fake.programs[1]
        assert ":read" in fake.programs[1]


# For real.


def why_not() -> str | None:
    """Say why bpftrace cannot be tried here."""
    if shutil.which("bpftrace") is None:
        return "no bpftrace: apt-get install bpftrace"
    if os.geteuid() != 0:
        return "bpftrace needs root"
    done = subprocess.run(
        ["bpftrace", "-e", "tracepoint:sched:sched_switch { exit(); }"],
        capture_output=True,
        timeout=60,
    )
    if done.returncode:
        return f"bpftrace does not work here: {explain(done.stderr.decode().splitlines())}"
    return None


SLEEPER = "import ctypes\nc = ctypes.CDLL(None)\nprint(1, flush=True)\nwhile 1: c.usleep(2000)"


@pytest.mark.process
def test_a_real_process_has_waits_and_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    assert hasattr(ctypes.CDLL(None), "usleep")
    monkeypatch.setitem(FUNCTIONS, "libc", ("usleep", "no_such_function"))
    sleeper = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE)
    try:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        with tracing_by(Path("bpftrace")) as tracer:
            tracer.follow({"h:1": engine(sleeper.pid), "h:2": engine(os.getpid())})
            wait_for(lambda: "usleep" in tracer.latest().get("h:1", Traced()).calls)
            traced = tracer.latest()["h:1"]
            assert tracer.note is None
        assert 0.002 <= traced.calls["usleep"] < 0.5
        p50, p99 = traced.run_queue_latency_p50_seconds, traced.run_queue_latency_p99_seconds
        assert p50 is not None
        assert p99 is not None
        assert 0 < p50 <= p99 < 10
        # The probes are gone, and the process lives on.
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.communicate()
