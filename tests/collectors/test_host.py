"""Counters of host and processes: each parser on a literal, the reader on two recorded looks."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from collectors.discovery import EngineProcess, Process, RankProcess
from collectors.host import process as process_module
from collectors.host.cpu import parse_cpu_times, parse_cpuinfo_hz, read_frequency_hz
from collectors.host.memory import parse_memory
from collectors.host.pressure import parse_pressure_us, read_pressure_us
from collectors.host.process import (
    TICKS_PER_SECOND,
    parse_schedstat,
    parse_stat,
    parse_switches,
    read_process_times,
)
from collectors.host.reading import HostReader
from collectors.host.traffic import parse_disks, parse_interfaces, read_traffic
from schemas.records import HostReading, ProcessReading

HOST = Path(__file__).parents[1] / "fixtures" / "host"
CORE = Process(pid=5000202, parent_pid=5000200, start_ticks=98500, arguments=("VLLM::EngineCore",))
WORKER = replace(CORE, pid=5000203, parent_pid=5000202, arguments=("VLLM::Worker_TP",))
ENGINE = EngineProcess(
    framework="vllm", name="8001", core=CORE, ranks=(RankProcess(process=WORKER, rank=1),)
)
ID = "h:8001"


def test_cpu_times_leave_guests_out_because_user_has_them() -> None:
    times = parse_cpu_times("cpu  10 20 30 40 50 6 7 8 999 999\ncpu0 1 1\ncpu1 1 1\nintr 5 5\n")
    assert (times.busy_ticks, times.idle_ticks, times.steal_ticks) == (73, 90, 8)
    assert (times.cpu_count, times.total_ticks) == (2, 171)


def test_clock_frequencies_are_in_hertz() -> None:
    text = "processor\t: 0\ncpu MHz\t\t: 2400.5\ncache size\t: 1 KB\ncpu MHz\t\t: 1200\n"
    assert parse_cpuinfo_hz(text) == [2_400_500_000.0, 1_200_000_000.0]
    assert parse_cpuinfo_hz("processor : 0\n") == []


def test_a_host_that_tells_no_frequency_has_none(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    assert read_frequency_hz(tmp_path / "sys", tmp_path) is None


def test_memory_is_in_bytes_and_swapping_too() -> None:
    memory = parse_memory(
        "MemTotal:  2 kB\nMemAvailable: 1 kB\nHugePages_Total:  0\n",
        "pswpin 3\npswpout 4\npgmajfault 5\n",
        page_bytes=1000,
    )
    assert (memory.total_bytes, memory.available_bytes) == (2048, 1024)
    assert (memory.swapped_in_bytes, memory.swapped_out_bytes) == (3000, 4000)
    assert memory.major_faults == 5


def test_what_the_kernel_does_not_tell_of_memory_is_unknown_and_not_zero() -> None:
    memory = parse_memory("", "pswpin x\n")
    assert memory.total_bytes is None
    assert memory.swapped_in_bytes is None
    assert memory.major_faults is None


def test_pressure_is_the_total_of_the_some_line() -> None:
    text = (
        "some avg10=1.00 avg60=0.00 avg300=0.00 total=123\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    )
    assert parse_pressure_us(text) == 123
    with pytest.raises(ValueError, match="no 'some' line"):
        parse_pressure_us("full avg10=0.00 total=9\n")


def test_a_kernel_without_psi_gives_none(tmp_path: Path) -> None:
    assert read_pressure_us("cpu", tmp_path) is None


def test_a_process_is_read_from_the_last_bracket_on() -> None:
    rest = "S 1 2 3 4 5 6 11 7 22 8 500 300 9 9 20 0 12 0 98500 77 1000"
    times = parse_stat(f"9 (a (b) c) {rest}", page_bytes=4096)
    assert times.cpu_seconds == 800 / TICKS_PER_SECOND
    assert (times.minor_faults, times.major_faults, times.threads) == (11, 22, 12)
    assert times.rss_bytes == 4_096_000


def test_scheduling_statistics_are_in_seconds() -> None:
    assert parse_schedstat("1500000000 250000000 7\n") == (1.5, 0.25)


def test_context_switches_are_unknown_where_the_kernel_does_not_tell() -> None:
    text = "Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n"
    assert parse_switches(text) == (5, 6)
    assert parse_switches("Name:\tx\n") == (None, None)


def test_waiting_for_a_cpu_is_summed_over_the_threads() -> None:
    times = read_process_times(CORE.pid, HOST / "before/proc")
    assert times is not None
    assert times.run_queue_wait_seconds == 1.5
    assert read_process_times(4999999, HOST / "before/proc") is None


def test_whole_disks_count_and_their_partitions_do_not() -> None:
    text = (
        "   8 0 sda 1 0 10 1 1 0 20 1 0 1 1\n   8 1 sda1 1 0 10 1 1 0 20 1 0 1 1\n   9 9 broken\n"
    )
    assert parse_disks(text, {"sda"}) == (10 * 512, 20 * 512)


def test_interfaces_are_added_up_without_loopback() -> None:
    text = (
        "Inter-| Receive | Transmit\n face |bytes\n"
        "    lo: 99 0 0 0 0 0 0 0 99 0\n"
        "  eth0:7 0 0 0 0 0 0 0 5 0\n"
        "  eth1: 1 0 0 0 0 0 0 0 2 0\n"
    )
    assert parse_interfaces(text) == (8, 7)


def test_hidden_traffic_is_none(tmp_path: Path) -> None:
    assert read_traffic(tmp_path, tmp_path) is None


class Recorded:
    """Two looks at a host, the second one two seconds after the first."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(HOST / "before", folder)
        self.folder = folder
        self.now_ns = 10**18
        self.reader = HostReader("h", folder / "proc", folder / "sys", clock_ns=lambda: self.now_ns)

    def first(self) -> None:
        assert self.reader.read({ID: ENGINE}) == ([], [])

    def replace(self) -> None:
        self.now_ns += 2 * 10**9
        shutil.rmtree(self.folder)
        shutil.copytree(HOST / "after", self.folder)

    def second(self) -> tuple[list[HostReading], list[ProcessReading]]:
        return self.reader.read({ID: ENGINE})


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    # The recorded trees are of a host with 100 ticks a second.
    monkeypatch.setattr(process_module, "TICKS_PER_SECOND", 100)
    monkeypatch.setattr("collectors.host.reading.TICKS_PER_SECOND", 100)
    return Recorded(tmp_path / "host")


