"""Alerts to a webhook, in the shape that Alertmanager sends (version 4), so that receivers exist.

Numbers go into annotations as strings, labels stay the same through the life of an incident. The
same delivery has the same ``X-LatencyPrism-Delivery`` each time it is tried.
"""

import email.utils
import hashlib
import hmac
import http.client
import ssl
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from schemas.records import Alert, Record
from streams.sinks.base import Rejected, Sink, SinkUnavailable

ALERT_NAME = "LLMBatchLatencyAnomaly"
# Answers of a receiver or of a proxy in front of it that somebody is about to mend: a token that
# is being rolled out, a route that is being made. They are tried again until the limit.
PASSING = frozenset({401, 403, 404, 408, 425, 429})
NOT_ENDED = "0001-01-01T00:00:00Z"


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[notify]``.

    Attributes:
        url: Where alerts are posted, http or https; empty for nowhere. Deliveries are signed
            when LATENCYPRISM_WEBHOOK_SECRET is set.

        timeout_seconds: How long a receiver may take to answer.

        receiver: Name that the payload gives this destination.

        console_url: Base of the links in alerts; empty for no link.

        retry_first_seconds: Pause after the first failure; it doubles with each further one.

        retry_most_seconds: The longest pause.

        give_up_seconds: After so long a delivery goes to the dead-letter topic.
    """

    url: str = ""
    timeout_seconds: float = 5.0
    receiver: str = "latencyprism"
    console_url: str = ""
    retry_first_seconds: float = 0.5
    retry_most_seconds: float = 60.0
    give_up_seconds: float = 3600.0


def labels_of(alert: Alert) -> dict[str, str]:
    """Give the labels of an incident: few values each, the same from firing to resolved."""
    labels = {
        "alertname": ALERT_NAME,
        "engine_id": alert.engine_id,
        "incident_id": alert.incident_id,
    }
    optional = {"model_name": alert.model, "framework": alert.framework, "host": alert.host}
    return labels | {name: value for name, value in optional.items() if value is not None}


def annotations_of(alert: Alert) -> dict[str, str]:
    """Give what a reader needs, as strings."""
    evidence = alert.evidence
    annotations = {
        "summary": alert.summary,
        "description": alert.next_step,
        "severity": alert.severity,
        "cause": alert.cause,
        "cause_confidence": f"{alert.confidence:.2f}",
        "other_causes": ", ".join(alert.other_causes),
        "expected_seconds": f"{evidence.expected_ns / 1e9:.6f}",
        "observed_seconds": f"{evidence.observed_ns / 1e9:.6f}",
        "expected_low_seconds": f"{evidence.low_ns / 1e9:.6f}",
        "expected_high_seconds": f"{evidence.high_ns / 1e9:.6f}",
        "slowdown_ratio": f"{evidence.ratio:.3f}",
        "slow_batches": str(evidence.slow_batches),
        "batch_sequence": str(alert.batch_sequence),
        "batch_end_ns": str(alert.batch_end_ns),
        "state": alert.state,
        "revision": str(alert.revision),
        "evidence_query": evidence.sql,
    }
    for name, values in (
        ("workload", evidence.workload),
        ("counters_before", evidence.counters_before),
        ("counters_during", evidence.counters_during),
        ("phases_before_ns", evidence.phases_before_ns),
        ("phases_during_ns", evidence.phases_during_ns),
    ):
        annotations[name] = orjson.dumps(values).decode()
    return annotations


def payload_of(alert: Alert, settings: WebhookSettings) -> dict[str, Any]:
    """Write an alert as Alertmanager's webhook payload, version 4."""
    labels, annotations = labels_of(alert), annotations_of(alert)
    status = "resolved" if alert.state == "resolved" else "firing"
    group = {"alertname": ALERT_NAME, "engine_id": alert.engine_id}
    link = f"{settings.console_url}/incident/{alert.incident_id}" if settings.console_url else ""
    return {
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f'{k}="{v}"' for k, v in group.items()) + "}",
        "truncatedAlerts": 0,
        "status": status,
        "receiver": settings.receiver,
        "groupLabels": group,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": settings.console_url,
        "alerts": [
            {
                "status": status,
                "labels": labels,
                "annotations": annotations,
                "startsAt": rfc3339(alert.begin_ns),
                "endsAt": NOT_ENDED if alert.end_ns is None else rfc3339(alert.end_ns),
                "generatorURL": link,
                "fingerprint": fingerprint(labels),
            }
        ],
    }


