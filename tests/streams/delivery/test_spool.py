"""What waits on disk: through restarts, crashes, full disks and damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.delivery import spool as spool_module
from streams.delivery.spool import Spool, SpoolFull

MIB = 1 << 20


@pytest.fixture
def spools(tmp_path: Path) -> Iterator[Spools]:
    spools = Spools(tmp_path / "spool")
    yield spools
    spools.close()


class Spools:
    """One folder, opened again and again as by a worker that restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: Spool | None = None

    def open(self, most_bytes: int = MIB, **options: Any) -> Spool:
        self.close()
        self._open = Spool(self.folder, most_bytes, **options)
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()


def waiting(spool: Spool) -> list[bytes]:
    return [spool.read(number) for number in spool.numbers]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def test_what_waits_is_there_after_a_restart_in_its_order(spools: Spools) -> None:
    spool = spools.open()
    numbers = [spool.append(b"value %d" % n) for n in range(5)]
    spool.remove(numbers[1])

    again = spools.open()

    assert waiting(again) == [b"value 0", b"value 2", b"value 3", b"value 4"]
    assert again.append(b"new") > max(numbers)


def test_notes_come_back_oldest_first(spools: Spools) -> None:
    spool = spools.open()
    for n in range(3):
        spool.remove(spool.append(b"x"), b"note %d" % n)

    assert spools.open().notes[-3:] == [b"note 0", b"note 1", b"note 2"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_half_a_line_at_the_end_is_left_out(spools: Spools, cut: int) -> None:
    spool = spools.open()
    spool.append(b"whole")
    spool.append(b"a value that is being written when the power goes")
    spools.close()
    [path] = files(spools.folder)
    path.write_bytes(path.read_bytes()[:-cut])

    again = spools.open()

    assert waiting(again) == [b"whole"]
    assert again.unreadable == 0
    again.append(b"new")
    assert waiting(spools.open()) == [b"whole", b"new"]


def test_a_damaged_line_is_set_aside_and_the_others_are_read(
    spools: Spools, caplog: pytest.LogCaptureFixture
) -> None:
    spool = spools.open()
    for value in (b"one", b"two", b"three"):
        spool.append(value)
    spools.close()
    [path] = files(spools.folder)
    path.write_bytes(path.read_bytes().replace(b"two", b"tvo"))

    again = spools.open()

    assert waiting(again) == [b"one", b"three"]
    assert again.unreadable == 1
    assert b"tvo" in (spools.folder / "unreadable").read_bytes()
    assert str(spools.folder / "unreadable") in caplog.text


@pytest.mark.parametrize("garbage", [b"\n", b"garbage\n", b"\xff" * 50 + b"\n", b"0 + x y\n"])
def test_lines_of_somebody_else_do_no_harm(spools: Spools, garbage: bytes) -> None:
    spool = spools.open()
    spool.append(b"ours")
    spools.close()
    [path] = files(spools.folder)
    path.write_bytes(garbage + path.read_bytes())

    again = spools.open()

    assert waiting(again) == [b"ours"]
    assert again.unreadable == 1


def test_the_bound_is_kept_and_told(spools: Spools) -> None:
    spool = spools.open(most_bytes=100)
    numbers = [spool.append(b"x" * 50) for _ in range(2)]

    with pytest.raises(SpoolFull, match="raise spool_mib"):
        spool.append(b"x")

    spool.remove(numbers[0])
    spool.append(b"x" * 50)


def test_a_full_disk_is_told_and_takes_nothing_by_halves(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spools.open()
    spool.append(b"before")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 12:
            return real(descriptor, data[:12])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        with pytest.raises(SpoolFull, match=r"No space left on device\): make room on its disk"):
            spool.append(b"one too many for this disk")
    monkeypatch.undo()
    spool.append(b"after")

    again = spools.open()
    assert waiting(again) == [b"before", b"after"]
    assert again.unreadable == 0


def test_a_disk_full_of_what_was_delivered_meanwhile_is_freed(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spools.open()
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if sum(path.stat().st_size for path in files(spools.folder)) + len(data) > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    def fill() -> list[int]:
        numbers: list[int] = []
        try:
            while True:
                numbers.append(spool.append(b"x" * 500))
        except SpoolFull:
            return numbers

    monkeypatch.setattr(os, "write", write)
    for _ in range(3):
        numbers = fill()
        assert len(numbers) > 10
        for number in numbers:
            assert spool.read(number) == b"x" * 500
            spool.remove(number)
    assert waiting(spools.open()) == []


def test_the_disk_does_not_grow_with_what_was_delivered(spools: Spools) -> None:
    """One value waits through it all: its segment must not hold on to the others."""
    spool = spools.open(segment_bytes=10_000)
    stuck = spool.append(b"stuck")

    for n in range(2000):
        spool.remove(spool.append(b"%0100d" % n), b"note %d" % n)

    assert sum(path.stat().st_size for path in files(spools.folder)) < 40_000
    assert spool.read(stuck) == b"stuck"
    again = spools.open()
    assert waiting(again) == [b"stuck"]
    assert again.notes[-1] == b"note 1999"


def test_a_new_segment_begins_with_all_that_is_known(spools: Spools) -> None:
    spool = spools.open(segment_bytes=1000, memory=lambda: b"everything")
    for _ in range(50):
        spool.remove(spool.append(b"x" * 100))

    assert b"everything" in spools.open().notes


def test_a_folder_is_for_one_worker(spools: Spools, monkeypatch: pytest.MonkeyPatch) -> None:
    spools.open()
    monkeypatch.setattr(spool_module, "PATIENCE_SECONDS", 0.0)

    with pytest.raises(ValueError, match=r"another worker uses it.*\[notify\] spool_folder"):
        Spool(spools.folder, MIB)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ValueError, match=r"file/x cannot be used .*set \[notify\] spool_folder"):
        Spool(tmp_path / "file/x", MIB)
