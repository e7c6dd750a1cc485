"""A webhook receiver that writes down what arrives and when."""

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST of the webhook sink; ``received_ns`` is epoch time."""

    received_ns: int
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at_ns: int

    @property
    def latency_ms(self) -> float:
        """From the end of the batch that caused it to its arrival here."""
        return (self.received_ns - int(self.annotations["batch_end_ns"])) / 1e6

    @property
    def incident_id(self) -> str:
        """The incident that it tells of."""
        return self.labels["incident_id"]


class Receiver:
    """Listen on a free loopback port and keep every delivery."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Without this the answer waits for the client's delayed acknowledgement.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                received_ns = time.time_ns()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.deliveries += _deliveries(json.loads(body), received_ns)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the terminal clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self._server.server_port}/alerts"

    def start(self) -> None:
        """Begin listening."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _deliveries(payload: dict[str, Any], received_ns: int) -> list[Delivery]:
    return [
        Delivery(
            received_ns=received_ns,
            status=alert["status"],
            labels=alert["labels"],
            annotations=alert["annotations"],
            starts_at_ns=_epoch_ns(alert["startsAt"]),
        )
        for alert in payload["alerts"]
    ]


def _epoch_ns(text: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000
