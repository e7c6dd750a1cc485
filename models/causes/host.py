"""What a host may be short of."""

from models.causes.facts import Cause, Facts, headroom_taken, relative_loss, rise

HOST_PHASES = frozenset({"schedule", "prepare", "dispatch", "sample", "postprocess"})
# A page that has to come from a disk is waited for about this long, on flash.
FAULT_SECONDS = 1e-4
# Less swapping than this is housekeeping.
SWAPPING_BYTES_PER_SECOND = 1e6
# From here on packets queue up.
FULL_LINK = 0.6
# What is slow all over, and not by waiting for a CPU, computes slowly.
LEAST_AROUND = 0.05
UNIFORM_SLOWNESS = 1.2
SLOW_ALL_OVER = 1.1
# Of its memory this share must have gone to another node to matter.
LEAST_FAR = 0.1


def is_swapping(facts: Facts) -> bool:
    """Tell whether the host swaps, and did not before."""
    moved = facts.grew("swap_in_bytes_per_second") + facts.grew("swap_out_bytes_per_second")
    return moved >= SWAPPING_BYTES_PER_SECOND


def _memory(facts: Facts) -> float | None:
    found = [facts.rise("memory_pressure_ratio")]
    if is_swapping(facts):
        # Of the engine's own processes, where they are known; else somebody on the host waits.
        own = facts.rise("engine_major_faults_per_second")
        faults = facts.rise("major_faults_per_second") if own is None or own < 1 else own
        found.append(None if faults is None else faults * FAULT_SECONDS)
        found.append(facts.rise("io_pressure_ratio"))
    known = [one for one in found if one is not None]
    return max(known, default=None)


def _far_memory(facts: Facts) -> float | None:
    """Share of the memory that went to another node; else by elimination.

    An engine that computes as much as ever, on CPUs as fast and as free as ever, and takes longer
    in every phase by about the same ratio, waits for its memory.
    """
    lost = relative_loss("engine_numa_local_ratio")(facts)
    slow_by = _uniform_slowness(facts)
    if lost is not None and lost >= LEAST_FAR:
        # It is read once a minute, and may tell of something else that is long over.
        return lost if slow_by is None or slow_by >= SLOW_ALL_OVER else 0.0
    busy = facts.before.get("engine_busy_cores")
    if slow_by is None or not busy or "engine_busy_cores" not in facts.during:
        return lost
    computes = 0.9 <= facts.during["engine_busy_cores"] / busy <= 1.15
    return 1 - 1 / slow_by if computes and slow_by >= UNIFORM_SLOWNESS else 0.0


def by_elimination(facts: Facts) -> bool:
    """Tell whether no counter shows that memory is far away."""
    lost = relative_loss("engine_numa_local_ratio")(facts)
    return lost is None or lost < LEAST_FAR


def _uniform_slowness(facts: Facts) -> float | None:
    """Give how much slower an engine that computes on the CPU is, if all of it is alike."""
    slow_by, forward = facts.slowness(), facts.inflation("forward")
    if slow_by is None or forward is None or facts.has_device:
        return None
    before_ns = sum(facts.phases_before_ns.get(one, 0.0) for one in HOST_PHASES)
    during_ns = sum(facts.phases_during_ns.get(one, 0.0) for one in HOST_PHASES)
    forward_ns = facts.phases_before_ns.get("forward", 0.0)
    if before_ns <= LEAST_AROUND * forward_ns:
        # What takes next to nothing is sampled too seldom to tell that all is alike.
        return None
    around = during_ns / (before_ns * facts.expected_ratio)
    is_alike = 0.5 * (forward - 1) <= around - 1 <= 2 * (forward - 1) + 0.2
    return slow_by if is_alike else 1.0


def _network(facts: Facts) -> float | None:
    """Rise of the link's load, where it is full."""
    used = facts.rise("network_link_ratio")
    if used is None:
        return None
    return used if facts.during["network_link_ratio"] >= FULL_LINK else 0.0


