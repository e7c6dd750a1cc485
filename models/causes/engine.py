"""What an engine does to itself, and phases behind which nothing is known."""

from collections import Counter
from dataclasses import dataclass

from models.causes.facts import Cause, Facts, headroom_taken

# Pauses hit so few of the batches, and carry so much of the time lost.
FEW_BATCHES = 0.4
MOST_BATCHES = 0.6
MOST_OF_TIME = 0.6
LEAST_PAUSES = 3
# As shapes change by chance, so seldom would all these pauses fall on new ones.
CHANCE = 0.05
# The least time after which a packet that was lost is sent again (TCP).
RETRANSMISSION_NS = 180e6
# Batches that take no longer than this are not what is slow.
QUICK_BATCHES = 1.15
# From so much of a CPU on somebody else computes in the core's process.
LEAST_HOGGED = 0.05
# Of the pauses' time, a phase with so much of it is where they are.
MOST_OF_PAUSES = 0.6


def paused_share(facts: Facts) -> float:
    """Give the share of the engine's time that goes into pauses; 0 where all batches are slow."""
    pauses, long = facts.pauses, facts.pauses.long
    if len(long) < LEAST_PAUSES or pauses.excess_ns <= 0:
        return 0.0
    # Of those that are no longer remembered as many were long as of those that are.
    scale = pauses.count / len(pauses.newest)
    lost_ns = scale * sum(one.excess_ns for one in long)
    few = scale * len(long) <= FEW_BATCHES * pauses.batches
    # Else all are slow, and those with most work cost most.
    few = few and pauses.count <= MOST_BATCHES * pauses.batches
    if not few or lost_ns < MOST_OF_TIME * pauses.excess_ns:
        return 0.0
    return min(lost_ns / (lost_ns + _usual_ns(facts)), 1.0)


def _usual_ns(facts: Facts) -> float:
    each_ns = sum(facts.phases_before_ns.values()) * facts.expected_ratio
    return max(each_ns * facts.pauses.batches, 1.0)


def _phase_of_pauses(facts: Facts) -> str | None:
    """Give the phase that most of the pauses lie in."""
    long = facts.pauses.long
    by_phase = Counter(one.phase for one in long)
    phase, count = by_phase.most_common(1)[0] if by_phase else ("", 0)
    return phase if count >= MOST_OF_PAUSES * len(long) > 0 else None


def _on_new_shapes(facts: Facts) -> bool:
    """Tell whether pauses come with new shapes, and that is no chance."""
    pauses, long = facts.pauses, facts.pauses.long
    on_new = sum(one.is_new for one in long)
    usual = (pauses.changed - on_new + 1) / max(pauses.batches - len(long) + 2, 1)
    return on_new >= 0.9 * len(long) and bool(min(usual, 1.0) ** on_new <= CHANCE)


def _compiles(facts: Facts) -> float | None:
    found = paused_share(facts)
    return found if found and _on_new_shapes(facts) else 0.0


def _retransmits(facts: Facts) -> float | None:
    found = paused_share(facts)
    if not found or facts.pauses.typical_ns < RETRANSMISSION_NS:
        return 0.0
    return found if _phase_of_pauses(facts) == "dispatch" else 0.0


def _pauses(facts: Facts) -> float | None:
    """Share of the time in pauses, or of a core that something else in the core's process takes."""
    hogged = _hogged(facts)
    if facts.by_gaps:
        return max(0.3, hogged)
    return max(paused_share(facts), hogged)


def computes_besides(facts: Facts) -> bool:
    """Tell whether something else computes in the core's process."""
    return _hogged(facts) >= LEAST_HOGGED


def _hogged(facts: Facts) -> float:
    """Cores that the engine's core takes beyond what its batches usually take."""
    before, during = facts.before.get("core_busy_cores"), facts.during.get("core_busy_cores")
    if not before or during is None or during < 1.15 * before:
        return 0.0
    hogged = min(during - before, 1.0)
    return hogged if hogged >= LEAST_HOGGED else 0.0


def _tell_pauses(facts: Facts) -> str:
    pauses, hogged = facts.pauses, _hogged(facts)
    if facts.by_gaps:
        return (
            "the batches themselves are as quick as ever, and no resource of the host is known to "
            "be short: the engine's own process pauses"
        )
    if paused_share(facts) >= hogged:
        return (
            f"{len(pauses.long)} of {pauses.batches} batches were held up, by "
            f"{pauses.typical_ns / 1e6:.0f} ms each, the others are as quick as ever: the engine's "
            "own process pauses"
        )
    return (
        f"something else computes in the engine's own process: it takes {hogged:.2f} CPUs more "
        "than its batches need"
    )


