"""The real part: a replica under load, watched by a real agent, made worse fault by fault."""

from __future__ import annotations

import contextlib
import math
import statistics
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.gym.recorder import Recorder
from latencyprism.demo.stage import Stage
from latencyprism.demo.story import Load
from schemas.records import Fault, FaultSeverity
from schemas.topics import BATCHES
from simulator import controls, faults
from simulator.faults import Machine, Target
from simulator.injection.run import InjectionError, Refused, injected
from simulator.load import percentile
from simulator.replica.truth import TruthIteration, read_truth
from simulator.workloads import Workload

Say = Callable[[str], None]
# Decode requests, whether there is prefill, and a step of the context.
Work = tuple[int, bool, int]

# The host's name in the stage's configuration.
HOST = "demo"
# A KV cache that can be filled within seconds, and is not by the usual clients.
REPLICA_OPTIONS = ("--num-blocks", "1024")

# Longer than any run.
MOST_SECONDS = 7200.0
# Iterations are alike whose context differs by no more than this factor.
KV_STEP = 1.5
# Work is known from so many iterations on.
LEAST_BATCHES = 5
# Of the iterations within a fault, so many must have work that is known.
LEAST_SHARE = 0.2
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

        compared: Those of them with work like that of five iterations before.

        median_ratio: Of their durations to what such work usually takes; likewise ``p99_ratio``.

        mean_ratio: Of all time to what it usually takes: what an intermittent fault costs, too.
    """

    fault: Fault
    iterations: int
    compared: int
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things last, in seconds.

    Attributes:
        warm: A judge is at its best after 2,000 batches; the replica makes some 60 a second.

        fault: Each fault; likewise ``control``.

        least_rest: An incident ends after two calm seconds; one that is not over after
            ``most_rest`` runs into the next fault.
    """

    warm: float = 50.0
    fault: float = 10.0
    control: float = 20.0
    least_rest: float = 6.0
    most_rest: float = 15.0


USUAL_PACE = Pace()


def play(
    folder: Path,
    names: Sequence[str],
    severities: Sequence[FaultSeverity],
    say: Say,
    pace: Pace = USUAL_PACE,
) -> Played:
    """Make each fault on a replica under steady load, then each control that it can take.

    Args:
        folder: Emptied first; logs and the recording go there.

        names: Of faults and controls.

        severities: Each fault is made in all of them.

        say: Takes a line for the reader.

        pace: How long each thing lasts.
    """
    played = Played(
        recording=folder / "real.jsonl.gz",
        clock_offset_ns=time.time_ns() - time.monotonic_ns(),
    )
    with Stage(folder, worker="analyze", options=REPLICA_OPTIONS) as stage:
        recorder = Recorder(stage.broker.bootstrap, played.recording)
        recorder.start()
        session = _Session(stage, recorder, played, say, pace)
        session.make_faults(names, severities)
        for name in names:
            if name in controls.available():
                session.make_control(name)
        stage.stop_pipeline()
        # The last results are on their way.
        time.sleep(1.0)
        stage.replica.stop()
        played.truth = read_truth(stage.truth)
        played.effects = list(effects(played))
        ratios = {one.fault.fault_id: one.mean_ratio for one in played.effects}
        for fault in played.faults:
            recorder.write(replace(fault, true_ratio=ratios.get(fault.fault_id)))
        recorder.stop()
    if not recorder.counts.get(BATCHES.name):
        raise RuntimeError(f"no batch was judged: see the logs in {folder}")
    return played


