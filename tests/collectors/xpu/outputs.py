"""Captured outputs of vendors' tools, which are not published with the project, and broken ones."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import pytest

from collectors.xpu.base import ParseError
from schemas.records import XpuDevice

Parse = Callable[[str], Sequence[XpuDevice]]

DATA = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"
    )
)
SAMPLES = DATA.parent / "research" / "xpu-samples"
GIB = 1024**3
MIB = 1024**2


def sample(name: str) -> str:
    """Give a captured output, or skip the test."""
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(
            f"no {name}: it is not published with the project; set LATENCYPRISM_SHARED_DATA"
        )
    return path.read_text()


def damaged(text: str, rounds: int = 150) -> Iterator[str]:
    """Give texts that a dying tool or another version might print instead; always the same."""
    yield from ("", "\n", "\0", "{", "{}", "[]", "null", "command not found", "No devices found")
    dice = random.Random(0)
    words = ("9" * 400, "-1", "1e999", "NaN", "N/A", "²", ":", "|", ",", "\t", "\0", "[", "{", "")
    for _ in range(rounds):
        begin = dice.randrange(len(text))
        end = min(begin + dice.randrange(1, 30), len(text))
        yield text[:begin] + dice.choice(words) + text[end:]
        yield text[:begin]
        yield text[end:]


def assert_only_parse_errors(parse: Parse, text: str, rounds: int = 150) -> None:
    """Check that a parser gives sane devices or says what to do, whatever it reads."""
    for broken in damaged(text, rounds):
        try:
            devices = parse(broken)
        except ParseError as error:
            assert "run it by hand" in str(error) or "out of xpus" in str(error)  # noqa: PT017
            continue
        for device in devices:
            assert_sane(device)


def assert_sane(device: XpuDevice) -> None:
    """Check what holds of every reading: ratios, finite numbers, a reason or a value."""
    assert device.device_id
    for field in fields(XpuDevice):
        value = getattr(device, field.name)
        if isinstance(value, float):
            assert -1e40 < value < 1e40, field.name
        if field.name.endswith("_ratio") and value is not None:
            assert 0 <= value <= 1, field.name
    for name in device.missing:
        assert getattr(device, name) is None, name


@contextlib.contextmanager
def a_bus(folder: Path, vendor: str, device_class: str) -> Iterator[Path]:
    """Lay out a PCI bus with one device."""
    device = folder / "bus/pci/devices/0000:37:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"0x{vendor}\n")
    (device / "class").write_text(f"0x{device_class}\n")
    yield folder
