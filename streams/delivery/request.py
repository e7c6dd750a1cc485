"""Make the request that delivers a notification to a destination, and send it."""

from collections.abc import Mapping

import orjson

from schemas.records import Notification
from streams.delivery import payloads
from streams.delivery.address import address_of
from streams.delivery.headers import cloudevents_of, headers_of, signature
from streams.delivery.post import Poster, RefusedError
from streams.delivery.settings import DEFAULT, DestinationSettings, NotifySettings

MOST_BODY_BYTES = 1_000_000


class Requests:
    """Deliver to one destination, once each: what is tried again is up to the caller.

    Args:
        settings: The destination's.

        notify: The section that it is part of.

        environment: Has the secrets.

    Raises:
        ValueError: It cannot be delivered to; the text says what to do.
    """

    def __init__(
        self,
        settings: DestinationSettings,
        notify: NotifySettings,
        environment: Mapping[str, str],
    ) -> None:
        key = "[notify] url" if settings.name == DEFAULT else f"the url of {settings.name!r}"
        try:
            self._payload = payloads.load(settings.kind)
        except LookupError as err:
            raise ValueError(f"[notify] destinations {settings.name!r}: {err.args[0]}") from err
        if settings.url and settings.url_env:
            raise ValueError(
                f"[notify] destinations {settings.name!r} has url and url_env: take one of them out"
            )
        url = settings.url or _line(settings.url_env, settings, environment)
        url = url or self._payload.url
        address = address_of(url, key, allow_private=settings.allow_private)
        self._poster = Poster(address, notify.timeout_seconds)
        # Bytes that are signed with are taken as they are.
        read = _variable if self._payload.secret == "signature" else _line
        self._secret = read(settings.secret_env, settings, environment)
        if self._payload.secret == "body" and not self._secret:
            raise ValueError(
                f"[notify] destinations {settings.name!r} has no key: set its secret_env to the "
                "name of an environment variable that has it"
            )
        self._cloudevents = settings.cloudevents
        self._context = payloads.Context(
            receiver=notify.receiver if settings.name == DEFAULT else settings.name,
            console_url=notify.console_url,
            key=self._secret if self._payload.secret == "body" else "",
        )

    def post(self, notification: Notification, at_seconds: float) -> None:
        """Deliver a notification.

        Raises:
            NotTakenError: The receiver may take it later.

            RefusedError: It never will.
        """
        body = orjson.dumps(self._payload.body(notification, self._context))
        if len(body) > MOST_BODY_BYTES:
            raise RefusedError(
                f"its text has {len(body)} bytes, the limit is {MOST_BODY_BYTES}: read it on "
                "latencyprism.notifications.v1"
            )
        timestamp = str(int(at_seconds))
        headers = headers_of(notification, timestamp)
        if self._cloudevents:
            headers |= cloudevents_of(notification)
        if self._secret and self._payload.secret == "signature":
            headers["X-LatencyPrism-Signature"] = signature(self._secret, timestamp, body)
        if self._secret and self._payload.secret == "bearer":
            headers["Authorization"] = f"Bearer {self._secret}"
        self._poster.post(body, headers)

    def abort(self) -> None:
        """Break off the delivery that another thread is making."""
        self._poster.abort()

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()


def _variable(name: str, settings: DestinationSettings, environment: Mapping[str, str]) -> str:
    if not name:
        return ""
    value = environment.get(name, "")
    if not value:
        raise ValueError(
            f"[notify] destinations {settings.name!r} wants the environment variable {name}, which "
            "is not set: set it, or take it out of the configuration"
        )
    return value


def _line(name: str, settings: DestinationSettings, environment: Mapping[str, str]) -> str:
    value = _variable(name, settings, environment).strip()
    if not value.isascii() or not value.isprintable():
        raise ValueError(
            f"[notify] destinations {settings.name!r}: the environment variable {name} is not one "
            "line of ASCII: mend it"
        )
    return value
