"""Whose a device is: by the vendor's list, by open files, by environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from collectors.discovery import EngineProcess, Process, RankProcess
from collectors.xpu.base import Vendor, Way
from collectors.xpu.owners import REMEMBERED_SECONDS, Owners, Share, parse_environ, parse_nspid
from schemas.records import XpuDevice, XpuProcess

DEVICES = tuple(
    XpuDevice(
        device_id=f"UUID-{index:04d}-abcdef",
        vendor="fake",
        device_index=index,
        pci_address=f"0000:8{index}:00.0",
    )
    for index in range(4)
)
IDS = [device.device_id for device in DEVICES]


class Fake(Vendor):
    title = "Fake"
    visible_variables = ("FIRST_VISIBLE", "SECOND_VISIBLE")
    index_files = r"/dev/fake(\d+)"

    def ways(self) -> list[Way]:
        return []


class Host:
    """A made-up ``/proc`` and ``/sys``."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        self.seconds = 0.0

    def process(
        self,
        pid: int,
        parent: int = 1,
        files: tuple[str, ...] = (),
        environ: str = "",
        nspid: tuple[int, ...] = (),
    ) -> Process:
        folder = self.proc / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (x) S {parent} " + "0 " * 17 + "5 0 0\n")
        (folder / "cmdline").write_bytes(b"x\0")
        (folder / "environ").write_bytes(environ.replace(" ", "\0").encode() + b"\0")
        pids = "\t".join(str(one) for one in (pid, *nspid))
        (folder / "status").write_text(f"Name:\tx\nNSpid:\t{pids}\n")
        for number, file in enumerate(files):
            (folder / "fd" / str(number)).symlink_to(file)
        return Process(pid=pid, parent_pid=parent, start_ticks=5, arguments=("x",))

    def owners(self) -> Owners:
        return Owners(Fake(), self.proc, self.sys, lambda: self.seconds)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def engine(core: Process, *ranks: Process) -> EngineProcess:
    return EngineProcess(
        framework="vllm",
        name=str(core.pid),
        core=core,
        ranks=tuple(RankProcess(process=one, rank=rank) for rank, one in enumerate(ranks, 1)),
    )


def busy(**pids: tuple[int, ...]) -> list[XpuDevice]:
    """Give the devices with processes on them: ``busy(d0=(7,))``."""
    return [
        replace(device, processes=tuple(XpuProcess(pid=pid) for pid in pids.get(f"d{index}", ())))
        for index, device in enumerate(DEVICES)
    ]


def ranks_of(shares: dict[str, Share]) -> dict[str, set[int]]:
    return {device_id: share.ranks for device_id, share in shares.items()}


def test_the_vendors_list_names_engine_and_rank(host: Host) -> None:
    a = engine(host.process(10), host.process(11, 10))
    b = engine(host.process(20))
    shares = host.owners().shares({"a": a, "b": b}, busy(d0=(10,), d1=(11, 99), d2=(20,)))
    assert ranks_of(shares["a"]) == {IDS[0]: {0}, IDS[1]: {1}}
    assert ranks_of(shares["b"]) == {IDS[2]: {0}}
    assert shares["a"][IDS[1]].pids == {11}, "99 is somebody else's"


def test_the_list_counts_more_than_files_and_environment(host: Host) -> None:
    a = engine(host.process(10, files=("/dev/fake1", "/dev/fake2"), environ="FIRST_VISIBLE=1,2"))
    assert ranks_of(host.owners().shares({"a": a}, busy(d2=(10,)))["a"]) == {IDS[2]: {0}}


def test_a_child_of_an_engine_belongs_to_it_but_has_no_rank(host: Host) -> None:
    a = engine(host.process(10))
    host.process(15, 10)
    host.process(16, 15)
    [share] = host.owners().shares({"a": a}, busy(d0=(16,)))["a"].values()
    assert (share.pids, share.ranks) == ({16}, set())


def test_a_pid_of_another_namespace_is_translated(host: Host) -> None:
    a = engine(host.process(5010, nspid=(7,)))
    b = engine(host.process(5020, nspid=(8,)))
    shares = host.owners().shares({"a": a, "b": b}, busy(d3=(8,)))
    assert shares["a"] == {}
    assert ranks_of(shares["b"]) == {IDS[3]: {0}}
    assert shares["b"][IDS[3]].pids == {8}
    assert shares["b"][IDS[3]].users == {5020}


def test_a_pid_that_is_a_process_of_ours_is_not_translated(host: Host) -> None:
    a = engine(host.process(5010, nspid=(7,)))
    host.process(7)
    assert host.owners().shares({"a": a}, busy(d3=(7,)))["a"] == {}


