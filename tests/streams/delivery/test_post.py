"""One body to one address, against a real HTTP server."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.delivery.address import address_of
from streams.delivery.post import NotTakenError, Poster, RefusedError, retry_after
from tests.streams.receiver import Answer, Receiver

CERTIFICATE = Path(__file__).parents[2] / "fixtures/tls/localhost.pem"


@pytest.fixture
def poster(receiver: Receiver) -> Iterator[Poster]:
    poster = to(f"{receiver.address}/hook?team=llm")
    yield poster
    poster.close()


def to(url: str, timeout_seconds: float = 5.0) -> Poster:
    return Poster(address_of(url, "url", allow_private=True), timeout_seconds)


def post(poster: Poster) -> None:
    poster.post(b"{}", {"Content-Type": "application/json"})


def not_taken(poster: Poster) -> NotTakenError:
    with pytest.raises(NotTakenError) as caught:
        post(poster)
    return caught.value


def test_what_is_posted_arrives(receiver: Receiver, poster: Poster) -> None:
    poster.post("é".encode(), {"X-One": "1"})
    [delivery] = receiver.deliveries
    assert delivery.body == "é".encode()
    assert delivery.path == "/hook?team=llm"
    assert delivery.headers["X-One"] == "1"
    assert delivery.headers["Host"] == f"127.0.0.1:{receiver.port}"


@pytest.mark.parametrize(
    "status", [401, 403, 404, 408, 425, 429, 500, 501, 502, 503, 504, 507, 529]
)
def test_a_receiver_in_trouble_takes_it_later(
    receiver: Receiver, poster: Poster, status: int
) -> None:
    receiver.answers = [Answer(status, {"Retry-After": "7"}), Answer(status)]
    assert not_taken(poster).retry_after_seconds == 7.0
    err = not_taken(poster)
    assert err.retry_after_seconds is None
    assert str(err).startswith(f"{receiver.address} answered {status}")


@pytest.mark.parametrize("status", [400, 405, 409, 410, 413, 422])
def test_what_the_receiver_cannot_read_is_refused(
    receiver: Receiver, poster: Poster, status: int
) -> None:
    receiver.answers = [Answer(status)]
    with pytest.raises(RefusedError, match=f"^{receiver.address} answered {status}"):
        post(poster)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, poster: Poster, status: int) -> None:
    """Following it would send the body, and its signature, to whoever the answer names."""
    with Receiver() as private:
        receiver.answers = [Answer(status, {"Location": f"{private.address}/hidden"})]
        with pytest.raises(RefusedError, match="set the url to the final address") as caught:
            post(poster)
        assert private.deliveries == []
    assert "hidden" not in str(caught.value)


def test_bodies_share_one_connection(receiver: Receiver, poster: Poster) -> None:
    for _ in range(3):
        post(poster)
    assert len({delivery.client_port for delivery in receiver.deliveries}) == 1


def test_a_connection_that_was_closed_meanwhile_is_opened_again(
    receiver: Receiver, poster: Poster
) -> None:
    receiver.answers = [Answer(hangs_up=True)]
    post(poster)
    assert receiver.hung_up.wait(5)
    post(poster)
    assert len({delivery.client_port for delivery in receiver.deliveries}) == 2


@pytest.mark.parametrize("answer", [Answer(missing_bytes=10), Answer(resets=True)])
def test_an_answer_that_breaks_off_is_none(
    receiver: Receiver, poster: Poster, answer: Answer
) -> None:
    receiver.answers = [answer]
    assert "is not reachable" in str(not_taken(poster))
    post(poster)


def test_an_answer_without_end_is_not_read_to_its_end(receiver: Receiver, poster: Poster) -> None:
    with endless() as port:
        endless_poster = to(f"http://127.0.0.1:{port}/")
        post(endless_poster)
        endless_poster.close()


def test_a_receiver_that_is_down_is_told_by_its_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    err = not_taken(to(f"http://127.0.0.1:{port}/hidden?key=hidden"))
    assert str(err).startswith(f"http://127.0.0.1:{port} is not reachable: ")
    assert "hidden" not in str(err)


def test_a_name_that_nobody_knows_is_not_reachable() -> None:
    assert "is not reachable" in str(not_taken(to("http://no-such-host.invalid/")))


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000])
def test_all_of_a_delivery_has_one_time_limit_however_slowly_the_answer_drips(drip: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=dripping, args=(server, drip))
        thread.start()
        begun = time.monotonic()
        assert "timed out" in str(
            not_taken(to(f"http://127.0.0.1:{server.getsockname()[1]}/", 0.3))
        )
        # Each byte alone is in time, all of them would take a minute.
        assert time.monotonic() - begun < 10
        thread.join()


def dripping(server: socket.socket, drip: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        try:
            for byte in drip:
                connection.sendall(bytes([byte]))
                time.sleep(0.06)
            while connection.recv(65536):
                pass
        except OSError:
            pass


def test_a_receiver_that_is_slow_but_in_time_gets_it_once(
    receiver: Receiver, poster: Poster
) -> None:
    receiver.always = Answer(delay_seconds=0.2)
    post(poster)
    assert len(receiver.deliveries) == 1


def test_a_delivery_can_be_broken_off(receiver: Receiver, poster: Poster) -> None:
    receiver.always = Answer(delay_seconds=1.0)
    timer = threading.Timer(0.1, poster.abort)
    timer.start()
    not_taken(poster)
    timer.join()
    assert len(receiver.deliveries) == 1


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    with Receiver(context=server_context()) as receiver:
        err = not_taken(to(f"https://localhost:{receiver.port}/"))
        assert "CERTIFICATE_VERIFY_FAILED" in str(err)
        assert receiver.deliveries == []


def test_a_certificate_of_another_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with Receiver(context=server_context()) as receiver:
        err = not_taken(to(f"https://127.0.0.1:{receiver.port}/"))
        assert "CERTIFICATE_VERIFY_FAILED" in str(err)
        assert receiver.deliveries == []


def test_a_certificate_of_an_authority_that_the_system_trusts_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with Receiver(context=server_context()) as receiver:
        poster = to(f"https://localhost:{receiver.port}/")
        post(poster)
        poster.close()
        assert [one.headers["Host"] for one in receiver.deliveries] == [
            f"localhost:{receiver.port}"
        ]


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
        ("Wed, 21 Oct 2015 07:29:30 GMT", 90.0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, clock_seconds=lambda: 1_445_412_480.0) == seconds


class endless:
    """A server whose answer to one request goes on until the client has had enough."""

    def __enter__(self) -> int:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        port: int = self._server.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(b"x" * 65536)
            except OSError:
                pass
