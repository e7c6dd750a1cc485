"""The folder of the captures: one at a time, with room for it, and the oldest go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from collectors.capture_files import (
    LEAST_FREE_BYTES,
    CaptureError,
    alone,
    find_capture,
    make_base,
    make_folder,
    prune,
)
from schemas.codec import encode
from schemas.records import Capture
from tests.schemas.samples import full

ASKED = replace(full(Capture), capture_id="0123456789abcdef" * 2, engine_id="h:8000")


def test_the_oldest_captures_go_first_and_foreign_folders_stay(tmp_path: Path) -> None:
    for age, name in enumerate(("old", "middle", "new")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "capture.json").write_bytes(b"x" * 1000)
        os.utime(folder, (age, age))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_bytes(b"x" * 9000)
    assert prune(tmp_path, keep_bytes=2500) == 1
    assert prune(tmp_path, keep_bytes=0) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"new", "mine"}


def test_what_goes_while_it_is_counted_does_not_end_the_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "capture.json").write_bytes(b"x" * 1000)
        (tmp_path / name / "dangling").symlink_to(tmp_path / "nowhere")
    os.utime(tmp_path / "old", (0, 0))
    gone = tmp_path / "gone"
    found = Path.glob

    def glob(self: Path, pattern: str) -> Iterator[Path]:
        yield gone / "capture.json"
        yield from found(self, pattern)

    monkeypatch.setattr(Path, "glob", glob)
    assert prune(tmp_path, keep_bytes=1500) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_a_folder_that_somebody_else_has_laid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path / "a" / "captures")
    make_base(tmp_path / "a" / "captures")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(CaptureError, match=r"is a link.*\[collect\] capture_folder"):
        make_base(tmp_path / "link")
    with pytest.raises(CaptureError, match=r"cannot be made.*\[collect\] capture_folder"):
        make_base(Path("/proc/nowhere"))
    (tmp_path / "theirs").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "theirs", 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CaptureError, match=r"belongs to user.*\[collect\] capture_folder"):
        make_base(tmp_path / "theirs")


def test_two_captures_are_not_taken_at_once(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(CaptureError, match=r"another capture .* ask again when it is done"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_names_the_setting(tmp_path: Path) -> None:
    with (
        pytest.raises(CaptureError, match=r"cannot be locked.*\[collect\] capture_folder"),
        alone(tmp_path / "nowhere"),
    ):
        pass


def test_a_disk_that_is_nearly_full_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=LEAST_FREE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CaptureError, match=r"only 100 MB are free .* make room there or set"):
        make_folder(tmp_path, ASKED)
    assert list(tmp_path.iterdir()) == []


def test_a_capture_is_found_by_its_id_or_how_that_begins(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ASKED)
    (folder / "capture.json").write_bytes(encode(replace(ASKED, state="done")))
    for capture_id in (ASKED.capture_id, ASKED.capture_id[:8], ASKED.capture_id[:12]):
        found = find_capture(tmp_path, capture_id)
        assert found is not None
        assert (found[0], found[1].capture_id) == (folder, ASKED.capture_id)
    assert find_capture(tmp_path, ASKED.capture_id[:8] + "0000") is None
    assert find_capture(tmp_path / "nowhere", ASKED.capture_id) is None


@pytest.mark.parametrize("content", [b"", b"{", encode(replace(ASKED, state="running"))])
def test_a_capture_that_was_not_finished_is_not_found_and_goes_in_its_turn(
    content: bytes, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, ASKED)
    (folder / "capture.json").write_bytes(content)
    os.utime(folder, (0, 0))
    newer = make_folder(tmp_path, replace(ASKED, capture_id="f" * 32))
    (newer / "capture.json").write_bytes(b"x")
    assert find_capture(tmp_path, ASKED.capture_id) is None
    assert prune(tmp_path, keep_bytes=0) == 1
    assert list(tmp_path.iterdir()) == [newer]
