"""The command `incidents`, on Kafka itself and at the API of a worker: both do the same."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'latencyprism[collect]'")
pytest.importorskip("aiohttp", reason="pip install 'latencyprism[stream]'")

from confluent_kafka import Producer

from latencyprism.__main__ import main
from schemas.codec import encode
from schemas.records import Alert, Notification, Record
from schemas.topics import ACKNOWLEDGEMENTS, NOTIFICATIONS, SILENCES, key_of, topic_of
from streams.config import API_TOKEN
from streams.correlate import Correlator, correlated
from streams.embedded import EmbeddedBroker
from streams.workers.notify_api import Api
from tests.streams.made_alerts import Trouble

pytestmark = pytest.mark.pipeline

Capsys = pytest.CaptureFixture[str]


def told() -> list[Notification]:
    """Give what was told of an incident of two engines, and of one that is over."""
    one, two, over = Trouble("h1:1", 1), Trouble("h1:2", 2), Trouble("h2:1", 1, host="h2")
    alerts: list[Alert] = [one.fire(), two.fire(4), over.fire(), over.resolve(9)]
    return correlated(alerts)


class ApiServer:
    """An API in a thread of its own."""

    def __init__(self) -> None:
        self.correlator = Correlator()
        for one in told():
            self.correlator.hear(one)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address: tuple[str, int] = free.getsockname()
        self._loop = asyncio.new_event_loop()
        self._api = Api(self.correlator, self._publish, self.address, "open-sesame")
        self._thread = threading.Thread(target=self._loop.run_forever)

    async def _publish(self, _: Record) -> None:
        """Let the correlator alone hear it."""

    def __enter__(self) -> str:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._api.start(), self._loop).result(10)
        return f"http://127.0.0.1:{self.address[1]}"

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._api.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        running.create_topics([NOTIFICATIONS.name, SILENCES.name, ACKNOWLEDGEMENTS.name])
        producer = Producer({"bootstrap.servers": running.bootstrap})
        for one in told():
            producer.produce(topic_of(one).name, key=key_of(one), value=encode(one))
        assert producer.flush(10) == 0
        yield running


@pytest.fixture(params=["kafka", "api"])
def where(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """The flags that say whom to ask."""
    if request.param == "api":
        monkeypatch.setenv(API_TOKEN, "open-sesame")
        with ApiServer() as url:
            yield ["--api", url]
        return
    config = tmp_path / "latencyprism.toml"
    running = request.getfixturevalue("broker")
    config.write_text(f'[kafka]\nbootstrap_servers = "{running.bootstrap}"\n')
    yield ["--config", str(config)]


def say(capsys: Capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["incidents", *arguments]) == 0
    return capsys.readouterr().out


def read(capsys: Capsys, *arguments: str) -> Any:
    return json.loads(say(capsys, *arguments, "--json"))


def mistake(capsys: Capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["incidents", *arguments]) == 2
    return capsys.readouterr().err


def test_open_incidents_are_listed_for_people_and_for_programs(
    where: list[str], capsys: Capsys
) -> None:
    [found] = read(capsys, "list", *where)
    assert [one["engine_id"] for one in found["members"]] == ["h1:1", "h1:2"]
    text = say(capsys, "list", *where)
    assert "2 engines on host h1 are slow" in text
    assert "h2:1" not in text


def test_one_is_shown_with_its_members_by_any_of_their_ids(
    where: list[str], capsys: Capsys
) -> None:
    for incident_id in ("h1:1@1", "h1:2@2"):
        text = say(capsys, "show", incident_id, *where)
        assert "member     h1:2 1.40 times as slow, host_cpu_contention, open (h1:2@2)" in text
        assert "explain incident h1:1@1" in text
    assert read(capsys, "show", "h2:1@1", *where)["state"] == "resolved"
    assert "incidents list" in mistake(capsys, "show", "h9:1@1", *where).replace("GET", "incidents")


def test_an_acknowledgement_says_who(where: list[str], capsys: Capsys) -> None:
    assert read(capsys, "ack", "h1:2@2", "--by", "ada", *where)["incident_id"] == "h1:1@1"
    assert "acknowledged by ada" in say(capsys, "ack", "h1:1@1", "--by", "ada", *where)
    assert "'by' is no name" in mistake(capsys, "ack", "h1:1@1", "--by", "a\nb", *where)
    mistake(capsys, "ack", "h2:1@1", "--by", "ada", *where)


def test_a_silence_is_made_listed_and_ended(where: list[str], capsys: Capsys) -> None:
    made = read(
        capsys, "silence", "--match", "host=h*", "--match", "cause=host_*", "--for", "2h", *where
    )
    assert made["matchers"] == {"host": "h*", "cause": "host_*"}
    assert 7190 < made["end_ns"] / 1e9 - time.time() <= 7200
    assert made["silence_id"] in [one["silence_id"] for one in read(capsys, "silences", *where)]
    assert "host=h* and cause=host_* until " in say(capsys, "silences", *where)
    assert "is over" in say(capsys, "unsilence", made["silence_id"], *where)
    assert made["silence_id"] not in say(capsys, "silences", *where)
    mistake(capsys, "unsilence", made["silence_id"], *where)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--match", "h1", "--for", "2h"], "as host=h1"),
        (["--match", "hots=h1", "--for", "2h"], "unknown matcher 'hots': use one of engine_id"),
        (["--match", "host=a", "--match", "host=b", "--for", "2h"], "two silences"),
        (["--match", "host=h1", "--for", "2 hours"], "as 30s, 5m, 2h or 1d"),
        (["--match", "host=h1", "--for", "90d"], "at most 30 days"),
        (["--match", "host=h1", "--for", "2h", "--reason", "x"], "use one of maintenance"),
    ],
)
def test_a_silence_that_cannot_be_is_refused_with_what_to_do(
    arguments: list[str], reason: str, where: list[str], capsys: Capsys
) -> None:
    assert reason in mistake(capsys, "silence", *arguments, *where)
    assert "Nothing is silenced" in say(capsys, "silences", *where)


@pytest.mark.parametrize("url", ["localhost", "ftp://localhost", "http://"])
def test_an_address_that_is_none_is_refused(url: str, capsys: Capsys) -> None:
    assert "as http://127.0.0.1:9466" in mistake(capsys, "list", "--api", url)


def test_nobody_who_answers_is_told_with_what_to_do(capsys: Capsys) -> None:
    assert "or leave --api out" in mistake(capsys, "list", "--api", "http://127.0.0.1:1")


def test_a_wrong_token_is_told(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_TOKEN, "closed")
    with ApiServer() as url:
        said = mistake(capsys, "ack", "h1:1@1", "--by", "ada", "--api", url)
    assert f"with the worker's {API_TOKEN}" in said
    assert "closed" not in said