def _tell_compilation(facts: Facts) -> str:
    pauses = facts.pauses
    return (
        f"{sum(one.is_new for one in pauses.long)} of {len(pauses.long)} pauses, "
        f"{pauses.typical_ns / 1e6:.0f} ms each, come with a batch of a new shape: something is "
        "compiled for it"
    )


def _preempts(facts: Facts) -> float | None:
    pauses = facts.pauses
    return pauses.preempting / pauses.batches if pauses.batches >= 20 else 0.0


def _server(facts: Facts) -> float | None:
    """Share of its CPU that the API server took more, where batches are not what is slow."""
    slow_by = facts.slowness()
    if slow_by is not None and slow_by >= QUICK_BATCHES:
        return 0.0
    return headroom_taken("server_cores")(facts)


def _queue(facts: Facts) -> float | None:
    """Growth of a queue that is long now, where the time is lost in scheduling."""
    before, during = facts.before.get("waiting_requests"), facts.during.get("waiting_requests")
    if before is None or during is None:
        return None
    added = facts.added_ns()
    schedules = added.get("schedule", 0.0) >= 0.5 * sum(added.values()) > 0
    grown = during >= 32 and during >= 4 * max(before, 1.0)
    return 1 - before / during if grown and schedules else 0.0


ENGINE: tuple[Cause, ...] = (
    Cause(
        name="compilation",
        pressure=_compiles,
        gate=0.01,
        sentence="",
        shows="scheduled_tokens",
        next_step="see the engine's log for compilation; warm it up with the shapes that it will "
        "meet (compile sizes, graph capture sizes, bucketing)",
        tell=_tell_compilation,
    ),
    Cause(
        name="network_delay",
        pressure=_retransmits,
        gate=0.01,
        sentence="",
        shows="tcp_retransmissions",
        next_step="count retransmissions on both ends ('nstat -az TcpRetransSegs', 'ss -ti') and "
        "follow the path between the engine's processes",
        phases=frozenset({"dispatch"}),
        tell=lambda facts: (
            f"batches are held up while they are handed to the workers, by "
            f"{facts.pauses.typical_ns / 1e6:.0f} ms each, as when packets are lost and sent again"
        ),
    ),
    Cause(
        name="kv_exhaustion",
        pressure=_preempts,
        gate=0.05,
        sentence="",
        shows="running_requests",
        next_step="admit fewer or shorter requests, or give the KV cache more memory "
        "(--gpu-memory-utilization, --max-num-seqs)",
        tell=lambda facts: (
            f"requests are preempted in {facts.pauses.preempting} of {facts.pauses.batches} "
            "batches and computed again: the KV cache is full"
        ),
    ),
    Cause(
        name="frontend_slower",
        pressure=_server,
        gate=0.10,
        sentence="batches are about as quick as ever, but the API server's process computes more: "
        "{before} CPUs before, {during} now",
        shows="server_cores",
        scale=(1, ""),
        next_step="profile it ('py-spy top'): tokenizer, templates, streaming; start more API "
        "server processes",
    ),
    Cause(
        name="load",
        pressure=_queue,
        gate=0.25,
        sentence="requests queue up: {before} before, {during} now",
        shows="waiting_requests",
        scale=(1, ""),
        next_step="add engines, or admit less: this is no fault of the engine",
        phases=frozenset({"schedule", "queue"}),
    ),
    Cause(
        name="engine_pause",
        pressure=_pauses,
        gate=0.01,
        sentence="",
        shows="core_busy_cores",
        next_step="see what it does meanwhile: 'py-spy dump', the garbage collector, threads that "
        "hold the GIL",
        tell=_tell_pauses,
    ),
)


@dataclass(frozen=True, slots=True)
class PhaseCause:
    """Phases that took longer, and what to say of them where nothing behind them is known."""

    name: str
    phases: tuple[str, ...]
    next_step: str


PHASES: tuple[PhaseCause, ...] = (
    PhaseCause(
        "forward_slower",
        ("forward", "sample"),
        "compare the accelerator's clock, power, temperature and other tenants with before "
        "('nvidia-smi -q -d CLOCK,PERFORMANCE,POWER'), then the workers' stacks ('py-spy dump')",
    ),
    PhaseCause(
        "scheduler_slower",
        ("schedule", "prepare"),
        "look at queue length, prefix cache and Python GC ('py-spy dump' of the core)",
    ),
    PhaseCause(
        "dispatch_slower",
        ("dispatch",),
        "look at the way to the workers: the shared-memory queue and their CPUs, or the network "
        "between them (ping, 'ss -ti')",
    ),
    PhaseCause(
        "postprocess_slower",
        ("postprocess",),
        "look at detokenisation and the output queue ('py-spy dump' of the core)",
    ),
    PhaseCause(
        "communication_slower",
        ("communication_wait",),
        "look at the slowest rank and the fabric ('nvidia-smi nvlink -s', RCCL or NCCL debug log)",
    ),
)
