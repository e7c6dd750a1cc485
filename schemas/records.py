"""The records that travel between processes: frozen, typed, units in every name.

Times ending in ``_ns`` are nanoseconds: since the Unix epoch where the name is a moment
(``begin_ns``, ``at_ns``), a length where it is one (``duration_ns``). Ratios run from 0 to 1.
``None`` means unknown; it is never written as 0. No field can hold a prompt or a completion.

A public record changes only by new optional fields. Anything else is a new version of its
``schema`` and a new topic.
"""

from dataclasses import dataclass, field
from typing import Literal

Source = Literal["counter", "stack", "stream", "metrics"]
"""The rung of the batch clock's ladder that a record was read on, best first."""

Phase = Literal[
    "queue",
    "schedule",
    "prepare",
    "dispatch",
    "forward",
    "sample",
    "postprocess",
    "communication_wait",
    "idle",
    "other",
]
Verdict = Literal["normal", "drift", "slow", "unknown"]
SlowPart = Literal["gap", "schedule", "postprocess"]
"""What surrounds the forward pass and may take too long on its own; ``gap`` is the time before."""

Role = Literal["api_server", "engine_core", "worker", "other"]
EngineState = Literal["running", "gone"]
CaptureState = Literal["requested", "running", "done", "failed"]
MissingReason = Literal[
    "not_supported",
    "not_permitted",
    "partition_hides",
    "no_workload",
    "timeout",
    "parse_error",
    "suspect",
]
"""Why an accelerator's counter has no value; a counter that is missing is never 0."""

UtilizationMeaning = Literal["busy_time", "core_mean", "duty_cycle"]
BandwidthMeaning = Literal["busy_time", "of_peak"]
PowerWindow = Literal["instant", "average", "unknown"]
ThrottleReason = Literal[
    "sw_power_cap",
    "hw_slowdown",
    "sw_thermal",
    "hw_thermal",
    "power_brake",
    "sync_boost",
    "user_clock",
    "other",
]
AlertState = Literal["firing", "updated", "resolved"]
FaultKind = Literal["fault", "control"]
"""A *control* changes the workload only: an alert about it is a false one."""

