"""What every negative control keeps to; a new one is tested the moment it exists."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from simulator import controls
from simulator.fleet import presets
from simulator.fleet.setting import Setting, Tokens, Traffic
from simulator.replica.config import ReplicaConfig

A100_VLLM = presets.load("a100_vllm")
SETTINGS = {name: presets.load(name) for name in presets.available()} | {
    "closed loop": replace(A100_VLLM, traffic=Traffic(concurrency=8)),
    "one client": replace(A100_VLLM, traffic=Traffic(concurrency=1)),
    "all of the host": replace(A100_VLLM, ranks=A100_VLLM.devices_per_host),
    "speculating on a CPU": replace(
        A100_VLLM,
        device=None,
        traffic=Traffic(concurrency=4, speculative_tokens=2, prompt_tokens=Tokens(median=64)),
    ),
    "tight": replace(A100_VLLM, max_requests=64, token_budget=64, kv_blocks=256),
}
POINTS = [step / 200 for step in range(201)]
INVENTORY = ("framework", "version", "model", "ranks")

each_control = pytest.mark.parametrize("name", controls.available())
each_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


def changed(setting: Setting, other: Setting) -> set[str]:
    names = (field.name for field in fields(Setting))
    return {name for name in names if getattr(setting, name) != getattr(other, name)}


def test_the_controls_of_the_issue_are_there() -> None:
    assert {
        "prompt_ramp",
        "batch_jump",
        "diurnal_tide",
        "cache_swing",
        "lora_swap",
        "model_swap",
        "long_context",
        "speculation_swing",
        "rank_scale_out",
    } <= {*controls.available()}


def test_an_unknown_control_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no control 'nothing': choose one of .*prompt_ramp"):
        controls.load("nothing")


@each_control
def test_it_is_described_in_one_short_sentence(name: str) -> None:
    summary = controls.load(name).summary
    assert 10 < len(summary) <= 80
    assert not summary.endswith(".")


@each_control
@each_setting
def test_it_begins_with_what_there_was(name: str, setting: Setting) -> None:
    assert controls.load(name).at(0.0, setting) == setting


@each_control
def test_it_changes_something(name: str) -> None:
    control = controls.load(name)
    assert any(control.at(point, A100_VLLM) != A100_VLLM for point in POINTS)


@each_control
@each_setting
def test_work_costs_the_same_unless_the_inventory_says_otherwise(
    name: str, setting: Setting
) -> None:
    control = controls.load(name)
    for point in POINTS:
        different = changed(setting, control.at(point, setting))
        if control.redeploys:
            assert not different or different & {*INVENTORY}
            assert different <= {*INVENTORY, "cost"}
        else:
            assert different <= {"traffic"}


@each_control
@each_setting
def test_the_same_moment_is_always_the_same(name: str, setting: Setting) -> None:
    forwards = [controls.load(name).at(point, setting) for point in POINTS]
    control = controls.load(name)
    assert [control.at(point, setting) for point in reversed(POINTS)] == forwards[::-1]


@each_control
@each_setting
def test_every_request_fits_into_the_engine(name: str, setting: Setting) -> None:
    control = controls.load(name)
    for point in POINTS:
        traffic = control.at(point, setting).traffic
        before = setting.traffic
        for lengths, usual in (
            (traffic.prompt_tokens, before.prompt_tokens),
            (traffic.output_tokens, before.output_tokens),
        ):
            assert lengths.least <= lengths.median <= lengths.most
            room = setting.kv_blocks * setting.block_tokens
            assert lengths.most <= max(usual.most, room // 4)


@each_control
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_load_fills_its_time_and_fits_into_the_replica(name: str, scale: float) -> None:
    phases = controls.load(name).phases(60.0, scale)
    if phases is None:
        return
    assert sum(phase.duration_seconds for phase in phases) == pytest.approx(60.0)
    longest = max(phase.prompt_tokens[1] + phase.output_tokens[1] for phase in phases)
    assert longest < ReplicaConfig().max_model_len_tokens
    assert len({replace(phase, duration_seconds=1.0) for phase in phases}) > 1


@each_control
def test_a_redeployment_is_no_load(name: str) -> None:
    control = controls.load(name)
    assert not (control.redeploys and control.phases(60.0, 1.0))
