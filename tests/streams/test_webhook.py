"""The webhook against a real HTTP server."""

from __future__ import annotations

import hashlib
import hmac
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from schemas.records import Alert, AlertState, Engine
from streams.sinks.base import SinkUnavailable
from streams.sinks.webhook import Webhook, WebhookSettings, retry_after
from tests.schemas.samples import full
from tests.streams.receiver import Answer, Receiver

SECRET = "a-secret-nobody-may-see"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def webhook(receiver: Receiver) -> Iterator[Webhook]:
    webhook = Webhook(settings(receiver), SECRET, clock_seconds=lambda: 1_790_000_000.7)
    yield webhook
    webhook.close()


def settings(receiver: Receiver, **changes: Any) -> WebhookSettings:
    found = WebhookSettings(url=f"{receiver.address}/hook?team=llm", timeout_seconds=5.0)
    return msgspec.structs.replace(found, **changes)


def life(**changes: Any) -> list[Alert]:
    """Give the alerts of one incident."""
    states: tuple[AlertState, ...] = ("firing", "updated", "resolved")
    firing: Alert = replace(
        full(Alert),
        incident_id="abc",
        engine_id="host:8000",
        begin_ns=1_790_000_000_000_000_000,
        end_ns=None,
        evidence=replace(full(Alert).evidence, expected_ns=10_000_000, ratio=1.5),
        **changes,
    )
    return [
        replace(
            firing,
            revision=revision,
            state=state,
            cause=f"cause {revision}",
            end_ns=1_790_000_012_345_000_000 if state == "resolved" else None,
        )
        for revision, state in enumerate(states)
    ]


def unavailable(webhook: Webhook) -> SinkUnavailable:
    with pytest.raises(SinkUnavailable) as caught:
        webhook.write(life()[:1])
    return caught.value


def test_the_payload_is_alertmanagers_version_4(receiver: Receiver, webhook: Webhook) -> None:
    assert webhook.write(life()) == []
    for delivery in receiver.deliveries:
        assert set(delivery.payload) == {
            "version",
            "groupKey",
            "truncatedAlerts",
            "status",
            "receiver",
            "groupLabels",
            "commonLabels",
            "commonAnnotations",
            "externalURL",
            "alerts",
        }
        assert delivery.payload["version"] == "4"
        assert set(delivery.alert) == {
            "status",
            "labels",
            "annotations",
            "startsAt",
            "endsAt",
            "generatorURL",
            "fingerprint",
        }
        texts = [*delivery.alert["labels"].values(), *delivery.alert["annotations"].values()]
        assert {type(text) for text in texts} == {str}
        assert delivery.headers["Content-Type"] == "application/json"
        assert delivery.path == "/hook?team=llm"


def test_status_and_times_follow_the_life_of_the_incident(
    receiver: Receiver, webhook: Webhook
) -> None:
    webhook.write(life())
    alerts = [delivery.alert for delivery in receiver.deliveries]
    assert [alert["status"] for alert in alerts] == ["firing", "firing", "resolved"]
    assert {alert["startsAt"] for alert in alerts} == {"2026-09-21T14:13:20.000Z"}
    not_ended = "0001-01-01T00:00:00Z"
    assert [alert["endsAt"] for alert in alerts] == [
        not_ended,
        not_ended,
        "2026-09-21T14:13:32.345Z",
    ]
    assert [alert["annotations"]["state"] for alert in alerts] == ["firing", "updated", "resolved"]
    assert alerts[0]["annotations"]["expected_seconds"] == "0.010000"
    assert alerts[0]["annotations"]["slowdown_ratio"] == "1.500"


def test_labels_and_fingerprint_stay_from_firing_to_resolved(
    receiver: Receiver, webhook: Webhook
) -> None:
    webhook.write(life())
    labels = [delivery.alert["labels"] for delivery in receiver.deliveries]
    assert labels[0] == labels[1] == labels[2]
    assert labels[0]["alertname"] == "LLMBatchLatencyAnomaly"
    assert len({delivery.alert["fingerprint"] for delivery in receiver.deliveries}) == 1
    assert len({delivery.payload["groupKey"] for delivery in receiver.deliveries}) == 1


@pytest.mark.parametrize(("console", "link"), [("", ""), ("https://lp", "https://lp/incident/abc")])
def test_an_alert_links_to_the_console_where_there_is_one(
    receiver: Receiver, console: str, link: str
) -> None:
    webhook = Webhook(settings(receiver, console_url=console))
    webhook.write(life()[:1])
    webhook.close()
    assert receiver.deliveries[0].alert["generatorURL"] == link


def test_what_is_not_known_is_no_label(receiver: Receiver, webhook: Webhook) -> None:
    webhook.write(life(model=None, framework=None, host=None)[:1])
    labels = receiver.deliveries[0].alert["labels"]
    assert set(labels) == {"alertname", "engine_id", "incident_id"}


def test_other_records_are_left_alone(receiver: Receiver, webhook: Webhook) -> None:
    assert webhook.write([full(Engine)]) == []
    assert receiver.deliveries == []


def test_each_delivery_has_a_key_that_stays_the_same_over_retries(
    receiver: Receiver, webhook: Webhook
) -> None:
    receiver.answers = [Answer(500), Answer(503)]
    for _ in range(2):
        unavailable(webhook)
    webhook.write(life())
    keys = [delivery.headers["Idempotency-Key"] for delivery in receiver.deliveries]
    assert keys == ["abc-0", "abc-0", "abc-0", "abc-1", "abc-2"]
    ours = [delivery.headers["X-LatencyPrism-Delivery"] for delivery in receiver.deliveries]
    assert ours == keys
    bodies = [delivery.body for delivery in receiver.deliveries]
    assert bodies[0] == bodies[1] == bodies[2]


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_a_receiver_in_trouble_gets_the_alert_again(
    receiver: Receiver, webhook: Webhook, status: int
) -> None:
    receiver.answers = [Answer(status, {"Retry-After": "7"}), Answer(status)]
    assert unavailable(webhook).retry_after_seconds == 7.0
    err = unavailable(webhook)
    assert err.retry_after_seconds is None
    assert str(err).startswith(f"{receiver.address} answered {status} ")