def fingerprint(labels: dict[str, str]) -> str:
    """Hash the labels: one incident, one fingerprint."""
    return hashlib.sha256(orjson.dumps(labels, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def rfc3339(at_ns: int) -> str:
    """Write a time as RFC 3339 in UTC, to the ms.

    >>> rfc3339(1_700_000_000_123_000_000)
    '2023-11-14T22:13:20.123Z'
    """
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ns // 1_000_000:03d}Z"


def delivery_id(alert: Alert) -> str:
    """Name one delivery: the same each time it is tried."""
    return f"{alert.incident_id}-{alert.revision}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Sign a delivery: HMAC-SHA256 over ``timestamp:body``."""
    message = timestamp.encode() + b":" + body
    return "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


class Webhook(Sink):
    """Post each alert to one URL, over a connection that is kept open.

    Args:
        settings: Where and how.

        secret: Signs deliveries; empty for none.

        clock_seconds: Epoch time, for the signature.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        secret: str = "",
        clock_seconds: Callable[[], float] = time.time,
    ) -> None:
        parts = urllib.parse.urlsplit(settings.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"[notify] url begins with {parts.scheme!r} and is no http(s) address: write "
                "https://host/path"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "[notify] url has a user or password in it, which is not sent: take them out and "
                "set LATENCYPRISM_WEBHOOK_SECRET to let the receiver know us"
            )
        self._settings = settings
        self._secret = secret
        self._clock_seconds = clock_seconds
        self._https = parts.scheme == "https"
        # Chat services put the secret into the path: errors and logs name the host only.
        port = f":{parts.port}" if parts.port else ""
        self._shown = f"{parts.scheme}://{parts.hostname}{port}"
        self._address = (parts.hostname, parts.port)
        self._target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        self._connection: http.client.HTTPConnection | None = None

    def write(self, records: Sequence[Record]) -> list[Rejected]:
        """Post the alerts in order; stops at the first that has to wait."""
        rejected: list[Rejected] = []
        for alert in records:
            if isinstance(alert, Alert):
                error = self._post(alert)
                if error is not None:
                    rejected.append(Rejected(alert, error))
        return rejected

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, alert: Alert) -> str | None:
        """Send one alert; give the reason where the receiver refuses it for good."""
        body = orjson.dumps(payload_of(alert, self._settings))
        timestamp = str(int(self._clock_seconds()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "LatencyPrism",
            "Idempotency-Key": delivery_id(alert),
            "X-LatencyPrism-Delivery": delivery_id(alert),
            "X-LatencyPrism-Timestamp": timestamp,
        }
        if self._secret:
            headers["X-LatencyPrism-Signature"] = signature(self._secret, timestamp, body)
        answer = self._request(body, headers)
        if 200 <= answer.status < 300:
            return None
        reason = f"{self._shown} answered {answer.status} {answer.reason}"
        if answer.status in PASSING or answer.status >= 500:
            raise SinkUnavailable(reason, retry_after(answer.headers.get("Retry-After")))
        if 300 <= answer.status < 400:
            return f"{reason}: redirects are not followed, set [notify] url to the final address"
        return reason

    def _request(self, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        # A kept connection may have been closed by the other side meanwhile: one fresh try.
        for fresh in (self._connection is None, True):
            try:
                if self._connection is None or fresh:
                    self.close()
                    self._connection = self._connect()
                self._connection.request("POST", self._target, body, headers)
                answer = self._connection.getresponse()
                # The body says nothing to us, but the connection is free again only behind it.
                answer.read()
                return answer
            except (OSError, http.client.HTTPException) as err:
                self.close()
                if fresh:
                    raise SinkUnavailable(f"{self._shown} is not reachable: {err}") from err
        raise AssertionError("unreachable")

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._address
        timeout_seconds = self._settings.timeout_seconds
        if self._https:
            return http.client.HTTPSConnection(
                str(host), port, timeout=timeout_seconds, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(str(host), port, timeout=timeout_seconds)


def retry_after(header: str | None) -> float | None:
    """Read ``Retry-After``: seconds or a date; None where there is none.

    >>> retry_after("7"), retry_after(None), retry_after("soon")
    (7.0, None, None)
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        at = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(at.timestamp() - time.time(), 0.0)
