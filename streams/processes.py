"""Make counters of an engine of what was read of its processes."""

from schemas.records import ProcessReading

Counters = dict[str, float]

# Roles as their counters are called.
NAMES = {"api_server": "server", "engine_core": "core", "worker": "worker"}


class Processes:
    """The newest look at the processes of one engine."""

    def __init__(self) -> None:
        self._look: dict[int, ProcessReading] = {}
        self._expected: frozenset[int] = frozenset()
        self._told = False

    def add(self, reading: ProcessReading) -> list[tuple[Counters, int, int]]:
        """Take in a reading; give counters, begin and end of each look that is complete by it.

        A look's readings come one after the other, with the same times. One is complete when all
        processes of the look before have told, or when the next look begins.
        """
        found = []
        look_end_ns = next((one.end_ns for one in self._look.values()), None)
        if look_end_ns is not None and reading.end_ns != look_end_ns:
            if not self._told:
                found.append(self._counted())
            self._expected, self._look, self._told = frozenset(self._look), {}, False
        self._look[reading.pid] = reading
        if not self._told and self._expected and self._expected <= self._look.keys():
            found.append(self._counted())
            self._told = True
        return found

    def _counted(self) -> tuple[Counters, int, int]:
        first = next(iter(self._look.values()))
        return counters_of_processes(list(self._look.values())), first.begin_ns, first.end_ns


def counters_of_processes(readings: list[ProcessReading]) -> Counters:
    """Give what the processes of one look say together; unknown ones are left out.

    CPU time is per process of a role, in CPUs; what makes all others wait is of the worst one.
    """
    found: Counters = {}
    seconds = max((readings[0].end_ns - readings[0].begin_ns) / 1e9, 1e-3)
    for role, name in NAMES.items():
        used = _cpu_seconds([one for one in readings if one.role == role])
        if used:
            found[f"{name}_cores"] = max(used) / seconds
    computing = [one for one in readings if one.role != "api_server"]
    if any_used := _cpu_seconds(computing):
        found["engine_cores"] = sum(any_used) / seconds
    near = [one.numa_local_ratio for one in computing if one.numa_local_ratio is not None]
    if near:
        found["engine_numa_local_ratio"] = min(near)
    worst: dict[str, tuple[list[float | int | None], float]] = {
        "engine_throttled_ratio": ([one.cgroup_throttled_seconds for one in readings], seconds),
        "engine_major_faults_per_second": ([one.major_faults for one in readings], seconds),
        "engine_swapped_bytes": ([one.swap_bytes for one in readings], 1.0),
    }
    for name, (values, by) in worst.items():
        told = [value for value in values if value is not None]
        if told:
            found[name] = max(told) / by
    return found


def _cpu_seconds(readings: list[ProcessReading]) -> list[float]:
    return [one.cpu_seconds for one in readings if one.cpu_seconds is not None]
