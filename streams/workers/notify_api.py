"""HTTP API of the role ``notify``: see open incidents, acknowledge them, silence what is known.

Every worker may serve it. What is written becomes a record on Kafka, which all workers hear. On a
loopback address anybody on the host may read; all else needs the token.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import orjson
from aiohttp import web
from msgspec import Meta

from schemas.codec import encode
from schemas.records import Acknowledgement, Record
from streams.config import API_TOKEN
from streams.correlate import Correlator
from streams.silences import checked_name, ended, new_silence

log = logging.getLogger("latencyprism.notify")

MOST_BODY_BYTES = 16_384
STOP_SECONDS = 1.0
# So long may Kafka take for what is written.
WRITE_SECONDS = 10.0

Publish = Callable[[Record], Awaitable[None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AcknowledgeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``acknowledge`` takes."""

    by: str


class SilenceBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new silence takes.

    Attributes:
        matchers: As of `schemas.records.Silence`.

        seconds: How long it lasts from now on.
    """

    matchers: Annotated[dict[str, str], Meta(max_length=10)]
    seconds: float
    reason: str = "maintenance"
    by: str | None = None


class Refused(Exception):
    """A request that cannot be answered; the text says what to do.

    Args:
        status: Of the HTTP answer.

        message: What is wrong.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_listen(listen: str, token: str) -> tuple[str, int]:
    """Give host and port to listen on.

    Raises:
        ValueError: It is no address, or one where everybody could reach an API without a token.
    """
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(\d{1,5})", listen)
    if found is None or int(found[2]) > 65535:
        raise ValueError(f"[notify] listen is {listen!r}: write host:port, as 127.0.0.1:9466")
    host = found[1].strip("[]")
    if not token and not is_loopback(host):
        raise ValueError(
            f"[notify] listen is {listen!r}, which others can reach: set {API_TOKEN} in the "
            "environment, or listen on 127.0.0.1"
        )
    return host, int(found[2])


