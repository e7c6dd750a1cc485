"""Where may be connected to."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from streams.delivery import address as address_module
from streams.delivery.address import AddressRefusedError, address_of, is_public
from tests.streams.receiver import Receiver


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.8.9.10",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "::",
        "::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::7f00:1",
        "::ffff:0:127.0.0.1",
        "fec0::1",
        "2002:7f00:1::",
        "ff02::1",
    ],
)
def test_private_loopback_link_local_and_metadata_addresses_are_not_public(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize("text", ["93.184.216.34", "2606:4700::1111", "64:ff9b::93.184.216.34"])
def test_others_are_public(text: str) -> None:
    assert is_public(text)


@pytest.mark.parametrize("url", ["ftp://host/", "host:80/path", "http://", "/path", ""])
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"the url begins with .* write https://host/path"):
        address_of(url, "the url", allow_private=False)


@pytest.mark.parametrize("url", ["https://user:hidden@host/", "https://hidden@host/"])
def test_a_user_or_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="take them out") as caught:
        address_of(url, "the url", allow_private=False)
    assert "hidden" not in str(caught.value)


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="the url has a port that is no number"):
        address_of("https://host:hidden/", "the url", allow_private=False)


def test_a_private_address_is_refused_at_the_start_unless_it_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"names 10\.0\.0\.1, .* set allow_private = true"):
        address_of("http://10.0.0.1/", "the url", allow_private=False)
    assert address_of("http://10.0.0.1/", "the url", allow_private=True).host == "10.0.0.1"


def test_only_scheme_host_and_port_are_shown() -> None:
    found = address_of("https://host:8443/hidden?key=hidden#hidden", "", allow_private=False)
    assert found.shown == "https://host:8443"
    assert found.target == "/hidden?key=hidden"


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f.1"])
def test_a_name_that_resolves_to_loopback_is_refused_when_it_is_connected_to(name: str) -> None:
    with Receiver() as receiver:
        url = f"http://{name}:{receiver.port}/"
        with pytest.raises(AddressRefusedError, match="set allow_private = true"):
            address_of(url, "the url", allow_private=False).connect(1.0)
        address_of(url, "the url", allow_private=True).connect(1.0).close()


def test_a_name_is_looked_up_once_and_what_was_judged_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rebinding: the first answer is public, the next one is not."""
    asked: list[str] = []

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        place = "127.0.0.1" if len(asked) > 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(address_module, "is_public", lambda text: text == "127.0.0.2")
    with Receiver() as receiver:
        found = address_of(f"http://rebinds:{receiver.port}/", "", allow_private=False)
        # Only the address that was judged is tried, and nobody listens there.
        with pytest.raises(ConnectionRefusedError):
            found.connect(1.0)
        with pytest.raises(AddressRefusedError):
            found.connect(1.0)
    assert asked == ["rebinds", "rebinds"]


def test_of_many_addresses_only_the_public_ones_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host: str, port: int, **_: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", port)), (*kind, ("127.0.0.2", port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(address_module, "is_public", lambda text: text == "127.0.0.2")
    with Receiver() as receiver:
        found = address_of(f"http://both:{receiver.port}/", "", allow_private=False)
        with pytest.raises(ConnectionRefusedError):
            found.connect(1.0)