HOST: tuple[Cause, ...] = (
    Cause(
        name="host_cpu_contention",
        pressure=headroom_taken("others_cpu_ratio"),
        gate=0.10,
        sentence="other processes took the host's CPUs: {before} before, {during} now",
        shows="others_cpu_ratio",
        next_step="find the process with 'top' on the host and move or limit it; "
        "then give the engine CPUs of its own (cpuset, or a Guaranteed pod)",
    ),
    Cause(
        name="host_cpu_steal",
        pressure=headroom_taken("cpu_steal_ratio"),
        gate=0.10,
        sentence="the hypervisor took CPU time away: {before} before, {during} now",
        shows="cpu_steal_ratio",
        next_step="move the virtual machine to a less loaded host",
    ),
    Cause(
        name="host_cpu_frequency",
        pressure=relative_loss("cpu_frequency_hz"),
        gate=0.10,
        sentence="the CPUs run slower: {before} before, {during} now",
        shows="cpu_frequency_hz",
        scale=(1e-9, " GHz"),
        next_step="check power caps, thermal throttling and the cpufreq governor of the host",
    ),
    Cause(
        name="cpu_quota",
        pressure=rise("engine_throttled_ratio"),
        gate=0.03,
        sentence="the engine's control group used up its CPU quota and was stopped: {before} of "
        "the time before, {during} now",
        shows="engine_throttled_ratio",
        next_step="raise the CPU limit of the engine's container (cgroup cpu.max; for a pod "
        "resources.limits.cpu), or drop it",
    ),
    Cause(
        name="run_queue_delay",
        pressure=rise("engine_run_queue_share"),
        gate=0.12,
        sentence="the engine's threads wait for a CPU: {before} of the time that they could run "
        "before, {during} now",
        shows="engine_run_queue_share",
        next_step="look at what else runs on the CPUs that the engine is pinned to (taskset -cp), "
        "and at its CPU limit (cgroup cpu.max, cpu.stat)",
    ),
    Cause(
        name="interrupt_load",
        pressure=rise("cpu_irq_ratio"),
        gate=0.05,
        sentence="interrupts take the host's CPUs: {before} before, {during} now",
        shows="cpu_irq_ratio",
        next_step="see which with 'watch -d cat /proc/interrupts /proc/softirqs'; move them off "
        "the engine's CPUs (irqbalance, smp_affinity)",
    ),
    Cause(
        name="memory_bandwidth",
        pressure=_far_memory,
        gate=0.10,
        sentence="",
        shows="engine_numa_local_ratio",
        next_step="see 'numastat -p' of the engine's processes; bind each to the node of its "
        "memory and of its accelerator (numactl --cpunodebind --membind)",
        tell=lambda facts: _tell_memory(facts),
    ),
    Cause(
        name="memory_pressure",
        pressure=_memory,
        gate=0.05,
        sentence="",
        shows="memory_pressure_ratio",
        next_step="find what eats the host's memory ('ps aux --sort -rss'); stop the swapping "
        "(swapoff, or memory.swap.max of the engine's group)",
        tell=lambda facts: _tell_swapping(facts),
    ),
    Cause(
        name="disk_pressure",
        pressure=rise("io_pressure_ratio"),
        gate=0.10,
        sentence="tasks wait for the disk: {before} of the time before, {during} now",
        shows="io_pressure_ratio",
        next_step="find the writer with 'iotop'; keep the engine's cache and logs off that disk",
    ),
    Cause(
        name="network_delay",
        pressure=_network,
        gate=0.25,
        sentence="the host's network link is full: {before} before, {during} now",
        shows="network_link_ratio",
        next_step="find who sends ('iftop', 'sar -n DEV 1') and move it to another link",
    ),
)


def _tell_memory(facts: Facts) -> str:
    before = facts.before.get("engine_numa_local_ratio")
    during = facts.during.get("engine_numa_local_ratio")
    if before is not None and during is not None and before - during >= 0.1 * before:
        return (
            "the engine's memory lies on another NUMA node than the CPUs it runs on: "
            f"{before:.0%} of it was near before, {during:.0%} is now"
        )
    return (
        f"the engine computes as much as ever and every phase takes {facts.slowness() or 0:.2f} "
        "times as long: its CPUs wait for memory"
    )


def _tell_swapping(facts: Facts) -> str:
    def waiting(counters: dict[str, float]) -> str:
        value = counters.get("memory_pressure_ratio")
        return "an unknown part" if value is None else f"{value:.0%}"

    told = (
        f"tasks wait for memory {waiting(facts.before)} of the time before, "
        f"{waiting(facts.during)} now"
    )
    if not is_swapping(facts):
        return told
    moved = sum(facts.during.get(f"swap_{way}_bytes_per_second", 0.0) for way in ("in", "out"))
    return f"the host swaps, {moved / 1e6:.0f} MB/s: {told}"