class _Session:
    """A replica on stage, and what is done to it."""

    def __init__(
        self, stage: Stage, recorder: Recorder, played: Played, say: Say, pace: Pace
    ) -> None:
        self._stage = stage
        self._recorder = recorder
        self._played = played
        self._say = say
        self._pace = pace
        replica = stage.replica
        self._url = replica.base_url
        self._engine_id = f"{HOST}:{replica.base_url.rpartition(':')[2]}"
        self._target = Target(pids=(replica.core_pid, replica.worker_pid), url=replica.base_url)
        self._machine = Machine(scratch=stage.folder)

    def make_faults(self, names: Sequence[str], severities: Sequence[FaultSeverity]) -> None:
        """Make those that can be made here, one after the other, under the usual load."""
        cases = list(self._cases(names, severities))
        with _steady_load(self._url):
            self._say(f"warming up for {self._pace.warm:.0f} s, then {len(cases)} real faults")
            time.sleep(self._pace.warm)
            for number, (name, severity) in enumerate(cases, start=1):
                self._say(f"{number} of {len(cases)}: {name}, {severity}")
                try:
                    self._inject(name, severity)
                except (InjectionError, Refused) as err:
                    self._played.failed[f"{name}, {severity}"] = str(err)
                self._rest()
                if (dead := self._stage.dead()) is not None:
                    where = self._stage.folder
                    self._played.failed[f"{name}, {severity}"] = f"{dead} ended: see {where}"
                    return

    def make_control(self, name: str) -> None:
        """Let clients ask for something else, if they can ask this engine for it."""
        phases = controls.load(name).phases(self._pace.control, 1.0)
        if phases is None:
            return
        self._say(f"control: {name}")
        truth = Fault(
            fault_id=uuid.uuid4().hex,
            name=name,
            kind="control",
            state="begun",
            intensity=1.0,
            host=HOST,
            begin_ns=time.time_ns(),
            engine_ids=(self._engine_id,),
        )
        self._publish(truth)
        load = Load(self._url, Workload(name=name, summary=name, phases=phases), seed=11)
        load.start()
        load.join(self._pace.control + 20)
        self._publish(replace(truth, state="ended", end_ns=time.time_ns()))
        self._rest()

    def _cases(
        self, names: Sequence[str], severities: Sequence[FaultSeverity]
    ) -> Iterator[tuple[str, FaultSeverity]]:
        for name in names:
            if name not in faults.available():
                continue
            obstacles = faults.load(name).obstacles(self._target, self._machine)
            if obstacles:
                self._played.refused[name] = "; ".join(obstacles)
                continue
            for severity in severities:
                yield name, severity

    def _inject(self, name: str, severity: FaultSeverity) -> None:
        with injected(
            name,
            severity=severity,
            target=self._target,
            machine=self._machine,
            seconds=self._pace.fault + 30,
            publish=self._publish,
            engine_ids=(self._engine_id,),
            host=HOST,
        ) as running:
            running.wait(self._pace.fault)

    def _publish(self, fault: Fault) -> None:
        # How much it really slowed the engine is known, and told, in the end.
        if fault.state == "ended":
            self._played.faults.append(fault)
        else:
            self._recorder.write(fault)

    def _rest(self) -> None:
        """Wait until the incident is over, but not for ever."""
        begin = time.monotonic()
        while (waited := time.monotonic() - begin) < self._pace.most_rest:
            if waited >= self._pace.least_rest and not self._recorder.open_incidents:
                return
            time.sleep(0.2)


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


def effects(played: Played) -> Iterator[Effect]:
    """Tell what each fault did to the iterations, by the engine's own record alone.

    Iterations are compared with those of like work before the fault, as far back as ten seconds or
    a second after the fault before.
    """
    earlier_end_ns = 0
    for fault in played.faults:
        if fault.end_ns is None:
            continue
        if fault.kind == "fault":
            onset_ns = fault.begin_ns if fault.onset_ns is None else fault.onset_ns
            quiet_ns = max(onset_ns - QUIET_NS, earlier_end_ns + SETTLE_NS)
            yield _effect(
                fault,
                quiet=_between(played, quiet_ns, onset_ns),
                hit=_between(played, fault.begin_ns, fault.end_ns),
            )
        earlier_end_ns = fault.end_ns


def true_ratio_of(played: Played, begin_ns: int, end_ns: int) -> float | None:
    """Tell how many times as long iterations took in some time as in ten seconds before.

    By the engine's own record: a machine may be slower for a while though nobody injected anything.
    """
    earlier = [fault.end_ns for fault in played.faults if (fault.end_ns or end_ns) <= begin_ns]
    quiet_ns = max(begin_ns - QUIET_NS, *(SETTLE_NS + (one or 0) for one in earlier), 0)
    quiet, hit = _between(played, quiet_ns, begin_ns), _between(played, begin_ns, end_ns)
    pairs = _comparable(quiet, hit)
    return _mean_ratio(pairs)


def _effect(fault: Fault, quiet: Sequence[TruthIteration], hit: Sequence[TruthIteration]) -> Effect:
    pairs = _comparable(quiet, hit)
    ratios = [took / expected for took, expected in pairs]
    return Effect(
        fault=fault,
        iterations=len(hit),
        compared=len(pairs),
        median_ratio=statistics.median(ratios) if ratios else None,
        mean_ratio=_mean_ratio(pairs),
        p99_ratio=percentile(ratios, 99) if ratios else None,
    )


def _mean_ratio(pairs: Sequence[tuple[int, float]]) -> float | None:
    return sum(took for took, _ in pairs) / sum(usual for _, usual in pairs) if pairs else None


def _comparable(
    quiet: Sequence[TruthIteration], hit: Sequence[TruthIteration]
) -> list[tuple[int, float]]:
    """Give what iterations took, and what such work took on average before."""
    usual: dict[Work, list[int]] = defaultdict(list)
    for one in quiet:
        usual[_work(one)].append(one.duration_ns)
    usual_ns = {
        work: statistics.fmean(took) for work, took in usual.items() if len(took) >= LEAST_BATCHES
    }
    pairs = [(one.duration_ns, usual_ns[_work(one)]) for one in hit if _work(one) in usual_ns]
    # Where nearly all of them had other work the few are no measure of the rest.
    return pairs if len(pairs) >= LEAST_SHARE * len(hit) else []


def _work(one: TruthIteration) -> Work:
    """Give what an iteration had to do, coarsely: a fault by load changes that, not the cost."""
    kv_step = round(math.log(max(one.kv_tokens, 1), KV_STEP))
    return one.decode_requests, one.prefill_tokens > 0, kv_step


def _between(played: Played, begin_ns: int, end_ns: int) -> list[TruthIteration]:
    begin_ns, end_ns = begin_ns - played.clock_offset_ns, end_ns - played.clock_offset_ns
    return [one for one in played.truth if begin_ns < one.end_monotonic_ns <= end_ns]
