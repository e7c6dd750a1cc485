"""CPU quotas by control groups: both versions, and what an agent in a container sees of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.host.cgroup import (
    Groups,
    Mount,
    Quota,
    find_folder,
    parse_cgroup,
    parse_cpu_max,
    parse_mounts,
    parse_throttled_seconds,
    read_throttled_seconds,
    within,
)

V2_MOUNT = "29 23 0:26 {root} {folder} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "32 31 0:29 {root} {folder} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
PID = 77


def test_the_group_that_limits_the_cpu_is_picked_by_its_controller() -> None:
    text = "9:name=systemd:/s\n7:cpuset:/set\n4:cpu,cpuacct:/a:b/c\n0::/d\nnonsense\n"
    assert parse_cgroup(text) == {1: "/a:b/c", 2: "/d"}
    assert parse_cgroup("") == {}


def test_mounts_of_other_controllers_and_broken_lines_are_left_out() -> None:
    text = (
        V2_MOUNT.format(root="/", folder="/sys/fs/cgroup/a\\040b")
        + V1_MOUNT.format(root="/docker/1", folder="/sys/fs/cgroup/cpu")
        + "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        + "30 1 0:1 / /x rw - cgroup2\n- \n"
    )
    assert parse_mounts(text) == [
        Mount("/sys/fs/cgroup/a b", "/", 2),
        Mount("/sys/fs/cgroup/cpu", "/docker/1", 1),
    ]


def test_a_quota_is_in_cores() -> None:
    assert parse_cpu_max("150000 100000\n") == 1.5
    for text in ("max 100000\n", "", "150000\n", "1 0\n", "a b\n"):
        assert parse_cpu_max(text) is None


def test_throttling_is_in_seconds_in_both_versions() -> None:
    assert parse_throttled_seconds("nr_throttled 3\nthrottled_usec 1500000\n") == 1.5
    assert parse_throttled_seconds("nr_throttled 3\nthrottled_time 1500000000\n") == 1.5
    assert parse_throttled_seconds("usage_usec 3\nthrottled_usec x\n") is None


def test_a_path_is_cut_to_what_the_mount_shows() -> None:
    assert within("/a/b", "/") == "/a/b"
    assert within("/docker/1/x", "/docker/1") == "/x"
    assert within("/docker/1", "/docker/1") == "/"
    assert within("/docker/12", "/docker/1") is None
    assert within("/../other", "/") is None
    # As a reader in a control group namespace of its own sees the host's tree.
    assert within("/../../other", "/../..") == "/other"
    assert within("/../other", "/../..") is None
    assert within("/../../../other", "/../..") is None


class Host:
    """A tree of control groups and the files of ``/proc`` that lead to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def quota(self, pid: int = PID) -> Quota | None:
        return Groups(self.proc, self.folder).quota(pid)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_version_1_has_its_quota_in_two_files(host: Host) -> None:
    host.write("proc/self/mountinfo", V1_MOUNT.format(root="/", folder="/cpu"))
    host.write(f"proc/{PID}/cgroup", "4:cpu,cpuacct:/docker/1\n0::/\n")
    host.write("cpu/cpu.cfs_quota_us", "-1\n")
    host.write("cpu/cpu.cfs_period_us", "100000\n")
    host.write("cpu/docker/1/cpu.cfs_quota_us", "50000\n")
    host.write("cpu/docker/1/cpu.cfs_period_us", "100000\n")
    host.write("cpu/docker/1/cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 2000000000\n")
    quota = host.quota()
    assert quota is not None
    assert quota.limit_cores == 0.5
    assert read_throttled_seconds(quota) == 2.0


def test_without_a_quota_nothing_is_throttled_and_there_is_no_limit(host: Host) -> None:
    host.write("proc/self/mountinfo", V2_MOUNT.format(root="/", folder="/cgroup"))
    host.write(f"proc/{PID}/cgroup", "0::/a.slice\n")
    host.write("cgroup/a.slice/cpu.max", "max 100000\n")
    quota = host.quota()
    assert quota == Quota()
    assert quota.limit_cores is None
    assert read_throttled_seconds(quota) == 0.0


def test_a_quota_whose_statistics_are_refused_leaves_throttling_unknown(host: Host) -> None:
    host.write("proc/self/mountinfo", V2_MOUNT.format(root="/", folder="/cgroup"))
    host.write(f"proc/{PID}/cgroup", "0::/a.slice\n")
    host.write("cgroup/a.slice/cpu.max", "1 1\n")
    quota = host.quota()
    assert quota is not None
    assert read_throttled_seconds(quota) is None


