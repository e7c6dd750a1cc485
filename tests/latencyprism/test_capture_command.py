"""`latencyprism capture --compare-with`: what changed since an earlier capture."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from collectors.capture import Target
from collectors.capture_files import find_capture, make_folder
from collectors.config import CollectSettings
from collectors.difference import write_difference
from collectors.discovery import EngineProcess, read_process
from collectors.engines import load
from latencyprism.__main__ import main
from latencyprism.commands import capture as capture_command
from schemas.codec import encode
from schemas.records import Capture
from tests.collectors.test_difference import SLOW, USUAL, speedscope
from tests.schemas.samples import full

EARLIER = replace(full(Capture), capture_id="a" * 32, incident_id=None, state="done")


def captured(base: Path, capture: Capture, stacks: dict[str, int]) -> Path:
    folder = make_folder(base, capture)
    (folder / "capture.json").write_bytes(encode(capture))
    (folder / "speedscope-engine_core-7.json").write_bytes(speedscope(stacks))
    return folder


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have captures taken without an engine; gives what begins each command."""
    core = read_process(os.getpid())
    assert core is not None
    engine = EngineProcess(framework="vllm", name="8000", core=core)

    def take(_: Target, asked: Capture, settings: CollectSettings) -> Capture:
        base = Path(settings.capture_folder)
        done = replace(asked, state="done", folder="", error=None)
        folder = captured(base, done, SLOW)
        if asked.compare_with is not None:
            found = find_capture(base, asked.compare_with)
            assert found is not None
            assert write_difference(folder, done, *found) == []
        files = {path.name: 1 for path in folder.iterdir()}
        return replace(done, folder=str(folder), files=files)

    monkeypatch.setattr(capture_command, "start_logging", lambda _: None)
    monkeypatch.setattr(capture_command, "find_engine", lambda *_: (engine, load("vllm")))
    monkeypatch.setattr("collectors.capture.take", take)
    return ["capture", "--seconds", "0.1", "--folder", str(tmp_path)]


def test_what_takes_more_of_the_time_is_shown(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captured(tmp_path, EARLIER, USUAL)
    assert main([*asked, "--compare-with", "a" * 8]) == 0
    shown = capsys.readouterr().out
    assert "More of the time against capture aaaaaaaa (difference.svg draws it):" in shown
    assert "0.0 % to  60.0 %  engine_core-7: wait_for_disk (wait_for_disk.py:10)" in shown
    assert "forward" not in shown


def test_no_change_is_said(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captured(tmp_path, EARLIER, SLOW)
    assert main([*asked, "--compare-with", EARLIER.capture_id]) == 0
    assert "No function takes clearly more of the time" in capsys.readouterr().out


def test_without_an_earlier_one_nothing_is_compared(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked) == 0
    assert "of the time" not in capsys.readouterr().out


@pytest.mark.parametrize("capture_id", ["abc", "*" * 8, "../../../etc"])
def test_an_id_that_is_none_is_refused_before_anything_is_done(
    capture_id: str, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, "--compare-with", capture_id]) == 2
    assert "give 8 to 64 of 0-9 and a-f" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_one_that_is_not_there_is_told_before_anything_is_done(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, "--compare-with", "b" * 32]) == 2
    assert f"there is no capture {'b' * 32} in {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_shown_as_it_is(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_py_spy(_: Target, asked: Capture, __: CollectSettings) -> Capture:
        return replace(asked, state="done", error="pip install 'latencyprism[capture]'")

    monkeypatch.setattr("collectors.capture.take", without_py_spy)
    assert main(asked) == 0
    assert "Missing: pip install 'latencyprism[capture]'" in capsys.readouterr().out
