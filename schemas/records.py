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
Role = Literal["api_server", "engine_core", "worker", "other"]
EngineState = Literal["running", "gone"]
AlertState = Literal["firing", "updated", "resolved"]
Severity = Literal["page", "ticket"]


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
    """

    requests: int | None = None
    scheduled_tokens: int | None = None
    prefill_tokens: int | None = None
    decode_requests: int | None = None
    kv_tokens: int | None = None
    waiting_requests: int | None = None
    running_requests: int | None = None


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

        sequence: The engine's own count where ``source`` is ``counter``, else the agent's.

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
    missed: int = 0
    running_ns: int | None = None
    iterations: int = 1
    workload: Workload = field(default_factory=Workload)
    phases: tuple[PhaseTime, ...] = ()
    schema: Literal["iteration.v1"] = "iteration.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """What one process of an engine used between two readings."""

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
    schema: Literal["process.v1"] = "process.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """The state of a host between two readings, as one engine on it sees it.

    ``others_cpu_ratio`` is the share of all CPU time used by processes outside this engine.
    Rates (``..._per_second``) are means over the interval; ``..._pressure_ratio`` is the share
    of the interval in which some task waited for the resource (PSI ``some``).
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
    schema: Literal["host.v1"] = "host.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What is known of an engine: the newest record per ``engine_id`` is the inventory.

    ``note`` is a sentence of the agent's about what it can and cannot read.
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
    schema: Literal["engine.v1"] = "engine.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The joined and judged timeline of one batch.

    ``duration_ns`` runs from the first rank's begin to the last one's end. ``expected_ns``,
    ``low_ns`` and ``high_ns`` are the baseline's prediction for this workload and its interval;
    ``residual`` is ln(observed / expected); ``score`` is the detector's statistic in units of
    its alarm limit (1 and above is an alarm). ``terms_ns`` adds up to the backbone's prediction.
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
    schema: Literal["batch.v1"] = "batch.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Why an alert says what it says: numbers before the incident and during it."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One step in the life of an incident.

    The incident keeps its ``incident_id`` from ``firing`` through ``updated`` to ``resolved``;
    ``revision`` grows by one with each, so (incident_id, revision) names a delivery.
    ``batch_end_ns`` is the end of the batch that caused this step.
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
    schema: Literal["alert.v1"] = "alert.v1"


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


Record = Iteration | ProcessReading | HostReading | Engine | Batch | Alert | DeadLetter
