"""Name the cause of a slowdown: which resource is under pressure, and which phase got dearer.

Two judgements kept apart. *Pressure*: how much of a resource's capacity is gone compared with
this engine's own normal, from 0 to 1. *Inflation*: how much longer a phase takes than its share
of the expected duration. The cause is the largest pressure above its gate; where no resource of
the host explains the slowdown, the phase that grew most is named and so is where to look.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

Counters = dict[str, float]

# A phase must take this many times its normal share of the expected duration to be named.
INFLATION_GATE = 1.15
# How sure a phase's cause can be: what stands behind the phase is not seen. That the host's
# counters are quiet is evidence; that they are not known yet is not.
CONFIDENCE_HOST_QUIET = 0.7
CONFIDENCE_HOST_UNKNOWN = 0.3
# Pressure of an unnamed rival in the confidence: two pressures of this size are a toss-up.
DOUBT = 0.05
UNKNOWN = "unknown"
STALL = "stall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A resource that may be short.

    Attributes:
        name: What alerts call it.

        pressure: Share of its capacity that is gone, from the counters before and during; None
            where a counter is missing.

        gate: Pressure below this is noise.

        sentence: For the alert; ``{before}`` and ``{during}`` are filled with `shows`.

        shows: The counter that makes the case.

        scale: What the counter is multiplied by for a reader, and its unit.

        next_step: What a person on call should do first.
    """

    name: str
    pressure: Callable[[Counters, Counters], float | None]
    gate: float
    sentence: str
    shows: str
    scale: tuple[float, str]
    next_step: str

    def tell(self, before: Counters, during: Counters) -> str:
        """Fill the sentence with the counter's two values."""
        factor, unit = self.scale

        def shown(counters: Counters) -> str:
            value = counters.get(self.shows)
            return "unknown" if value is None else f"{value * factor:.3g}{unit}"

        return self.sentence.format(before=shown(before), during=shown(during))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The cause named first, how sure, and what else is above its gate."""

    cause: str
    confidence: float
    sentence: str
    next_step: str
    others: tuple[str, ...] = ()
    pressures: dict[str, float] = field(default_factory=dict)


def _headroom_taken(name: str) -> Callable[[Counters, Counters], float | None]:
    def pressure(before: Counters, during: Counters) -> float | None:
        if name not in before or name not in during:
            return None
        return (during[name] - before[name]) / max(1 - before[name], 0.05)

    return pressure


def _relative_loss(name: str) -> Callable[[Counters, Counters], float | None]:
    def pressure(before: Counters, during: Counters) -> float | None:
        if not before.get(name) or name not in during:
            return None
        return 1 - during[name] / before[name]

    return pressure


def _rise(name: str, capacity: float) -> Callable[[Counters, Counters], float | None]:
    def pressure(before: Counters, during: Counters) -> float | None:
        if name not in before or name not in during:
            return None
        return (during[name] - before[name]) / capacity

    return pressure


def _clock_loss(before: Counters, during: Counters) -> float | None:
    """Loss of the accelerator's clock, unless it clocks down because it has less to do."""
    lost = _relative_loss("xpu_core_clock_ratio")(before, during)
    idler = during.get("xpu_utilization_ratio", 1.0) < 0.5 * before.get("xpu_utilization_ratio", 0)
    return 0.0 if lost is not None and idler else lost


def _tenants(before: Counters, during: Counters) -> float | None:
    """Share of the accelerator's time that new processes on it take where all want it."""
    if "xpu_others" not in before or "xpu_others" not in during:
        return None
    return 1 - (1 + before["xpu_others"]) / (1 + during["xpu_others"])


