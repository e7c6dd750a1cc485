"""The agent's own metrics: what Prometheus reads, and what happens when it cannot."""

from __future__ import annotations

import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collectors import health
from collectors.health import (
    AgentHealth,
    EngineHealth,
    HealthServer,
    PublisherHealth,
    XpuHealth,
    parse_address,
    resident_bytes,
)

ROOT = Path(__file__).resolve().parents[2]
FULL = AgentHealth(
    version="1.2.3",
    host="h",
    started_at=1e9,
    engines=(
        EngineHealth(
            engine_id="h:8000",
            framework="vllm",
            source="counter",
            iterations_seen=10,
            iterations_missed=1,
            poll_hz=1000,
            stack_hz=50,
            reader_cpu_seconds=2.5,
            self_check=True,
        ),
        EngineHealth(engine_id="h:8001", framework="sglang", rank=1, note='no "access"\nhere'),
    ),
    publisher=PublisherHealth(queued=3, dropped=2, errors=1),
    xpus=(
        XpuHealth(vendor="nvidia", state="ok", devices=8, timeouts=0),
        XpuHealth(vendor="amd", state="timeout", timeouts=4),
    ),
    captures={"done": 2, "failed": 1},
    tracing=False,
)
EMPTY = AgentHealth(version="1", host="h", started_at=0.0)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@contextmanager
def serving(agent: AgentHealth = FULL, alive: bool = True) -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1:0", lambda: agent, lambda: alive)
    assert server.start()
    try:
        yield server
    finally:
        server.stop()
        server.stop()


def get(server: HealthServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()


def samples(server: HealthServer) -> Samples:
    status, text = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def values(found: Samples, name: str) -> dict[tuple[str, ...], float]:
    """Give the values of a metric by those of its labels."""
    return {
        tuple(value for _, value in labels): number
        for (one, labels), number in found.items()
        if one == name
    }


def test_everything_that_is_known_is_served() -> None:
    with serving() as server:
        found = samples(server)
    assert values(found, "latencyprism_agent_info") == {("h", "1.2.3"): 1}
    assert values(found, "latencyprism_iterations_seen_total") == {("h:8000", "0"): 10}
    assert values(found, "latencyprism_iterations_missed_total") == {("h:8000", "0"): 1}
    assert values(found, "latencyprism_poll_hz") == {("h:8000", "0"): 1000}
    assert values(found, "latencyprism_stack_hz") == {("h:8000", "0"): 50}
    assert values(found, "latencyprism_reader_cpu_seconds_total") == {("h:8000", "0"): 2.5}
    assert values(found, "latencyprism_self_check_passed") == {("h:8000", "0"): 1}
    assert values(found, "latencyprism_engine_info") == {
        ("h:8000", "vllm", "", "0", "counter"): 1,
        ("h:8001", "sglang", 'no "access"\nhere', "1", ""): 1,
    }
    assert values(found, "latencyprism_records_queued") == {(): 3}
    assert values(found, "latencyprism_records_dropped_total") == {(): 2}
    assert values(found, "latencyprism_publish_errors_total") == {(): 1}
    assert values(found, "latencyprism_xpu_up") == {("ok", "nvidia"): 1, ("timeout", "amd"): 0}
    assert values(found, "latencyprism_xpu_devices") == {("nvidia",): 8}
    assert values(found, "latencyprism_xpu_timeouts_total") == {("nvidia",): 0, ("amd",): 4}
    assert values(found, "latencyprism_captures_total") == {("done",): 2, ("failed",): 1}
    assert values(found, "latencyprism_tracing_up") == {(): 0}
    [uptime] = values(found, "latencyprism_agent_uptime_seconds").values()
    assert uptime > 1e8


def test_the_agents_own_cost_is_measured_here() -> None:
    with serving(EMPTY) as server:
        found = samples(server)
    [cpu_seconds] = values(found, "latencyprism_agent_cpu_seconds_total").values()
    [memory_bytes] = values(found, "latencyprism_agent_resident_memory_bytes").values()
    assert 0 < cpu_seconds <= time.process_time()
    assert 1e6 < memory_bytes < 1e11


def test_what_is_unknown_is_left_out_and_not_zero() -> None:
    with serving(EMPTY) as server:
        names = {name for name, _ in samples(server)}
    assert not any("records" in name or "tracing" in name for name in names)
    assert not any("iterations" in name for name in names)


def test_memory_that_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path) is None


