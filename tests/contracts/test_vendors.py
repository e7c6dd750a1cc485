"""What every accelerator vendor promises, whichever there are."""

from __future__ import annotations

import inspect
import math
import os
import random
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest

from collectors.xpu.base import (
    CommandWay,
    ParseError,
    StreamWay,
    Vendor,
    Way,
    available,
    load,
    plausible,
)
from collectors.xpu.worker import Look
from schemas.records import MissingReason, XpuDevice

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = Path(
    os.environ.get("LATENCYPRISM_XPU_SAMPLES", ROOT.parent / "shared/research/xpu-samples")
)
Parse = Callable[[str], Sequence[XpuDevice]]

vendors = pytest.mark.parametrize("name", available())

GARBAGE = (
    "",
    "\n\n  \n",
    "\0\0\0",
    "null",
    "42",
    '"text"',
    "[]",
    "{}",
    "[[], [{}], null]",
    '[{"a": {"b": [null, "N/A", 1]}}]',
    '{"card0": null, "gpu_data": [3], "system": "x"}',
    '{"card0": {"": ""}}',
    "{" * 400,
    "[" * 3000,
    "a,b,c\n",
    "a,b,c\n1\n1,2,3,4\n",
    '"open quote,\n1,2\n',
    "index, uuid\n, \n",
    "<a><b></a>",
    "<nvidia_smi_log></nvidia_smi_log>",
    "| a | b |\n+---+---+\n|   |   |\n",
    "key : value\n : \nkey\n",
    "No devices were found\n",
    "Segmentation fault (core dumped)\n",
    "9" * 5000,
    "nan,inf,-inf\n",
)


def parsers(vendor: Vendor) -> dict[str, Parse]:
    """Give all that makes devices of text: the commands' own, and what the ways' files have."""
    found: dict[str, Parse] = {}
    for way in vendor.ways():
        commands = way.commands if isinstance(way, CommandWay) else ()
        commands += (way.command,) if isinstance(way, StreamWay) else ()
        for place, command in enumerate(commands):
            found[f"{way.name}[{place}]"] = command.parse
        module = sys.modules[type(way).__module__]
        if module.__name__ == Way.__module__:
            continue
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("parse_") and _makes_devices(function):
                found[name] = function
    return found


def _makes_devices(function: Callable[..., Any]) -> bool:
    try:
        hints = typing.get_type_hints(function)
    except NameError:
        return False
    result = hints.pop("return", None)
    return list(hints.values()) == [str] and get_args(result)[:1] == (XpuDevice,)


def samples(name: str) -> Iterator[tuple[str, str]]:
    for path in sorted(SAMPLES.glob("*_*")):
        prefix = path.name.partition("_")[0]
        if name.startswith(prefix) or prefix.startswith(name):
            yield path.name, path.read_text(errors="replace")


def check(name: str, devices: Sequence[XpuDevice]) -> None:
    """Look for what no device may say, whatever its tool printed."""
    ids = [device.device_id for device in devices]
    assert len(set(ids)) == len(ids)
    for device in map(plausible, devices):
        assert device.vendor == name
        assert device.device_id.strip()
        assert not device.device_id.strip().isdigit(), "an index alone moves"
        assert not re.fullmatch(r"(card|gpu|npu|xpu|device)?\W*\d*", device.device_id.lower())
        for one in fields(XpuDevice):
            value = getattr(device, one.name)
            if isinstance(value, float):
                assert math.isfinite(value), one.name
            if one.name.endswith("_ratio"):
                assert value is None or 0 <= value <= 1, one.name
            if one.name.endswith(("_bytes", "_hz", "_watts", "_per_second", "_joules")):
                assert value is None or value >= 0, one.name
        for field, reason in device.missing.items():
            assert getattr(device, field) is None, f"{field} is missing and has a value"
            assert reason in get_args(MissingReason)
        if device.memory_bandwidth_ratio is not None:
            assert device.memory_bandwidth_meaning is not None
        if device.power_watts is not None:
            assert device.power_window is not None
    look = Look(vendor=name, devices=tuple(map(plausible, devices)))
    assert msgspec.json.decode(orjson.dumps(look), type=Look) == look


def test_there_are_vendors_and_helpers_are_none() -> None:
    assert "nvidia" in available()
    assert not {"base", "text", "worker", "child", "owners"} & set(available())


@vendors
def test_a_vendor_bears_its_files_name_and_a_title(name: str) -> None:
    vendor = load(name)
    assert vendor.name() == type(vendor).name() == name
    assert vendor.title.strip()
    assert name.isidentifier()


