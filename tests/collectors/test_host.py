"""Counters of host and processes: each parser on a literal, the reader on two recorded looks."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from collectors.discovery import EngineProcess, Process, RankProcess
from collectors.host import numa
from collectors.host import process as process_module
from collectors.host.cpu import parse_cpu_times, parse_cpuinfo_hz, read_frequency_hz
from collectors.host.files import Seldom, read_int, read_text
from collectors.host.memory import parse_memory
from collectors.host.pressure import Pressure, parse_pressure, read_pressure
from collectors.host.process import (
    TICKS_PER_SECOND,
    Status,
    parse_schedstat,
    parse_stat,
    parse_status,
    read_process_times,
)
from collectors.host.reading import HostReader, Traced
from collectors.host.traffic import (
    Traffic,
    find_devices,
    parse_disks,
    parse_interfaces,
    read_link_bytes_per_second,
    read_traffic,
)
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
    assert (times.user_ticks, times.system_ticks) == (30, 30)
    assert (times.iowait_ticks, times.irq_ticks) == (50, 13)
    assert (times.context_switches, times.runnable_tasks) == (None, None)


@pytest.mark.parametrize("text", ["", "cpu 1 2 3 4\n", "intr 1 2 3 4 5 6 7 8 9\n"])
def test_cpu_times_of_another_form_are_refused_and_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="eight columns"):
        parse_cpu_times(text)


def test_a_long_line_of_interrupts_hides_neither_switches_nor_runnable_threads() -> None:
    text = "cpu  1 1 1 1 1 1 1 1\nintr " + "0 " * 100_000 + "\nctxt 9\nprocs_running 4\n"
    times = parse_cpu_times(text)
    assert (times.context_switches, times.runnable_tasks) == (9, 4)


def test_clock_frequencies_are_in_hertz() -> None:
    text = "processor\t: 0\ncpu MHz\t\t: 2400.5\ncache size\t: 1 KB\ncpu MHz\t\t: 1200\n"
    assert parse_cpuinfo_hz(text) == [2_400_500_000.0, 1_200_000_000.0]
    assert parse_cpuinfo_hz("processor : 0\ncpu MHz : unknown\n") == []


def test_a_host_that_tells_no_frequency_has_none(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    assert read_frequency_hz(tmp_path / "sys", tmp_path) is None


def test_memory_is_in_bytes_and_swapping_too() -> None:
    memory = parse_memory(
        "MemTotal: 2 kB\nMemAvailable: 1 kB\n"
        "SwapTotal: 4 kB\nSwapFree: 3 kB\nHugePages_Total:  0\n",
        "pswpin 3\npswpout 4\npgmajfault 5\n",
        page_bytes=1000,
    )
    assert (memory.total_bytes, memory.available_bytes) == (2048, 1024)
    assert (memory.swapped_in_bytes, memory.swapped_out_bytes) == (3000, 4000)
    assert memory.major_faults == 5
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (4096, 3072)


def test_what_the_kernel_does_not_tell_of_memory_is_unknown_and_not_zero() -> None:
    memory = parse_memory("MemTotal:\nnonsense\n", "pswpin x\npswpout\n")
    assert memory.total_bytes is None
    assert memory.swapped_in_bytes is None
    assert memory.major_faults is None


def test_pressure_is_the_total_of_each_line() -> None:
    text = (
        "some avg10=1.00 avg60=0.00 avg300=0.00 total=123\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    )
    assert parse_pressure(text) == Pressure(123, 9)


@pytest.mark.parametrize("text", ["", "full avg10=0.00\n", "some total=many\n", "nonsense"])
def test_a_pressure_that_is_not_told_is_unknown(text: str) -> None:
    assert parse_pressure(text) == Pressure(None, None)


def test_before_linux_5_13_the_cpu_has_no_full_line() -> None:
    assert parse_pressure("some avg10=0 avg60=0 avg300=0 total=7\n") == Pressure(7, None)


def test_a_kernel_without_psi_gives_none(tmp_path: Path) -> None:
    assert read_pressure("cpu", tmp_path) == Pressure(None, None)


def test_a_process_is_read_from_the_last_bracket_on() -> None:
    rest = "S 1 2 3 4 5 6 11 7 22 8 500 300 9 9 20 0 12 0 98500 77 1000"
    times = parse_stat(f"9 (a (b) c) {rest}", page_bytes=4096)
    assert times.cpu_seconds == 800 / TICKS_PER_SECOND
    assert (times.minor_faults, times.major_faults, times.threads) == (11, 22, 12)
    assert times.rss_bytes == 4_096_000
    assert (times.start_ticks, times.cpu) == (98500, None)


def test_scheduling_statistics_are_in_seconds() -> None:
    assert parse_schedstat("1500000000 250000000 7\n") == (1.5, 0.25)


def test_what_the_kernel_does_not_tell_of_a_process_is_unknown() -> None:
    text = "VmSwap:\t  3 kB\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n"
    assert parse_status(text) == Status(5, 6, 3072)
    assert parse_status("Name:\tVmSwap: 3 kB\nVmSwap:\n") == Status(None, None, None)


def test_waiting_for_a_cpu_is_summed_over_the_threads() -> None:
    times = read_process_times(CORE.pid, HOST / "before/proc")
    assert times is not None
    assert times.run_queue_wait_seconds == 1.5
    assert read_process_times(4999999, HOST / "before/proc") is None


def test_whole_disks_count_and_their_partitions_do_not() -> None:
    text = (
        "   8 0 sda 1 0 10 1 1 0 20 1 0 1 1\n   8 1 sda1 1 0 10 1 1 0 20 1 0 1 1\n   9 9 broken\n"
    )
    found = parse_disks(text, {"sda"})
    assert (found.read_bytes, found.written_bytes) == (10 * 512, 20 * 512)
    assert found.busy_ms == {"sda": 1}


def test_a_disk_that_does_not_tell_how_long_it_was_busy_is_left_out_of_that() -> None:
    assert parse_disks("   8 0 sda 1 0 10 1 1 0 20 1 0\n", {"sda"}).busy_ms == {}


def test_what_lies_on_another_disk_or_in_memory_is_no_disk_and_a_bridge_no_link() -> None:
    devices = find_devices(HOST / "before/sys")
    assert devices.disks == frozenset({"sda"})
    assert devices.links == frozenset({"eth0", "eth1"})


def test_the_capacity_is_that_of_the_fastest_link_of_hardware_that_is_up() -> None:
    assert read_link_bytes_per_second(HOST / "before/sys") == 25e9 / 8


@pytest.mark.parametrize("speed", ["-1", "0", "", "fast"])
def test_a_link_that_does_not_know_its_speed_has_no_capacity(tmp_path: Path, speed: str) -> None:
    (tmp_path / "class/net/eth0/device").mkdir(parents=True)
    (tmp_path / "class/net/eth0/operstate").write_text("up\n")
    (tmp_path / "class/net/eth0/speed").write_text(f"{speed}\n")
    assert read_link_bytes_per_second(tmp_path) is None


def test_interfaces_are_added_up_without_loopback() -> None:
    text = (
        "Inter-| Receive | Transmit\n face |bytes\n"
        "    lo: 99 0 0 0 0 0 0 0 99 0\n"
        "  eth0:7 0 0 0 0 0 0 0 5 0\n"
        "  eth1: 1 0 0 0 0 0 0 0 2 0\n"
    )
    assert parse_interfaces(text) == (8, 7)
    assert parse_interfaces(text, {"eth1"}) == (1, 2)


def test_hidden_traffic_is_none(tmp_path: Path) -> None:
    assert read_traffic(tmp_path, tmp_path) == Traffic()


class Recorded:
    """Two looks at a host, the second one two seconds after the first."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(HOST / "before", folder)
        self.folder = folder
        self.now_ns = 10**18
        self.reader = HostReader(
            "h", folder / "proc", folder / "sys", clock_ns=lambda: self.now_ns, root=folder
        )

    def first(self) -> None:
        assert self.reader.read({ID: ENGINE}) == ([], [])

    def replace(self) -> None:
        self.now_ns += 2 * 10**9
        shutil.rmtree(self.folder)
        shutil.copytree(HOST / "after", self.folder)

    def second(
        self, traced: dict[str, Traced] | None = None
    ) -> tuple[list[HostReading], list[ProcessReading]]:
        return self.reader.read({ID: ENGINE}, traced)


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


