"""NUMA misplacement: the engine runs on one node and its memory lies on another."""

from __future__ import annotations

import math

from simulator.faults.topology import home_node, nodes
from simulator.fleet.effect import Effect, to
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Pin, Step


class NumaMisplacement(Injector):
    """Pin processes of the engine to the node that does not have their memory."""

    summary = "the engine runs on one NUMA node while its memory lies on another"
    touches = "pins the engine's threads; whoever runs on that other node has less of it"
    causes = ("memory_bandwidth",)
    unit = "share of the engine's processes that are misplaced, the one that iterates first"
    levels = Levels(light=0.34, medium=0.67, heavy=1.0)
    limits = (0.01, 1.0)
    needs = Needs(root=True, files=("/sys/devices/system/node/node0",), target=True)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so where there is one node."""
        found = super().obstacles(target, machine)
        if not found and len(nodes(machine)) < 2:
            found.append("this machine has one NUMA node: run it on one with two sockets or more")
        elif not found and not all(_far_cpus(pid, machine) for pid in target.pids):
            found.append("we may run on one NUMA node only: run it outside of this cpuset")
        return found

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Pin each process to the node next to the one that has its memory."""
        moved = target.pids[: math.ceil(intensity * len(target.pids))]
        return [Pin(pid=pid, cpus=_far_cpus(pid, machine)) for pid in moved]

    def effect(self, intensity: float) -> Effect:
        """Suppose the usual distance of two sockets: 1.5 times; not measured here.

        No page counts as foreign: new ones are put onto the node where the engine runs now. The
        share that is near is what agents ask for once a minute, of small processes only.
        """
        return Effect(
            host_ratio=1 + 0.5 * intensity,
            process={"numa_local_ratio": to(max(0.02, 1 - intensity))},
        )


def _far_cpus(pid: int, machine: Machine) -> tuple[int, ...]:
    """Give the CPUs of another node, those that we may use."""
    home = home_node(pid, machine)
    usable = {
        node: tuple(cpu for cpu in cpus if cpu in machine.cpus)
        for node, cpus in nodes(machine).items()
        if node != home
    }
    return next((cpus for _, cpus in sorted(usable.items(), reverse=True) if cpus), ())
