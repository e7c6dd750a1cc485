"""All of a host's accelerators, as the agent sees them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from collectors.config import CollectSettings
from collectors.devices import Devices, chosen_vendors, reading_of
from collectors.discovery import EngineProcess, Process
from collectors.xpu.base import available
from collectors.xpu.owners import Share
from collectors.xpu.worker import Look
from schemas.records import XpuDevice, XpuProcess, XpuReading
from tests.collectors.xpu.fake_worker import Fake

WORKER = Path(__file__).with_name("fake_worker.py")
LOOK = Look(vendor="fake", tool="t", begin_ns=5, end_ns=9)


def engine(pid: int) -> EngineProcess:
    core = Process(pid=pid, parent_pid=1, start_ticks=5, arguments=("x",))
    return EngineProcess(framework="vllm", name="x", core=core)


def tool(folder: Path, does: str) -> Path:
    path = folder / "tool"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return path


Make = Callable[[str], Devices]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Devices] = []

    def build(does: str) -> Devices:
        program = tool(tmp_path, does)

        def command(_vendor: str, period_seconds: float, _avoid: Sequence[str]) -> list[str]:
            return [sys.executable, str(WORKER), str(program), "--period", str(period_seconds)]

        settings = CollectSettings(xpu_period_seconds=0.05, xpu_timeout_seconds=30.0)
        made.append(Devices("h", settings, vendors=[Fake()], command=command, proc=tmp_path))
        return made[-1]

    yield build
    for devices in made:
        devices.stop()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still not, after {seconds} s"
        time.sleep(0.02)


@pytest.mark.process
def test_each_look_is_given_out_once(make: Make) -> None:
    devices = make("echo used 7")
    engines = {"h:1": engine(10)}
    seen: list[XpuReading] = []

    def three() -> bool:
        seen.extend(devices.readings(engines))
        return len(seen) >= 3

    until(three)
    assert len({reading.begin_ns for reading in seen}) == len(seen)
    first = seen[0]
    assert (first.engine_id, first.host, first.device_id) == ("h:1", "h", "FAKE-0")
    assert (first.memory_used_bytes, first.ranks, first.others) == (7, (), None)
    assert devices.devices_of("h:1") == ("FAKE-0",)
    assert devices.models_of(("FAKE-0", "GONE")) == ("Fake", "")
    assert devices.device_ids(10) is None, "one engine on the host: likely, but not known"
    assert devices.note("h:1") is None


@pytest.mark.process
def test_with_several_engines_and_no_witness_none_has_the_device_and_a_note_says_so(
    make: Make,
) -> None:
    devices = make("echo used 7")
    engines = {"h:1": engine(10), "h:2": engine(20)}
    until(lambda: bool(devices.readings(engines) or devices.note("h:1")))
    assert devices.readings(engines) == []
    assert devices.devices_of("h:1") == ()
    assert "SYS_PTRACE" in (devices.note("h:2") or "")


@pytest.mark.process
def test_the_agent_goes_on_while_a_tool_hangs(make: Make) -> None:
    devices = make("sleep 1000")
    until(lambda: devices.readings({"h:1": engine(10)}) == [] and _asks(devices))
    [status] = devices.status()
    assert (status.state, status.way, status.devices) == ("starting", None, 0)
    assert devices.readings({"h:1": engine(10)}) == []


def _asks(devices: Devices) -> bool:
    return devices._watched[0].child.tool == "tool0"


@pytest.mark.process
def test_the_status_says_what_is_used_and_what_is_wrong(make: Make, tmp_path: Path) -> None:
    devices = make("echo used 7")
    devices.wait(60)
    [status] = devices.status()
    assert (status.state, status.way, status.devices) == ("working", "tool0", 1)
    assert "1 device of Fake by tool0" in status.text
    devices.stop()
    assert devices.status()[0].state == "stopped"
    broken = make("echo no driver; exit 3")
    broken.wait(60)
    [status] = broken.status()
    assert (status.state, status.way) == ("failing", None)
    assert "no driver" in status.text


def test_an_empty_list_asks_nobody() -> None:
    devices = Devices("h", CollectSettings(xpus=()))
    assert devices.readings({"h:1": engine(10)}) == []
    assert devices.status() == []
    devices.stop()


@pytest.mark.process
def test_the_status_says_what_a_better_way_needs(tmp_path: Path) -> None:
    bad, fine = tmp_path / "bad", tmp_path / "fine"
    bad.mkdir()
    fine.mkdir()
    programs = f"{tool(bad, 'echo load the driver; exit 1')},{tool(fine, 'echo used 7')}"
    devices = Devices(
        "h",
        CollectSettings(),
        vendors=[Fake()],
        command=lambda *_: [sys.executable, str(WORKER), programs],
    )
    devices.wait(60)
    [status] = devices.status()
    devices.stop()
    assert (status.state, status.way) == ("working", "tool1")
    assert "not open, though better: tool0" in status.text
    assert "load the driver" in status.text


@pytest.mark.process
def test_looks_are_kept_for_a_caller_that_is_late(make: Make) -> None:
    devices = make("echo used 7")
    engines = {"h:1": engine(10)}
    until(lambda: devices.readings(engines) != [])
    child = devices._watched[0].child
    looks = child.looks
    until(lambda: child.poll() is None and child.looks >= looks + 3)  # type: ignore[func-returns-value]
    assert len(devices.readings(engines)) >= 3
    assert devices.readings({}) == []


def test_auto_means_those_whose_devices_are_on_the_bus(tmp_path: Path) -> None:
    assert chosen_vendors(("auto",), tmp_path) == []
    card = tmp_path / "bus/pci/devices/0000:83:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    assert [vendor.name() for vendor in chosen_vendors(("auto",), tmp_path)] == ["nvidia"]
    # The audio function of the same card is no accelerator.
    (card / "class").write_text("0x040300\n")
    assert chosen_vendors(("auto",), tmp_path) == []


def test_a_vendor_that_is_named_is_asked_wherever_it_is(tmp_path: Path) -> None:
    assert [vendor.name() for vendor in chosen_vendors(("nvidia",), tmp_path)] == ["nvidia"]


def test_a_vendor_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=", ".join(available())):
        chosen_vendors(("nvidea",), tmp_path)


def device(*processes: XpuProcess) -> XpuDevice:
    return XpuDevice(device_id="D", vendor="fake", processes=processes)


def test_the_engines_memory_and_that_of_others_are_told_apart() -> None:
    seen = device(
        XpuProcess(pid=1, memory_used_bytes=10),
        XpuProcess(pid=2, memory_used_bytes=5),
        XpuProcess(pid=3, memory_used_bytes=3),
    )
    reading = reading_of(seen, Share(pids={1, 2}, ranks={1, 0}), "e", "h", LOOK)
    assert (reading.engine_memory_used_bytes, reading.others_memory_used_bytes) == (15, 3)
    assert (reading.others, reading.ranks) == (1, (0, 1))
    assert (reading.begin_ns, reading.end_ns) == (5, 9)


def test_a_process_that_does_not_tell_its_memory_makes_the_sum_unknown() -> None:
    seen = device(XpuProcess(pid=1, memory_used_bytes=10), XpuProcess(pid=3))
    reading = reading_of(seen, Share(pids={1}), "e", "h", LOOK)
    assert (reading.engine_memory_used_bytes, reading.others_memory_used_bytes) == (10, None)
    assert reading.others == 1


def test_a_list_without_the_engine_says_nothing_of_others() -> None:
    seen = device(XpuProcess(pid=3, memory_used_bytes=3))
    reading = reading_of(seen, Share(), "e", "h", LOOK)
    assert (reading.engine_memory_used_bytes, reading.others) == (None, None)
    assert reading_of(device(), Share(), "e", "h", LOOK).others is None
