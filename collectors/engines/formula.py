"""Sums and comparisons of a batch's integers, as an engine's description writes them."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_TERM = re.compile(r"\s*([+-])?\s*([A-Za-z_]\w*|\d+)\s*")
_COMPARISON = re.compile(r"==|<=|>=|<|>")
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Formula:
    """A sum of names and whole numbers, as ``computed + 2 - drafts``."""

    terms: tuple[tuple[int, str | int], ...]

    @property
    def names(self) -> set[str]:
        """The names that it adds up."""
        return {term for _, term in self.terms if isinstance(term, str)}

    def value(self, fields: Mapping[str, int]) -> int | None:
        """Give the sum, or None where one of its names could not be read."""
        total = 0
        for sign, term in self.terms:
            number = fields.get(term) if isinstance(term, str) else term
            if number is None:
                return None
            total += sign * number
        return total


@dataclass(frozen=True, slots=True)
class Check:
    """Two sums and how they compare, as ``prefill + decode == total``."""

    left: Formula
    comparison: str
    right: Formula

    @property
    def names(self) -> set[str]:
        """The names on both sides."""
        return self.left.names | self.right.names

    def holds(self, fields: Mapping[str, int]) -> bool:
        """Tell whether it is true; what cannot be read proves nothing and does not hold."""
        left, right = self.left.value(fields), self.right.value(fields)
        if left is None or right is None:
            return False
        return _OPERATORS[self.comparison](left, right)


def parse_formula(text: str) -> Formula:
    """Read a sum.

    Raises:
        ValueError: It is something else; the text says what to write.
    """
    terms: list[tuple[int, str | int]] = []
    position = 0
    while position < len(text) or not terms:
        match = _TERM.match(text, position)
        if match is None or (terms and match[1] is None):
            raise ValueError(
                f"{text!r} is no formula: write a sum of names and whole numbers, as 'a + b - 2'"
            )
        term = match[2]
        terms.append((-1 if match[1] == "-" else 1, int(term) if term.isdigit() else term))
        position = match.end()
    return Formula(tuple(terms))


def parse_check(text: str) -> Check:
    """Read a comparison of two sums.

    Raises:
        ValueError: It is something else; the text says what to write.
    """
    sides = _COMPARISON.split(text)
    if len(sides) != 2:
        raise ValueError(
            f"{text!r} is no check: write two sums and one of == <= >= < > between, as 'a + b == c'"
        )
    comparison = _COMPARISON.search(text)
    assert comparison is not None
    return Check(parse_formula(sides[0]), comparison[0], parse_formula(sides[1]))
