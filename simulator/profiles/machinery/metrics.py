"""The /metrics page of a profile: names of the family, numbers of the recorder."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from simulator.profiles.machinery.recorder import KV_CAPACITY_TOKENS, Counters


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def render(rows: Mapping[str, str], values: Mapping[str, int]) -> str:
    """Write metrics in Prometheus' text format; a key that ends in _ns is shown in seconds."""
    lines = []
    for name, key in rows.items():
        value: float
        if key == "kv_ratio":
            value = values["kv_tokens"] / KV_CAPACITY_TOKENS
        elif key == "decode_iterations":
            value = values["iterations"] - values["prefill_iterations"]
        elif key == "decoding_ns":
            value = (values["busy_ns"] - values["prefill_ns"]) / 1e9
        elif key.endswith("_ns"):
            value = values[key] / 1e9
        else:
            value = float(values[key])
        lines.append(f"{name} {value}\n")
    return "".join(lines)


def serve_metrics(
    listener: socket.socket, path: str, rows: Mapping[str, str], counters: Counters
) -> None:
    """Serve the page on a bound socket from threads of this process."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer with the page, or that there is none."""
            found = self.path == path
            body = render(rows, counters.read()).encode() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    # Not by its constructor, which asks a name server who we are: that can take minutes.
    server = _Server(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_activate()
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
