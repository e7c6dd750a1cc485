"""What the parsers of several vendors share: collect fields with reasons, join by index."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from collectors.xpu import text
from collectors.xpu.base import CommandWay, ParseError, merge
from schemas.records import MissingReason, XpuDevice

PCIE_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
LINE_OF_JSON = re.compile(r"^[ \t]*[\[{]", re.MULTILINE)
MOST_BANNER_LINES = 100
# No counter of a device is that large; what is cannot always be made a float.
UNBELIEVABLE = 1e30

Raw = str | float | None


class Reading:
    """The fields of one device as they are read; each is a value or has a reason.

    Attributes:
        absent: The reason for what the tool answers with "not available".
    """

    def __init__(self, absent: MissingReason = "not_supported") -> None:
        self.absent: MissingReason = absent
        self.values: dict[str, Any] = {}
        self.missing: dict[str, MissingReason] = {}

    def read(self, field: str, raw: Raw, convert: Callable[[Raw], Any]) -> None:
        """Convert a tool's text; what does not convert gets the reason why."""
        self.put(field, convert(raw), self._reason(raw))

    def put(self, field: str, value: object, otherwise: MissingReason | None = None) -> None:
        """Enter a value, or the reason for it when it is None."""
        if value is None:
            self.missing[field] = otherwise or self.absent
        else:
            self.values[field] = value
            self.missing.pop(field, None)

    def drop(self, field: str, why: MissingReason) -> None:
        """Take a value back that is not to be trusted."""
        self.values.pop(field, None)
        self.missing[field] = why

    def pcie(self, generation: int | None, width: int | None) -> None:
        """Enter a link's speed and width, and what it can carry."""
        self.put("pcie_generation", generation)
        self.put("pcie_width", width)
        self.put("pcie_capacity_bytes_per_second", text.pcie_capacity(generation, width))

    def device(self, device_id: str, vendor: str, **identity: Any) -> XpuDevice:
        """Make the device."""
        return XpuDevice(
            device_id=device_id, vendor=vendor, missing=self.missing, **(self.values | identity)
        )

    def _reason(self, raw: Raw) -> MissingReason:
        if raw is None:
            return self.absent
        if text.number(raw) is not None:
            return "suspect"  # a number, but none that can be
        why = text.reason(raw) if isinstance(raw, str) else None
        return self.absent if why == "not_supported" else why or "parse_error"


def hertz(raw: Raw) -> float | None:
    """Give a clock in MHz as Hz; 0 is what sleeping and unknown clocks say, so it is unknown."""
    value = text.scaled(raw, 1e6)
    return value if value is not None and value > 0 else None


def positive(raw: Raw) -> float | None:
    """Give a number above 0; temperatures and limits of 0 mean that nobody measured."""
    value = text.number(raw)
    return value if value is not None and value > 0 else None


def word(raw: object) -> str | None:
    """Give a text, or None where it says that there is none."""
    value = str(raw).strip() if raw is not None else ""
    return None if text.reason(value) is not None else value


def pcie_generation(gigatransfers: float | None) -> int | None:
    """Give the generation of a link from its speed in GT/s."""
    return None if gigatransfers is None else PCIE_GENERATIONS.get(round(gigatransfers, 1))


def pci_address(raw: object) -> str | None:
    """Give a PCI address as Linux writes it, from whatever a tool has under its name."""
    return text.pci_address(raw) if isinstance(raw, str) else None


def document(output: str, tool: str) -> Any:
    """Find the JSON in an output that may begin with warnings or a banner.

    Raises:
        ParseError: There is none.
    """
    for begin in islice(LINE_OF_JSON.finditer(output), MOST_BANNER_LINES):
        try:
            return json.JSONDecoder().raw_decode(output, begin.end() - 1)[0]
        except (ValueError, RecursionError):
            continue
    raise ParseError(
        f"{tool} gave no JSON but {output.strip()[:80]!r}: run it by hand, and report its version"
    )


def table(value: object) -> dict[str, Any]:
    """Give a JSON object, or an empty one where a tool wrote something else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """Give a JSON array, or an empty one where a tool wrote something else."""
    return value if isinstance(value, list) else []


def scalar(value: object) -> Raw:
    """Give a JSON value that a parser of numbers can take; anything else is None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if not isinstance(value, str) and not abs(value) < UNBELIEVABLE:  # NaN is not below it either
        return None
    return value


def join(looks: Sequence[Iterable[XpuDevice]]) -> list[XpuDevice]:
    """Join looks of which some name a device by its index only."""
    named = [list(look) for look in looks]
    identities: dict[int | None, str] = {
        device.device_index: device.device_id
        for look in reversed(named)
        for device in look
        if device.device_index is not None and not _by_index(device)
    }
    return merge(
        [
            [
                replace(one, device_id=identities.get(one.device_index, one.device_id))
                if _by_index(one)
                else one
                for one in look
            ]
            for look in named
        ]
    )


def _by_index(device: XpuDevice) -> bool:
    return device.device_id == f"{device.vendor}:{device.device_index}"


class IndexedWay(CommandWay):
    """Commands of which some name a device by its index only."""

    def read(self) -> list[XpuDevice]:
        """Run each command whose turn it is and join the answers."""
        return join(self.answers())
