"""The address of a client: the peer of the socket, or what trusted proxies report in ``X-Forwarded-For``. Pure."""

from __future__ import annotations

import socket
from asyncio import BaseTransport
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

MAX_PROXIES: Final = 16
"""Entries of ``X-Forwarded-For`` that are examined, from the right. A client can send any number of them."""

_NAT64: Final = ip_network("64:ff9b::/96")
_SUBSCRIBER_BITS: Final = 64
"""An IPv6 subscriber gets at least a /64 (RFC 6177), and can use any address of it."""

RESET: Final = "reset"
"""Reason of a refusal: the peer reset the connection before it was accepted."""


class ClientAddresses:
    """Finds the address of the client behind the trusted proxies (setting TRUSTED_PROXIES)."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        """``trusted``: addresses and networks, such as ``10.0.0.0/8``. Raises ``ValueError`` for others."""
        self._trusted = tuple(ip_network(entry) for entry in trusted)

    @property
    def has_proxies(self) -> bool:
        """Whether any proxy is trusted."""
        return bool(self._trusted)

    def is_trusted(self, address: IpAddress | None) -> bool:
        """Return whether an address belongs to a trusted proxy."""
        return address is not None and any(address in network for network in self._trusted)

    def find(self, peer: str | None, forwarded_for: str = "") -> IpAddress | None:
        """Return the client of a request; ``None`` if the peer has no IP address (a Unix socket).

        ``forwarded_for``: the header ``X-Forwarded-For``, several of them joined by commas. It counts only if the peer
        is a trusted proxy. The rightmost address that is not a trusted proxy is the client: those to the left of it
        may be invented by the client.
        """
        address = parse_address(peer or "")
        if not forwarded_for or not self.is_trusted(address):
            return address
        for entry in reversed(forwarded_for.rsplit(",", MAX_PROXIES)[-MAX_PROXIES:]):
            hop = parse_address(entry)
            if hop is None:
                return address  # not written by a proxy: the last known hop is the client
            address = hop
            if not self.is_trusted(address):
                return address
        return address

    def limited(self, address: IpAddress | None) -> str | None:
        """Return the key under which the connections of a client are counted; ``None`` if they are not limited.

        Not limited are trusted proxies. As long as no proxy is trusted, private addresses are not limited either:
        they may belong to a proxy that serves all users.
        """
        if address is None or self.is_trusted(address):
            return None
        if not self._trusted and (address.is_private or address.is_link_local):
            return None
        return limit_key(address)


def parse_address(text: str) -> IpAddress | None:
    """Return the address in ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``; else ``None``.

    An IPv4 address in IPv6 form (``::ffff:192.0.2.1``, from a dual-stack socket) becomes plain IPv4.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def peer_of(transport: BaseTransport) -> IpAddress | None:
    """Return the address of the peer of a socket; ``None`` for a Unix socket.

    It is also ``None`` if the peer has reset the connection. Check ``is_reset`` afterwards: in the other order, a reset
    between the two would be missed.
    """
    try:
        peer = transport.get_extra_info("peername")
    except OSError:  # uvloop asks the kernel at each call
        return None
    return parse_address(peer[0]) if isinstance(peer, tuple) else None


def is_reset(transport: BaseTransport) -> bool:
    """Return whether the peer has reset the connection, so that its socket has no peer address.

    Such a connection looks like a Unix socket: without an address, no limit of a client applies.
    """
    connected = transport.get_extra_info("socket")
    if connected is None or connected.family == socket.AF_UNIX:
        return False
    try:
        connected.getpeername()
    except OSError:
        return True
    return False


def limit_key(address: IpAddress) -> str:
    """Return the name under which a client is limited: an IPv4 address, or the /64 network of an IPv6 address."""
    if isinstance(address, IPv6Address) and (inner := embedded_ipv4(address)) is not None:
        # All clients behind a translator would share one network.
        address = inner
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Address(int(address) >> _SUBSCRIBER_BITS << _SUBSCRIBER_BITS)) + f"/{_SUBSCRIBER_BITS}"


def embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which a mapped, 6to4, Teredo or NAT64 address leads; ``None`` for other addresses."""
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    return IPv4Address(int(address) & 0xFFFF_FFFF) if inner is None and address in _NAT64 else inner


def is_network(text: str) -> bool:
    """Return whether a text is an address or a network in CIDR form, without bits below the mask."""
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