def test_the_first_look_gives_nothing_and_the_second_what_happened(recorded: Recorded) -> None:
    recorded.first()
    recorded.replace()
    [host], processes = recorded.second()
    assert (host.engine_id, host.host, host.cpu_count) == (ID, "h", 2)
    assert host.end_ns - host.begin_ns == 2 * 10**9
    # 240 busy, 110 idle and 50 stolen of 400 ticks.
    assert host.cpu_busy_ratio == pytest.approx(240 / 400)
    assert host.cpu_steal_ratio == pytest.approx(50 / 400)
    assert host.engine_cpu_ratio == pytest.approx(80 / 400)
    assert host.others_cpu_ratio == pytest.approx(160 / 400)
    assert host.engine_run_queue_wait_ratio == pytest.approx(0.3 / 2)
    assert host.cpu_pressure_ratio == pytest.approx(0.2)
    assert host.memory_pressure_ratio == 0
    assert host.io_pressure_ratio == pytest.approx(0.0005)
    assert host.cpu_frequency_hz == 1.9e9
    assert host.memory_available_bytes == 3_000_000 * 1024
    assert host.major_faults_per_second == 5
    assert host.disk_read_bytes_per_second == 100 * 512 / 2
    assert host.disk_written_bytes_per_second == 200 * 512 / 2
    assert host.network_received_bytes_per_second == 2000
    assert host.network_sent_bytes_per_second == 5000
    [core] = processes
    assert (core.pid, core.role) == (CORE.pid, "engine_core")
    assert core.cpu_seconds == pytest.approx(0.8)
    assert core.run_queue_wait_seconds == pytest.approx(0.3)
    assert (core.voluntary_switches, core.involuntary_switches) == (300, 10)
    assert (core.minor_faults, core.major_faults, core.threads) == (100, 2, 13)


