"""Read numbers as vendors' tools print them; what is no number is a reason, never 0."""

import math
import re

from schemas.records import MissingReason

MEBIBYTE = 1024**2

# How tools say that they have no value; compared in lower case, without brackets.
NOT_SUPPORTED = frozenset(
    {
        "",
        "-",
        "--",
        "n/a",
        "na",
        "none",
        "not supported",
        "notsupported",
        "unknown error",
        "unknown",
        "null",
        "requested functionality has been deprecated",
    }
)
NOT_PERMITTED = frozenset({"insufficient permissions", "not permitted", "permission denied"})

_PCI_ADDRESS = re.compile(
    r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?", re.ASCII
)
# Transfers per second of a lane, by generation, less its coding: 8 of 10 bits, then 128 of 130,
# then FLIT mode's 242 of 256 bytes.
_PCIE_LANE_BYTES_PER_SECOND = {
    1: 2.5e9 / 8 * 8 / 10,
    2: 5e9 / 8 * 8 / 10,
    3: 8e9 / 8 * 128 / 130,
    4: 16e9 / 8 * 128 / 130,
    5: 32e9 / 8 * 128 / 130,
    6: 64e9 / 8 * 242 / 256,
}
_NUMBER = re.compile(r"^[(\[]?\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(.*?)[)\]]?$")


def reason(text: str) -> MissingReason | None:
    """Give the reason that a tool's word stands for, or None where it is a value."""
    word = text.strip().strip("[]()").strip().lower()
    if word in NOT_SUPPORTED or word.startswith("not available"):
        return "not_supported"
    if word in NOT_PERMITTED:
        return "not_permitted"
    return None


def number(text: str | float | None) -> float | None:
    """Give the number at the start of a text such as ``"96.66W"`` or ``"(1200Mhz)"``.

    None where there is none; the unit after it is the caller's business.
    """
    if text is None or isinstance(text, bool):
        return None
    if isinstance(text, int | float):
        return float(text)
    if reason(text) is not None:
        return None
    match = _NUMBER.match(text.strip())
    value = float(match[1]) if match is not None else None
    return value if value is not None and math.isfinite(value) else None


def unit(text: str) -> str:
    """Give what follows the number, as ``"W"`` of ``"96.66W"``."""
    match = _NUMBER.match(text.strip())
    return match[2].strip() if match is not None else ""


def scaled(text: str | float | None, factor: float) -> float | None:
    """Give a number times a factor: MHz to Hz, percent to a ratio, mW to W."""
    value = number(text)
    return None if value is None else value * factor


def percent(text: str | float | None) -> float | None:
    """Give a percentage as a ratio from 0 to 1; None where it lies outside."""
    value = number(text)
    return value / 100 if value is not None and 0 <= value <= 100 else None


def mebibytes(text: str | float | None) -> int | None:
    """Give a number of MiB in bytes; most tools that print "MB" mean MiB."""
    value = number(text)
    return None if value is None or value < 0 else round(value * MEBIBYTE)


def whole(text: str | float | None) -> int | None:
    """Give a whole number."""
    value = number(text)
    return None if value is None else round(value)


def pci_address(text: str | None) -> str | None:
    """Give a PCI address as sysfs writes it: ``0000:83:00.0`` of ``00000000:83:00.0``.

    None where the text is none, as ``N/A``.

    >>> pci_address("00000000:83:00.0"), pci_address("83:00.0"), pci_address("N/A")
    ('0000:83:00.0', '0000:83:00.0', None)
    """
    match = _PCI_ADDRESS.fullmatch((text or "").strip().lower())
    if match is None:
        return None
    return f"{int(match[1] or '0', 16):04x}:{match[2]}:{match[3]}.{match[4] or '0'}"


def pcie_capacity(generation: int | None, width: int | None) -> float | None:
    """Give what a PCIe link carries one way, in bytes per second, after line coding.

    >>> round(pcie_capacity(5, 16) / 1e9)
    63
    """
    if generation not in _PCIE_LANE_BYTES_PER_SECOND or not width:
        return None
    return _PCIE_LANE_BYTES_PER_SECOND[generation] * width
