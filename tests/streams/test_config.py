"""What is refused in the section of the stream workers."""

from __future__ import annotations

import msgspec
import pytest

from streams.config import StreamSettings

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("false_incidents_per_week", INFINITE),
        ("false_incidents_per_week", 1e300),
        ("false_incidents_per_week", 1e-320),
        ("false_incidents_per_week", 0.0),
        ("adopt_after_hours", INFINITE),
        ("adopt_after_hours", -1.0),
    ],
)
def test_what_no_analysis_could_work_with_is_refused(name: str, value: float) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"at `\\$.{name}`"):
        msgspec.convert({name: value}, StreamSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("false_incidents_per_week", 0.001),
        ("false_incidents_per_week", 1000.0),
        ("adopt_after_hours", 8760.0),
    ],
)
def test_bounds_are_allowed(name: str, value: float) -> None:
    assert getattr(msgspec.convert({name: value}, StreamSettings), name) == value
