"""The HTTP API of incidents, asked over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="no aiohttp: pip install 'latencyprism[stream]'")

from aiohttp.test_utils import TestClient, TestServer

from schemas.records import Acknowledgement, Record, Silence
from streams.config import API_TOKEN
from streams.correlate import Correlator
from streams.workers import notify_api
from streams.workers.notify_api import MOST_BODY_BYTES, Api, api_token, parse_listen
from tests.streams.made_alerts import Trouble

BEARER = {"Authorization": "Bearer open-sesame"}
SILENCE = {"matchers": {"host": "h1"}, "seconds": 60}


class Asked:
    """An API with one open incident, what it is asked, and what it published."""

    def __init__(self, token: str = "open-sesame", host: str = "127.0.0.1") -> None:
        self.correlator = Correlator()
        self.trouble = Trouble("h1:8000", 1)
        alert = self.trouble.fire()
        self.correlator.add(alert, alert.at_ns)
        self.published: list[Record] = []
        self.has_heard = True
        address = (host, 0)
        self._api = Api(self.correlator, self._publish, address, token, lambda: self.has_heard)

    async def _publish(self, record: Record) -> None:
        self.published.append(record)

    def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        return self.all([(method, path, options)])[0]

    def all(self, requests: list[tuple[str, str, dict[str, Any]]]) -> list[tuple[int, Any]]:
        async def run() -> list[tuple[int, Any]]:
            async with TestClient(TestServer(self._api.app)) as client:
                found = []
                for method, path, options in requests:
                    async with client.request(method, f"/api/v1{path}", **options) as answer:
                        found.append((answer.status, json.loads(await answer.read())))
                return found

        return asyncio.run(run())


def test_open_incidents_are_listed_and_found_by_id() -> None:
    asked = Asked()
    listed, one, none = asked.all(
        [
            ("GET", "/incidents", {}),
            ("GET", f"/incidents/{asked.trouble.incident_id}", {}),
            ("GET", "/incidents/other", {}),
        ]
    )
    assert [found["incident_id"] for found in listed[1]["incidents"]] == ["h1:8000@1"]
    assert (one[0], one[1]["schema"]) == (200, "notification.v1")
    assert none[0] == 404
    assert "lists those that are open" in none[1]["error"]


def test_an_incident_that_is_over_is_not_listed_but_found() -> None:
    asked = Asked()
    end = asked.trouble.resolve(9)
    asked.correlator.add(end, end.at_ns)
    assert asked.ask("GET", "/incidents")[1] == {"incidents": []}
    assert asked.ask("GET", f"/incidents/{end.incident_id}")[1]["state"] == "resolved"


def test_a_worker_that_does_not_know_all_yet_says_so() -> None:
    asked = Asked()
    asked.has_heard = False
    status, body = asked.ask("GET", "/incidents")
    assert status == 503
    assert "ask again" in body["error"]


def test_an_acknowledgement_is_a_record() -> None:
    asked = Asked()
    path = f"/incidents/{asked.trouble.incident_id}/acknowledge"
    status, body = asked.ask("POST", path, headers=BEARER, json={"by": "ada"})
    assert status == 200
    [record] = asked.published
    assert isinstance(record, Acknowledgement)
    assert (record.by, record.incident_id) == ("ada", body["incident_id"])


def test_a_silence_is_a_record_that_is_listed_until_it_is_taken_back() -> None:
    asked = Asked()
    status, made = asked.ask("POST", "/silences", headers=BEARER, json=SILENCE)
    assert status == 201
    listed, gone, again, after = asked.all(
        [
            ("GET", "/silences", {}),
            ("DELETE", f"/silences/{made['silence_id']}", {"headers": BEARER}),
            ("DELETE", f"/silences/{made['silence_id']}", {"headers": BEARER}),
            ("GET", "/silences", {}),
        ]
    )
    assert listed[1]["silences"] == [made]
    assert (gone[0], again[0], after[1]) == (200, 404, {"silences": []})
    first, last = asked.published
    assert isinstance(first, Silence)
    assert isinstance(last, Silence)
    assert first.silence_id == last.silence_id
    assert first.end_ns - first.begin_ns == 60_000_000_000
    assert last.end_ns <= last.at_ns


WRONG: list[tuple[str, Any, str]] = [
    ("/incidents/h1:8000@1/acknowledge", {"by": "a\nb"}, "'by' is no name"),
    ("/incidents/h1:8000@1/acknowledge", {"by": "a", "note": "x"}, "its keys are by"),
    ("/incidents/h1:8000@1/acknowledge", {}, "its keys are by"),
    ("/silences", SILENCE | {"matchers": {}}, "no matcher: name one of engine_id, host"),
    ("/silences", SILENCE | {"matchers": {"hots": "h1"}}, "unknown matcher 'hots': use one of"),
    ("/silences", SILENCE | {"matchers": {"host": "x" * 201}}, "give 1 to 200"),
    ("/silences", SILENCE | {"matchers": {"host": ""}}, "give 1 to 200"),
    ("/silences", SILENCE | {"seconds": 0}, "more than 0 s and at most 30 days"),
    ("/silences", SILENCE | {"seconds": 1e300}, "more than 0 s and at most 30 days"),
    ("/silences", SILENCE | {"reason": "holiday"}, "use one of maintenance, deployment"),
    ("/silences", [], "Expected `object`"),
]


@pytest.mark.parametrize(("path", "body", "reason"), WRONG)
def test_a_body_that_is_wrong_is_refused_with_what_to_do(path: str, body: Any, reason: str) -> None:
    asked = Asked()
    status, answer = asked.ask("POST", path, headers=BEARER, json=body)
    assert status == 400
    assert reason in answer["error"]
    assert asked.published == []


def test_what_is_no_json_or_too_large_is_refused() -> None:
    asked = Asked()
    for data, expected in ((b"\xff{", 400), (b"x" * (MOST_BODY_BYTES + 1), 413)):
        status, answer = asked.ask("POST", "/silences", headers=BEARER, data=data)
        assert status == expected
        assert answer["error"]


@pytest.mark.parametrize(
    ("token", "host", "method", "headers", "expected"),
    [
        ("open-sesame", "127.0.0.1", "GET", {}, 200),
        ("open-sesame", "127.0.0.1", "POST", {}, 401),
        ("open-sesame", "127.0.0.1", "POST", {"Authorization": "Bearer open"}, 401),
        ("open-sesame", "127.0.0.1", "POST", {"Authorization": "Bearer öpen"}, 401),
        ("open-sesame", "127.0.0.1", "DELETE", {}, 401),
        ("open-sesame", "127.0.0.1", "POST", BEARER, 201),
        ("", "127.0.0.1", "GET", {}, 200),
        ("", "127.0.0.1", "POST", {}, 403),
        ("", "127.0.0.1", "POST", {"Authorization": "Bearer "}, 403),
        ("open-sesame", "0.0.0.0", "GET", {}, 401),
        ("open-sesame", "0.0.0.0", "GET", BEARER, 200),
        # A page in a browser on this host, under a name that leads here.
        ("open-sesame", "127.0.0.1", "GET", {"Host": "evil.example:9466"}, 403),
        ("open-sesame", "127.0.0.1", "GET", {"Host": "127.0.0.1.evil.example"}, 403),
        ("open-sesame", "127.0.0.1", "GET", {"Host": "192.0.2.1:9466"}, 403),
        ("open-sesame", "127.0.0.2", "GET", {"Host": "127.0.0.2:9466"}, 200),
        ("open-sesame", "127.0.0.2", "GET", {"Host": "127.0.0.2"}, 200),
        ("open-sesame", "::1", "GET", {"Host": "[::1]:9466"}, 200),
        ("open-sesame", "::1", "GET", {"Host": "[::1]"}, 200),
        ("open-sesame", "127.0.0.1", "GET", {"Host": "localhost"}, 200),
    ],
)
def test_who_may(
    token: str, host: str, method: str, headers: dict[str, str], expected: int
) -> None:
    asked = Asked(token, host)
    path = "/silences/none" if method == "DELETE" else "/silences"
    status, answer = asked.ask(method, path, headers=headers, json=SILENCE)
    assert status == expected
    assert status < 400 or answer["error"]
    assert len(asked.published) == (status == 201)


def test_paths_and_methods_that_are_not_there_are_answered_in_json() -> None:
    asked = Asked()
    found = asked.all([("GET", "/nothing", {}), ("PUT", "/silences", {"headers": BEARER})])
    assert [status for status, _ in found] == [404, 405]
    assert all("docs/incidents.md" in answer["error"] for _, answer in found)


def test_while_kafka_is_away_who_writes_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: Record) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(notify_api, "WRITE_SECONDS", 0.05)
    asked = Asked()
    monkeypatch.setattr(asked._api, "_publish", never)
    status, answer = asked.ask("POST", "/silences", headers=BEARER, json=SILENCE)
    assert status == 503
    assert "check that its brokers run" in answer["error"]
    assert asked.ask("GET", "/silences")[1] == {"silences": []}


def test_a_token_has_no_line_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_TOKEN, " open-sesame\n")
    assert api_token() == "open-sesame"
    monkeypatch.delenv(API_TOKEN)
    assert api_token() == ""


@pytest.mark.parametrize(
    ("listen", "token", "expected"),
    [
        ("127.0.0.1:9466", "", ("127.0.0.1", 9466)),
        ("localhost:9466", "", ("localhost", 9466)),
        ("[::1]:9466", "", ("::1", 9466)),
        ("0.0.0.0:9466", "secret", ("0.0.0.0", 9466)),
        ("0.0.0.0:9466", "", API_TOKEN),
        ("[::]:9466", "", API_TOKEN),
        ("example.org:9466", "", API_TOKEN),
        ("9466", "secret", "write host:port"),
        ("::1:9466", "secret", "write host:port"),
        ("127.0.0.1:99999", "secret", "write host:port"),
    ],
)
def test_where_it_listens(listen: str, token: str, expected: tuple[str, int] | str) -> None:
    if isinstance(expected, tuple):
        assert parse_listen(listen, token) == expected
        return
    with pytest.raises(ValueError, match=expected):
        parse_listen(listen, token)


def test_a_port_that_is_taken_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def run(wait: Callable[[], Awaitable[None]]) -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        api = Api(Correlator(), Asked()._publish, server.sockets[0].getsockname(), "")
        await api.start()
        await api.stop()
        server.close()
        await wait()

    asyncio.run(run(lambda: asyncio.sleep(0)))
    assert "choose another [notify] listen" in caplog.text