def test_health_is_that_of_the_loop() -> None:
    with serving() as server:
        assert get(server, "/healthz") == (200, "ok\n")
    with serving(alive=False) as server:
        status, text = get(server, "/healthz")
        assert (status, "stands still" in text) == (503, True)
        assert get(server, "/metrics?name=x")[0] == 200


def test_another_path_is_not_found() -> None:
    with serving() as server:
        assert get(server, "/")[0] == 404


def test_an_agent_that_cannot_be_described_is_an_error_that_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> AgentHealth:
        raise RuntimeError("in between")

    server = HealthServer("127.0.0.1:0", broken, lambda: True)
    assert server.start()
    try:
        assert [get(server, "/metrics")[0] for _ in range(3)] == [500] * 3
        assert get(server, "/healthz")[0] == 200
    finally:
        server.stop()
    assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize("listen", ["127.0.0.1", "nowhere", ":80", "a/b:1", "h:99999", "h:x", ""])
def test_an_address_that_is_none_is_one_line_and_never_the_end(
    listen: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = HealthServer(listen, lambda: FULL, lambda: True)
    assert not server.start()
    server.stop()
    [line] = caplog.messages
    assert "choose another address in [collect] health_listen" in line


def test_a_port_that_is_taken_is_one_line_and_never_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert not HealthServer(listen, lambda: FULL, lambda: True).start()
    [line] = caplog.messages
    assert listen in line


def test_an_address_is_a_host_and_a_port() -> None:
    assert parse_address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert parse_address("[::1]:80") == ("::1", 80)


def test_a_client_that_says_nothing_does_not_keep_others_waiting_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "CLIENT_SECONDS", 0.2)
    with serving() as server:
        assert server.port is not None
        with socket.create_connection(("127.0.0.1", server.port)):
            assert get(server, "/healthz") == (200, "ok\n")


@contextmanager
def slow_clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Clients that have begun a request and never end it."""
    clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(count)]
    try:
        for client in clients:
            client.sendall(b"GET /healthz HT")
        yield clients
    finally:
        for client in clients:
            client.close()


def test_slow_clients_do_not_keep_the_probe_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing but their number and their age can end them.
    monkeypatch.setattr(health, "CLIENT_SECONDS", 300.0)
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 300.0)
    with serving() as server, slow_clients(server.port or 0, 3 * health.MOST_CONNECTIONS):
        assert get(server, "/healthz") == (200, "ok\n")
        threads = [one for one in threading.enumerate() if "process_request" in one.name]
        assert len(threads) <= health.MOST_CONNECTIONS


def test_a_client_that_drips_is_hung_up_on_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.5)
    with serving() as server, slow_clients(server.port or 0, 1) as [client]:
        client.settimeout(0.05)
        deadline, answer = time.monotonic() + 30, None
        while answer is None and time.monotonic() < deadline:
            try:
                client.sendall(b"x")
                answer = client.recv(1)
            except TimeoutError:
                continue
            except OSError:
                answer = b""
        assert answer == b""


def test_the_stop_ends_open_connections() -> None:
    with serving() as server, slow_clients(server.port or 0, 2) as clients:
        assert get(server, "/healthz")[0] == 200
        server.stop()
        assert [client.recv(1) for client in clients] == [b"", b""]


def test_after_the_stop_nobody_listens_and_no_thread_is_left() -> None:
    with serving() as server:
        port = server.port
    assert server.port is None
    assert not any(thread.name == "health" for thread in threading.enumerate())
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port or 0), timeout=5)


def test_every_metric_is_in_the_operations() -> None:
    with serving() as server:
        names = {name for name, _ in samples(server)}
    text = (ROOT / "docs/operations.md").read_text()
    assert {name for name in names if f"`{name}`" not in text} == set()
