"""Where a destination is, and whether a connection may be made to what its name resolves to.

The addresses that a name resolves to are judged, and one of those that pass is connected to: a
second look-up, which may answer otherwise, is never made.
"""

import ipaddress
import socket
import urllib.parse
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by its number, but it answers with the secrets of an Azure host.
METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Public by what Python says, and yet a way to hosts nearby: local NAT64, IPv4-translated and
# site-local addresses.
NEARBY = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "::ffff:0:0:0/96", "fec0::/10")))


class AddressRefusedError(OSError):
    """Nothing is connected to; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """A url, taken apart.

    Attributes:
        shown: What logs and errors may say: chat services put a secret into the path.

        target: Path and query.

        allow_private: Whether it may be a private, loopback or link-local address.
    """

    host: str
    port: int
    https: bool
    shown: str
    target: str
    allow_private: bool

    def connect(self, timeout_seconds: float) -> socket.socket:
        """Open a connection to an address that may be connected to.

        Raises:
            AddressRefusedError: There is none.

            OSError: It cannot be reached.
        """
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        if not self.allow_private:
            found = [one for one in found if is_public(str(one[4][0]))]
        if not found:
            raise AddressRefusedError(
                f"{self.host} is a private, loopback or link-local address: set allow_private = "
                "true for it in [notify], if that is meant"
            )
        failed: OSError | None = None
        for family, kind, protocol, _, place in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout_seconds)
                connection.connect(place)
                # Headers and body are two writes: Nagle would hold the second one back.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            except OSError as err:
                connection.close()
                failed = err
        assert failed is not None
        raise failed


def address_of(url: str, key: str, *, allow_private: bool) -> Address:
    """Take a url apart.

    Args:
        url: What to take apart; no message repeats more of it than its scheme.

        key: What it is called in the configuration.

        allow_private: See `Address`.

    Raises:
        ValueError: It cannot be posted to; the text says what to do.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"{key} begins with {parts.scheme!r} and is no http(s) address: write https://host/path"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{key} has a user or password in it, which is not sent: take them out; what the "
            "receiver knows us by comes from the environment (LATENCYPRISM_WEBHOOK_SECRET, "
            "secret_env)"
        )
    try:
        port = parts.port
    except ValueError as err:
        raise ValueError(f"{key} has a port that is no number up to 65535: mend it") from err
    https = parts.scheme == "https"
    host = parts.hostname
    shown = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
    if not allow_private and _is_literal(host) and not is_public(host):
        raise ValueError(
            f"{key} names {host}, a private, loopback or link-local address: set allow_private = "
            "true beside it, if that is meant"
        )
    target = urllib.parse.quote(
        urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")),
        safe="/?&=%:@!$'()*+,;~-._[]",
    )
    return Address(host, port or (443 if https else 80), https, shown, target, allow_private)


def is_public(text: str) -> bool:
    """Tell whether an address may be connected to without being allowed to.

    >>> is_public("93.184.216.34"), is_public("10.0.0.1"), is_public("::ffff:127.0.0.1")
    (True, False, False)
    """
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if address in METADATA or any(address in network for network in NEARBY):
        return False
    return address.is_global and not address.is_multicast


def _inner(address: IPAddress) -> IPAddress:
    """Give the IPv4 address that an IPv6 one stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64 or int(address) < 1 << 32:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
