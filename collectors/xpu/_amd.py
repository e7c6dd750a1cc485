"""What AMD's tools, library and kernel files have in common: names, units, wrapped values."""

import re
from typing import Any

from collectors.xpu import text
from collectors.xpu._reading import Raw, Reading, scalar, word
from schemas.records import ThrottleReason

NAME = "amd"
# What AMD calls the things that hold a clock down, with our word for each.
VIOLATIONS: dict[str, ThrottleReason] = {
    "prochot": "hw_thermal",
    "ppt": "sw_power_cap",
    "socket_thermal": "hw_thermal",
    "vr_thermal": "hw_thermal",
    "hbm_thermal": "hw_thermal",
}
SOCKET_POWER = ("socket_power", "current_socket_power", "average_socket_power")


def unique_id(raw: object) -> str | None:
    """Give ROCm's name of a GPU, ``GPU-`` and 16 digits, from a serial number in any spelling."""
    value = (word(raw) or "").lower().removeprefix("0x").removeprefix("gpu-")
    if re.fullmatch(r"[0-9a-f]{1,16}", value) is None or int(value, 16) == 0:
        return None
    return f"GPU-{value.zfill(16)}"


def identity(
    index: int,
    whole: str | None = None,
    address: str | None = None,
    kind: str | None = None,
    place: int | None = None,
) -> dict[str, Any]:
    """Give the fields that say which device this is; a part is named after the whole."""
    own = {"vendor": NAME, "device_index": index, "pci_address": address}
    if whole is not None and kind not in (None, "SPX"):
        part = {"parent": whole, "partition": f"{kind}/{place or 0}"}
        return {"device_id": f"{whole}:{place or 0}", **part, **own}
    return {"device_id": whole or address or f"{NAME}:{index}", **own}


def unwrapped(node: object) -> Raw:
    """Unwrap ``{"value": 3, "unit": "W"}``; "N/A" may stand for either."""
    return scalar(node.get("value")) if isinstance(node, dict) else scalar(node)


def first(node: dict[str, Any], keys: tuple[str, ...]) -> object:
    """Give the first of these keys' values that is a number."""
    known = (node[key] for key in keys if text.number(unwrapped(node.get(key))) is not None)
    return next(known, None)


def meanings(reading: Reading) -> dict[str, Any]:
    """Say what the counters that were read mean."""
    known = reading.values
    return {
        "utilization_meaning": "busy_time" if "utilization_ratio" in known else None,
        "memory_bandwidth_meaning": "busy_time" if "memory_bandwidth_ratio" in known else None,
        "power_window": "unknown" if "power_watts" in known else None,
    }
