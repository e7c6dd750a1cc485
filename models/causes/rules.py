"""What is only a consequence of something else that is the matter, in a few explicit rules."""

from collections.abc import Callable
from dataclasses import dataclass

from models.causes.engine import computes_besides
from models.causes.facts import Facts
from models.causes.host import by_elimination, is_swapping

# A loss of frequency below this beside stronger contention is its consequence: more busy cores
# clock lower.
CONSEQUENT_FREQUENCY_LOSS = 0.20
# A tenant of the accelerator who slows the forward pass by less than this does not compute.
LEAST_COMPUTED = 1.10
# Growth of an accelerator's power, as a share of its limit, that only computing explains.
COMPUTING_POWER = 0.08

Pressures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Rule:
    """``away`` is a consequence of one of ``by``, if both are the matter and ``when`` holds.

    Attributes:
        why: In a sentence.

        behind: It stays listed, behind what explains it.
    """

    away: str
    by: frozenset[str]
    why: str
    when: Callable[[Facts, Pressures], bool] = lambda _facts, _pressures: True
    behind: bool = False


def _is_slight_loss(_: Facts, pressures: Pressures) -> bool:
    lost = pressures["host_cpu_frequency"]
    return lost < CONSEQUENT_FREQUENCY_LOSS and lost < pressures["host_cpu_contention"]


def _is_kernel_time(facts: Facts, _: Pressures) -> bool:
    """Tell whether others' CPU time grew in the kernel, not in programs."""
    user = facts.rise("others_user_ratio")
    return user is not None and user < 0.5 * facts.grew("others_cpu_ratio")


def _does_not_compute(facts: Facts, _: Pressures) -> bool:
    slow_by = facts.slowness()
    return (
        slow_by is not None
        and slow_by < LEAST_COMPUTED
        and facts.grew("xpu_power_ratio") < COMPUTING_POWER
    )


# In this order: what is explained away explains nothing itself.
RULES: tuple[Rule, ...] = (
    Rule(
        "memory_bandwidth",
        frozenset(
            {
                "host_cpu_contention",
                "host_cpu_frequency",
                "host_cpu_steal",
                "cpu_quota",
                "run_queue_delay",
                "interrupt_load",
                "memory_pressure",
                "disk_pressure",
                "engine_pause",
                "compilation",
                "network_delay",
            }
        ),
        "it is named for want of anything else",
        lambda facts, _: by_elimination(facts),
    ),
    Rule(
        "run_queue_delay",
        frozenset({"cpu_quota", "host_cpu_contention", "host_cpu_steal", "interrupt_load"}),
        "threads wait because somebody takes their time",
    ),
    Rule(
        "run_queue_delay",
        frozenset({"engine_pause"}),
        "the engine's own threads are in its way",
        lambda facts, _: computes_besides(facts),
    ),
    Rule(
        "engine_pause",
        frozenset(
            {
                "host_cpu_contention",
                "host_cpu_steal",
                "cpu_quota",
                "run_queue_delay",
                "interrupt_load",
                "memory_pressure",
                "disk_pressure",
            }
        ),
        "whoever waits pauses",
        lambda facts, _: not computes_besides(facts),
    ),
    Rule(
        "host_cpu_frequency",
        frozenset({"host_cpu_contention"}),
        "more busy cores clock lower",
        _is_slight_loss,
    ),
    Rule(
        "host_cpu_contention",
        frozenset({"memory_pressure", "disk_pressure", "interrupt_load"}),
        "the kernel works for what waits, no program",
        _is_kernel_time,
    ),
    Rule(
        "disk_pressure",
        frozenset({"memory_pressure"}),
        "what is swapped goes over the disk",
        lambda facts, _: is_swapping(facts),
        behind=True,
    ),
    Rule(
        "interrupt_load",
        frozenset({"disk_pressure", "memory_pressure"}),
        "disks interrupt when they are done",
        behind=True,
    ),
    Rule(
        "accelerator_contention",
        frozenset({"accelerator_memory"}),
        "who takes memory is there, but does not compute",
        _does_not_compute,
    ),
    Rule(
        "accelerator_contention",
        frozenset({"fabric_contention", "pcie_contention"}),
        "who copies is there, too",
        lambda facts, _: facts.grew("xpu_power_ratio") < COMPUTING_POWER,
    ),
    Rule(
        "accelerator_contention",
        frozenset({"fabric_contention", "pcie_contention"}),
        "who copies is there, and computes besides",
        behind=True,
    ),
    Rule(
        "slow_rank",
        frozenset({"accelerator_clock", "accelerator_contention"}),
        "what is the matter with its device is known",
        behind=True,
    ),
    Rule(
        "accelerator_memory",
        frozenset({"accelerator_contention", "fabric_contention", "pcie_contention"}),
        "who computes or copies needs memory",
    ),
)


def explained(gated: list[str], facts: Facts, pressures: Pressures) -> list[str]:
    """Give those of the causes above their gates that stay, strongest first."""
    left = list(gated)
    for rule in RULES:
        by = [name for name in left if name in rule.by]
        if rule.away not in left or not by or not rule.when(facts, pressures):
            continue
        left.remove(rule.away)
        if rule.behind:
            left.insert(left.index(by[0]) + 1, rule.away)
    return left
