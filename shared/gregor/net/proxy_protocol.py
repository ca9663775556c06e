"""PROXY protocol, version 2: the client address that a TCP load balancer sends before the first byte of a client. Pure.

The format is section 2.2 of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Version 1 (text) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from .client_address import IpAddress, parse_address

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
HEAD_BYTES: Final = 16
MAX_BYTES: Final = 4_096
"""Largest accepted header: the addresses, and a few hundred bytes of extensions (TLS details) that are skipped."""

PROXY_HEADER: Final = "proxy_header"
"""Label of the metric of refused connections that lack a valid header."""

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}
"""Bytes of one address, by family and transport: TCP over IPv4, TCP over IPv6."""


class ProxyHeaderError(ValueError):
    """The bytes are not a valid header of PROXY protocol version 2."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A parsed header of ``size`` bytes.

    ``client``: the address of the client; ``None`` if the proxy itself opened the connection (a health check).
    """

    client: IpAddress | None
    size: int


def parse_proxy_header(received: bytes) -> ProxyHeader | None:
    """Return the header at the start of ``received``; ``None`` if more bytes are needed.

    Raises ``ProxyHeaderError``. A header that names another transport than TCP counts like a health check.
    """
    if received[: len(SIGNATURE)] != SIGNATURE[: len(received)]:
        raise ProxyHeaderError("the connection does not begin with a PROXY protocol v2 header")
    if len(received) < HEAD_BYTES:
        return None
    command, family, length = received[12], received[13], int.from_bytes(received[14:16], "big")
    size = HEAD_BYTES + length
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError(f"unknown version or command 0x{command:02x} in the PROXY protocol header")
    if size > MAX_BYTES:
        raise ProxyHeaderError(f"the PROXY protocol header has {size} bytes; the limit is {MAX_BYTES}")
    address_bytes = _ADDRESS_BYTES.get(family, 0) if command == _PROXY else 0
    # Two addresses and two ports; extensions may follow them.
    if address_bytes and length < 2 * address_bytes + 4:
        raise ProxyHeaderError("the addresses in the PROXY protocol header are incomplete")
    if len(received) < size:
        return None
    source = received[HEAD_BYTES : HEAD_BYTES + address_bytes]
    return ProxyHeader(_address(source), size)


def _address(packed: bytes) -> IpAddress | None:
    if not packed:
        return None
    address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return parse_address(str(address))
