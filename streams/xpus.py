"""Make counters of a batch of what was read of the accelerators that its engine uses."""

from collections import OrderedDict, deque

from schemas.records import ThrottleReason, XpuReading

# A reading that ended longer before a batch says nothing of it.
MOST_AGE_NS = 5_000_000_000
# Looks kept of each device, for batches that are read late.
LOOKS = 30
# Devices that an engine may use at most; more than that are those that it no longer does.
MOST_DEVICES = 256

# Over several devices the worst one counts, which is the least of this and the most of all else:
# ranks wait for the slowest.
LEAST_IS_WORST = frozenset({"xpu_core_clock_ratio"})

Counters = dict[str, float]


class Accelerators:
    """The newest looks at each device of one engine."""

    def __init__(self) -> None:
        self._looks: OrderedDict[str, deque[tuple[int, str, Counters]]] = OrderedDict()
        self._known: tuple[list[int], Counters] = ([], {})
        self._reasons: dict[str, tuple[int, tuple[ThrottleReason, ...]]] = {}

    def throttle_reasons(self, since_ns: int) -> tuple[ThrottleReason, ...]:
        """Give why the clocks of devices that were looked at since then are held down."""
        found = [why for end_ns, why in self._reasons.values() if end_ns >= since_ns]
        return tuple(dict.fromkeys(one for why in found for one in why))

    def add(self, reading: XpuReading) -> Counters | None:
        """Take in a reading; give the counters where it completes a look at all devices.

        A look's readings come one after the other, with the same times.
        """
        looks = self._looks.setdefault(reading.device_id, deque(maxlen=LOOKS))
        looks.append((reading.end_ns, reading.vendor, counters_of_device(reading)))
        self._looks.move_to_end(reading.device_id)
        self._reasons[reading.device_id] = (reading.end_ns, reading.throttle_reasons or ())
        if len(self._looks) > MOST_DEVICES:
            oldest, _ = self._looks.popitem(last=False)
            self._reasons.pop(oldest, None)
        alike = [one[-1] for one in self._looks.values() if one[-1][1] == reading.vendor]
        fresh = [end_ns for end_ns, _, _ in alike if end_ns > reading.end_ns - MOST_AGE_NS]
        if any(end_ns != reading.end_ns for end_ns in fresh):
            return None
        return self.counters(reading.end_ns) or None

    def counters(self, end_ns: int) -> Counters:
        """Give the counters of the newest looks that were over at this time."""
        chosen: list[int] = []
        found: list[Counters] = []
        for looks in self._looks.values():
            for look_end_ns, _, counters in reversed(looks):
                if look_end_ns <= end_ns:
                    if look_end_ns > end_ns - MOST_AGE_NS:
                        chosen.append(look_end_ns)
                        found.append(counters)
                    break
        # Many batches fall between two looks.
        if chosen != self._known[0]:
            self._known = (chosen, worst(found))
        return self._known[1]


def worst(devices: list[Counters]) -> Counters:
    """Give the worst device's value of each counter.

    >>> worst([{"xpu_core_clock_ratio": 0.9, "xpu_throttled": 0.0}, {"xpu_core_clock_ratio": 0.5}])
    {'xpu_core_clock_ratio': 0.5, 'xpu_throttled': 0.0, 'xpu_core_clock_spread_ratio': 0.4}
    """
    found: Counters = {}
    for counters in devices:
        for name, value in counters.items():
            pick = min if name in LEAST_IS_WORST else max
            found[name] = pick(found[name], value) if name in found else value
    clocks = [one["xpu_core_clock_ratio"] for one in devices if "xpu_core_clock_ratio" in one]
    if len(clocks) > 1:
        # Far apart, one device holds up the others.
        found["xpu_core_clock_spread_ratio"] = max(clocks) - min(clocks)
    return found


def counters_of_device(reading: XpuReading) -> Counters:
    """Give one device's counters as shares of what it can; unknown ones are left out."""
    found = {
        "xpu_utilization_ratio": reading.utilization_ratio,
        "xpu_core_clock_ratio": _share(reading.core_clock_hz, reading.core_clock_max_hz),
        "xpu_power_ratio": _share(reading.power_watts, reading.power_limit_watts),
        "xpu_memory_used_ratio": _share(reading.memory_used_bytes, reading.memory_total_bytes),
        "xpu_others_memory_ratio": _share(
            reading.others_memory_used_bytes, reading.memory_total_bytes
        ),
        "xpu_others": reading.others,
        "xpu_temperature_celsius": reading.temperature_celsius,
        "xpu_throttled": (
            None if reading.throttle_reasons is None else float(bool(reading.throttle_reasons))
        ),
        "xpu_pcie_ratio": _share(
            _larger(reading.pcie_received_bytes_per_second, reading.pcie_sent_bytes_per_second),
            reading.pcie_capacity_bytes_per_second,
        ),
        "xpu_fabric_ratio": _share(
            _larger(reading.fabric_received_bytes_per_second, reading.fabric_sent_bytes_per_second),
            reading.fabric_capacity_bytes_per_second,
        ),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _share(value: float | None, capacity: float | None) -> float | None:
    return value / capacity if value is not None and capacity else None


def _larger(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)