def test_writing_stops_at_the_first_that_has_to_wait(receiver: Receiver, webhook: Webhook) -> None:
    receiver.answers = [Answer(200), Answer(500)]
    with pytest.raises(SinkUnavailable):
        webhook.write(life())
    keys = [delivery.headers["Idempotency-Key"] for delivery in receiver.deliveries]
    assert keys == ["abc-0", "abc-1"]


@pytest.mark.parametrize("status", [400, 409, 410, 422])
def test_an_alert_that_the_receiver_refuses_is_given_back_and_the_next_goes_on(
    receiver: Receiver, webhook: Webhook, status: int
) -> None:
    receiver.answers = [Answer(status)]
    alerts = life()
    [rejected] = webhook.write(alerts)
    assert rejected.record == alerts[0]
    assert rejected.error.startswith(f"{receiver.address} answered {status} ")
    assert len(receiver.deliveries) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, webhook: Webhook, status: int) -> None:
    """Following it would send the alert, and its signature, to whoever the answer names."""
    receiver.answers = [Answer(status, {"Location": f"{receiver.address}/elsewhere"})]
    [rejected] = webhook.write(life()[:1])
    assert rejected.error.endswith("set [notify] url to the final address")
    assert [delivery.path for delivery in receiver.deliveries] == ["/hook?team=llm"]


def test_alerts_share_one_connection(receiver: Receiver, webhook: Webhook) -> None:
    webhook.write(life())
    webhook.write(life())
    assert len({delivery.client_port for delivery in receiver.deliveries}) == 1


def test_a_connection_that_was_closed_meanwhile_is_opened_again(
    receiver: Receiver, webhook: Webhook
) -> None:
    receiver.answers = [Answer(200, hangs_up=True)]
    webhook.write(life()[:1])
    assert receiver.hung_up.wait(5)
    assert webhook.write(life()[1:]) == []
    keys = [delivery.headers["Idempotency-Key"] for delivery in receiver.deliveries]
    assert keys == ["abc-0", "abc-1", "abc-2"]
    assert len({delivery.client_port for delivery in receiver.deliveries}) == 2


def test_an_answer_that_breaks_off_is_tried_again(receiver: Receiver, webhook: Webhook) -> None:
    receiver.answers = [Answer(200, missing_bytes=10)]
    assert "is not reachable" in str(unavailable(webhook))
    assert webhook.write(life()[:1]) == []


def test_a_receiver_that_is_down_gets_the_alert_when_it_is_back(
    receiver: Receiver, webhook: Webhook
) -> None:
    webhook.write(life()[:1])
    receiver.stop()
    webhook.close()
    assert str(unavailable(webhook)).startswith(f"{receiver.address} is not reachable: ")


def test_a_receiver_that_does_not_answer_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        webhook = Webhook(WebhookSettings(url=url, timeout_seconds=0.05))
        assert "timed out" in str(unavailable(webhook))


def test_closing_twice_is_harmless_and_writing_opens_again(
    receiver: Receiver, webhook: Webhook
) -> None:
    for _ in range(2):
        webhook.close()
        webhook.close()
        assert webhook.write(life()[:1]) == []
    assert len(receiver.deliveries) == 2


def test_the_signature_covers_time_and_body(receiver: Receiver, webhook: Webhook) -> None:
    webhook.write(life()[:1])
    [delivery] = receiver.deliveries
    assert delivery.headers["X-LatencyPrism-Timestamp"] == "1790000000"
    expected = hmac.new(SECRET.encode(), b"1790000000:" + delivery.body, hashlib.sha256)
    assert delivery.headers["X-LatencyPrism-Signature"] == f"sha256={expected.hexdigest()}"


def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    webhook = Webhook(settings(receiver))
    webhook.write(life()[:1])
    webhook.close()
    assert "X-LatencyPrism-Signature" not in receiver.deliveries[0].headers


def test_neither_the_secret_nor_one_in_the_url_is_ever_told(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Chat services put a token into the path; reasons end up in logs and dead letters."""
    caplog.set_level(logging.DEBUG)
    url = receiver.address + "/hidden-two?key=hidden-three"
    webhook = Webhook(settings(receiver, url=url), SECRET)
    receiver.answers = [Answer(500), Answer(400), Answer(302)]
    told = [str(unavailable(webhook)), *(one.error for one in webhook.write(life()[:2]))]
    receiver.stop()
    webhook.close()
    told += [str(unavailable(webhook)), repr(webhook), caplog.text]
    assert len(told) == 6
    for text in told:
        assert "hidden" not in text
        assert SECRET not in text
    assert SECRET not in str(receiver.deliveries)


@pytest.mark.parametrize("url", ["ftp://host/", "host:80/path", "http://", "/path"])
def test_an_address_that_is_none_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="write https://host/path"):
        Webhook(WebhookSettings(url=url))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 3 ", 3.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("²", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_user_or_password_in_the_url_is_refused_and_not_repeated(receiver: Receiver) -> None:
    """They would be dropped without a word otherwise; Python's client does not send them."""
    url = receiver.address.replace("//", "//user:hidden-one@")

    with pytest.raises(ValueError, match="LATENCYPRISM_WEBHOOK_SECRET") as caught:
        Webhook(settings(receiver, url=url), SECRET)

    assert "hidden-one" not in str(caught.value)