@vendors
def test_a_vendor_is_found_by_pci_ids_or_in_a_way_of_its_own(name: str) -> None:
    vendor = load(name)
    own_way = type(vendor).is_here is not Vendor.is_here
    assert vendor.pci_vendor_ids or own_way or vendor.experimental, (
        "no PCI ids: override is_here, or say in `experimental` why nothing is known"
    )
    assert all(0 < one < 0x10000 for one in vendor.pci_vendor_ids)


def test_no_two_vendors_answer_for_the_same_device() -> None:
    taken: dict[tuple[int, str], str] = {}
    for name in available():
        vendor = load(name)
        for one in vendor.pci_vendor_ids:
            for prefix in vendor.pci_class_prefixes:
                if type(vendor).is_here is Vendor.is_here:
                    assert taken.setdefault((one, prefix), name) == name


@vendors
def test_it_is_not_here_where_there_is_no_such_device(name: str, tmp_path: Path) -> None:
    assert load(name).is_here(tmp_path) is False
    broken = tmp_path / "bus/pci/devices/0000:00:00.0"
    broken.mkdir(parents=True)
    assert load(name).is_here(tmp_path) is False
    (broken / "vendor").write_text("nonsense")
    (broken / "class").write_bytes(b"\xff")
    assert load(name).is_here(tmp_path) is False


@vendors
def test_a_reason_to_distrust_it_is_a_sentence(name: str) -> None:
    experimental = load(name).experimental
    assert experimental is None or len(experimental.split()) > 3


@vendors
def test_ways_have_names_and_are_made_anew_each_time(name: str) -> None:
    first, second = load(name).ways(), load(name).ways()
    assert first
    assert all(way.name.strip() for way in first)
    assert not set(map(id, first)) & set(map(id, second))


def test_loading_and_listing_ways_touches_no_driver() -> None:
    """In a process of its own: no library of a vendor is loaded, no program started."""
    script = """
import subprocess, sys, ctypes
class Refuse:
    def __init__(self, *a, **k): raise SystemExit(f"touched: {a}")
    def __class_getitem__(cls, _): return cls
subprocess.Popen = subprocess.run = ctypes.CDLL = Refuse
from collectors.xpu.base import available, load
for name in available():
    load(name).ways()
loaded = {"pynvml", "amdsmi", "pymtml", "pyhlml", "torch"} & set(sys.modules)
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@vendors
def test_a_way_that_is_not_open_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for way in load(name).ways():
        why_not = way.why_not()
        assert why_not is None or len(why_not.split()) > 3


@vendors
@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: repr(text[:24]))
def test_garbage_is_a_parse_error_or_no_device(name: str, text: str) -> None:
    for label, parse in parsers(load(name)).items():
        try:
            devices = parse(text)
        except ParseError:
            continue
        check(name, devices)
        assert not any(device.utilization_ratio is not None for device in devices), label


@vendors
def test_what_its_own_tool_printed_is_read_wholly_or_cut_off(name: str) -> None:
    """Each parser gets each captured output of the vendor, its own or not, at many lengths."""
    texts = list(samples(name))
    if not texts:
        pytest.skip("no captured output; set LATENCYPRISM_XPU_SAMPLES")
    dice = random.Random(1)
    for label, parse in parsers(load(name)).items():
        for file, text in texts:
            cuts = [len(text), *(dice.randrange(len(text)) for _ in range(12))]
            for cut in cuts:
                for given in (text[:cut], text[cut:], _damaged(text, dice)):
                    try:
                        devices = parse(given)
                    except ParseError:
                        continue
                    except Exception as err:
                        pytest.fail(f"{label} on {file} cut at {cut}: {type(err).__name__}: {err}")
                    check(name, devices)


def _damaged(text: str, dice: random.Random) -> str:
    """Give the text with a few of its words swapped for others; what stands between them stays."""
    words = re.split(r"(\W+)", text)
    for _ in range(5):
        place = dice.randrange(0, len(words), 2)
        words[place] = dice.choice(("N/A", "", "-", "x", "-7", "1e400", "nan"))
    return "".join(words)


def test_the_document_lists_exactly_these_vendors() -> None:
    document = (ROOT / "docs/accelerators.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|((?:[^|\n]*\|){13})$", document, re.MULTILINE)
    assert sorted({name for name, _ in rows}) == available()
    for name, row in rows:
        told = "experimental" in row.lower()
        assert told == (load(name).experimental is not None), f"{name}: experimental or not?"