CAUSES: tuple[Cause, ...] = (
    Cause(
        name="host_cpu_contention",
        pressure=_headroom_taken("others_cpu_ratio"),
        gate=0.10,
        sentence="other processes took the host's CPUs: {before} before, {during} now",
        shows="others_cpu_ratio",
        scale=(100, " %"),
        next_step="find the process with 'top' on the host and move or limit it; "
        "then give the engine CPUs of its own (cpuset, or a Guaranteed pod)",
    ),
    Cause(
        name="host_cpu_steal",
        pressure=_headroom_taken("cpu_steal_ratio"),
        gate=0.10,
        sentence="the hypervisor took CPU time away: {before} before, {during} now",
        shows="cpu_steal_ratio",
        scale=(100, " %"),
        next_step="move the virtual machine to a less loaded host",
    ),
    Cause(
        name="host_cpu_frequency",
        pressure=_relative_loss("cpu_frequency_hz"),
        gate=0.10,
        sentence="the CPUs run slower: {before} before, {during} now",
        shows="cpu_frequency_hz",
        scale=(1e-9, " GHz"),
        next_step="check power caps, thermal throttling and the cpufreq governor of the host",
    ),
    Cause(
        name="run_queue_delay",
        pressure=_rise("engine_run_queue_wait_ratio", 1.0),
        gate=0.25,
        sentence="the engine's threads wait for a CPU: {before} s each second before, {during} now",
        shows="engine_run_queue_wait_ratio",
        scale=(1, ""),
        next_step="look at the engine's CPU limit (cgroup cpu.max, cpu.stat) and at what else "
        "runs on the CPUs it is pinned to",
    ),
    Cause(
        name="memory_pressure",
        pressure=_rise("memory_pressure_ratio", 1.0),
        gate=0.05,
        sentence="tasks wait for memory: {before} of the time before, {during} now",
        shows="memory_pressure_ratio",
        scale=(100, " %"),
        next_step="find what eats the host's memory; stop the swapping",
    ),
    Cause(
        name="disk_pressure",
        pressure=_rise("io_pressure_ratio", 1.0),
        gate=0.20,
        sentence="tasks wait for the disk: {before} of the time before, {during} now",
        shows="io_pressure_ratio",
        scale=(100, " %"),
        next_step="find the writer with 'iotop'; keep the engine's cache and logs off that disk",
    ),
    Cause(
        name="accelerator_clock",
        pressure=_clock_loss,
        gate=0.10,
        sentence="the accelerator runs slower: {before} of its highest clock before, {during} now",
        shows="xpu_core_clock_ratio",
        scale=(100, " %"),
        next_step="look for power cap and heat: throttle_reasons in latencyprism.xpus.v1, or "
        "'nvidia-smi -q -d CLOCK,PERFORMANCE,POWER,TEMPERATURE'",
    ),
    Cause(
        name="accelerator_contention",
        pressure=_tenants,
        gate=0.20,
        sentence="other processes came onto the accelerator: {before} before, {during} now",
        shows="xpu_others",
        scale=(1, ""),
        next_step="find them in the list of processes of the vendor's tool (nvidia-smi, rocm-smi, "
        "npu-smi info) and move them; then give the engine devices of its own",
    ),
)

# A frequency loss below this beside stronger contention is its consequence (more busy cores
# clock lower), not a second fault.
CONSEQUENT_FREQUENCY_LOSS = 0.20

PHASE_CAUSES: dict[str, tuple[str, str]] = {
    "forward": (
        "forward_slower",
        "compare the accelerator's clock, power, temperature and other tenants with before "
        "('nvidia-smi -q -d CLOCK,PERFORMANCE,POWER'); no resource of the host explains it",
    ),
    "schedule": ("scheduler_slower", "look at queue length, prefix cache and Python GC"),
    "dispatch": ("dispatch_slower", "look at the shared-memory queue and the workers' CPUs"),
    "postprocess": ("postprocess_slower", "look at detokenisation and the output queue"),
    "communication_wait": ("communication_slower", "look at the slowest rank and the fabric"),
}


def phase_inflation(
    before_ns: dict[str, int], during_ns: dict[str, int], expected_ratio: float
) -> dict[str, float]:
    """Give how many times longer each phase takes than its work explains.

    Args:
        before_ns: Mean time of each phase per batch, normally.

        during_ns: The same in the incident.

        expected_ratio: Expected duration of the incident's batches over that of the normal
            ones, so that a heavier workload does not count as inflation.
    """
    return {
        phase: during_ns[phase] / (before_ns[phase] * expected_ratio)
        for phase in during_ns
        if before_ns.get(phase, 0) > 0 and expected_ratio > 0
    }