def test_a_process_that_went_away_in_between_is_left_out(recorded: Recorded) -> None:
    recorded.first()
    assert (recorded.folder / "proc" / str(WORKER.pid)).exists()
    recorded.replace()
    _, processes = recorded.second()
    assert [process.pid for process in processes] == [CORE.pid]


def test_a_host_without_engines_costs_no_record(recorded: Recorded) -> None:
    recorded.first()
    recorded.replace()
    assert recorded.reader.read({}) == ([], [])


def test_an_engine_that_came_in_between_has_a_host_and_no_process_yet(recorded: Recorded) -> None:
    recorded.reader.read({})
    recorded.replace()
    [host], processes = recorded.second()
    assert processes == []
    assert host.cpu_busy_ratio is not None
    assert host.engine_run_queue_wait_ratio is None


@pytest.mark.parametrize("resource", ["cpu", "memory", "io"])
def test_without_psi_a_pressure_is_unknown_and_not_zero(recorded: Recorded, resource: str) -> None:
    (recorded.folder / "proc/pressure" / resource).unlink()
    recorded.first()
    recorded.replace()
    [host], _ = recorded.second()
    assert getattr(host, f"{resource}_pressure_ratio") is None


def test_hidden_disks_and_frequencies_are_unknown(recorded: Recorded) -> None:
    shutil.rmtree(recorded.folder / "sys")
    (recorded.folder / "proc/cpuinfo").write_text("")
    recorded.first()
    recorded.replace()
    shutil.rmtree(recorded.folder / "sys")
    (recorded.folder / "proc/cpuinfo").write_text("")
    [host], _ = recorded.second()
    assert host.disk_read_bytes_per_second is None
    assert host.network_sent_bytes_per_second is None
    assert host.cpu_frequency_hz is None


def fields_of(reading: HostReading | ProcessReading) -> list[str]:
    return [field.name for field in fields(reading)]


def test_counters_that_run_backwards_give_no_negative_number(
    recorded: Recorded,
) -> None:
    recorded.replace()
    recorded.first()
    recorded.now_ns += 2 * 10**9
    shutil.rmtree(recorded.folder)
    shutil.copytree(HOST / "before", recorded.folder)
    [host], processes = recorded.second()
    readings: list[HostReading | ProcessReading] = [host, *processes]
    for reading in readings:
        for name in fields_of(reading):
            value = getattr(reading, name)
            if isinstance(value, int | float):
                assert value >= 0, name


def test_iowait_that_runs_backwards_leaves_every_ratio_within_0_and_1(recorded: Recorded) -> None:
    recorded.first()
    recorded.replace()
    stat = recorded.folder / "proc/stat"
    rest = stat.read_text().partition("\n")[2]
    # 600 busy and minus 500 idle ticks.
    stat.write_text(f"cpu  1600 10 500 7600 0 0 20 30 0 0\n{rest}")
    [host], _ = recorded.second()
    for value in (host.cpu_busy_ratio, host.engine_cpu_ratio, host.others_cpu_ratio):
        assert value is not None
        assert 0 <= value <= 1


def test_a_clock_that_stands_still_gives_nothing(recorded: Recorded) -> None:
    recorded.first()
    assert recorded.second() == ([], [])


def test_this_host_can_be_read() -> None:
    reader = HostReader("h")
    reader.read({ID: ENGINE})
    [host], _ = reader.read({ID: ENGINE})
    assert host.cpu_count >= 1
    assert host.memory_total_bytes