def test_the_second_look_has_the_states_of_the_cpu_and_the_capacities(recorded: Recorded) -> None:
    recorded.first()
    recorded.replace()
    [host], _ = recorded.second()
    assert host.cpu_user_ratio == pytest.approx(160 / 400)
    assert host.cpu_system_ratio == pytest.approx(80 / 400)
    assert host.cpu_iowait_ratio == pytest.approx(10 / 400)
    assert host.cpu_irq_ratio == 0
    assert host.context_switches_per_second == 3000
    assert host.runnable_tasks == 4
    assert host.cpu_frequency_max_hz == 3e9
    assert host.memory_full_pressure_ratio == pytest.approx(0.0005)
    assert host.io_full_pressure_ratio == pytest.approx(0.0003)
    assert host.swap_total_bytes == 2_000_000 * 1024
    assert host.swap_free_bytes == 1_000_000 * 1024
    assert host.disk_busy_ratio == pytest.approx(0.5)
    assert host.network_link_bytes_per_second == 25e9 / 8
    # 10 more on one node and 30 on the other.
    assert host.numa_foreign_per_second == 20


def test_a_process_has_its_rank_its_quota_and_where_its_memory_lies(recorded: Recorded) -> None:
    recorded.first()
    recorded.replace()
    [core] = recorded.second()[1]
    assert core.rank == 0
    assert core.swap_bytes == 512 * 1024
    # The tighter of its own and its pod's.
    assert core.cgroup_cpu_limit_cores == 2.5
    assert core.cgroup_throttled_seconds == pytest.approx(0.4)
    # It ran on node 0 last, where 210 small pages lie; 100 and 2 large ones lie on the other.
    assert core.numa_local_ratio == pytest.approx(840 / (840 + 400 + 4096))