def test_open_files_name_the_devices_where_the_list_is_missing(host: Host) -> None:
    device = host.sys / "class/drm/renderD129"
    target = host.sys / "devices/pci/0000:82:00.0"
    device.mkdir(parents=True)
    target.mkdir(parents=True)
    (device / "device").symlink_to(target)
    a = engine(host.process(10, files=("/dev/fake1",)))
    b = engine(host.process(20, files=("/dev/dri/renderD129", "/dev/kfd")))
    shares = host.owners().shares({"a": a, "b": b}, DEVICES)
    assert ranks_of(shares["a"]) == {IDS[1]: {0}}
    assert ranks_of(shares["b"]) == {IDS[2]: {0}}
    assert shares["a"][IDS[1]].users == {10}


def test_several_open_devices_name_no_rank(host: Host) -> None:
    a = engine(host.process(10, files=("/dev/fake0", "/dev/fake1")))
    shares = host.owners().shares({"a": a, "b": engine(host.process(20))}, DEVICES)["a"]
    assert ranks_of(shares) == {IDS[0]: set(), IDS[1]: set()}
    assert not any(share.users for share in shares.values())


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ("FIRST_VISIBLE=2", [IDS[2]]),
        ("FIRST_VISIBLE=0,3", [IDS[0], IDS[3]]),
        ("FIRST_VISIBLE=1.0", [IDS[1]]),
        ("FIRST_VISIBLE=uuid-0003", [IDS[3]]),
        ("SECOND_VISIBLE=1 FIRST_VISIBLE=0", [IDS[0]]),
        ("SECOND_VISIBLE=1", [IDS[1]]),
        ("FIRST_VISIBLE=", []),
        ("FIRST_VISIBLE=-1", []),
        ("FIRST_VISIBLE=all", []),
        ("XFIRST_VISIBLE=2 PROMPT=FIRST_VISIBLE=1", []),
        ("", []),
    ],
)
def test_the_environment_says_what_a_process_may_use(
    host: Host, environ: str, expected: list[str]
) -> None:
    a = engine(host.process(10, environ=environ))
    b = engine(host.process(20))
    assert sorted(host.owners().shares({"a": a, "b": b}, DEVICES)["a"]) == expected


def test_open_files_narrow_the_environment_and_the_other_way_round(host: Host) -> None:
    a = engine(host.process(10, files=("/dev/fake0", "/dev/fake1"), environ="FIRST_VISIBLE=1,2"))
    assert ranks_of(host.owners().shares({"a": a}, DEVICES)["a"]) == {IDS[1]: {0}}


def test_a_containers_own_indices_are_not_believed_its_ids_are(host: Host) -> None:
    a = engine(host.process(10, environ="FIRST_VISIBLE=0", nspid=(1,)))
    b = engine(host.process(20, environ=f"FIRST_VISIBLE={IDS[2]}", nspid=(1,)))
    shares = host.owners().shares({"a": a, "b": b}, DEVICES)
    assert shares["a"] == {}
    assert list(shares["b"]) == [IDS[2]]


def test_a_lone_engine_of_which_nothing_is_known_has_all_devices_without_ranks(host: Host) -> None:
    a = engine(host.process(10))
    assert ranks_of(host.owners().shares({"a": a}, DEVICES)["a"]) == {one: set() for one in IDS}


def test_a_lone_engine_has_none_where_the_list_shows_only_others(host: Host) -> None:
    a = engine(host.process(10))
    assert host.owners().shares({"a": a}, busy(d0=(99,)))["a"] == {}


def test_of_several_engines_none_is_guessed(host: Host) -> None:
    engines = {"a": engine(host.process(10)), "b": engine(host.process(20))}
    assert host.owners().shares(engines, DEVICES) == {"a": {}, "b": {}}


def test_a_process_is_looked_at_again_after_a_while(host: Host) -> None:
    engines = {"a": engine(host.process(10)), "b": engine(host.process(20))}
    owners = host.owners()
    assert owners.shares(engines, DEVICES)["a"] == {}
    (host.proc / "10/fd/9").symlink_to("/dev/fake3")
    assert owners.shares(engines, DEVICES)["a"] == {}
    host.seconds += REMEMBERED_SECONDS
    assert list(owners.shares(engines, DEVICES)["a"]) == [IDS[3]]


def test_a_process_that_is_gone_is_nobodys(host: Host) -> None:
    gone = Process(pid=77, parent_pid=1, start_ticks=5, arguments=("x",))
    engines = {"a": engine(gone), "b": engine(host.process(20))}
    assert host.owners().shares(engines, busy(d0=(99,))) == {"a": {}, "b": {}}


def test_only_named_variables_leave_the_environment() -> None:
    data = b"SECRET=sk-1\0V=0;1\0VW=7\0broken\0"
    assert parse_environ(data, ("V",)) == ("0", "1")
    assert parse_environ(data, ("SECRETS", "S")) is None
    assert parse_environ(b"", ("V",)) is None


def test_pids_are_given_ours_first() -> None:
    assert parse_nspid("Name:\tx\nNSpid:\t5010\t42\t7\nPid:\t5010\n") == (5010, 42, 7)
    assert parse_nspid("Name:\tx\n") == ()
