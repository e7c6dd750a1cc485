"""CPU quota: the engine's own control group lets it have less CPU time than it wants."""

from __future__ import annotations

import os

from simulator.faults import cgroups
from simulator.faults.cgroups import Group
from simulator.faults.disk import own_name
from simulator.faults.topology import used_cores
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Cgroup, Join, Step, Write

PERIOD_US = 100_000
# The kernel takes no quota below this.
LEAST_QUOTA_US = 1_000
# What an engine is taken to use that does nothing while it is measured.
LEAST_CORES = 0.1


class CpuQuota(Injector):
    """Take a share of the CPU time that the engine uses now away, by the scheduler's bandwidth.

    The engine's processes move into a group below the one in which they are, so every limit that
    they have stays. On version 2 that group is a threaded one: it can have a quota beside other
    processes of the same container, which are left alone.
    """

    summary = "the engine's control group has a CPU quota below what the engine uses"
    touches = "moves the engine's processes into a control group of their own; slows nobody else"
    causes = ("cpu_quota", "run_queue_delay")
    unit = "share of the engine's CPU time that is taken away"
    levels = Levels(light=0.2, medium=0.5, heavy=0.75)
    limits = (0.01, 0.95)
    intermittent = True
    needs = Needs(root=True, target=True)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so where the group of the engine cannot have another one below it."""
        found = super().obstacles(target, machine)
        blocked = {cgroups.obstacle(pid, "cpu", machine) for pid in target.pids}
        return found + sorted(text for text in blocked if text is not None)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Measure what the engine uses, and give each of its groups that much less."""
        members: dict[Group, list[int]] = {}
        for pid in target.pids:
            group = cgroups.find_group(pid, "cpu", machine)
            if group is not None:
                members.setdefault(group, []).append(pid)
        return [
            step
            for group, pids in members.items()
            for step in _quota_steps(group, pids, _quota_us(intensity, pids, machine))
        ]

    def effect(self, intensity: float) -> Effect:
        """Stop it for the rest of each period, as the scheduler does.

        What is taken away is missing in some batches and not in others where they are shorter than
        the period. The replica made 0.55, 0.42 and 0.19 of its tokens, on 2 busy CPUs.
        """
        period_ms = PERIOD_US / 1e3
        return Effect(
            pauses_per_second=1e3 / (period_ms * (1 - intensity)),
            pause_ms=period_ms * intensity,
            process={"cgroup_throttled_seconds": add(intensity)},
            host={"engine_run_queue_wait_ratio": add(intensity)},
        )


def _quota_us(intensity: float, pids: list[int], machine: Machine) -> int:
    cores = max(used_cores(pids, machine), LEAST_CORES)
    return max(LEAST_QUOTA_US, round(cores * (1 - intensity) * PERIOD_US))


def _quota_steps(group: Group, pids: list[int], quota_us: int) -> list[Step]:
    own = group.folder / own_name("cpu_quota")
    steps: list[Step] = [Cgroup(path=str(own), threaded=group.version == 2)]
    if group.version == 1:
        steps += [
            Write(path=str(own / "cpu.cfs_period_us"), text=str(PERIOD_US)),
            Write(path=str(own / "cpu.cfs_quota_us"), text=str(quota_us)),
        ]
    else:
        if "cpu" not in cgroups.controllers_below(group.folder):
            control = os.fspath(group.folder / "cgroup.subtree_control")
            steps.append(Write(path=control, text="+cpu", before="-cpu"))
        steps.append(Write(path=str(own / "cpu.max"), text=f"{quota_us} {PERIOD_US}"))
    return steps + [Join(pid=pid, path=str(own), before=str(group.folder)) for pid in pids]