def test_where_memory_lies_is_asked_once_a_minute(recorded: Recorded) -> None:
    maps = recorded.folder / f"proc/{CORE.pid}/numa_maps"
    recorded.first()
    recorded.replace()
    [core] = recorded.second()[1]
    known = core.numa_local_ratio
    maps.write_text("7f0 default N0=1 kernelpagesize_kB=4\n")
    ratios = {}
    for second in range(2, 64, 2):
        recorded.now_ns += 2 * 10**9
        [core] = recorded.second()[1]
        ratios[second] = core.numa_local_ratio
    assert {ratio for second, ratio in ratios.items() if second < 60} == {known}
    assert ratios[60] == 1.0


def test_a_host_with_one_node_has_all_memory_near_without_asking(recorded: Recorded) -> None:
    for folder in (HOST / "before", HOST / "after"):
        assert (folder / "sys/devices/system/node/node1").exists()
    shutil.rmtree(recorded.folder / "sys/devices/system/node/node1")
    (recorded.folder / f"proc/{CORE.pid}/numa_maps").unlink()
    recorded.first()
    recorded.now_ns += 2 * 10**9
    core = recorded.second()[1][0]
    assert core.numa_local_ratio == 1.0


def test_memory_of_a_large_process_is_not_asked_after(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numa, "MOST_RSS_BYTES", 1 << 20)
    recorded.first()
    recorded.replace()
    [core] = recorded.second()[1]
    assert core.numa_local_ratio is None


