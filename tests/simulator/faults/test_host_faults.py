"""Faults of CPU, memory, disk and network: what they plan, and that the cheap ones really act."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simulator.faults import Machine, Target, load
from simulator.faults.cpu_quota import LEAST_CORES, PERIOD_US
from simulator.faults.disk import own_name
from simulator.faults.engine_swap import private_ranges
from simulator.faults.loopback import kernel_has, namespace_of
from simulator.faults.memory_bandwidth import MOST_MEMORY_RATIO
from simulator.faults.swap_thrash import SWAP_FILE_BYTES
from simulator.faults.topology import used_cores
from simulator.injection.run import InjectionError, Running, injected
from simulator.injection.steps import Cgroup, Join, Pin, Qdisc, Run, Scratch, Step, Work, Write

ENGINE = 77
API_SERVER = 78
TARGET = Target(pids=(ENGINE,))
V1_MOUNT = "30 20 0:9 / /sys/fs/cgroup/{0} rw - cgroup cgroup rw,{0}\n"
V2_MOUNT = "31 20 0:10 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"

process = pytest.mark.process
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="run as root")


def write(root: Path, name: str, text: str = "") -> None:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine_of(root: Path, cpus: tuple[int, ...] = (0, 1, 2, 3)) -> Machine:
    """A machine on which the engine runs."""
    write(root, f"/proc/{ENGINE}/stat", f"{ENGINE} (engine) S 50 {'0 ' * 40}")
    return Machine(root=root, cpus=cpus, uid=0, scratch=root, memory_bytes=8 << 30)


def version_1(root: Path, controller: str, group: str, pid: int | str = ENGINE) -> Path:
    write(root, "/proc/self/mountinfo", V1_MOUNT.format(controller))
    write(root, f"/proc/{pid}/cgroup", f"4:{controller}:{group}\n0::/\n")
    folder = root / f"sys/fs/cgroup/{controller}{group}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def version_2(root: Path, group: str, pid: int | str = ENGINE, below: str = "") -> Path:
    write(root, "/proc/self/mountinfo", V2_MOUNT)
    write(root, f"/proc/{pid}/cgroup", f"0::{group}\n")
    write(root, f"/sys/fs/cgroup{group}/cgroup.controllers", "cpu memory")
    write(root, f"/sys/fs/cgroup{group}/cgroup.subtree_control", below)
    return root / f"sys/fs/cgroup{group}"


def plan(name: str, intensity: float, root: Path, target: Target = TARGET) -> list[Step]:
    return load(name).plan(intensity, target, machine_of(root))


def written(steps: list[Step]) -> dict[str, str]:
    return {Path(step.path).name: step.text for step in steps if isinstance(step, Write)}


# A quota.


def test_a_quota_on_version_1_is_that_of_a_group_below_the_engine_s_own(tmp_path: Path) -> None:
    folder = version_1(tmp_path, "cpu", "/box/engine")
    steps = plan("cpu_quota", 0.5, tmp_path)

    assert isinstance(steps[0], Cgroup)
    assert Path(steps[0].path).parent == folder
    assert written(steps)["cpu.cfs_quota_us"] == str(round(LEAST_CORES * PERIOD_US * 0.5))
    assert steps[-1] == Join(pid=ENGINE, path=steps[0].path, before=str(folder))


def test_a_quota_on_version_2_is_that_of_a_threaded_group(tmp_path: Path) -> None:
    # Another kind of group could not be below one with processes, so others would have to move.
    folder = version_2(tmp_path, "/box")
    steps = plan("cpu_quota", 0.5, tmp_path)

    assert isinstance(steps[0], Cgroup)
    assert steps[0].threaded
    assert written(steps)["cpu.max"] == f"{round(LEAST_CORES * PERIOD_US * 0.5)} {PERIOD_US}"
    enabling = Write(path=str(folder / "cgroup.subtree_control"), text="+cpu", before="-cpu")
    assert enabling in steps
    # It goes with the group; "domain" cannot be written back.
    assert "cgroup.type" not in written(steps)


def test_a_controller_that_is_enabled_already_stays_so(tmp_path: Path) -> None:
    version_2(tmp_path, "/box", below="cpu io")

    assert "cgroup.subtree_control" not in written(plan("cpu_quota", 0.5, tmp_path))


def test_each_process_returns_to_its_own_group(tmp_path: Path) -> None:
    one = version_1(tmp_path, "cpu", "/core")
    other = version_1(tmp_path, "cpu", "/api", API_SERVER)
    steps = plan("cpu_quota", 0.5, tmp_path, Target(pids=(ENGINE, API_SERVER)))

    joins = {step.pid: step for step in steps if isinstance(step, Join)}
    assert joins[ENGINE].before == str(one)
    assert joins[API_SERVER].before == str(other)
    assert joins[ENGINE].path != joins[API_SERVER].path


def test_a_quota_without_control_groups_is_refused(tmp_path: Path) -> None:
    assert "mount /sys/fs/cgroup" in load("cpu_quota").obstacles(TARGET, machine_of(tmp_path))[0]


def test_a_quota_without_the_controller_is_refused(tmp_path: Path) -> None:
    folder = version_2(tmp_path, "/box")
    (folder / "cgroup.controllers").write_text("memory")

    assert "has no controller cpu" in load("cpu_quota").obstacles(TARGET, machine_of(tmp_path))[0]


# CPUs.


def test_a_theft_pins_engine_and_thieves_onto_the_same_half_of_its_cpus(tmp_path: Path) -> None:
    write(tmp_path, f"/proc/{ENGINE}/status", "Name:\tengine\nCpus_allowed_list:\t4-6,9\n")

    assert plan("core_theft", 2, tmp_path) == [
        Pin(pid=ENGINE, cpus=(4, 5)),
        Work(fault="core_theft", count=4, options={"cpus": [4, 5]}),
    ]


def smt_machine(root: Path, siblings: tuple[str, ...]) -> None:
    for cpu, text in enumerate(siblings):
        write(root, f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", text)


def test_noise_is_on_the_siblings_and_the_engine_is_not(tmp_path: Path) -> None:
    smt_machine(tmp_path, ("0,2", "1,3", "0,2", "1,3"))

    assert plan("smt_noise", 1.0, tmp_path) == [
        Pin(pid=ENGINE, cpus=(0, 1)),
        Work(fault="smt_noise", count=2, options={"cpus": [2, 3]}),
    ]


def test_noise_follows_an_engine_that_is_pinned(tmp_path: Path) -> None:
    smt_machine(tmp_path, ("0,2", "1,3", "0,2", "1,3"))
    write(tmp_path, f"/proc/{ENGINE}/status", "Cpus_allowed_list:\t3\n")

    assert plan("smt_noise", 1.0, tmp_path) == [
        Pin(pid=ENGINE, cpus=(3,)),
        Work(fault="smt_noise", count=1, options={"cpus": [1]}),
    ]


def test_noise_on_cores_of_one_thread_is_refused(tmp_path: Path) -> None:
    smt_machine(tmp_path, ("0", "1", "2", "3"))

    assert "one thread each" in load("smt_noise").obstacles(TARGET, machine_of(tmp_path))[0]


def frequency_domain(root: Path, name: str, cpus: str, lowest: int, highest: int) -> Path:
    folder = f"/sys/devices/system/cpu/cpufreq/{name}"
    for file, value in (
        *(("affected_cpus", cpus), ("cpuinfo_min_freq", 800_000)),
        *(("cpuinfo_max_freq", 3_000_000), ("scaling_min_freq", lowest)),
        ("scaling_max_freq", highest),
    ):
        write(root, f"{folder}/{file}", f"{value}\n")
    return root / folder.lstrip("/")


def test_a_clock_is_lowered_where_the_engine_may_run_and_comes_back(tmp_path: Path) -> None:
    domain = frequency_domain(tmp_path, "policy0", "0 1", 2_000_000, 2_900_000)
    frequency_domain(tmp_path, "policy2", "2 3", 800_000, 3_000_000)
    write(tmp_path, f"/proc/{ENGINE}/status", "Cpus_allowed_list:\t1\n")
    planned = plan("cpu_frequency", 0.5, tmp_path)
    steps = [step.prepare() for step in planned if isinstance(step, Write)]
    for step in steps:
        step.do()

    assert {Path(step.path).parent for step in steps} == {domain}
    # The lower limit first, or the upper one would not go below it.
    assert [Path(step.path).name for step in steps] == ["scaling_min_freq", "scaling_max_freq"]
    assert (domain / "scaling_max_freq").read_text().strip() == "1500000"
    for step in reversed(steps):
        step.undo()
    assert (domain / "scaling_min_freq").read_text().strip() == "2000000"
    assert (domain / "scaling_max_freq").read_text().strip() == "2900000"


def test_no_clock_is_set_below_what_the_cpu_can(tmp_path: Path) -> None:
    frequency_domain(tmp_path, "policy0", "0 1", 800_000, 3_000_000)

    assert written(plan("cpu_frequency", 0.9, tmp_path)) == {"scaling_max_freq": "800000"}


# Memory.


def node(root: Path, number: int, cpus: str) -> None:
    write(root, f"/sys/devices/system/node/node{number}/cpulist", cpus)


def test_an_engine_is_misplaced_to_the_node_without_its_memory(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-1")
    node(tmp_path, 1, "2-3")
    write(
        tmp_path, f"/proc/{ENGINE}/numa_maps", "55d0 default heap anon=9 N0=2 N1=7 kernelpagesize"
    )

    assert plan("numa_misplacement", 1.0, tmp_path) == [Pin(pid=ENGINE, cpus=(0, 1))]


def test_the_process_that_iterates_is_misplaced_first(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-1")
    node(tmp_path, 1, "2-3")
    steps = plan("numa_misplacement", 0.34, tmp_path, Target(pids=(ENGINE, API_SERVER)))

    assert [step.pid for step in steps if isinstance(step, Pin)] == [ENGINE]


def test_one_node_is_an_obstacle(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-3")

    obstacles = load("numa_misplacement").obstacles(TARGET, machine_of(tmp_path))
    assert "one NUMA node" in obstacles[0]


def test_a_cpuset_of_one_node_is_an_obstacle(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-1")
    node(tmp_path, 1, "2-3")
    write(tmp_path, f"/proc/{ENGINE}/numa_maps", "55d0 default N0=9")

    machine = machine_of(tmp_path, cpus=(0, 1))
    assert "cpuset" in load("numa_misplacement").obstacles(TARGET, machine)[0]


def test_copies_take_a_bounded_share_of_memory(tmp_path: Path) -> None:
    (work,) = plan("memory_bandwidth", 4.0, tmp_path)

    assert isinstance(work, Work)
    array_bytes = work.options["bytes"]
    assert isinstance(array_bytes, int)
    assert 0 < 2 * array_bytes * work.count <= machine_of(tmp_path).memory_bytes * MOST_MEMORY_RATIO


def test_copies_are_refused_where_memory_is_short(tmp_path: Path) -> None:
    write(tmp_path, "/proc/meminfo", f"MemAvailable: {1 << 20} kB\n")

    assert "free some" in load("memory_bandwidth").obstacles(TARGET, machine_of(tmp_path))[0]


@pytest.mark.parametrize("version", [1, 2])
def test_copies_heed_the_memory_limit_of_a_container(tmp_path: Path, version: int) -> None:
    if version == 1:
        inner = version_1(tmp_path, "memory", "/box/ours", "self")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
        write(inner, names[0], "9223372036854771712")
    else:
        inner = version_2(tmp_path, "/box/ours", "self")
        names = ("memory.max", "memory.current", "file")
        write(inner, names[0], "max")
    write(tmp_path, "/proc/meminfo", f"MemAvailable: {8 << 20} kB\n")
    write(inner.parent, names[0], f"{1 << 30}\n")
    machine = machine_of(tmp_path)
    (work,) = load("memory_bandwidth").plan(4.0, TARGET, machine)

    assert isinstance(work, Work)
    assert 2 * int(str(work.options["bytes"])) * work.count <= (1 << 30) * MOST_MEMORY_RATIO
    write(inner.parent, names[1], str(900 << 20))
    assert (
        "124 MiB of memory are available" in load("memory_bandwidth").obstacles(TARGET, machine)[0]
    )
    # What the cache holds can be had.
    write(inner.parent, "memory.stat", f"{names[2]} {800 << 20}\n")
    assert load("memory_bandwidth").obstacles(TARGET, machine) == []


def test_a_host_without_swap_gets_a_swap_file_and_loses_it_again(tmp_path: Path) -> None:
    version_1(tmp_path, "memory", "/ours", "self")
    write(tmp_path, "/proc/meminfo", "SwapFree: 0 kB\n")
    steps = plan("swap_thrash", 2.0, tmp_path)

    assert isinstance(steps[0], Scratch)
    swapon = next(step for step in steps if isinstance(step, Run) and step.argv[0] == "swapon")
    assert swapon.argv[-1] == swapon.undo_argv[-1]
    # It bears that it was never swapped on.
    swapon.undo()


def test_a_swap_that_the_host_has_is_left_alone(tmp_path: Path) -> None:
    folder = version_1(tmp_path, "memory", "/ours", "self")
    write(folder, "memory.limit_in_bytes")
    write(tmp_path, "/proc/meminfo", f"SwapFree: {SWAP_FILE_BYTES >> 10} kB\n")
    group, limit, work = plan("swap_thrash", 2.0, tmp_path)

    assert isinstance(group, Cgroup)
    assert Path(group.path).parent == folder
    assert isinstance(limit, Write)
    assert limit.path == f"{group.path}/memory.limit_in_bytes"
    assert isinstance(work, Work)
    assert work.options["cgroup"] == group.path
    assert work.options["bytes"] == 2 * int(limit.text)


def test_on_version_2_the_limited_group_is_beside_ours(tmp_path: Path) -> None:
    version_2(tmp_path, "/session/ours", "self")
    above = version_2(tmp_path, "/session", "1", below="memory")
    write(tmp_path, "/proc/meminfo", f"SwapFree: {SWAP_FILE_BYTES >> 10} kB\n")
    group, limit, _ = plan("swap_thrash", 2.0, tmp_path)

    assert isinstance(group, Cgroup)
    assert Path(group.path).parent == above
    assert isinstance(limit, Write)
    assert Path(limit.path).name == "memory.max"


def test_private_memory_only_is_put_out_and_only_so_much() -> None:
    maps = (
        "1000-3000 r-xp 0 0:0 1 /bin/engine\n4000-6000 rw-p 0 0:0 0 [heap]\n8000-a000 rw-s 0 0:0 2"
    )

    assert list(private_ranges(maps, 1 << 20)) == [(0x4000, 0x2000)]
    assert list(private_ranges(maps, 0x1000)) == [(0x4000, 0x1000)]


# The network.


def test_the_host_s_own_namespace_is_refused(tmp_path: Path) -> None:
    for pid in (1, ENGINE):
        folder = tmp_path / f"proc/{pid}/ns"
        folder.mkdir(parents=True)
        (folder / "net").symlink_to("net:[1]")
    write(tmp_path, f"/proc/{ENGINE}/stat", f"{ENGINE} (engine) S 50 {'0 ' * 40}")
    machine = Machine(root=tmp_path, uid=0, which=lambda name: name)

    obstacles = load("network_squeeze").obstacles(TARGET, machine)
    assert "host's network namespace" in obstacles[0]
    (tmp_path / f"proc/{ENGINE}/ns/net").unlink()
    (tmp_path / f"proc/{ENGINE}/ns/net").symlink_to("net:[2]")
    assert load("network_squeeze").obstacles(TARGET, machine) == []
    assert load("network_delay").plan(5, TARGET, machine) == [
        Qdisc(namespace="net:[2]", arguments=("netem", "delay", "5ms", "1ms"))
    ]


# Names.


def test_no_two_injections_share_a_name() -> None:
    assert own_name("fsync_storm") != own_name("fsync_storm")
    assert own_name("fsync_storm").startswith("latencyprism-fsync-storm-")


# For real.

TRANSFER = """
import socket, sys, threading, time
server = socket.create_server(("127.0.0.1", 0))
def give():
    with server.accept()[0] as taken:
        taken.sendall(bytes(2_000_000))
