"""Frequency clamp: the highest clock that the CPUs may take is lowered."""

from __future__ import annotations

from pathlib import Path

from simulator.faults.topology import allowed_cpus, parse_cpus
from simulator.fleet.effect import Effect, times
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Step, Write

# Clock 3.9 times lower: operations took 3.5 times as long, iterations 3.65 times.
CLOCK_EXPONENT = 0.95


class CpuFrequency(Injector):
    """Lower the limit that ``cpupower frequency-set --max`` sets, in the same files."""

    summary = "the CPUs' highest clock is lowered, as by 'cpupower frequency-set --max'"
    touches = "slows everything that runs on the engine's CPUs (all CPUs where no engine is named)"
    causes = ("host_cpu_frequency",)
    unit = "share of the highest clock that is taken away"
    levels = Levels(light=0.2, medium=0.45, heavy=0.74)
    limits = (0.01, 0.9)
    needs = Needs(root=True, files=("/sys/devices/system/cpu/cpu0/cpufreq",))

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Lower each frequency domain that the engine's CPUs are in."""
        cpus = set(allowed_cpus(target.pids, machine))
        folders = machine.path("/sys/devices/system/cpu/cpufreq").glob("policy[0-9]*")
        domains = [folder for folder in folders if cpus & set(_cpus_of(folder))]
        return [step for folder in sorted(domains) for step in _clamp(folder, 1 - intensity)]

    def effect(self, intensity: float) -> Effect:
        """Follow the public captures: 3500 to 900 MHz made iterations 3.65 times as long."""
        left = 1 - intensity
        return Effect(host_ratio=left**-CLOCK_EXPONENT, host={"cpu_frequency_hz": times(left)})


def _cpus_of(domain: Path) -> tuple[int, ...]:
    return parse_cpus(",".join((domain / "affected_cpus").read_text(encoding="ascii").split()))


def _clamp(domain: Path, left: float) -> list[Step]:
    def khz(name: str) -> int:
        return int((domain / name).read_text(encoding="ascii"))

    wanted_khz = max(khz("cpuinfo_min_freq"), round(khz("cpuinfo_max_freq") * left))
    steps: list[Step] = []
    if khz("scaling_min_freq") > wanted_khz:
        # The lower limit wins over the upper one.
        steps.append(Write(path=str(domain / "scaling_min_freq"), text=str(wanted_khz)))
    return [*steps, Write(path=str(domain / "scaling_max_freq"), text=str(wanted_khz))]
