"""The real part: a replica under load, watched by a real agent, made worse fault by fault."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.effects import LEAST_BATCHES, iteration_ratio, window_of
from benchmarks.gym.recorder import Recorder
from latencyprism.demo.stage import Stage
from latencyprism.demo.story import Load
from schemas.records import Fault, FaultSeverity
from schemas.topics import BATCHES
from simulator import controls, faults
from simulator.faults import Machine, Target
from simulator.injection.run import InjectionError, Refused, injected
from simulator.replica.truth import TruthIteration, read_truth
from simulator.workloads import Workload

Say = Callable[[str], None]

# The host's name in the stage's configuration.
HOST = "demo"
# A KV cache that can be filled within seconds, and is not by the usual clients.
REPLICA_OPTIONS = ("--num-blocks", "1024")
# A judge is at its best after 2,000 batches; the replica makes some 60 a second.
WARM_SECONDS = 50.0
FAULT_SECONDS = 10.0
CONTROL_SECONDS = 20.0
# An incident ends after two calm seconds; one that does not runs into the next fault.
LEAST_REST_SECONDS = 6.0
MOST_REST_SECONDS = 15.0

# Longer than any run.
MOST_SECONDS = 7200.0
# Before a fault: what it is compared with.
QUIET_NS = 10_000_000_000
# What an engine needs to get over a fault.
SETTLE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a fault did to the iterations: how many times as long they took.

    Attributes:
        fault: Which.

        iterations: That ended meanwhile.

        median_ratio: Of the medians.

        mean_ratio: Of all time to what it usually takes: what an intermittent fault costs, too.

        p99_ratio: Of the 99th percentiles, over all compositions.
    """

    fault: Fault
    iterations: int
    median_ratio: float | None
    mean_ratio: float | None
    p99_ratio: float | None


@dataclass(slots=True)
class Played:
    """What was done, and where it is written down.

    Attributes:
        recording: Inventory, counters, iterations, batches, alerts and the truth.

        truth: The engine's own record of its iterations.

        clock_offset_ns: What is added to that record's clock to get epoch time.

        refused: Faults that could not be made here, and why.

        failed: Injections that did not go as planned, and how.

        effects: What each fault did, by the engine's own record.
    """

    recording: Path
    clock_offset_ns: int
    truth: list[TruthIteration] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)


def play(
    folder: Path,
    names: Sequence[str],
    severities: Sequence[FaultSeverity],
    say: Say,
    *,
    fault_seconds: float = FAULT_SECONDS,
) -> Played:
    """Make each fault on a replica under steady load, then each control that it can take.

    Args:
        folder: Emptied first; logs and the recording go there.

        names: Of faults and controls.

        severities: Each fault is made in all of them.

        say: Takes a line for the reader.

        fault_seconds: How long each fault lasts.
    """
    with Stage(folder, worker="analyze", options=REPLICA_OPTIONS) as stage:
        played = Played(
            recording=folder / "real.jsonl.gz",
            clock_offset_ns=time.time_ns() - time.monotonic_ns(),
        )
        recorder = Recorder(stage.broker.bootstrap, played.recording)
        recorder.start()
        replica = stage.replica
        engine_id = f"{HOST}:{replica.base_url.rpartition(':')[2]}"
        target = Target(pids=(replica.core_pid, replica.worker_pid), url=replica.base_url)
        machine = Machine(scratch=stage.folder)

        def publish(fault: Fault) -> None:
            # How much it really slowed the engine is known, and told, in the end.
            if fault.state == "ended":
                played.faults.append(fault)
            else:
                recorder.write(fault)

        def inject(name: str, severity: FaultSeverity) -> None:
            with injected(
                name,
                severity=severity,
                target=target,
                machine=machine,
                seconds=fault_seconds + 30,
                publish=publish,
                engine_ids=(engine_id,),
                host=HOST,
            ) as running:
                running.wait(fault_seconds)

        cases = list(_cases(names, severities, target, machine, played))
        with _steady_load(replica.base_url):
            say(f"warming up for {WARM_SECONDS:.0f} s, then {len(cases)} real faults")
            time.sleep(WARM_SECONDS)
            for number, (name, severity) in enumerate(cases, start=1):
                say(f"{number} of {len(cases)}: {name}, {severity}")
                try:
                    inject(name, severity)
                except (InjectionError, Refused) as err:
                    played.failed[f"{name}, {severity}"] = str(err)
                _rest(recorder)
                if (dead := stage.dead()) is not None:
                    played.failed[f"{name}, {severity}"] = f"{dead} ended: see {folder}"
                    break
        for name in names:
            if name in controls.available():
                _control(name, replica.base_url, engine_id, publish, say, recorder)
        stage.stop_pipeline()
        time.sleep(1.0)
        replica.stop()
        played.truth = read_truth(stage.truth)
        played.effects = list(effects(played))
        ratios = {one.fault.fault_id: one.mean_ratio for one in played.effects}
        for fault in played.faults:
            recorder.write(replace(fault, true_ratio=ratios.get(fault.fault_id)))
        recorder.stop()
    if not recorder.counts.get(BATCHES.name):
        raise RuntimeError(f"no batch was judged: see the logs in {folder}")
    return played