def test_asking_where_memory_lies_ends_when_it_takes_too_long() -> None:
    seconds = iter([0.0, 1.0])
    assert numa.read_numa_maps(CORE.pid, HOST / "before/proc", lambda: next(seconds)) is None


def test_a_process_whose_group_is_not_to_be_seen_has_no_known_quota(recorded: Recorded) -> None:
    (recorded.folder / f"proc/{CORE.pid}/cgroup").unlink()
    recorded.first()
    recorded.now_ns += 2 * 10**9
    core = recorded.second()[1][0]
    assert core.cgroup_cpu_limit_cores is None
    assert core.cgroup_throttled_seconds is None


def test_what_tracing_saw_is_on_the_engine_it_is_of(recorded: Recorded) -> None:
    recorded.first()
    recorded.replace()
    traced = Traced(
        run_queue_latency_p50_seconds=1e-5,
        run_queue_latency_p99_seconds=1e-3,
        calls={"ncclAllReduce": 2e-4},
    )
    [host], _ = recorded.second({ID: traced, "h:other": Traced()})
    assert host.run_queue_latency_p50_seconds == 1e-5
    assert host.run_queue_latency_p99_seconds == 1e-3
    assert host.traced_calls == {"ncclAllReduce": 2e-4}


@pytest.mark.parametrize(
    "refused", ["vmstat", "meminfo", "diskstats", "net/dev", "pressure", "5000202/numa_maps"]
)
def test_a_file_that_is_refused_costs_only_what_is_in_it(recorded: Recorded, refused: str) -> None:
    recorded.first()
    recorded.replace()
    path = recorded.folder / "proc" / refused
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    [host], [core] = recorded.second()
    assert host.cpu_busy_ratio == pytest.approx(240 / 400)
    assert core.cpu_seconds == pytest.approx(0.8)


def test_a_file_longer_than_one_read_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 200_000)
    assert len(read_text(str(tmp_path / "long"))) == 200_000
    assert read_int(str(tmp_path / "long")) is None


def test_what_changes_seldom_is_read_again_only_when_it_is_old() -> None:
    values = iter([1, 2, 3])
    seldom = Seldom(lambda: next(values), 10)
    # A clock that was set back makes it old, too.
    assert [seldom.at(now) for now in (100, 109, 110, 115, 50, 55)] == [1, 1, 2, 2, 3, 3]


def test_a_process_that_went_away_in_between_is_left_out(recorded: Recorded) -> None:
    recorded.first()
    assert (recorded.folder / "proc" / str(WORKER.pid)).exists()
    recorded.replace()
    _, processes = recorded.second()
    assert [process.pid for process in processes] == [CORE.pid]


def test_another_process_of_the_same_pid_has_nothing_of_the_first(recorded: Recorded) -> None:
    recorded.first()
    recorded.replace()
    stat = recorded.folder / f"proc/{CORE.pid}/stat"
    stat.write_text(stat.read_text().replace(" 98500 ", " 99999 "))
    _, processes = recorded.second()
    assert processes == []


def test_a_disk_that_is_new_brings_no_burst_of_what_it_carried_before(recorded: Recorded) -> None:
    recorded.first()
    (recorded.folder / "sys/block/sdb").mkdir()
    statistics = recorded.folder / "proc/diskstats"
    statistics.write_text(statistics.read_text() + "   8 16 sdb 1 0 999999 1 1 0 999999 1 0 9 9\n")
    recorded.now_ns += 61 * 10**9
    [host], _ = recorded.second()
    assert host.disk_read_bytes_per_second is None
    recorded.now_ns += 2 * 10**9
    [host], _ = recorded.second()
    assert host.disk_read_bytes_per_second == 0


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
    assert host.disk_busy_ratio is None
    assert host.network_link_bytes_per_second is None
    # Without names of devices of hardware, all but loopback count.
    assert host.network_sent_bytes_per_second == 10_000
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