def attribute(
    before: Counters,
    during: Counters,
    phases_before_ns: dict[str, int],
    phases_during_ns: dict[str, int],
    expected_ratio: float = 1.0,
) -> Attribution:
    """Name the cause of an incident from counters and phases before it and during it.

    >>> found = attribute({"others_cpu_ratio": 0.1}, {"others_cpu_ratio": 0.8}, {}, {})
    >>> found.cause, round(found.pressures["host_cpu_contention"], 2)
    ('host_cpu_contention', 0.78)
    """
    pressures: dict[str, float] = {}
    for cause in CAUSES:
        pressure = cause.pressure(before, during)
        if pressure is not None:
            pressures[cause.name] = round(max(0.0, min(1.0, pressure)), 4)
    gated = sorted(
        (cause for cause in CAUSES if pressures.get(cause.name, 0.0) >= cause.gate),
        key=lambda cause: -pressures[cause.name],
    )
    if len(gated) > 1:
        names = {cause.name for cause in gated}
        gated = [cause for cause in gated if not _explained_away(cause, names, pressures)]
    if gated:
        first = gated[0]
        strongest = pressures[first.name]
        rival = pressures[gated[1].name] if len(gated) > 1 else 0.0
        return Attribution(
            cause=first.name,
            confidence=round(strongest / (strongest + rival + DOUBT), 3),
            sentence=first.tell(before, during),
            next_step=first.next_step,
            others=tuple(cause.name for cause in gated[1:]),
            pressures=pressures,
        )
    return _by_phase(
        phases_before_ns, phases_during_ns, expected_ratio, pressures, host_known=bool(during)
    )


def _explained_away(cause: Cause, gated: set[str], pressures: dict[str, float]) -> bool:
    """Tell a consequence from a cause: busier cores clock lower, and make threads wait."""
    if cause.name == "host_cpu_frequency":
        lost = pressures[cause.name]
        return lost < CONSEQUENT_FREQUENCY_LOSS and lost < pressures.get("host_cpu_contention", 0.0)
    if cause.name == "run_queue_delay":
        return bool(gated & {"host_cpu_contention", "host_cpu_steal"})
    return False


def _by_phase(
    before_ns: dict[str, int],
    during_ns: dict[str, int],
    expected_ratio: float,
    pressures: dict[str, float],
    *,
    host_known: bool,
) -> Attribution:
    inflation = phase_inflation(before_ns, during_ns, expected_ratio)
    # What counts is the time that a phase added, not its own ratio: a tripled microsecond is
    # no cause.
    added_ns = {
        phase: during_ns[phase] - before_ns[phase] * expected_ratio
        for phase, ratio in inflation.items()
        if ratio >= INFLATION_GATE and phase in PHASE_CAUSES
    }
    total_ns = sum(value for value in added_ns.values() if value > 0)
    if total_ns <= 0:
        return Attribution(
            cause=UNKNOWN,
            confidence=0.0,
            sentence="no counter of the host and no phase explains it",
            next_step="take a capture of the engine's stacks while it lasts",
            pressures=pressures,
        )
    phase = max(added_ns, key=lambda name: added_ns[name])
    name, next_step = PHASE_CAUSES[phase]
    share = added_ns[phase] / total_ns
    grown = f"the {phase} phase takes {inflation[phase]:.2f} times as long for its work"
    if not host_known:
        return Attribution(
            cause=name,
            confidence=round(CONFIDENCE_HOST_UNKNOWN * share, 3),
            sentence=f"{grown}; the host's counters of this time are not in yet",
            next_step="wait for the update of this alert, due within seconds",
            pressures=pressures,
        )
    return Attribution(
        cause=name,
        confidence=round(CONFIDENCE_HOST_QUIET * share, 3),
        sentence=f"{grown}, and no resource of the host is short",
        next_step=next_step,
        pressures=pressures,
    )
