"""The inventory of a simulated engine tells another setting where a real one would, only there."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from schemas.records import Engine
from simulator import controls
from simulator.fleet import presets
from simulator.fleet.episodes import Episode
from simulator.fleet.fleet import simulate
from simulator.fleet.setting import Setting


def engines(setting: Setting, control: str | None = None) -> list[Engine]:
    episodes = [Episode(name=control, begin_seconds=5, end_seconds=25)] if control else []
    records = list(simulate([setting], episodes, seconds=32, seed=1))
    return [one for one in records if isinstance(one, Engine)]


def test_engines_of_different_presets_have_different_commands() -> None:
    digests = [engines(presets.load(name))[0].command_digest for name in presets.available()]
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch("[0-9a-f]{16}", digest or "") for digest in digests)


@pytest.mark.parametrize("name", presets.available())
def test_an_engine_names_the_model_of_each_accelerator(name: str) -> None:
    setting = presets.load(name)
    found = engines(setting)[0]
    expected = () if setting.device is None else (setting.device.model,) * setting.ranks
    assert found.device_models == expected
    assert len(found.device_ids) == len(expected)


def test_only_an_engine_without_accelerators_has_no_cuda_graphs_for_sure() -> None:
    assert engines(presets.load("cpu_replica"))[0].cuda_graphs is False
    assert engines(presets.load("a100_vllm"))[0].cuda_graphs is None


@pytest.mark.parametrize("control", controls.available())
def test_a_command_changes_with_a_restart_and_never_without(control: str) -> None:
    found = engines(presets.load("a100_vllm"), control)
    redeploys = controls.load(control).redeploys
    assert (len({one.command_digest for one in found}) > 1) == redeploys
    for before, after in pairwise(found):
        changed = before.command_digest != after.command_digest
        assert changed == (before.process_start_ns != after.process_start_ns)
    assert found[0].command_digest == found[-1].command_digest
