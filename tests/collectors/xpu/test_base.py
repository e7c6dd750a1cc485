"""Commands, streams, and what several of them say of a device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collectors.xpu import base
from collectors.xpu.base import (
    SLOW_LOOKS,
    Command,
    CommandWay,
    ParseError,
    StreamWay,
    Vendor,
    Way,
    XpuError,
    available,
    load,
    merge,
    run,
)
from collectors.xpu.text import pci_address, pcie_capacity
from schemas.records import XpuDevice

pytestmark = pytest.mark.process


def devices(text: str) -> list[XpuDevice]:
    return [
        XpuDevice(device_id=word, vendor="fake", memory_used_bytes=number)
        for number, word in enumerate(text.split())
    ]


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def test_output_is_text_without_colours_and_in_english() -> None:
    assert run(shell("printf '\\033[31mred\\033[0m %s' $LC_ALL")) == "red C"


def test_a_command_runs_in_a_folder_of_its_own() -> None:
    before = set(Path.cwd().iterdir())
    assert "latencyprism-xpu-" in run(shell("touch dropped; pwd"))
    assert set(Path.cwd().iterdir()) == before


def test_a_command_that_fails_is_quoted_with_what_it_said() -> None:
    with pytest.raises(XpuError, match=r"status 3.*no driver.*by hand"):
        run(shell("echo no driver >&2; exit 3"))
    with pytest.raises(XpuError, match="cannot be started"):
        run(("/nowhere/tool",))


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_a_command_that_floods_is_stopped(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    monkeypatch.setattr(base, "MOST_OUTPUT_BYTES", 100_000)
    with pytest.raises(ParseError, match="more than 100000 bytes"):
        run(shell(f"exec cat /dev/zero{stream}"))


def test_a_slow_command_runs_in_one_of_ten_looks_and_its_answer_stays(tmp_path: Path) -> None:
    def counted(name: str) -> tuple[str, ...]:
        return shell(f"echo x >> {tmp_path}/{name}; echo {name}")

    way = CommandWay(
        "w", [Command(counted("fast"), devices), Command(counted("slow"), devices, slow=True)]
    )
    looks = [way.read() for _ in range(SLOW_LOOKS + 1)]
    assert all([one.device_id for one in look] == ["fast", "slow"] for look in looks)
    assert len((tmp_path / "fast").read_text().split()) == SLOW_LOOKS + 1
    assert len((tmp_path / "slow").read_text().split()) == 2


def stream_way(script: str, parse: Callable[[str], list[XpuDevice]] = devices) -> StreamWay:
    arguments = (sys.executable, "-u", "-c", script, "{period_ms}")
    return StreamWay("s", Command(arguments, parse), lambda _, lines: lines[-1] == "end")


def test_a_stream_gives_its_newest_whole_block_after_the_first_line() -> None:
    way = stream_way(
        "import sys, time\n"
        "print('header')\n"
        "for turn in range(1000):\n"
        "    print(f'turn{turn}'); print('end')\n"
        "    time.sleep(int(sys.argv[1]) / 1000)\n"
    )
    way.period_seconds = 0.01
    first, second = way.read(), way.read()
    way.close()
    assert [one.device_id for one in first][::2] == ["header", "end"]
    assert first[1].device_id != second[1].device_id
    assert first[0].age_ns is not None


def test_a_stream_that_ends_says_what_it_said() -> None:
    way = stream_way("print('no such option: -x')")
    with pytest.raises(XpuError, match="no such option"):
        way.read()
    with pytest.raises(XpuError, match="no such option"):
        way.read()


def test_a_stream_that_floods_without_a_block_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MOST_OUTPUT_BYTES", 100_000)
    way = stream_way("while True: print('x' * 1000)")
    with pytest.raises(XpuError, match="by hand"):
        way.read()


def test_a_program_that_is_missing_says_so() -> None:
    way = CommandWay("w", [Command(("no-such-tool",), devices)])
    assert "no-such-tool is not on the path" in (way.why_not() or "")
    assert CommandWay("w", [Command(("sh",), devices)]).why_not() is None


def test_the_first_that_knows_a_field_has_it_and_reasons_fall_away() -> None:
    one = XpuDevice(
        device_id="A",
        vendor="v",
        power_watts=0.0,
        missing={"utilization_ratio": "not_supported", "energy_joules": "timeout"},
    )
    other = XpuDevice(device_id="A", vendor="v", power_watts=5.0, utilization_ratio=0.1)
    [joined] = merge([[one], [other]])
    assert (joined.power_watts, joined.utilization_ratio) == (0.0, 0.1)
    assert joined.missing == {"energy_joules": "timeout"}


class Files(Vendor):
    title = "Files"
    index_files = r"/dev/made(\d+)"

    def ways(self) -> list[Way]:
        return []


def test_device_files_are_addresses_or_indices(tmp_path: Path) -> None:
    card = tmp_path / "devices/0000:81:00.0"
    card.mkdir(parents=True)
    for folder in ("class/drm/renderD128", "class/accel/accel0"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "device").symlink_to(card)
    files = ["/dev/made3", "/dev/made3x", "/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/null"]
    assert Files().device_files(files, tmp_path) == {"3", "0000:81:00.0"}
    assert Files().device_files(["/dev/accel/accel0"], tmp_path) == {"0000:81:00.0"}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:83:00.0", "0000:83:00.0"),
        ("0000:0C:00.0", "0000:0c:00.0"),
        ("0C:00.0", "0000:0c:00.0"),
        ("00010000:0C:00.0", "10000:0c:00.0"),
        ("N/A", None),
        ("", None),
        (None, None),
    ],
)
def test_pci_addresses_are_written_as_sysfs_does(text: str | None, address: str | None) -> None:
    assert pci_address(text) == address


def test_what_a_link_carries_follows_from_generation_and_width() -> None:
    assert [round((pcie_capacity(one, 16) or 0) / 1e9, 1) for one in range(1, 7)] == [
        4.0,
        8.0,
        15.8,
        31.5,
        63.0,
        121.0,
    ]
    assert pcie_capacity(None, 16) is None
    assert pcie_capacity(9, 16) is None
    assert pcie_capacity(4, 0) is None


def test_a_vendor_that_does_not_exist_is_refused() -> None:
    with pytest.raises(LookupError, match="unknown accelerator vendor 'x'"):
        load("x")
    with pytest.raises(LookupError):
        load("base")
    assert available() == sorted(available())