threading.Thread(target=give).start()
began, left = time.monotonic(), 2_000_000
with socket.create_connection(server.getsockname()) as taken:
    while left:
        left -= len(taken.recv(65536))
print(time.monotonic() - began)
"""
BURN = "while True: pass"
HOLD = "x = bytearray(b'x') * (32 << 20)\nprint(flush=True)\nimport time\ntime.sleep(60)"


@contextmanager
def python(code: str, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen((*before, sys.executable, "-c", code), stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def made(name: str, folder: Path, intensity: float, target: Target = TARGET) -> Iterator[Running]:
    """Make a fault; skip where this machine does not offer it."""
    obstacles = load(name).obstacles(target, Machine())
    if obstacles:
        pytest.skip("; ".join(obstacles))
    with injected(
        name, intensity=intensity, target=target, seconds=20, folder=folder / "journals"
    ) as running:
        yield running


def times(count: int) -> Callable[[], bool]:
    """Make a question that is answered with yes so many times."""
    left = iter([True] * count)
    return lambda: next(left, False)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@process
@needs_root
def test_a_narrow_loopback_really_is_and_is_wide_again_afterwards(tmp_path: Path) -> None:
    inside = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
    with python("print(flush=True)\nimport time\ntime.sleep(60)", *inside) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        enter = ("nsenter", "--net", "-t", str(engine.pid))

        def qdiscs() -> str:
            return subprocess.check_output((*enter, "tc", "qdisc", "show", "dev", "lo"), text=True)

        before = qdiscs()
        with made("network_squeeze", tmp_path, 16.0, Target(pids=(engine.pid,))):
            assert "tbf" in qdiscs()
            seconds = float(subprocess.check_output((*enter, sys.executable, "-c", TRANSFER)))
            # 2 MB less what the bucket holds, at 16 Mbit/s.
            assert seconds > 0.8
        assert qdiscs() == before


@process
@needs_root
def test_a_discipline_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    inside = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
    with python("print(flush=True)\nimport time\ntime.sleep(60)", *inside) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        tc = ("nsenter", "--net", "-t", str(engine.pid), "tc", "qdisc")
        subprocess.check_call((*tc, "add", "dev", "lo", "root", "handle", "5:", "pfifo"))
        with (
            pytest.raises(InjectionError),
            made("network_squeeze", tmp_path, 16.0, Target(pids=(engine.pid,))),
        ):
            pass
        assert b"pfifo 5:" in subprocess.check_output((*tc, "show", "dev", "lo"))


@process
@needs_root
def test_a_discipline_that_the_kernel_does_not_know_is_an_obstacle() -> None:
    assert not kernel_has(("nosuchdiscipline",))


@process
@needs_root
def test_a_quota_holds_a_process_back_and_is_gone_afterwards(tmp_path: Path) -> None:
    with python(BURN) as engine:
        groups = Path(f"/proc/{engine.pid}/cgroup")
        before = groups.read_text()
        # A busy one: of an idle one there is nothing to take.
        assert until(lambda: used_cores((engine.pid,), Machine(), 0.1) > 0)
        with made("cpu_quota", tmp_path, 0.9, Target(pids=(engine.pid,))):
            inside = next(
                line for line in groups.read_text().splitlines() if "latencyprism" in line
            )
            folder = next(Path("/sys/fs/cgroup").rglob(inside.rpartition("/")[2]))

            def throttled() -> bool:
                counts = dict(map(str.split, (folder / "cpu.stat").read_text().splitlines()))
                return int(counts["nr_throttled"]) > 0

            assert until(throttled)
        assert groups.read_text() == before
        assert not folder.exists()


@process
@needs_root
def test_a_threaded_group_takes_a_process_and_gives_it_back() -> None:
    folders = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    tree = next((one for one in folders if (one / "cgroup.controllers").exists()), None)
    if tree is None or not os.access(tree, os.W_OK):
        pytest.skip("no writable tree of control groups of version 2")
    with python("import time; time.sleep(60)") as engine:
        path = Path(f"/proc/{engine.pid}/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
        home = tree / path.lstrip("/")
        group = Cgroup(path=str(home / own_name("test")), threaded=True).prepare()
        join = Join(pid=engine.pid, path=group.path, before=str(home)).prepare()
        try:
            group.do()
            join.do()
            assert "latencyprism-test" in Path(f"/proc/{engine.pid}/cgroup").read_text()
        finally:
            # As if the process had not been moved back: whoever is in it moves up.
            group.undo()
        assert "latencyprism-test" not in Path(f"/proc/{engine.pid}/cgroup").read_text()
        assert not Path(group.path).exists()


@process
def test_a_theft_moves_the_engine_and_gives_its_cpus_back(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: there is none to take away")
    with python("import time; time.sleep(60)") as engine:
        before = os.sched_getaffinity(engine.pid)
        with made("core_theft", tmp_path, 1, Target(pids=(engine.pid,))) as running:
            during = os.sched_getaffinity(engine.pid)
            assert len(during) < len(before)
            assert until(lambda: all(os.sched_getaffinity(p) == during for p in running.workers))
        assert os.sched_getaffinity(engine.pid) == before


@process
@needs_root
def test_thrashing_swaps_and_the_swap_is_as_before(tmp_path: Path) -> None:
    before = Path("/proc/swaps").read_text()

    def swapped_kib(pid: int) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmSwap"))

    with offered_swap(), made("swap_thrash", tmp_path, 1.3) as running:
        assert until(lambda: swapped_kib(running.workers[0]) > 1024)
    assert Path("/proc/swaps").read_text() == before


@process
@needs_root
def test_the_swap_is_as_before_when_the_keeper_was_killed(tmp_path: Path) -> None:
    before = Path("/proc/swaps").read_text()
    with (
        offered_swap(),
        pytest.raises(InjectionError, match="keeper ended with signal 9"),
        made("swap_thrash", tmp_path, 1.3) as running,
    ):
        os.kill(running.keeper_pid, 9)
    assert until(lambda: Path("/proc/swaps").read_text() == before)
    assert not list(Path("/sys/fs/cgroup").glob("memory/**/latencyprism-swap-thrash-*"))


@process
@needs_root
def test_the_engine_s_memory_goes_out_and_comes_back(tmp_path: Path) -> None:
    with python(HOLD) as engine, offered_swap():
        assert engine.stdout is not None
        engine.stdout.readline()

        def swapped_kib() -> int:
            lines = Path(f"/proc/{engine.pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmSwap"))

        had_swap = Path("/proc/swaps").read_text().count("\n") > 1
        with made("engine_swap", tmp_path, 5, Target(pids=(engine.pid,))):
            assert until(lambda: swapped_kib() > 1024)
        assert had_swap or swapped_kib() == 0
        assert engine.poll() is None


@contextmanager
def offered_swap() -> Iterator[None]:
    """Skip where the file system of the scratch folder holds no swap files."""
    try:
        yield
    except InjectionError as err:
        if "'swapon " in str(err):
            pytest.skip(str(err))
        raise


@process
@pytest.mark.parametrize(
    ("name", "options", "questions"),
    [
        ("run_queue_pressure", {"threads": 2}, 10),
        ("interrupt_load", {}, 2),
        ("memory_bandwidth", {"bytes": 8 << 20}, 20),
    ],
)
def test_a_worker_uses_the_cpu_and_ends_when_told(
    name: str, options: dict[str, int], questions: int
) -> None:
    threads = threading.active_count()
    began = time.process_time()
    load(name).work(options, times(questions))

    assert time.process_time() - began > 0.005
    assert threading.active_count() == threads


@process
def test_a_storm_brings_its_blocks_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    load("fsync_storm").work({"folder": str(tmp_path)}, times(300))

    assert len(synced) == 300
    # Round and round, or a long storm would fill the disk.
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 1 << 20


@process
def test_a_stream_stays_within_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.faults.page_cache_pressure.FILE_BYTES", 4 << 20)
    load("page_cache_pressure").work({"folder": str(tmp_path)}, times(20))

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 4 << 20


@process
def test_a_namespace_has_a_name() -> None:
    name = namespace_of("self", Machine())

    assert name is not None
    assert name.startswith("net:[")
