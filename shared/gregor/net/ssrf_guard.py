"""Calls to addresses that users or backends named: never into our own network (server-side request forgery).

A name is resolved when the connection is made, its addresses are judged, and the connection goes to one that passed,
so that a name cannot point elsewhere between the judgement and the call.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpcore

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_GLOBAL = (ipaddress.ip_network("64:ff9b:1::/48"), ipaddress.ip_network("fec0::/10"))


class AddressNotPublic(httpcore.ConnectError):
    """The name has no address that may be called."""


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet, also an IPv4 one inside one of IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        if any(ip in network for network in _NOT_GLOBAL):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def is_private_url(url: str) -> bool:
    """Whether the host of a URL is an address, or the name, of what is not public; a name is judged when called."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    address = _address_of(host)
    if address is not None:
        return not is_public(address)
    return host == "localhost" or host.endswith(".localhost")


def connect_failure(error: BaseException) -> str:
    """Why a place was not reached, in a few words for whoever has to mend it; its address is not among them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


@dataclass(frozen=True, slots=True)
class Destination:
    """Host and port of a URL. `is_private_allowed`: the operator listed this very place, with its port."""

    host: str
    port: int
    is_private_allowed: bool = False


class AllowedHosts:
    """A list of hosts as the setting WEBPUSH_HOSTS has it.

    `push.example`: https on port 443 of that name; `*.example`: of any name below; `localhost:8443`: https on that port
    of that host, which may be an address and may be private: for fakes and for services of one's own.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries = frozenset(entry.lower() for entry in entries)

    def destination_of(self, url: str) -> Destination | None:
        """Where `url` leads, None where that is not allowed."""
        if any(ord(letter) <= 32 or ord(letter) >= 127 for letter in url):
            return None
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or 443
        except ValueError:
            return None
        if parts.scheme != "https" or not host or parts.username is not None or parts.password is not None:
            return None
        if f"{host}:{port}" in self._entries:
            return Destination(host, port, is_private_allowed=True)
        if port != 443 or _address_of(host) is not None or not self._is_listed(host):
            return None
        return Destination(host, port)

    def private_destinations(self) -> frozenset[tuple[str, int]]:
        """Entries with a port, as (host, port): what `GuardedBackend` lets through unjudged."""
        pairs = (entry.rpartition(":") for entry in self._entries if ":" in entry)
        return frozenset((host, int(port)) for host, _, port in pairs if port.isdigit())

    def _is_listed(self, host: str) -> bool:
        parents = (host[at:] for at, letter in enumerate(host) if letter == ".")
        return host in self._entries or any("*" + parent in self._entries for parent in parents)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to public addresses alone, and to the places that the operator listed with their port."""

    def __init__(self, private_places: frozenset[tuple[str, int]] = frozenset()) -> None:
        self._private_places = private_places
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that may be called; AddressNotPublic where there is none."""
        address = host if (host, port) in self._private_places else await self._public_address(host, port)
        return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: a socket of this machine is not public."""
        raise AddressNotPublic("a local socket")

    async def sleep(self, seconds: float) -> None:
        """As httpcore asks."""
        await self._inner.sleep(seconds)

    async def _public_address(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        for *_, place in found:
            if is_public(str(place[0])):
                return str(place[0])
        raise AddressNotPublic(f"{host} has no public address")


def _address_of(host: str) -> str | None:
    """The IP address that a host is, also in the short forms that a resolver reads (127.1, 2130706433, 0x7f000001)."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
