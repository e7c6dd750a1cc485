"""Where incidents are looked at and answered: on Kafka itself, or at the API of a worker."""

from __future__ import annotations

import http.client
import os
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import orjson

from latencyprism.errors import CommandError
from schemas.codec import DecodeError, encode, from_raw
from schemas.records import Acknowledgement, Notification, Record, Silence
from schemas.settings import KafkaSettings
from schemas.topics import ACKNOWLEDGEMENTS, NOTIFICATIONS, SILENCES, key_of, topic_of
from streams.config import API_TOKEN
from streams.correlate import Correlator
from streams.silences import checked_name, ended, new_silence

R = TypeVar("R", bound=Record)

ANSWER_SECONDS = 10.0
READ_SECONDS = 60.0
NO_INCIDENT = "no such incident: 'latencyprism incidents list' shows those that are open"
NO_SILENCE = "no such silence: 'latencyprism incidents silences' shows those in force"


class Desk(Protocol):
    """What people can do about incidents.

    All raise `CommandError` where it cannot be done.
    """

    def incidents(self) -> list[Notification]:
        """Give those that are open."""
        ...

    def incident(self, incident_id: str) -> Notification:
        """Give one, open or over."""
        ...

    def acknowledge(self, incident_id: str, by: str) -> Acknowledgement:
        """Say that somebody takes care of it."""
        ...

    def silences(self) -> list[Silence]:
        """Give those in force and to come."""
        ...

    def silence(
        self, matchers: Mapping[str, str], seconds: float, reason: str, by: str | None
    ) -> Silence:
        """Keep what matches from being delivered from now on."""
        ...

    def unsilence(self, silence_id: str) -> Silence:
        """End a silence."""
        ...


class KafkaDesk:
    """Reads the topics, and writes to them; no worker needs to run.

    Args:
        settings: Where Kafka is.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._read: Correlator | None = None

    def incidents(self) -> list[Notification]:
        """Give those that are open."""
        return self._heard().incidents()

    def incident(self, incident_id: str) -> Notification:
        """Give one, open or over."""
        found = self._heard().find(incident_id)
        if found is None:
            raise CommandError(NO_INCIDENT)
        return found

    def acknowledge(self, incident_id: str, by: str) -> Acknowledgement:
        """Say that somebody takes care of it."""
        found = self.incident(incident_id)
        if found.state == "resolved":
            raise CommandError(f"{incident_id} is over: there is nothing to acknowledge any more")
        try:
            name = checked_name(by)
        except ValueError as err:
            raise CommandError(str(err)) from err
        record = Acknowledgement(incident_id=found.incident_id, at_ns=time.time_ns(), by=name)
        self._publish(record)
        return record

    def silences(self) -> list[Silence]:
        """Give those in force and to come."""
        return self._heard().silences.in_force(time.time_ns())

    def silence(
        self, matchers: Mapping[str, str], seconds: float, reason: str, by: str | None
    ) -> Silence:
        """Keep what matches from being delivered from now on."""
        try:
            record = new_silence(matchers, seconds, reason, by, time.time_ns())
        except ValueError as err:
            raise CommandError(str(err)) from err
        self._publish(record)
        return record

    def unsilence(self, silence_id: str) -> Silence:
        """End a silence."""
        now_ns = time.time_ns()
        found = self._heard().silences.find(silence_id)
        if found is None or found.end_ns <= now_ns:
            raise CommandError(NO_SILENCE)
        record = ended(found, now_ns)
        self._publish(record)
        return record

    def _heard(self) -> Correlator:
        """Read all that was told up to now, once."""
        from streams.broker import BrokerError
        from streams.hearing import Hearing

        if self._read is not None:
            return self._read
        correlator = Correlator()
        hearing = Hearing(self._settings, (NOTIFICATIONS, SILENCES, ACKNOWLEDGEMENTS))
        deadline = time.monotonic() + READ_SECONDS
        try:
            ends = hearing.ends()
            while not hearing.has_reached(ends):
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"reading the incidents took more than {READ_SECONDS:g} s: ask a worker "
                        "with --api"
                    )
                for record in hearing.read(0.2):
                    if isinstance(record, Notification | Silence | Acknowledgement):
                        correlator.hear(record)
        except BrokerError as err:
            raise CommandError(str(err)) from err
        finally:
            hearing.close()
        self._read = correlator
        return correlator

    def _publish(self, record: Record) -> None:
        from confluent_kafka import KafkaException, Producer

        errors: list[Any] = []
        producer: Any = Producer(self._settings.client_options() | {"log_level": 0})
        try:
            producer.produce(
                topic_of(record).name,
                key=key_of(record),
                value=encode(record),
                on_delivery=lambda error, _: errors.append(error) if error else None,
            )
            left = producer.flush(ANSWER_SECONDS)
        except KafkaException as err:
            left, errors = 1, [err]
        if left or errors:
            raise CommandError(
                f"Kafka at {self._settings.bootstrap_servers} did not take it "
                f"({errors[0] if errors else 'no answer'}): check section [kafka]"
            )


class ApiDesk:
    """Asks a worker's API.

    Args:
        url: Where it listens, as ``http://127.0.0.1:9466``.

        token: What it wants to see before it writes; by default from the environment.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"--api is {url!r}: give an address as http://127.0.0.1:9466")
        self._url = url
        self._parts = parts
        self._token = os.environ.get(API_TOKEN, "").strip() if token is None else token

    def incidents(self) -> list[Notification]:
        """Give those that are open."""
        answer = self._ask("GET", "/incidents")
        return [_as(Notification, one) for one in answer["incidents"]]

    def incident(self, incident_id: str) -> Notification:
        """Give one, open or over."""
        return _as(Notification, self._ask("GET", f"/incidents/{_quoted(incident_id)}"))

    def acknowledge(self, incident_id: str, by: str) -> Acknowledgement:
        """Say that somebody takes care of it."""
        path = f"/incidents/{_quoted(incident_id)}/acknowledge"
        return _as(Acknowledgement, self._ask("POST", path, {"by": by}))

    def silences(self) -> list[Silence]:
        """Give those in force and to come."""
        return [_as(Silence, one) for one in self._ask("GET", "/silences")["silences"]]

    def silence(
        self, matchers: Mapping[str, str], seconds: float, reason: str, by: str | None
    ) -> Silence:
        """Keep what matches from being delivered from now on."""
        body = {"matchers": dict(matchers), "seconds": seconds, "reason": reason, "by": by}
        return _as(Silence, self._ask("POST", "/silences", body))

    def unsilence(self, silence_id: str) -> Silence:
        """End a silence."""
        return _as(Silence, self._ask("DELETE", f"/silences/{_quoted(silence_id)}"))

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        https = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        try:
            connection = kind(self._parts.netloc.rpartition("@")[2], timeout=ANSWER_SECONDS)
            try:
                content = None if body is None else orjson.dumps(body)
                target = f"{self._parts.path.rstrip('/')}/api/v1{path}"
                connection.request(method, target, content, headers)
                answer = connection.getresponse()
                status, found = answer.status, orjson.loads(answer.read())
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as err:
            raise CommandError(
                f"no API answers at {self._url} ({err}): set [notify] listen, run "
                "'latencyprism stream notify', or leave --api out to ask Kafka"
            ) from err
        if status >= 400:
            raise CommandError(str(found.get("error", f"{self._url} answered {status}")))
        return found


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _as(record_type: type[R], raw: Any) -> R:
    try:
        return from_raw(record_type, raw)
    except DecodeError as err:
        raise CommandError(f"the API is of another version ({err}): upgrade this one") from err
