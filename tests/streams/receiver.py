"""A webhook receiver: a real HTTP server on a loopback port that does what it is told."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request as it came, with the status that it was answered with."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    client_port: int
    status: int

    @property
    def payload(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def alert(self) -> dict[str, Any]:
        """The one alert in it."""
        [alert] = self.payload["alerts"]
        found: dict[str, Any] = alert
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver answers.

    Attributes:
        status: The HTTP status.

        headers: Beside Content-Length.

        hangs_up: Close the connection afterwards without having said so.

        missing_bytes: Promise so many more bytes of body than are sent; implies hanging up.

        resets: Break the connection off by a reset in the middle of the answer.

        delay_seconds: Answer so late.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs_up: bool = False
    missing_bytes: int = 0
    resets: bool = False
    delay_seconds: float = 0.0


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that breaks off; anything else is a mistake of the test."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Receiver:
    """Take deliveries; answer with `answers` one after the other, then with `always`.

    Args:
        port: Where to listen; 0 for a free one.

        context: For https.
    """

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self._scheme = "http" if context is None else "https"
        self.answers: list[Answer] = []
        self.always = Answer()
        self.deliveries: list[Delivery] = []
        self.hung_up = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes: Nagle would hold the second one back for 40 ms.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                receiver._take(self)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port; may be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            answer = self.answers.pop(0) if self.answers else self.always
            self.deliveries.append(
                Delivery(
                    handler.path,
                    dict(handler.headers.items()),
                    body,
                    handler.client_address[1],
                    answer.status,
                )
            )
        time.sleep(answer.delay_seconds)
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(2 + answer.missing_bytes))
        if answer.resets:
            self._reset(handler)
            return
        handler.end_headers()
        handler.wfile.write(b"ok")
        if answer.hangs_up or answer.missing_bytes:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(2)
            self.hung_up.set()

    def _reset(self, handler: BaseHTTPRequestHandler) -> None:
        handler.flush_headers()
        handler.close_connection = True
        # Closing with data left to linger for no time at all sends a reset.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.rfile.close()
        handler.connection.close()