FaultState = Literal["begun", "ended"]
FaultSeverity = Literal["light", "medium", "heavy"]
Severity = Literal["page", "ticket"]
SilenceReason = Literal["maintenance", "deployment", "known", "test"]
CaptureKind = Literal["capture", "difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one iteration had to do, as the engine's scheduler put it together.

    Attributes:
        requests: Requests in the batch.

        scheduled_tokens: Tokens computed in this iteration, prefill and decode.

        prefill_tokens: Those of them that belong to requests with more than one token.

        decode_requests: Requests that compute exactly one token.

        kv_tokens: Tokens of context that attention reads, this iteration's own included.

        waiting_requests: Requests queued and not in the batch.

        running_requests: Requests admitted by the scheduler.

        speculative_tokens: Draft tokens that this iteration verifies, among the scheduled ones.

        lora_adapters: Different LoRA adapters in the batch; on vLLM it may be that of the batch
            before, where requests come or go.
    """

    requests: int | None = None
    scheduled_tokens: int | None = None
    prefill_tokens: int | None = None
    decode_requests: int | None = None
    kv_tokens: int | None = None
    waiting_requests: int | None = None
    running_requests: int | None = None
    speculative_tokens: int | None = None
    lora_adapters: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTime:
    """How long one phase of an iteration took.

    ``estimated`` is true where the phase was too short to be timed in this very iteration: the
    time is then its share of the stack samples.
    """

    phase: Phase
    duration_ns: int
    samples: int
    estimated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration of one rank of an engine: schedule, forward, sample, post-process.

    Attributes:
        engine_id: Stable name of the engine, ``host:port`` where it serves on a port.

        process_start_ns: When the engine's process began; tells restarts apart.

        rank: Rank within the engine.

        role: Which process of the engine this was seen in: the ``engine_core`` runs the whole
            iteration, a ``worker`` only its rank's share of the forward pass.

        sequence: The engine's own count where it keeps one in memory; else the agent's, which
            starts at a time in ms, so that it grows through every restart of the agent.

        begin_ns: Start of the iteration.

        end_ns: Its end; ``None`` while it is still running (an *open* iteration, repeated every
            100 ms while one runs long).

        uncertainty_ns: How far ``begin_ns`` and ``end_ns`` may each be off.

        missed: Iterations before this one that the counter proves and nobody timed.

        running_ns: For an open iteration, how long it has run when this was written.

        iterations: How many iterations this record stands for; more than 1 only on the
            ``metrics`` rung, where duration and workload are means over an interval.
    """

    engine_id: str
    process_start_ns: int
    sequence: int
    begin_ns: int
    end_ns: int | None
    uncertainty_ns: int
    source: Source
    rank: int = 0
    role: Role = "engine_core"
    missed: int = 0
    running_ns: int | None = None
    iterations: int = 1
    workload: Workload = field(default_factory=Workload)
    phases: tuple[PhaseTime, ...] = ()
    schema: Literal["iteration.v1"] = "iteration.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """What one process of an engine used between two readings.

    Attributes:
        cgroup_throttled_seconds: Time that the process's control group had used up its quota.

        cgroup_cpu_limit_cores: That quota in cores; ``None`` where there is no limit.

        swap_bytes: Memory of the process that is swapped out.

        numa_local_ratio: Share of its memory that lies on the NUMA node where it last ran.

        device_ids: Accelerators that this process uses, as `XpuReading.device_id`.
    """

    engine_id: str
    host: str
    pid: int
    role: Role
    begin_ns: int
    end_ns: int
    cpu_seconds: float | None = None
    run_queue_wait_seconds: float | None = None
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    rss_bytes: int | None = None
    threads: int | None = None
    rank: int | None = None
    cgroup_throttled_seconds: float | None = None
    cgroup_cpu_limit_cores: float | None = None
    swap_bytes: int | None = None
    numa_local_ratio: float | None = None
    device_ids: tuple[str, ...] | None = None
    schema: Literal["process.v1"] = "process.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """The state of a host between two readings, as one engine on it sees it.

    ``others_cpu_ratio`` is the share of all CPU time used by processes outside this engine.
    Rates (``..._per_second``) are means over the interval; ``..._pressure_ratio`` is the share
    of the interval in which some task waited for the resource (PSI ``some``).

    Attributes:
        cpu_user_ratio: Share of all CPU time in user space; likewise ``cpu_system_ratio``,
            ``cpu_iowait_ratio`` and ``cpu_irq_ratio`` (hard and soft interrupts).

        cpu_frequency_max_hz: The highest clock that the CPUs may take, to compute a share from.

        disk_busy_ratio: Share of the interval in which the busiest disk had work.

        network_link_bytes_per_second: Capacity of the fastest link that is up.

        numa_foreign_per_second: Pages that were allocated on another NUMA node than wanted.

        run_queue_latency_p99_seconds: By kernel tracing, where that is on.

        traced_calls: Mean seconds of traced library calls by name (CUDA, HIP, NCCL, RCCL).
    """

    engine_id: str
    host: str
    begin_ns: int
    end_ns: int
    cpu_count: int
    cpu_busy_ratio: float | None = None
    engine_cpu_ratio: float | None = None
    others_cpu_ratio: float | None = None
    cpu_steal_ratio: float | None = None
    cpu_frequency_hz: float | None = None
    engine_run_queue_wait_ratio: float | None = None
    cpu_pressure_ratio: float | None = None
    memory_pressure_ratio: float | None = None
    io_pressure_ratio: float | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    swap_in_bytes_per_second: float | None = None
    swap_out_bytes_per_second: float | None = None
    major_faults_per_second: float | None = None
    disk_read_bytes_per_second: float | None = None
    disk_written_bytes_per_second: float | None = None
    network_received_bytes_per_second: float | None = None
    network_sent_bytes_per_second: float | None = None
    cpu_user_ratio: float | None = None
    cpu_system_ratio: float | None = None
    cpu_iowait_ratio: float | None = None
    cpu_irq_ratio: float | None = None
    cpu_frequency_max_hz: float | None = None
    context_switches_per_second: float | None = None
    runnable_tasks: int | None = None
    memory_full_pressure_ratio: float | None = None
    io_full_pressure_ratio: float | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    disk_busy_ratio: float | None = None
    network_link_bytes_per_second: float | None = None
    numa_foreign_per_second: float | None = None
    run_queue_latency_p50_seconds: float | None = None
    run_queue_latency_p99_seconds: float | None = None
    traced_calls: dict[str, float] = field(default_factory=dict)
    schema: Literal["host.v1"] = "host.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class XpuProcess:
    """One process on an accelerator; ``pid`` is the host's."""

    pid: int
    memory_used_bytes: int | None = None
    utilization_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class XpuDevice:
    """One look at one accelerator, normalised over all vendors.

    Attributes:
        device_id: The vendor's UUID, else the PCI address, else ``vendor:index``; never the
            index alone, which moves.

        parent: ``device_id`` of the board or whole device that this is a part of.

        partition: Name of the part: a MIG instance, a DPX partition, a vNPU, a chip.

        tool: What was asked, as ``nvml`` or ``nvidia-smi``.

        age_ns: How old the values were when they were read, where the tool tells it.

        utilization_meaning: Time with work (``busy_time``), mean over cores (``core_mean``), ...

        memory_bandwidth_meaning: Share of the time (``busy_time``) or of the peak (``of_peak``);
            the two are never compared with each other.

        pcie_capacity_bytes_per_second: What the link can carry one way at its present speed and
            width; likewise ``fabric_capacity_bytes_per_second`` over all active links.

        fabric: ``nvlink``, ``xgmi``, ``hccs``, ``xelink``, ...

        throttle_reasons: Why the clock is held down now; an empty tuple says that it is not.

        throttled_seconds: Total time by reason since the driver began to count.

        errors_corrected: Memory errors since the driver was loaded; the first is no alarm.

        missing: Why fields that this vendor could have are None, by field.
    """

    device_id: str
    vendor: str
    device_index: int | None = None
    model: str | None = None
    pci_address: str | None = None
    parent: str | None = None
    partition: str | None = None
    driver_version: str | None = None
    tool: str = ""
    age_ns: int | None = None
    utilization_ratio: float | None = None
    utilization_meaning: UtilizationMeaning | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_bandwidth_ratio: float | None = None
    memory_bandwidth_meaning: BandwidthMeaning | None = None
    memory_io_bytes_per_second: float | None = None
    core_clock_hz: float | None = None
    core_clock_max_hz: float | None = None
    memory_clock_hz: float | None = None
    memory_clock_max_hz: float | None = None
    power_watts: float | None = None
    power_window: PowerWindow | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    pcie_received_bytes_per_second: float | None = None
    pcie_sent_bytes_per_second: float | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_capacity_bytes_per_second: float | None = None
    fabric: str | None = None
    fabric_links: int | None = None
    fabric_received_bytes_per_second: float | None = None
    fabric_sent_bytes_per_second: float | None = None
    fabric_capacity_bytes_per_second: float | None = None
    throttle_reasons: tuple[ThrottleReason, ...] | None = None
    throttled_seconds: dict[str, float] = field(default_factory=dict)
    errors_corrected: int | None = None
    errors_uncorrected: int | None = None
    processes: tuple[XpuProcess, ...] | None = None
    missing: dict[str, MissingReason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class XpuReading(XpuDevice):
    """An accelerator as one engine that uses it sees it; each engine gets a copy.

    Attributes:
        begin_ns: When the tool was asked; ``end_ns`` when it had answered.

        ranks: Ranks of the engine that run on this device; empty where that is not known.

        engine_memory_used_bytes: Device memory of the engine's own processes.

        others_memory_used_bytes: That of all other processes.

        others: Processes on the device that are not the engine's.
    """

    engine_id: str
    host: str
    begin_ns: int
    end_ns: int
    ranks: tuple[int, ...] = ()
    engine_memory_used_bytes: int | None = None
    others_memory_used_bytes: int | None = None
    others: int | None = None
    schema: Literal["xpu.v1"] = "xpu.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What is known of an engine: the newest record per ``engine_id`` is the inventory.

    Attributes:
        sources: Rung of each rank that is watched, in the order of ``watched_ranks``.

        device_ids: Accelerators that the engine uses, as `XpuDevice.device_id`.

        agent_cpu_ratio: Share of one core that the agent used for this engine.

        agent_memory_bytes: Resident memory of the whole agent.

        poll_hz: Counter reads per second now; the governor may have lowered it. Likewise
            ``stack_hz``.

        note: A sentence of the agent's about what it can and cannot read.

        command_digest: 16 hex digits that change with the arguments that decide what batches
            cost, and stay the same over restarts, ports and hosts. A one-way hash: the arguments
            themselves never leave the host, and secrets are not even hashed.

        device_models: Names of the accelerators' models, in the order of ``device_ids``; an
            empty name where one is not told.

        cuda_graphs: False where the command line forbids them or the engine runs without an
            accelerator, so that no batch is padded to the size of a graph. Else unknown: the
            framework decides.

        running_requests: Requests admitted by the scheduler as last seen: with the newest
            iteration, or since then. None where nothing tells it, and where it may have changed
            since. Likewise ``waiting_requests``.

        last_iteration_end_ns: When the newest iteration ended that was seen to end. An engine
            that has nothing to do ends none: this alone tells no standstill.

        still_since_ns: Since when there has been work (an iteration is open, or requests run or
            wait) and no iteration has begun or ended; None while there is progress, or no work
            that is known of. Once that has lasted a second this record is published at once, and
            then each second until it is over: also while the engine's loop hangs between two
            iterations, and while its process is stopped.
    """

    engine_id: str
    host: str
    at_ns: int
    state: EngineState
    framework: str
    process_start_ns: int
    version: str | None = None
    model: str | None = None
    port: int | None = None
    source: Source | None = None
    pids: tuple[int, ...] = ()
    ranks: int = 1
    agent_version: str | None = None
    iterations_seen: int | None = None
    iterations_missed: int | None = None
    engine_iterations: int | None = None
    agent_cpu_ratio: float | None = None
    records_dropped: int | None = None
    note: str | None = None
    watched_ranks: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()
    device_ids: tuple[str, ...] = ()
    agent_memory_bytes: int | None = None
    poll_hz: int | None = None
    stack_hz: int | None = None
    command_digest: str | None = None
    device_models: tuple[str, ...] = ()
    cuda_graphs: bool | None = None
    running_requests: int | None = None
    waiting_requests: int | None = None
    last_iteration_end_ns: int | None = None
    still_since_ns: int | None = None
    schema: Literal["engine.v1"] = "engine.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The joined and judged timeline of one batch.

    ``duration_ns`` runs from the first rank's begin to the last one's end. ``expected_ns``,
    ``low_ns`` and ``high_ns`` are the baseline's prediction for this workload and its interval;
    ``residual`` is ln(observed / expected); ``score`` is the detector's statistic in units of
    its alarm limit (1 and above is an alarm, below it a slow batch is a lone outlier).
    ``terms_ns`` adds up to ``expected_ns``.

    Attributes:
        gap_ns: Time since the batch before ended, where requests of it went on; ``None`` where the
            engine may have had nothing to do. ``expected_gap_ns`` is what is usual.

        slow_parts: What surrounds the forward pass and takes too long.
    """

    engine_id: str
    process_start_ns: int
    sequence: int
    revision: int = 0
    begin_ns: int
    end_ns: int
    duration_ns: int
    uncertainty_ns: int
    source: Source
    ranks: int = 1
    missed: int = 0
    iterations: int = 1
    workload: Workload = field(default_factory=Workload)
    phases: tuple[PhaseTime, ...] = ()
    expected_ns: int | None = None
    low_ns: int | None = None
    high_ns: int | None = None
    residual: float | None = None
    score: float | None = None
    verdict: Verdict = "unknown"
    reason: str | None = None
    terms_ns: dict[str, int] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    incident_id: str | None = None
    gap_ns: int | None = None
    expected_gap_ns: int | None = None
    slow_parts: tuple[SlowPart, ...] = ()
    schema: Literal["batch.v1"] = "batch.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCell:
    """What batches of one size cost an engine and its peers.

    Attributes:
        requests: As of `NormCell`; likewise ``context_tokens``, ``prefill_tokens``, ``visits`` and
            ``duration_ns``, the engine's own.

        peers: How many of its peers know such batches well.

        peers_ns: The median of what they take.
    """

    requests: int
    context_tokens: int | None
    prefill_tokens: int
    visits: int
    duration_ns: int
    peers: int
    peers_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Why an alert says what it says: numbers before the incident and during it.

    Attributes:
        peers: For an engine that was slow from its first batch, how many times as slow as each of
            its peers it is, by their ids.

        peer_cells: Where they were compared.

        inflations: How many times as long as its work explains each phase takes.

        missing_counters: By cause, the counter that would have decided whether it is one.

        throttle_reasons: Why the engine's accelerators ran slower, as their drivers say.
    """

    expected_ns: int
    low_ns: int
    high_ns: int
    observed_ns: int
    ratio: float
    slow_batches: int
    workload: Workload
    counters_before: dict[str, float] = field(default_factory=dict)
    counters_during: dict[str, float] = field(default_factory=dict)
    phases_before_ns: dict[str, int] = field(default_factory=dict)
    phases_during_ns: dict[str, int] = field(default_factory=dict)
    pressures: dict[str, float] = field(default_factory=dict)
    sql: str = ""
    peers: dict[str, float] = field(default_factory=dict)
    peer_cells: tuple[PeerCell, ...] = ()
    inflations: dict[str, float] = field(default_factory=dict)
    missing_counters: dict[str, str] = field(default_factory=dict)
    throttle_reasons: tuple[ThrottleReason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One step in the life of an incident.

    The incident keeps its ``incident_id`` from ``firing`` through ``updated`` to ``resolved``;
    ``revision`` grows by one with each, so (incident_id, revision) names a delivery.
    ``batch_end_ns`` is the end of the batch that caused this step.

    Attributes:
        device_ids: Accelerators that the engine uses, as `XpuDevice.device_id`.
    """

    incident_id: str
    revision: int
    engine_id: str
    state: AlertState
    severity: Severity
    cause: str
    confidence: float
    summary: str
    next_step: str
    begin_ns: int
    at_ns: int
    end_ns: int | None
    batch_sequence: int
    batch_end_ns: int
    evidence: Evidence
    other_causes: tuple[str, ...] = ()
    framework: str | None = None
    model: str | None = None
    host: str | None = None
    device_ids: tuple[str, ...] = ()
    schema: Literal["alert.v1"] = "alert.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One engine's part in an incident.

    Attributes:
        incident_id: Of its own alerts; ``revision`` of the newest one that was taken in.

        ratio: How many times as long as expected its batches took.

        framework: As told when it fired, like ``model`` and ``host``: receivers know it by them.
    """

    engine_id: str
    incident_id: str
    revision: int
    state: AlertState
    begin_ns: int
    end_ns: int | None = None
    ratio: float | None = None
    cause: str | None = None
    framework: str | None = None
    model: str | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureLink:
    """Where the files of a capture lie that was taken for an incident.

    Attributes:
        kind: A ``difference`` compares one taken after the recovery with the one in the trouble.
    """

    capture_id: str
    engine_id: str
    host: str | None = None
    folder: str | None = None
    kind: CaptureKind = "capture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What people are told of an incident, which may have many engines as members.

    (incident_id, revision) names a delivery: receivers may get one twice, never two of one name
    with different contents.

    Attributes:
        incident_id: That of the member that fired first.

        shared: What its members have in common, as ``host:NAME`` or ``device:ID``; None where
            there is one member.

        alert: The newest alert of the member that leads: the one that fired first, or, once that is
            over, the next.

        acknowledged_by: Who said that it is taken care of.

        just_acknowledged: This is what tells so: receivers that call one person after the other
            can stop.

        silenced_by: Id of the silence that keeps it from being delivered.

        flapping: It came and went so often that only its end is told.
    """

    incident_id: str
    revision: int
    state: AlertState
    severity: Severity
    cause: str
    confidence: float
    summary: str
    next_step: str
    begin_ns: int
    at_ns: int
    end_ns: int | None
    alert: Alert
    members: tuple[Member, ...] = ()
    shared: str | None = None
    acknowledged_by: str | None = None
    just_acknowledged: bool = False
    silenced_by: str | None = None
    flapping: bool = False
    captures: tuple[CaptureLink, ...] = ()
    schema: Literal["notification.v1"] = "notification.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Keep incidents from being delivered for a while; they are judged and stored all the same.

    Attributes:
        at_ns: When this was said; the newest record of an id counts, and one whose ``end_ns`` is
            over ends it.

        matchers: Names of what an alert tells (``engine_id``, ``host``, ``model``, ``framework``,
            ``cause``, ``severity``) and shell patterns; all of them must match.
    """

    silence_id: str
    at_ns: int
    begin_ns: int
    end_ns: int
    matchers: dict[str, str]
    reason: SilenceReason = "maintenance"
    by: str | None = None
    schema: Literal["silence.v1"] = "silence.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Somebody takes care of an incident: until its end no updates are delivered, but the end is.

    Attributes:
        by: A name, as the one who asked gave it.
    """

    incident_id: str
    at_ns: int
    by: str
    schema: Literal["acknowledgement.v1"] = "acknowledgement.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A deep look at an engine: asked for, under way, and done; ``capture_id`` ties them.

    Attributes:
        compare_with: ``capture_id`` of an earlier one on the same host: what has changed since is
            drawn, too.

        seconds: How long it lasts.

        reason: Who asked and why: ``user``, or an incident's id.

        pids: Processes that were looked into.

        host: Where the files lie.

        folder: Folder of the files there.

        files: Names and sizes in bytes of what was written.

        error: Why it failed, with what to do.
    """

    capture_id: str
    engine_id: str
    at_ns: int
    state: CaptureState
    seconds: float
    reason: str = "user"
    incident_id: str | None = None
    begin_ns: int | None = None
    end_ns: int | None = None
    host: str | None = None
    pids: tuple[int, ...] = ()
    folder: str | None = None
    files: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    compare_with: str | None = None
    schema: Literal["capture.v1"] = "capture.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The truth about one injection, told when it began and again when it was undone.

    ``fault_id`` ties the two; the one with ``state`` ``ended`` is the whole truth.

    Attributes:
        name: Of the fault or control, as ``latencyprism inject --list`` shows it.

        causes: Names of causes (`schemas.causes`) that are right answers, best first; empty for
            a control, for which any incident is wrong.

        severity: None where a number was asked for instead.

        intensity: How hard, in the unit that the fault declares.

        host: Where; every engine on it may feel a fault of the host.

        begin_ns: When all its steps were done.

        onset_ns: When the first of them was begun: something may be felt from here on. None where
            all begins at once.

        engine_ids: Engines that should feel it.

        intermittent: Only some of the batches meanwhile are hit, so single batches have no label.

        simulated: No real machine was touched.

        true_ratio: For a simulated one, how many times as long the batches took because of it.

        error: Why it could not be kept up or undone, with what to do.
    """

    fault_id: str
    name: str
    kind: FaultKind
    state: FaultState
    intensity: float
    host: str
    begin_ns: int
    end_ns: int | None = None
    severity: FaultSeverity | None = None
    causes: tuple[str, ...] = ()
    engine_ids: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    intermittent: bool = False
    simulated: bool = False
    true_ratio: float | None = None
    error: str | None = None
    onset_ns: int | None = None
    schema: Literal["fault.v1"] = "fault.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormCell:
    """What batches of one size cost an engine.

    Attributes:
        requests: Requests in the batch, padded as to the size of a CUDA graph.

        context_tokens: Tokens of context for each of them, in steps; None where not known.

        prefill_tokens: Tokens of prefill, in steps.

        visits: Batches that were learnt here.

        duration_ns: Their mean duration.
    """

    requests: int
    context_tokens: int | None
    prefill_tokens: int
    visits: int
    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """What is normal for an engine, for its peers to compare themselves with; newest counts.

    Attributes:
        kind: Digest of all that decides the cost of a batch: only engines of one kind are compared.

        batches: Batches that were learnt; few say little.

        suspect: An incident is open, so these are no norms for others.

        cells: Where most of its batches were, most visited first.
    """

    engine_id: str
    at_ns: int
    kind: str
    batches: int
    cells: tuple[NormCell, ...]
    suspect: bool = False
    schema: Literal["norms.v1"] = "norms.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that could not be read, kept for whoever has to find out why.

    ``key_base64`` and ``value_base64`` are the message's bytes, cut after 300,000; ``place`` is the
    worker and step that gave up on it.
    """

    topic: str
    partition: int
    offset: int
    at_ns: int
    place: str
    error: str
    key_base64: str | None = None
    value_base64: str | None = None
    schema: Literal["deadletter.v1"] = "deadletter.v1"


Record = (
    Iteration
    | ProcessReading
    | XpuReading
    | HostReading
    | Engine
    | Batch
    | Alert
    | Notification
    | Silence
    | Acknowledgement
    | Capture
    | Fault
    | Norms
    | DeadLetter
)