def is_loopback(host: str) -> bool:
    """Tell whether only this host reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def api_token() -> str:
    """Give the token of the environment; the line end of a file it came from is no part of it."""
    return os.environ.get(API_TOKEN, "").strip()


def _host_of(request: web.Request) -> str:
    """Give the name that a request asks for, without port and brackets."""
    found = re.fullmatch(r"\[?([^\[\]]*?)\]?(:\d*)?", request.host or "")
    return found[1] if found is not None else ""


class Api:
    """The API of one worker.

    Args:
        correlator: Knows the incidents and silences.

        publish: Sends a record to its topic and waits for the brokers.

        listen: Host and port.

        token: What a request has to bring; empty where nobody may write.

        has_heard: Tells whether the correlator knows all.
    """

    def __init__(
        self,
        correlator: Correlator,
        publish: Publish,
        listen: tuple[str, int],
        token: str,
        has_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self._correlator = correlator
        self._publish = publish
        self._listen = listen
        self._token = token
        self._has_heard = has_heard
        self._local = is_loopback(listen[0])
        self._runner: web.AppRunner | None = None

    @property
    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(
            middlewares=[errors_as_json, self._checked], client_max_size=MOST_BODY_BYTES
        )
        app.add_routes(
            [
                web.get("/api/v1/incidents", self._incidents),
                web.get("/api/v1/incidents/{id}", self._incident),
                web.post("/api/v1/incidents/{id}/acknowledge", self._acknowledge),
                web.get("/api/v1/silences", self._silences),
                web.post("/api/v1/silences", self._silence),
                web.delete("/api/v1/silences/{id}", self._unsilence),
            ]
        )
        return app

    async def start(self) -> None:
        """Listen; a port that is taken is told, and the worker works on without the API."""
        host, port = self._listen
        runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as err:
            await runner.cleanup()
            log.error(
                "The API cannot listen on %s:%d (%s): choose another [notify] listen.",
                host,
                port,
                err.strerror,
            )
            return
        self._runner = runner
        log.info("The API listens on http://%s:%d/api/v1/incidents.", host, port)

    async def stop(self) -> None:
        """Listen no more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through who may."""
        if self._local and not is_loopback(_host_of(request)):
            # A web page could have its own name lead here, and read with its visitor's browser.
            raise Refused(403, "ask for this host by the name localhost")
        self._check_token(request)
        if not self._has_heard():
            raise Refused(503, "the worker has just begun and knows not all yet: ask again soon")
        return await handler(request)

    def _check_token(self, request: web.Request) -> None:
        if self._local and request.method in ("GET", "HEAD"):
            return
        if not self._token:
            raise Refused(403, f"writing is off: set {API_TOKEN} for the worker and start it anew")
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            raise Refused(401, f"send 'Authorization: Bearer ...' with the worker's {API_TOKEN}")

    async def _incidents(self, _: web.Request) -> web.Response:
        found = sorted(self._correlator.incidents(), key=lambda one: -one.begin_ns)
        return _answer(b'{"incidents":[' + b",".join(map(encode, found)) + b"]}")

    async def _incident(self, request: web.Request) -> web.Response:
        found = self._correlator.find(request.match_info["id"])
        if found is None:
            raise Refused(404, "no such incident: GET /api/v1/incidents lists those that are open")
        return _answer(encode(found))

    async def _acknowledge(self, request: web.Request) -> web.Response:
        body = await _read(request, AcknowledgeBody)
        found = self._correlator.find(request.match_info["id"])
        if found is None or found.state == "resolved":
            raise Refused(404, "no such open incident: GET /api/v1/incidents lists them")
        by = _valid(lambda: checked_name(body.by))
        record = Acknowledgement(incident_id=found.incident_id, at_ns=time.time_ns(), by=by)
        await self._write(record)
        return _answer(encode(record))

    async def _silences(self, _: web.Request) -> web.Response:
        found = self._correlator.silences.in_force(time.time_ns())
        return _answer(b'{"silences":[' + b",".join(map(encode, found)) + b"]}")

    async def _silence(self, request: web.Request) -> web.Response:
        body = await _read(request, SilenceBody)
        record = _valid(
            lambda: new_silence(body.matchers, body.seconds, body.reason, body.by, time.time_ns())
        )
        await self._write(record)
        return _answer(encode(record), 201)

    async def _unsilence(self, request: web.Request) -> web.Response:
        now_ns = time.time_ns()
        found = self._correlator.silences.find(request.match_info["id"])
        if found is None or found.end_ns <= now_ns:
            raise Refused(404, "no such silence: GET /api/v1/silences lists those in force")
        record = ended(found, now_ns)
        await self._write(record)
        return _answer(encode(record))

    async def _write(self, record: Any) -> None:
        try:
            await asyncio.wait_for(self._publish(record), WRITE_SECONDS)
        except TimeoutError:
            raise Refused(
                503,
                f"Kafka did not take this within {WRITE_SECONDS:g} s: check that its brokers run, "
                "look with GET whether it came through all the same, else send it again",
            ) from None
        # It comes back from Kafka as well; who asked may ask again before it does.
        self._correlator.hear(record)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what goes wrong in JSON, with what to do."""
    try:
        return await handler(request)
    except Refused as err:
        return _error(err.status, str(err))
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"the body is too large: send at most {MOST_BODY_BYTES} bytes")
    except web.HTTPException as err:
        return _error(err.status, f"{err.reason}: see docs/incidents.md for what there is")
    except Exception:
        log.exception("%s %s failed.", request.method, request.path)
        return _error(500, "the worker failed on this: its log says why")


async def _read(request: web.Request, body_type: Any) -> Any:
    try:
        return msgspec.json.decode(await request.read(), type=body_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        known = ", ".join(body_type.__struct_fields__)
        raise Refused(400, f"not the body that is expected ({err}): its keys are {known}") from err


def _valid(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError as err:
        raise Refused(400, str(err)) from err


def _answer(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return _answer(orjson.dumps({"error": message}), status)
