"""The guard against server-side request forgery: URLs of users and backends never reach our own network.

The guard resolves the host name, checks its addresses, and connects to an address that passed. A name whose DNS entry
changes between check and connection (DNS rebinding) therefore gains nothing.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpcore

from .outgoing.lookups import Lookups
from .public_addresses import is_public

RESOLVE_TIMEOUT_S: Final = 10.0
"""How long a connection waits for a lookup. Its thread ends later: after 30 s with three silent name servers."""
MAX_LOOKUPS: Final = 160
"""Concurrent lookups of one backend. Devices cause at most 150: 50 pushes wait 10 s each, and a lookup takes 30 s.

With a `GREGOR_DELIVERY_DEADLINE` below 10 s they may cause more; further pushes are then retried."""
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class AddressNotPublic(httpcore.ConnectError):
    """The host has no public address."""


def is_host_name(host: str) -> bool:
    """Return whether a host has the form of a DNS name: labels of 1 to 63 letters, digits, ``_`` or inner hyphens."""
    return len(host) <= 253 and all(map(_LABEL.fullmatch, host.split(".")))


def is_private_url(url: str) -> bool:
    """Return whether the host of a URL is visibly private: a private address or ``localhost``.

    Other host names are checked when a connection is opened.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    address = _address_of(host)
    if address is not None:
        return not is_public(address)
    return host == "localhost" or host.endswith(".localhost")


def connect_failure(error: BaseException) -> str:
    """Describe a failed connection for its operator, without the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "the certificate is not trusted"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


@dataclass(frozen=True, slots=True)
class Destination:
    """Host and port of a URL. ``is_private_allowed``: the operator listed this host with this port."""

    host: str
    port: int
    is_private_allowed: bool = False


class AllowedHosts:
    """A list of hosts, as in the setting WEBPUSH_HOSTS.

    ``push.example`` allows https on port 443 of that host; ``*.example`` of any host below it. ``localhost:8443``
    allows https on that port of that host. The host may be an address, and may be private: for fakes and own services.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries = frozenset(entry.lower() for entry in entries)

    def destination_of(self, url: str) -> Destination | None:
        """Return the destination of ``url``, or ``None`` if it is not allowed."""
        # URL parsers disagree about control and non-ASCII characters; such URLs could pass here and lead elsewhere.
        if any(ord(letter) <= 32 or ord(letter) >= 127 for letter in url):
            return None
        try:
            parts = urlsplit(url)
            # Not normalized, because the connection uses this text. No certificate is valid for a trailing dot.
            host, port = parts.hostname or "", parts.port or 443
        except ValueError:
            return None
        if parts.scheme != "https" or not host or parts.username is not None or parts.password is not None:
            return None
        if f"{host}:{port}" in self._entries:
            return Destination(host, port, is_private_allowed=True)
        if port != 443 or _address_of(host) is not None or not is_host_name(host) or not self._is_listed(host):
            return None
        return Destination(host, port)

    def private_destinations(self) -> frozenset[tuple[str, int]]:
        """Return the entries with a port as (host, port). ``GuardedBackend`` connects to them without a check."""
        pairs = (entry.rpartition(":") for entry in self._entries if ":" in entry)
        return frozenset((host, int(port)) for host, _, port in pairs if port.isdigit())

    def _is_listed(self, host: str) -> bool:
        parents = (host[at:] for at, letter in enumerate(host) if letter == ".")
        return host in self._entries or any("*" + parent in self._entries for parent in parents)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """An httpcore network backend that connects only to public addresses and to listed private destinations."""

    def __init__(
        self, private_places: frozenset[tuple[str, int]] = frozenset(), fixed_hosts: Container[str] = ()
    ) -> None:
        """`fixed_hosts`: the few hosts that no device can choose; `MAX_LOOKUPS` does not limit their lookups."""
        self._private_places, self._fixed_hosts = private_places, fixed_hosts
        self._inner = httpcore.AnyIOBackend()
        self._lookups = Lookups()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first public address of ``host``. Raises ``AddressNotPublic`` if there is none."""
        address = host if (host, port) in self._private_places else await self._public_address(host, port)
        return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raise ``AddressNotPublic``: a Unix socket is local to this machine."""
        raise AddressNotPublic("Unix sockets are not public")

    async def sleep(self, seconds: float) -> None:
        """Sleep; httpcore requires this method."""
        await self._inner.sleep(seconds)

    async def _public_address(self, host: str, port: int) -> str:
        max_lookups = None if host in self._fixed_hosts else MAX_LOOKUPS
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await self._lookups.find(host, port, max_lookups, socket.AF_UNSPEC, socket.SOCK_STREAM)
        except UnicodeError as error:  # from the IDNA codec, for a label that is empty or too long
            raise AddressNotPublic(f"{host} is not a valid host name") from error
        except (OSError, RuntimeError) as error:  # a timeout; RuntimeError: no thread can be started
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        for *_, place in found:
            if is_public(str(place[0])):
                return str(place[0])
        raise AddressNotPublic(f"{host} has no public address")


def _address_of(host: str) -> str | None:
    """Return the IP address that a host is, including the short forms of resolvers (127.1, 2130706433, 0x7f000001)."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
