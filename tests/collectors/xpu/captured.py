"""Captured outputs of real tools where they are at hand, and what garbage may not do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from collectors.xpu.base import NotPermitted, ParseError
from schemas.records import XpuDevice

FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_XPU_SAMPLES",
        Path(__file__).resolve().parents[4] / "shared" / "research" / "xpu-samples",
    )
)
GARBAGE = (
    "",
    "\n\n",
    "\x00\x01\x02",
    "command not found",
    "[" * 100_000,
    '{"a":' * 100_000,
    "| " * 1000,
    "| NPU | Chip |\n| 0 | 0 |",
    "| NPU Power(W) |\n| Chip Bus-Id |\n|  |  |  |\n| 0 | 83:00.0 | 1 |",
    "| AIP  a | b | c |\n| Fan  a | b | c |\n|  |  |  |\n|  |  |  |\n| Compute Processes: |\n|||",
    "| Chip | HBM Usage (GiB) | Duty cycle |\n||\n| x | | |\n| 1 | / | |",
    "[]",
    "{}",
    "[{}]",
    "[null, 1, []]",
    '{"gpu_data": {}}',
    '{"card0": null}',
    '{"card0": []}',
    '[{"gpu": 0, "usage": [], "power": 7, "clock": {"gfx_0": []}, "ecc": "N/A"}]',
    '[{"gpu": 0, "usage": {"gfx_activity": NaN}, "mem_usage": {"used_vram": 1e999}}]',
    '[{"neuron_device": 0, "nc_count": "x", "neuron_processes": 3}]',
    '{"neuron_runtime_data": [], "neuron_hardware_info": {"neuron_device_count": -1}}',
    "Timestamp, DeviceId\n,,,,\n1,2,3,4,5,6",
    "index, uuid\n\n",
    "DCU Temp\n1 2\n",
    "é℃" * 100,
)
ODD_CHARACTERS = '{}[]",:|/ \n0179NA.-e%\x00é'


def sample(name: str) -> str:
    """Give a captured output, or skip the test where it is not at hand."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(
            f"no {name}: it is not published with the project; set LATENCYPRISM_XPU_SAMPLES"
        )
    return path.read_text()


def assert_survives(parse: Callable[[str], Sequence[XpuDevice]], good: str) -> None:
    """Check that garbage, and a good output with damage, gives sane devices or a ParseError."""
    chance = random.Random(20)
    damaged = [_damage(good, chance) for _ in range(300)]
    complaints = []
    for text in (*GARBAGE, *damaged):
        try:
            devices = parse(text)
        except NotPermitted:
            continue
        except ParseError as err:
            complaints.append(str(err))
            continue
        for device in devices:
            assert_sane(device)
    assert all(len(complaint) > 40 for complaint in complaints)


def assert_sane(device: XpuDevice) -> None:
    """Check what must hold for every reading of every vendor."""
    assert device.device_id not in ("", str(device.device_index))
    for name in ("utilization_ratio", "memory_bandwidth_ratio"):
        ratio = getattr(device, name)
        assert ratio is None or 0 <= ratio <= 1
    for name in device.missing:
        assert getattr(device, name) is None, f"{name} has both a value and a reason"


def _damage(good: str, chance: random.Random) -> str:
    text = good
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(max(len(text), 1))
        text = text[:at] + chance.choice(ODD_CHARACTERS) + text[at + chance.randint(0, 3) :]
    return text if chance.random() < 0.8 else text[: chance.randrange(max(len(text), 1))]
