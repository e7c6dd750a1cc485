"""Our alerts at the real Alertmanager, and its own webhook beside ours.

Needs its binary, and for one test the little program in tests/fixtures/alertmanager: its head
has the commands that build both. Without them the recorded shape of its webhook is compared.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.records import Notification
from streams.delivery import Deliveries, DestinationSettings
from streams.delivery.payloads import Context, load
from tests.schemas.samples import full
from tests.streams.delivery.notifications import life, member, notification, settings
from tests.streams.receiver import Receiver

SHAPE = Path(__file__).parents[2] / "fixtures/alertmanager/webhook.json"
BINARY, DECODER = os.environ.get("ALERTMANAGER", ""), os.environ.get("ALERTMANAGER_DECODE", "")
# Newer than version 4's other fields: receivers do without them.
LATER = {"notification_reason", "routeLabels"}

needs_binary = pytest.mark.skipif(
    not BINARY, reason="no Alertmanager: set ALERTMANAGER to the path of its binary"
)
needs_decoder = pytest.mark.skipif(
    not DECODER, reason="no decoder: set ALERTMANAGER_DECODE to the path of the built program"
)

CONFIG = """\
route:
  receiver: ours
  group_by: [alertname, incident_id]
  group_wait: 1s
  group_interval: 1s
receivers:
  - name: ours
    webhook_configs:
      - url: {url}
"""


def shape(value: Any) -> Any:
    """Give keys and types; of labels and annotations, whose names are free, only the type."""
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if not isinstance(value, dict):
        return type(value).__name__
    free = {"labels", "annotations", "groupLabels", "commonLabels", "commonAnnotations"}
    return {
        key: "texts"
        if key in free | {"routeLabels"} and {type(one) for one in value[key].values()} <= {str}
        else shape(value[key])
        for key in sorted(value)
    }


def body(what: Notification) -> Any:
    return json.loads(json.dumps(load("alertmanager").body(what, Context())))


class Alertmanager:
    """The real one, on a free port, with one webhook."""

    def __init__(self, folder: Path, webhook: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = f"http://127.0.0.1:{server.getsockname()[1]}"
        (folder / "alertmanager.yml").write_text(CONFIG.format(url=webhook))
        with (folder / "alertmanager.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    BINARY,
                    f"--config.file={folder}/alertmanager.yml",
                    f"--storage.path={folder}/data",
                    f"--web.listen-address={self.address.removeprefix('http://')}",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            )

    def alerts(self) -> list[dict[str, Any]]:
        """Give what its API says, resolved ones left out."""
        with urllib.request.urlopen(f"{self.address}/api/v2/alerts", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/-/ready", timeout=5) as answer:
                return answer.status == 200  # type: ignore[no-any-return]
        except OSError:
            assert self.process.poll() is None
            return False


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def alertmanager(tmp_path: Path, receiver: Receiver) -> Iterator[Alertmanager]:
    found = Alertmanager(tmp_path, f"{receiver.address}/theirs")
    try:
        wait_until(found.is_ready)
        yield found
    finally:
        found.process.terminate()
        found.process.wait(10)


@pytest.fixture
def deliveries(tmp_path: Path, alertmanager: Alertmanager) -> Iterator[Deliveries]:
    destination = DestinationSettings(
        name="am",
        kind="alertmanager_api",
        url=f"{alertmanager.address}/api/v2/alerts",
        allow_private=True,
    )
    notify = settings("", tmp_path / "spool", destinations=(destination,))
    found = Deliveries(notify, lambda what, *_: pytest.fail(f"{what} was refused"), {})
    yield found
    found.stop()


def now(**changes: Any) -> list[Notification]:
    """Give the life of an incident that begins now: so Alertmanager waits for all its members."""
    at_ns = time.time_ns()
    two = tuple(member(f"inference-7:{port}", begin_ns=at_ns) for port in (8000, 8001))
    found = life(begin_ns=at_ns, at_ns=at_ns, members=two, shared="host:inference-7", **changes)
    return [*found[:2], notification(**told_over(found[2]))]


def told_over(one: Notification) -> dict[str, Any]:
    fields = {name: getattr(one, name) for name in Notification.__slots__ if name != "schema"}
    return fields | {"end_ns": time.time_ns()}


def test_our_webhook_has_the_shape_of_theirs() -> None:
    recorded = json.loads(SHAPE.read_text())
    theirs = {key: value for key, value in recorded.items() if key not in LATER}
    for what in (full(Notification), *life()):
        assert shape(body(what)) == theirs


@needs_binary
@pytest.mark.process
def test_the_real_one_takes_updates_and_ends_our_alerts(
    alertmanager: Alertmanager, deliveries: Deliveries
) -> None:
    firing, updated, resolved = now()
    deliveries.put(firing)
    wait_until(lambda: len(alertmanager.alerts()) == 2)
    first = {one["fingerprint"]: one for one in alertmanager.alerts()}
    for one in first.values():
        assert one["status"]["state"] == "active"
        assert one["labels"]["incident_id"] == "abc"
        assert one["annotations"]["severity"] == "page"

    deliveries.put(updated)
    wait_until(lambda: {one["annotations"]["revision"] for one in alertmanager.alerts()} == {"1"})
    assert {one["fingerprint"] for one in alertmanager.alerts()} == set(first)

    deliveries.put(resolved)
    wait_until(lambda: alertmanager.alerts() == [])
    counts = deliveries.counts()["am"]
    assert (counts.delivered, counts.dead, counts.retried) == (3, 0, 0)


@needs_binary
@pytest.mark.process
def test_the_webhook_of_the_real_one_has_the_recorded_shape(
    receiver: Receiver, deliveries: Deliveries
) -> None:
    firing, _, resolved = now()
    deliveries.put(firing)
    wait_until(lambda: any(one.payload["status"] == "firing" for one in receiver.deliveries))
    deliveries.put(resolved)
    wait_until(lambda: any(one.payload["status"] == "resolved" for one in receiver.deliveries))
    recorded = json.loads(SHAPE.read_text())
    for one in receiver.deliveries:
        assert shape(one.payload) == recorded
        ours = body(firing if one.payload["status"] == "firing" else resolved)
        for key in ("version", "status", "groupKey", "groupLabels", "commonLabels"):
            assert (one.payload[key], key) == (ours[key], key)
        theirs_by_engine = {alert["labels"]["engine_id"]: alert for alert in one.payload["alerts"]}
        for alert in ours["alerts"]:
            theirs = theirs_by_engine[alert["labels"]["engine_id"]]
            assert alert["labels"] == theirs["labels"]
            assert alert["annotations"] == theirs["annotations"]
            for key in ("status", "startsAt", "fingerprint"):
                assert (alert[key], key) == (theirs[key], key)


@needs_decoder
@pytest.mark.process
def test_their_own_type_reads_our_webhook_and_finds_no_field_that_it_does_not_have() -> None:
    many = notification(members=tuple(member(f"h:{n}") for n in range(130)))
    bodies = [json.dumps(body(one)) for one in (full(Notification), *life(), many)]
    done = subprocess.run(
        [DECODER], input="\n".join(bodies), capture_output=True, text=True, check=True
    )
    lines = [line.rpartition("} ")[2] for line in done.stdout.splitlines()]
    assert lines[1:] == ["firing 1 0 0", "firing 1 0 0", "resolved 0 1 0", "firing 100 0 30"]
