"""Who asks for a capture gets one, or is told why not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from collectors import capture_requests as requests_module
from collectors.capture import Target, request
from collectors.capture_files import alone, engine_is_gone, prune
from collectors.capture_requests import OLDEST_SECONDS, CaptureRequests
from schemas.codec import decode, encode
from schemas.records import Capture
from tests.collectors.capturing import Requests
from tests.collectors.engine import wait_for


@pytest.mark.usefixtures("quick")
def test_a_request_is_answered_once_with_running_and_done(
    own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path)
    asked = request("h:8000", 0.2, reason="incident 7")
    requests.listener.handle(asked)
    requests.listener.handle(asked)
    assert [one.state for one in requests.captures] == ["running", "done"]
    assert {one.capture_id for one in requests.captures} == {asked.capture_id}
    assert requests.captures[-1].reason == "incident 7"
    assert requests.captures[-1].host == "h"


@pytest.mark.usefixtures("quick")
def test_requests_for_other_hosts_and_answers_are_left_alone(
    own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path)
    requests.listener.handle(request("elsewhere:8000", 0.2))
    requests.listener.handle(replace(request("h:8000", 0.2), state="done"))
    assert requests.captures == []


@pytest.mark.usefixtures("quick")
def test_a_request_from_long_ago_is_refused(own_process: Target, tmp_path: Path) -> None:
    requests = Requests(own_process, tmp_path)
    asked = request("h:8000", 0.2)
    requests.listener.handle(replace(asked, at_ns=asked.at_ns - int((OLDEST_SECONDS + 1) * 1e9)))
    [refused] = requests.captures
    assert refused.state == "failed"
    assert "too old: ask again" in (refused.error or "")


@pytest.mark.usefixtures("quick")
def test_a_capture_that_fails_is_answered_and_the_next_one_is_taken(
    own_process: Target, tmp_path: Path
) -> None:
    file = tmp_path / "captures"
    file.write_text("in the way")
    requests = Requests(own_process, file)
    requests.listener.handle(request("h:8000", 0.2))
    file.unlink()
    requests.listener.handle(request("h:8000", 0.2))
    assert [one.state for one in requests.captures] == ["running", "failed", "running", "done"]


@pytest.mark.usefixtures("quick")
def test_a_message_that_is_no_request_does_not_end_the_listening(
    own_process: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requests = Requests(own_process, tmp_path)
    requests.messages = [b"\xff{", encode(request("h:8000", 0.2))]
    requests.listener.start()
    deadline = time.monotonic() + 20
    while len(requests.captures) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    requests.listener.stop()
    assert [one.state for one in requests.captures] == ["running", "done"]
    assert "cannot be read and is left out" in caplog.text


@pytest.mark.usefixtures("quick")
def test_no_failure_ends_the_listening_and_each_is_told_once(
    own_process: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> int:
        raise OSError("a link that leads nowhere")

    monkeypatch.setattr(requests_module, "prune", broken)
    requests = Requests(own_process, tmp_path)
    requests.messages = [
        RuntimeError("no broker"),
        RuntimeError("no broker"),
        *(encode(request("h:8000", 0.1)) for _ in range(2)),
    ]
    requests.listener.start()
    wait_for(lambda: requests.listener.done == 2)
    requests.messages += [encode(request("h:8000", 0.1))]
    wait_for(lambda: requests.listener.done == 3)
    requests.listener.stop()
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert ["no broker" in text for text in errors] == [True, False]
    assert "a link that leads nowhere" in errors[1]


@pytest.mark.usefixtures("quick")
def test_a_consumer_that_fails_is_closed_and_opened_anew(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Consumer:
        def close(self) -> None:
            opened.append("closed")

    def open_one(listener: CaptureRequests) -> Callable[[], bytes | None]:
        opened.append("opened")
        if len(opened) == 1:
            raise RuntimeError("no broker yet")
        listener._consumer = Consumer()
        first = len(opened) == 2

        def consume() -> bytes | None:
            if first:
                raise RuntimeError("fell off")
            return requests._consume()

        return consume

    monkeypatch.setattr(CaptureRequests, "_open", open_one)
    requests = Requests(own_process, tmp_path)
    requests.listener._consume = None
    requests.messages = [encode(request("h:8000", 0.1))]
    requests.listener.start()
    wait_for(lambda: requests.listener.done == 1)
    requests.listener.stop()
    assert opened == ["opened", "opened", "closed", "opened", "closed"]


@pytest.mark.usefixtures("quick")
def test_between_two_captures_is_a_pause(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_module, "PAUSE_SECONDS", 1000.0)
    requests = Requests(own_process, tmp_path)
    requests.messages = [encode(request("h:8000", 0.1)) for _ in range(2)]
    requests.listener.start()
    wait_for(lambda: requests.listener.done == 1)
    time.sleep(0.5)
    assert len(requests.messages) == 1
    requests.listener.stop()
    assert not requests.listener._thread.is_alive()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("capture_id", ["/../../x", "", "abc", "A" * 8, "0" * 65, "00000000\n"])
def test_an_id_that_is_none_is_answered_and_never_part_of_a_path(
    capture_id: str, own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path / "captures")
    requests.listener.handle(replace(request("h:8000", 0.1), capture_id=capture_id))
    [refused] = requests.captures
    assert (refused.state, refused.capture_id) == ("failed", capture_id)
    assert "its capture_id is not" in (refused.error or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_answered(
    seconds: float, own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path / "captures")
    requests.listener.handle(request("h:8000", seconds))
    [refused] = requests.captures
    assert "ask for more than 0" in (refused.error or "")
    assert decode(Capture, encode(refused)).state == "failed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_reason_cannot_write_lines_of_its_own_into_the_log(
    own_process: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    requests = Requests(own_process, tmp_path)
    requests.listener.handle(request("h:8000", 0.1, reason="a\nERROR all is lost" + "x" * 1000))
    [line] = [text for text in caplog.messages if text.startswith("Capturing")]
    assert "\n" not in line
    assert len(line) < 200


@pytest.mark.usefixtures("quick")
def test_a_capture_is_not_written_through_a_link(own_process: Target, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "captures").symlink_to(tmp_path / "elsewhere")
    requests = Requests(own_process, tmp_path / "captures")
    requests.listener.handle(request("h:8000", 0.1))
    assert requests.captures[-1].state == "failed"
    assert "capture_folder" in (requests.captures[-1].error or "")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_the_incident_that_asked_stands_in_every_answer(
    own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path)
    asked = replace(request("h:8000", 0.1, reason="7"), incident_id="7")
    requests.listener.handle(asked)
    assert [(one.state, one.incident_id) for one in requests.captures] == [
        ("running", "7"),
        ("done", "7"),
    ]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("compare_with", ["", "*", "../../x", "A" * 8])
def test_a_capture_to_compare_with_is_named_by_an_id(
    compare_with: str, own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path / "captures")
    requests.listener.handle(replace(request("h:8000", 0.1), compare_with=compare_with))
    [refused] = requests.captures
    assert refused.state == "failed"
    assert "its compare_with is not" in (refused.error or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_without_the_earlier_capture_the_new_one_is_taken_and_the_gap_is_told(
    own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path)
    requests.listener.handle(request("h:8000", 0.1, compare_with="0" * 32))
    done = requests.captures[-1]
    assert done.state == "done"
    assert "no difference: there is no capture 0000" in (done.error or "")
    assert "[collect] capture_keep_bytes" in (done.error or "")


@pytest.mark.usefixtures("quick")
def test_captures_of_two_engines_are_not_compared(own_process: Target, tmp_path: Path) -> None:
    requests = Requests(own_process, tmp_path)
    requests.listener.handle(request("h:8000", 0.1))
    first = requests.captures[-1]
    assert first.folder is not None
    record = Path(first.folder) / "capture.json"
    record.write_text(record.read_text().replace('"h:8000"', '"h:9000"'))
    requests.listener.handle(request("h:8000", 0.1, compare_with=first.capture_id))
    assert "is a capture of h:9000; name one of h:8000" in (requests.captures[-1].error or "")


@pytest.mark.usefixtures("quick")
def test_while_somebody_else_captures_the_request_is_answered_with_that(
    own_process: Target, tmp_path: Path
) -> None:
    requests = Requests(own_process, tmp_path)
    with alone(tmp_path):
        requests.listener.handle(request("h:8000", 0.1))
    assert requests.captures[-1].state == "failed"
    assert "another capture is being taken" in (requests.captures[-1].error or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_what_a_full_disk_leaves_is_told_and_goes_in_its_turn(
    own_process: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("collectors.capture._look", full_disk)
        requests = Requests(own_process, tmp_path)
        requests.listener.handle(request("h:8000", 0.1))
    [_, failed] = requests.captures
    assert "broke off: No space left on device; make room there" in (failed.error or "")
    requests.listener.handle(request("h:8000", 0.1))
    assert len(list(tmp_path.glob("*/capture.json"))) == 2
    assert prune(tmp_path, 0) == 1


def test_a_request_for_an_engine_that_has_ended_is_answered_once(tmp_path: Path) -> None:
    def find_target(engine_id: str) -> Target | None:
        raise engine_is_gone(engine_id)

    requests = Requests(None, tmp_path)
    requests.listener._find_target = find_target
    asked = request("h:8000", float("nan"))
    requests.listener.handle(asked)
    requests.listener.handle(asked)
    [failed] = requests.captures
    assert decode(Capture, encode(failed)).state == "failed"
    assert "does not run any more: look for it with" in (failed.error or "")
