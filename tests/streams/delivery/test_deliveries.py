"""All destinations together, with their threads, against real HTTP servers."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.records import Notification
from schemas.topics import DEADLETTERS, key_of
from streams.delivery import Deliveries, DestinationSettings, SpoolFull, buried
from streams.delivery import spool as spool_module
from streams.delivery.dead import destination_of, notification_of
from tests.streams.delivery.notifications import keys, life, notification, settings
from tests.streams.receiver import Answer, Receiver

ROOT = Path(__file__).resolve().parents[3]
SECRET = "a-secret-nobody-may-see"


@contextmanager
def delivering(
    receiver: Receiver | str,
    folder: Path,
    *others: DestinationSettings,
    bury: Callable[[Notification, str, str], None] = lambda *_: None,
    environment: dict[str, str] | None = None,
    **changes: Any,
) -> Iterator[Deliveries]:
    found = Deliveries(
        settings(
            receiver,
            folder,
            destinations=others,
            **{"retry_first_seconds": 0.01, "retry_most_seconds": 0.05, "give_up_seconds": 1e9}
            | changes,
        ),
        bury,
        environment or {},
    )
    try:
        yield found
    finally:
        found.stop()


def other(name: str, receiver: Receiver, **changes: Any) -> DestinationSettings:
    given: dict[str, Any] = {"name": name, "url": f"{receiver.address}/{name}"}
    given |= {"allow_private": True, "max_age_seconds": 1e9}
    return DestinationSettings(**given | changes)


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_delivery_says_which_one_it_is_and_is_signed(receiver: Receiver, tmp_path: Path) -> None:
    environment = {"LATENCYPRISM_WEBHOOK_SECRET": SECRET}
    with delivering(receiver, tmp_path, environment=environment) as deliveries:
        deliveries.put(notification())
        wait_until(lambda: len(receiver.deliveries) == 1)
    [delivery] = receiver.deliveries
    assert delivery.path == "/hook?team=llm"
    assert delivery.headers["Content-Type"] == "application/json"
    assert delivery.headers["Idempotency-Key"] == "abc-0"
    timestamp = delivery.headers["X-LatencyPrism-Timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    signed = hmac.new(SECRET.encode(), f"{timestamp}:".encode() + delivery.body, hashlib.sha256)
    assert delivery.headers["X-LatencyPrism-Signature"] == f"sha256={signed.hexdigest()}"
    assert SECRET not in str(delivery)
    assert not any(name.lower().startswith("ce-") for name in delivery.headers)


def test_each_kind_gets_its_secret_where_it_looks_for_it(
    receiver: Receiver, tmp_path: Path
) -> None:
    kinds = ("alertmanager", "slack", "alertmanager_api", "pagerduty")
    others = [other(kind, receiver, kind=kind, secret_env="KEY") for kind in kinds]
    with delivering("", tmp_path, *others, environment={"KEY": SECRET}) as deliveries:
        deliveries.put(notification())
        wait_until(lambda: len(receiver.deliveries) == 4)
    found = {one.path.strip("/"): one for one in receiver.deliveries}
    assert "X-LatencyPrism-Signature" in found["alertmanager"].headers
    assert "X-LatencyPrism-Signature" in found["slack"].headers
    assert found["alertmanager_api"].headers["Authorization"] == f"Bearer {SECRET}"
    assert "X-LatencyPrism-Signature" not in found["pagerduty"].headers
    assert found["pagerduty"].payload["routing_key"] == SECRET
    assert sum(SECRET in str(one) for one in found.values()) == 2


def test_cloudevents_headers_are_an_option(receiver: Receiver, tmp_path: Path) -> None:
    with delivering("", tmp_path, other("one", receiver, cloudevents=True)) as deliveries:
        deliveries.put(notification('a "b"%\n'))
        wait_until(lambda: len(receiver.deliveries) == 1)
    headers = receiver.deliveries[0].headers
    assert {name: headers[name] for name in headers if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "a%20%22b%22%25%0A-0",
        "ce-source": "/latencyprism/inference-7:8000",
        "ce-type": "io.latencyprism.notification.v1",
        "ce-subject": "a%20%22b%22%25%0A",
        "ce-time": "2026-09-21T14:13:20.000Z",
    }


def test_a_destination_that_is_dead_or_silent_delays_no_other(
    receiver: Receiver, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Receiver() as failing:
        failing.always = Answer(500)
        stuck = DestinationSettings(
            name="silent", url=f"http://127.0.0.1:{silent.getsockname()[1]}/", allow_private=True
        )
        others = (stuck, other("failing", failing))
        with delivering(receiver, tmp_path, *others, timeout_seconds=60.0) as deliveries:
            for n in range(50):
                deliveries.put(notification(f"i{n}"))
            wait_until(lambda: len(keys(receiver)) == 50)
            # The failing one has a thread of its own, which may be the slower one to begin.
            wait_until(lambda: deliveries.counts()["failing"].retried > 0)
            counts = deliveries.counts()
            begun = time.monotonic()
    # Although a receiver holds on to its delivery for a minute.
    assert time.monotonic() - begun < 10
    assert counts["silent"].queued == counts["failing"].queued == 50


def test_what_is_silenced_is_for_nobody(receiver: Receiver, tmp_path: Path) -> None:
    with delivering(receiver, tmp_path) as deliveries:
        deliveries.put(notification("one", silenced_by="maintenance"))
        deliveries.put(notification("two"))
        wait_until(lambda: len(receiver.deliveries) == 1)
    assert keys(receiver) == ["two-0"]


def test_a_full_disk_leaves_the_notification_with_its_sender_and_the_others_deliver(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as second:
        with delivering(receiver, tmp_path, other("second", second)) as deliveries:
            place = spool_module.Spool._place

            def no_room(spool: Any, number: int, value: bytes) -> None:
                if spool.folder.name == "default":
                    raise OSError(28, "No space left on device")
                place(spool, number, value)

            monkeypatch.setattr(spool_module.Spool, "_place", no_room)
            for _ in range(3):
                with pytest.raises(SpoolFull, match="make room on its disk"):
                    deliveries.put(notification())
            wait_until(lambda: len(keys(second)) == 1)
            assert keys(receiver) == []
            assert deliveries.counts()["default"].full == 3
            monkeypatch.undo()
            deliveries.put(notification())
            wait_until(lambda: len(keys(receiver)) == 1)
        assert keys(second) == ["abc-0"]


def test_a_disk_that_fails_when_it_is_synced_keeps_nothing_by_halves(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.always = Answer(503)
    with delivering(receiver, tmp_path) as deliveries:

        def fails(_: int) -> None:
            raise OSError(5, "Input/output error")

        deliveries.put(notification("before"))
        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(SpoolFull, match="Input/output error"):
            deliveries.put(notification())
        monkeypatch.undo()
        deliveries.put(notification())
        receiver.always = Answer()
        wait_until(lambda: sorted(set(keys(receiver))) == ["abc-0", "before-0"])


def test_dead_letters_name_the_destination_and_hold_the_notification(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.always = Answer(400)
    found: list[tuple[Notification, str, str]] = []
    with delivering(receiver, tmp_path, bury=lambda *one: found.append(one)) as deliveries:
        deliveries.put(notification())
        wait_until(lambda: len(found) == 1)
    letter = buried(*found[0])
    assert letter.place == "notify/default"
    assert destination_of(letter) == "default"
    assert notification_of(letter) == notification()
    assert letter.error.startswith(f"{receiver.address} answered 400")
    assert letter.topic == "latencyprism.notifications.v1"
    assert key_of(letter) == letter.topic.encode()
    assert DEADLETTERS.record is type(letter)


def test_the_same_delivery_has_the_same_place_among_the_dead_letters() -> None:
    """They are one row then, whoever buries it again."""

    def place(what: Notification) -> tuple[str, int, int]:
        letter = buried(what, "one", "why")
        return letter.topic, letter.partition, letter.offset

    assert place(notification()) == place(notification())
    assert len({place(one) for one in life("a") + life("b")}) == 6


def test_stopping_leaves_the_rest_in_the_spool(receiver: Receiver, tmp_path: Path) -> None:
    receiver.always = Answer(503)
    with delivering(receiver, tmp_path) as deliveries:
        deliveries.put(notification())
        wait_until(lambda: len(receiver.deliveries) > 0)
    with pytest.raises(SpoolFull, match="the worker is stopping"):
        deliveries.put(notification("two"))
    receiver.always = Answer()
    threads = [one.name for one in threading.enumerate()]
    assert not any(name.startswith("deliver-") for name in threads)
    with delivering(receiver, tmp_path):
        wait_until(lambda: keys(receiver) == ["abc-0"])


@pytest.mark.process
def test_a_process_that_is_killed_before_it_delivered_has_lost_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    run = [sys.executable, "-m", "tests.streams.delivery.deliver"]
    done = subprocess.run(
        [*run, str(tmp_path), f"http://127.0.0.1:{port}/", "20"], cwd=ROOT, check=False
    )
    assert done.returncode == -9
    assert (tmp_path / "all-were-put").exists()
    with Receiver(port) as receiver, delivering(receiver, tmp_path):
        wait_until(lambda: len(keys(receiver)) >= 40)
        time.sleep(0.1)
        found = keys(receiver)
    assert sorted(found) == sorted(f"i{n}-{revision}" for n in range(20) for revision in (0, 2))
    assert all(found.index(f"i{n}-0") < found.index(f"i{n}-2") for n in range(20))
