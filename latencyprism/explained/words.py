"""Numbers, times and columns as all explanations write them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

LABEL_WIDTH = 11
# So that what is wrapped in a narrow terminal stays readable.
LEAST_WIDTH = 60
UNITS: dict[str, Callable[[float], str]] = {
    "_ratio": lambda value: f"{100 * value:.4g} %",
    "_bytes_per_second": lambda value: f"{value / 1e6:,.4g} MB/s",
    "_hz": lambda value: f"{value / 1e9:.4g} GHz",
    "_celsius": lambda value: f"{value:.4g} °C",
    "_bytes": lambda value: f"{value / 1e9:,.4g} GB",
    "_watts": lambda value: f"{value:.4g} W",
    "_per_second": lambda value: f"{value:,.4g}/s",
    "_seconds": lambda value: f"{value:.4g} s",
}
# How sure a confidence is in words, from the surest.
SURENESS = (
    (0.9, "nearly sure"),
    (0.7, "likely"),
    (0.5, "more likely than not"),
    (0.3, "a guess"),
    (0.0, "hardly a hint"),
)
NS = 1_000_000_000

Facts = Iterable[tuple[str, str]]
"""Labels and what is said; an empty label goes on with the one above."""


def decimals(duration_ns: float) -> int:
    """Give how many decimals of a ms show three digits of a duration."""
    size_ns = abs(duration_ns)
    return 1 if size_ns >= 10_000_000 else 2 if size_ns >= 1_000_000 else 3


def ms(duration_ns: float) -> str:
    """Write a duration in ms, without the unit."""
    return f"{duration_ns / 1e6:.{decimals(duration_ns)}f}"


def seconds(duration_ns: float) -> str:
    """Write a sum of durations.

    >>> seconds(12_345_678_901), seconds(1_234_567_890_123), seconds(-4_200_000)
    ('12.3 s', '1,235 s', '-4.2 ms')
    """
    size_ns = abs(duration_ns)
    if size_ns < NS:
        return f"{duration_ns / 1e6:.3g} ms"
    return f"{duration_ns / NS:,.0f} s" if size_ns >= 1000 * NS else f"{duration_ns / NS:.3g} s"


def lasting(duration_ns: int) -> str:
    """Write how long something lasted, as people say it.

    >>> [lasting(round(s * 1e9)) for s in (0.4, 41, 725, 7_500, 200_000)]
    ['0.4 s', '41 s', '12 min 5 s', '2 h 5 min', '2 d 7 h']
    """
    if duration_ns < 10 * NS:
        return f"{duration_ns / NS:.1f} s"
    rest = round(duration_ns / NS)
    for size, unit, lower, lower_unit in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if rest >= size:
            left = rest % size // lower
            return f"{rest // size} {unit}" + (f" {left} {lower_unit}" if left else "")
    return f"{rest} s"


def sure(confidence: float) -> str:
    """Say in words how sure a confidence is."""
    return next((words for least, words in SURENESS if confidence >= least), SURENESS[-1][1])


def counter(name: str, value: float) -> tuple[str, str]:
    """Give a counter's name without its unit, and its value with it."""
    for ending, show in UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), show(value)
    return name, f"{value:.6g}"


def change(name: str, before: float | None, during: float | None) -> tuple[str, str]:
    """Give a counter's name, and its value before and during with their unit."""
    told = [("unknown" if value is None else counter(name, value)[1]) for value in (before, during)]
    return counter(name, 0.0)[0], f"{told[0]} -> {told[1]}"


def counted(count: int | None, what: str, rest: str = "", plural: str = "") -> str:
    """Write how many there are; nothing where that is not known."""
    if count is None:
        return ""
    return f"{short(count)} {what if count == 1 else plural or what + 's'}{rest}"


def short(count: int) -> str:
    """Write a count as people say it.

    >>> [short(n) for n in (0, 999, 8_450, 84_012, 1_234_567)]
    ['0', '999', '8.4k', '84k', '1.2M']
    """
    if count < 1000:
        return str(count)
    if count < 1_000_000:
        return f"{count / 1e3:.1f}k" if count < 10_000 else f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M"


def joined(separator: str, *parts: str | None) -> str:
    """Join what there is to say."""
    return separator.join(part for part in parts if part)


def lines_of_facts(facts: Facts, width: int | None = None) -> Iterator[str]:
    """Write facts below each other, wrapped where there is a width."""
    blank = " " * (LABEL_WIDTH + 2)
    for label, text in facts:
        first = f"  {label:{LABEL_WIDTH}}"
        if width is None:
            yield f"{first}{text}"
            continue
        yield from textwrap.wrap(
            text,
            max(width, LEAST_WIDTH),
            initial_indent=first,
            subsequent_indent=blank,
            break_long_words=False,
            break_on_hyphens=False,
        )


def columns(label: str, rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Give facts whose parts stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = (f"{cell:{size}}" for cell, size in zip(row, widths, strict=True))
        yield label if number == 0 else "", "  ".join(cells).rstrip()