def in_a_container(host: Host) -> None:
    """Lay out an agent in a pod: its own group is all it sees, but for what pid 1 sees."""
    pods = "kubepods.slice"
    host.write("proc/self/mountinfo", V2_MOUNT.format(root="/", folder="/cgroup"))
    host.write("proc/1/mountinfo", V2_MOUNT.format(root="/../../..", folder="/sys/fs/cgroup"))
    tree = f"proc/1/root/sys/fs/cgroup/{pods}"
    host.write(f"{tree}/pod2.slice/engine.scope/cpu.max", "300000 100000\n")
    host.write(f"{tree}/pod2.slice/engine.scope/cpu.stat", "throttled_usec 7000000\n")
    host.write(f"{tree}/pod1.slice/agent.scope/cpu.max", "max 100000\n")
    # The same folder by another way, as a bind mount is.
    (host.folder / "cgroup").symlink_to(host.folder / tree / "pod1.slice/agent.scope")
    host.write(f"proc/{PID}/cgroup", "0::/../../pod2.slice/engine.scope\n")


def test_an_agent_in_a_container_sees_an_engine_in_another_by_way_of_the_first_process(
    host: Host,
) -> None:
    in_a_container(host)
    quota = host.quota()
    assert quota is not None
    assert quota.limit_cores == 3.0
    assert read_throttled_seconds(quota) == 7.0
    # And one that shares nothing with our own group but the top.
    host.write(f"proc/{PID}/cgroup", "0::/../../../kubepods.slice/pod2.slice/engine.scope\n")
    assert host.quota() == quota


def test_a_tree_of_the_host_that_is_mounted_into_the_container_does_as_well(host: Host) -> None:
    in_a_container(host)
    (host.proc / "1/mountinfo").unlink()
    host.write(
        "proc/self/mountinfo",
        V2_MOUNT.format(root="/", folder="/cgroup")
        + V2_MOUNT.format(root="/../../..", folder="/proc/1/root/sys/fs/cgroup"),
    )
    quota = host.quota()
    assert quota is not None
    assert quota.limit_cores == 3.0


def test_version_2_does_not_speak_for_a_cpu_that_is_in_version_1(host: Host) -> None:
    host.write("proc/self/mountinfo", V2_MOUNT.format(root="/", folder="/cgroup"))
    host.write("cgroup/cpu.max", "max 100000\n")
    host.write(f"proc/{PID}/cgroup", "4:cpu,cpuacct:/docker/1\n0::/\n")
    assert host.quota() is None


def test_without_that_way_the_quota_is_unknown_and_not_none(host: Host) -> None:
    in_a_container(host)
    (host.proc / "1/mountinfo").unlink()
    assert host.quota() is None


def test_a_process_without_a_group_has_an_unknown_quota(host: Host) -> None:
    in_a_container(host)
    assert host.quota(99) is None


def test_looking_for_our_own_group_ends_after_so_many_folders(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"tree/{number}").mkdir(parents=True)
    wanted = tmp_path / "tree/7"
    assert find_folder(str(tmp_path / "tree"), str(wanted)) == "/7"
    assert find_folder(str(tmp_path / "tree"), str(tmp_path / "tree")) == "/"
    assert find_folder(str(tmp_path / "tree"), str(tmp_path / "elsewhere")) is None
    (tmp_path / "outside").mkdir()
    assert find_folder(str(tmp_path / "tree"), str(tmp_path / "outside"), 5) is None


@pytest.fixture
def throttled() -> Iterator[int]:
    """A busy process in a group of its own that may take a tenth of a core."""
    tree = Path("/sys/fs/cgroup/cpu")
    version = 1 if tree.is_dir() else 2
    tree = tree if version == 1 else Path("/sys/fs/cgroup")
    folder = tree / f"latencyprism-test-{os.getpid()}"
    process = None
    try:
        try:
            folder.mkdir()
            if version == 1:
                (folder / "cpu.cfs_quota_us").write_text("10000")
            else:
                (folder / "cpu.max").write_text("10000 100000")
        except OSError as err:
            pytest.skip(f"no control group with a CPU quota can be made here: {err}")
        process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        (folder / "cgroup.procs").write_text(str(process.pid))
        yield process.pid
    finally:
        if process is not None:
            process.kill()
            process.wait()
        if folder.is_dir():
            folder.rmdir()


@pytest.mark.process
def test_a_real_process_that_is_throttled_is_seen_to_be(throttled: int) -> None:
    groups = Groups()
    quota = groups.quota(throttled)
    assert quota is not None
    assert quota.limit_cores == pytest.approx(0.1)
    deadline = time.monotonic() + 30
    while not read_throttled_seconds(quota):
        assert time.monotonic() < deadline, "it was not throttled"
        time.sleep(0.1)
