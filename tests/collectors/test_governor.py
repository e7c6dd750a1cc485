"""The budget of reading an engine, and what the agent may be told."""

from __future__ import annotations

import msgspec
import pytest

from collectors.config import CollectSettings
from collectors.governor import LOWEST_POLL_HZ, Governor, Rates
from schemas.settings import SettingsError, section


def test_within_the_budget_nothing_changes() -> None:
    governor = Governor(Rates(1000, 50), 0.02)
    assert [governor.judge(ratio) for ratio in (0.0, 0.005, 0.02)] == [None, None, None]
    assert governor.rates == Rates(1000, 50)


def test_above_it_the_rates_are_halved_down_to_the_lowest() -> None:
    governor = Governor(Rates(1000, 50), 0.02)
    assert governor.judge(0.5) == Rates(500, 25)
    assert governor.judge(0.5) == Rates(LOWEST_POLL_HZ, 12)
    assert governor.judge(0.5) is None
    assert governor.rates == Rates(LOWEST_POLL_HZ, 12)


def test_well_below_it_they_are_given_back_and_never_more_than_was_asked_for() -> None:
    governor = Governor(Rates(1000, 50), 0.02)
    governor.judge(0.5)
    governor.judge(0.5)
    assert governor.judge(0.01) is None
    assert governor.judge(0.004) == Rates(500, 24)
    assert governor.judge(0.004) == Rates(1000, 48)
    assert governor.judge(0.004) == Rates(1000, 50)
    assert governor.judge(0.004) is None


def test_rates_below_the_lowest_are_left_as_they_were_asked_for() -> None:
    assert Governor(Rates(100, 10), 0.02).judge(9.0) is None


def test_without_stacks_there_never_are_any() -> None:
    governor = Governor(Rates(1000, 0), 0.02)
    assert governor.judge(0.5) == Rates(500, 0)
    assert governor.judge(0.001) == Rates(1000, 0)


@pytest.mark.parametrize("poll_hz", [250, 300, 1000, 10_000])
def test_there_are_never_more_stacks_than_reads(poll_hz: int) -> None:
    governor = Governor(Rates(poll_hz, min(poll_hz, 1000)), 0.02)
    for ratio in [1.0] * 10 + [0.0] * 10:
        governor.judge(ratio)
        assert governor.rates.stack_hz <= governor.rates.poll_hz <= poll_hz


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
