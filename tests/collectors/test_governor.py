"""The budget of watching an engine, and what the agent may be told."""

from __future__ import annotations

import msgspec
import pytest

from collectors.config import CollectSettings
from collectors.governor import (
    FIRST_PATIENCE,
    LONGEST_PATIENCE,
    LOWEST_POLL_HZ,
    LOWEST_STACK_HZ,
    Governor,
    Meter,
    Rates,
)
from schemas.settings import SettingsError, section

BUDGET = 0.02


def governed(wanted: Rates, *ratios: float) -> tuple[Governor, list[Rates | None]]:
    governor = Governor(wanted, BUDGET)
    return governor, [governor.judge(ratio) for ratio in ratios]


def give_back(governor: Governor, most: int = 2 * LONGEST_PATIENCE) -> int:
    """Judge as cheap until rates are given back; tell how often that took."""
    for count in range(1, most + 1):
        if governor.judge(0.0) is not None:
            return count
    raise AssertionError("nothing was given back")


def test_within_the_budget_nothing_changes() -> None:
    governor, changes = governed(Rates(1000, 50), 0.0, 0.005, BUDGET)
    assert changes == [None, None, None]
    assert (governor.rates, governor.state, governor.reason) == (Rates(1000, 50), "as_wanted", "")


def test_above_it_stacks_are_lowered_first_and_reads_after_them() -> None:
    _, changes = governed(Rates(1000, 120), *[0.03] * 6)
    assert changes == [
        Rates(1000, 60),
        Rates(1000, 30),
        Rates(1000, LOWEST_STACK_HZ),
        Rates(500, LOWEST_STACK_HZ),
        Rates(LOWEST_POLL_HZ, LOWEST_STACK_HZ),
        None,
    ]


def test_far_above_it_the_stacks_go_at_once_but_enough_to_name_a_phase() -> None:
    governor, changes = governed(Rates(1000, 250), 0.5, 0.5, 0.5)
    lowest = Rates(LOWEST_POLL_HZ, LOWEST_STACK_HZ)
    assert changes == [Rates(1000, LOWEST_STACK_HZ), lowest, None]
    assert governor.state == "floor"
    assert "lower rates would not change that" in governor.reason


def test_what_python_takes_counts_as_well() -> None:
    governor = Governor(Rates(1000, 50), BUDGET)
    assert governor.judge(0.015, 0.004) is None
    assert governor.judge(0.015, 0.006) == Rates(1000, 25)
    assert governor.reason == ("watching takes 2.1 % of a core, which is over its budget of 2.0 %")


def test_reads_are_left_alone_where_it_is_not_they_that_cost() -> None:
    governor = Governor(Rates(1000, 0), BUDGET)
    assert governor.judge(0.004, 0.5) is None
    assert (governor.rates, governor.state) == (Rates(1000, 0), "floor")
    assert governor.judge(0.004, 0.001) is None
    assert governor.state == "as_wanted"


def test_well_below_it_rates_are_given_back_reads_first_and_never_more_than_was_asked_for() -> None:
    governor, _ = governed(Rates(1000, 60), *[0.5] * 3)
    seen = []
    for _ in range(50):
        changed = governor.judge(0.004)
        if changed is not None:
            seen.append(changed)
    assert seen == [
        Rates(500, 25),
        Rates(1000, 25),
        Rates(1000, 50),
        Rates(1000, 60),
    ]
    assert governor.state == "as_wanted"


def test_between_the_two_limits_nothing_swings() -> None:
    governor, _ = governed(Rates(1000, 50), 0.03)
    assert [governor.judge(0.012) for _ in range(100)] == [None] * 100
    assert governor.rates == Rates(1000, 25)


def test_one_cheap_moment_gives_nothing_back() -> None:
    governor, _ = governed(Rates(1000, 50), 0.03)
    assert [governor.judge(ratio) for ratio in (0.0, 0.012) * 20] == [None] * 40


def test_rates_that_had_to_be_taken_away_again_come_back_later_each_time() -> None:
    governor, _ = governed(Rates(1000, 50), 0.03)
    waits = []
    for _ in range(8):
        waits.append(give_back(governor))
        governor.judge(0.03)
    assert waits[0] == FIRST_PATIENCE
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_PATIENCE


def test_after_it_has_held_the_next_time_waits_no_longer_than_the_first() -> None:
    governor, _ = governed(Rates(1000, 50), 0.03)
    give_back(governor)
    governor.judge(0.03)
    assert give_back(governor) > FIRST_PATIENCE
    for _ in range(4 * LONGEST_PATIENCE):
        governor.judge(0.012)
    governor.judge(0.03)
    assert give_back(governor) == FIRST_PATIENCE


def test_rates_below_the_lowest_are_left_as_they_were_asked_for() -> None:
    _, changes = governed(Rates(100, 0), 9.0, 9.0)
    assert changes == [None, None]


def test_without_stacks_there_never_are_any() -> None:
    governor, changes = governed(Rates(1000, 0), 0.03, 0.03)
    assert changes == [Rates(500, 0), Rates(250, 0)]
    for _ in range(20):
        governor.judge(0.0)
    assert governor.rates == Rates(1000, 0)


@pytest.mark.parametrize("poll_hz", [250, 300, 1000, 10_000])
def test_there_are_never_more_stacks_than_reads(poll_hz: int) -> None:
    governor = Governor(Rates(poll_hz, min(poll_hz, 1000)), BUDGET)
    for ratio in [1.0] * 10 + [0.0] * 60 + [0.03] * 20 + [0.0] * 200:
        governor.judge(ratio)
        assert governor.rates.stack_hz <= governor.rates.poll_hz <= poll_hz
    assert governor.rates == Rates(poll_hz, min(poll_hz, 1000))


def test_a_meter_gives_the_share_of_a_core_between_two_looks() -> None:
    meter = Meter()
    assert meter.ratio(100, 1000) is None
    assert meter.ratio(150, 2000) == 0.05
    # Another thread took over and counts from its own begin.
    assert meter.ratio(10, 3000) is None
    assert meter.ratio(110, 4000) == 0.1
    assert meter.ratio(None, 5000) is None
    assert meter.ratio(200, 6000) is None
    assert meter.ratio(200, 6000) is None


def settings(**values: object) -> CollectSettings:
    return section({"collect": values}, "collect", CollectSettings)


def test_every_setting_has_a_default() -> None:
    assert settings() == CollectSettings()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("poll_hz", 9),
        ("poll_hz", 10_001),
        ("stack_hz", -1),
        ("queue_records", 10),
        ("cpu_budget_ratio", 0),
        ("discovery_period_seconds", -1.0),
        ("ports", ["8000"]),
        ("engines", "vllm"),
        ("polls_hz", 1000),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=key):
        settings(**{key: value})


def test_more_stacks_than_reads_are_refused_before_any_engine_is_read() -> None:
    with pytest.raises(SettingsError, match="stack_hz is 500 and poll_hz is 100"):
        settings(poll_hz=100, stack_hz=500)


def test_settings_survive_their_own_file_format() -> None:
    one = CollectSettings(ports=(8000,), engines=("vllm",))
    assert msgspec.convert(msgspec.to_builtins(one), CollectSettings) == one
