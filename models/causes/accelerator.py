"""What the engine's own accelerators may be short of, and its ranks."""

from models.causes.facts import Cause, Facts, Pressure, relative_loss
from schemas.records import ThrottleReason

DEVICE_PHASES = frozenset({"forward", "sample", "communication_wait"})
# Healthy clocks differ by 18 % from second to second, by what there is to do: without a word of the
# driver that it holds the clock down, a loss must be larger than that.
UNTOLD_LOSS = 0.25
REASONS: dict[ThrottleReason, str] = {
    "sw_power_cap": "its power limit holds it down",
    "hw_slowdown": "the hardware slowed it down",
    "sw_thermal": "it is too hot",
    "hw_thermal": "it is too hot, so the hardware slowed it down",
    "power_brake": "the power supply holds it down",
    "user_clock": "its clock is locked",
}
STEPS: dict[ThrottleReason, str] = {
    "sw_power_cap": "raise its power limit ('nvidia-smi -pl', 'amd-smi set --power-cap') and see "
    "who lowered it",
    "sw_thermal": "check its cooling: fans, air flow, neighbours ('nvidia-smi -q -d TEMPERATURE')",
    "hw_thermal": "check its cooling at once: fans, air flow ('nvidia-smi -q -d TEMPERATURE')",
    "user_clock": "unlock its clock ('nvidia-smi -rgc') and see who locked it",
    "power_brake": "check the power supply of the host and of its rack",
}


def _clock_loss(facts: Facts) -> float | None:
    """Loss of the worst device's clock, unless it clocks down because it has less to do."""
    lost = relative_loss("xpu_core_clock_ratio")(facts)
    if lost is None:
        return None
    before = facts.before.get("xpu_utilization_ratio", 0.0)
    during = facts.during.get("xpu_utilization_ratio", 0.0)
    held = set(facts.throttle_reasons) & REASONS.keys()
    if not held and during < 0.5 * before:
        return 0.0
    return lost if held or lost >= UNTOLD_LOSS else 0.0


def _tell_clock(facts: Facts) -> str:
    def shown(counters: dict[str, float]) -> str:
        value = counters.get("xpu_core_clock_ratio")
        return "unknown" if value is None else f"{value:.0%}"

    why = [REASONS[reason] for reason in facts.throttle_reasons if reason in REASONS]
    told = (
        f"the accelerator runs slower: {shown(facts.before)} of its highest clock before, "
        f"{shown(facts.during)} now"
    )
    return f"{told}, for {' and '.join(why)}" if why else told


def clock_step(facts: Facts) -> str | None:
    """Give what to do of the reason that the driver tells, where there is something better."""
    return next((STEPS[one] for one in facts.throttle_reasons if one in STEPS), None)


def _tenants(facts: Facts) -> float | None:
    """Share of the accelerator's time that new processes on it take where all want it."""
    if facts.rise("xpu_others") is None:
        return None
    return 1 - (1 + facts.before["xpu_others"]) / (1 + facts.during["xpu_others"])


def _taken(name: str) -> Pressure:
    """Give the share of a link that carries more than the engine's own work explains."""

    def pressure(facts: Facts) -> float | None:
        if facts.rise(name) is None:
            return None
        # What a link carries is told as one: an engine with more to do uses more of it itself.
        own = facts.before[name] * max(facts.expected_ratio, 1.0)
        return facts.during[name] - own

    return pressure


def _memory_taken(facts: Facts) -> float | None:
    """Share of the device's free memory that others took."""
    taken = facts.rise("xpu_others_memory_ratio")
    used = facts.before.get("xpu_memory_used_ratio")
    return None if taken is None or used is None else taken / max(1 - used, 0.02)


def _has_device(facts: Facts) -> bool:
    return facts.has_device


def _spread(facts: Facts) -> float | None:
    """How much further apart ranks are: by their shares of batches, or by their devices' clocks."""
    clocks = facts.rise("xpu_core_clock_spread_ratio")
    shares = facts.rise("worker_spread_ratio")
    if clocks is None or clocks < UNTOLD_LOSS:
        return shares
    return max(clocks, shares or 0.0)


def _tell_spread(facts: Facts) -> str:
    shares = facts.rise("worker_spread_ratio")
    if shares is None:
        return "the device of one rank runs slower than those of the others, who wait for it"
    return (
        "one rank is slower than the others, who wait for it: the fastest needs "
        f"{facts.before['worker_spread_ratio']:.0%} less time than the slowest before, "
        f"{facts.during['worker_spread_ratio']:.0%} now"
    )


ACCELERATOR: tuple[Cause, ...] = (
    Cause(
        name="accelerator_clock",
        pressure=_clock_loss,
        gate=0.05,
        sentence="",
        shows="xpu_core_clock_ratio",
        applies=_has_device,
        next_step="look for power cap and heat: throttle_reasons in latencyprism.xpus.v1, or "
        "'nvidia-smi -q -d CLOCK,PERFORMANCE,POWER,TEMPERATURE'",
        phases=DEVICE_PHASES,
        tell=_tell_clock,
    ),
    Cause(
        name="accelerator_contention",
        pressure=_tenants,
        gate=0.20,
        sentence="other processes came onto the accelerator: {before} before, {during} now",
        shows="xpu_others",
        scale=(1, ""),
        applies=_has_device,
        next_step="find them in the list of processes of the vendor's tool (nvidia-smi, rocm-smi, "
        "npu-smi info) and move them; then give the engine devices of its own",
        phases=DEVICE_PHASES,
    ),
    Cause(
        name="accelerator_memory",
        pressure=_memory_taken,
        gate=0.25,
        sentence="other processes took the accelerator's memory: {before} of it before, "
        "{during} now",
        shows="xpu_others_memory_ratio",
        applies=_has_device,
        next_step="find them in the list of processes of the vendor's tool and move them, before "
        "the engine runs out of memory",
    ),
    Cause(
        name="pcie_contention",
        pressure=_taken("xpu_pcie_ratio"),
        gate=0.05,
        sentence="others use the accelerator's PCIe link: {before} of what it can carry before, "
        "{during} now",
        shows="xpu_pcie_ratio",
        applies=_has_device,
        next_step="find the process that copies ('nvidia-smi dmon -s t', 'nvidia-smi pmon') and "
        "move it, or the engine, to devices behind another switch",
        phases=DEVICE_PHASES | {"prepare"},
    ),
    Cause(
        name="fabric_contention",
        pressure=_taken("xpu_fabric_ratio"),
        gate=0.05,
        sentence="others use the links between accelerators: {before} of what they can carry "
        "before, {during} now",
        shows="xpu_fabric_ratio",
        applies=_has_device,
        next_step="find the process that copies between devices ('nvidia-smi nvlink -gt d', "
        "'nvidia-smi pmon') and move it",
        phases=DEVICE_PHASES,
    ),
    Cause(
        name="slow_rank",
        pressure=_spread,
        gate=0.10,
        sentence="",
        shows="worker_spread_ratio",
        applies=lambda facts: "communication_wait" in facts.phases_during_ns,
        next_step="see slowest_worker_rank in the batch's counters; compare that rank's device "
        "(clock, heat, link) and CPUs with its peers'",
        phases=DEVICE_PHASES,
        tell=_tell_spread,
    ),
)
