"""Read numbers as vendors' tools print them; what is no number is a reason, never 0."""

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
    return float(match[1]) if match is not None else None


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