def _cases(
    names: Sequence[str],
    severities: Sequence[FaultSeverity],
    target: Target,
    machine: Machine,
    played: Played,
) -> Iterator[tuple[str, FaultSeverity]]:
    for name in names:
        if name not in faults.available():
            continue
        obstacles = faults.load(name).obstacles(target, machine)
        if obstacles:
            played.refused[name] = "; ".join(obstacles)
            continue
        for severity in severities:
            yield name, severity


@contextlib.contextmanager
def _steady_load(base_url: str) -> Iterator[None]:
    """Let the usual clients ask, in a process of their own, for the length of the block."""
    command = ("-m", "simulator.load", "--url", base_url, "--workload", "steady", "--seed", "7")
    clients = subprocess.Popen(
        (sys.executable, "-P", *command, "--seconds", str(MOST_SECONDS)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        clients.terminate()
        clients.wait()


def _rest(recorder: Recorder) -> None:
    begin = time.monotonic()
    while (waited := time.monotonic() - begin) < MOST_REST_SECONDS:
        if waited >= LEAST_REST_SECONDS and not recorder.open_incidents:
            return
        time.sleep(0.2)


def _control(
    name: str,
    base_url: str,
    engine_id: str,
    publish: Callable[[Fault], None],
    say: Say,
    recorder: Recorder,
) -> None:
    phases = controls.load(name).phases(CONTROL_SECONDS, 1.0)
    if phases is None:
        return
    say(f"control: {name}")
    truth = Fault(
        fault_id=uuid.uuid4().hex,
        name=name,
        kind="control",
        state="begun",
        intensity=1.0,
        host=HOST,
        begin_ns=time.time_ns(),
        engine_ids=(engine_id,),
    )
    publish(truth)
    load = Load(base_url, Workload(name=name, summary=name, phases=phases), seed=11)
    load.start()
    load.join(CONTROL_SECONDS + 20)
    publish(replace(truth, state="ended", end_ns=time.time_ns()))
    _rest(recorder)


def effects(played: Played) -> Iterator[Effect]:
    """Tell what each fault did to the iterations, by the engine's own record alone.

    Iterations of equal composition are compared with those before the fault, as far back as ten
    seconds or a second after the fault before.
    """
    earlier_end_ns = 0
    for fault in played.faults:
        if fault.end_ns is None:
            continue
        if fault.kind == "fault":
            quiet_ns = max(fault.begin_ns - QUIET_NS, earlier_end_ns + SETTLE_NS)
            yield _effect(
                fault,
                quiet=_between(played, quiet_ns, fault.begin_ns),
                hit=_between(played, fault.begin_ns, fault.end_ns),
            )
        earlier_end_ns = fault.end_ns


def _effect(fault: Fault, quiet: Sequence[TruthIteration], hit: Sequence[TruthIteration]) -> Effect:
    before, during = (window_of(one, 1.0, {}) for one in (quiet, hit))
    usual_ns = {
        same: statistics.fmean(durations)
        for same, durations in before.durations_ns.items()
        if len(durations) >= LEAST_BATCHES
    }
    pairs = [
        (one.duration_ns, usual_ns[composition])
        for one in hit
        if (composition := (one.decode_requests, one.prefill_tokens > 0)) in usual_ns
    ]
    return Effect(
        fault=fault,
        iterations=len(hit),
        median_ratio=iteration_ratio(before, during),
        mean_ratio=sum(took for took, _ in pairs) / sum(usual for _, usual in pairs)
        if pairs
        else None,
        p99_ratio=during.p99_ms / before.p99_ms if during.p99_ms and before.p99_ms else None,
    )


def _between(played: Played, begin_ns: int, end_ns: int) -> list[TruthIteration]:
    begin_ns, end_ns = begin_ns - played.clock_offset_ns, end_ns - played.clock_offset_ns
    return [one for one in played.truth if begin_ns < one.end_monotonic_ns <= end_ns]
