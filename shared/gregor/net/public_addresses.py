"""Public addresses, and requests that come from the operator's own network. Pure."""

import ipaddress
from collections.abc import Iterable
from typing import Final

from .client_address import ClientAddresses, IpAddress, embedded_ipv4

FORWARDING_HEADERS: Final = frozenset(
    (
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
    )
)
"""Headers that proxies add. A request with one of them comes from behind a proxy."""

# Special networks that `is_global` of some Pythons accepts (CVE-2024-4032): local-use NAT64 (RFC 8215), site-local,
# documentation (RFC 9637), segment routing (RFC 9602), dummy (RFC 9780), protocol assignments (RFC 6890). Azure answers
# at 168.63.129.16 in each of its virtual machines.
_NOT_GLOBAL = tuple(
    map(
        ipaddress.ip_network,
        ("64:ff9b:1::/48", "fec0::/10", "3fff::/20", "5f00::/16", "100:0:0:1::/64", "192.0.0.0/24", "168.63.129.16/32"),
    )
)


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet. An IPv4 address inside an IPv6 address is
    checked as IPv4.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = embedded_ipv4(ip)
        if inner is not None:
            return is_public(str(inner))
    if any(ip in network for network in _NOT_GLOBAL):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def is_internal(peer: IpAddress | None, headers: Iterable[str], proxies: ClientAddresses) -> bool:
    """Return whether a request comes from the operator's own network, and not through a proxy.

    ``peer``: ``None`` for a Unix socket. ``headers``: the names of the request headers, in lower case. ``proxies``: the
    trusted proxies; they may add no header.
    """
    if proxies.is_trusted(peer):
        return False
    if peer is not None and is_public(str(peer)):
        return False
    return FORWARDING_HEADERS.isdisjoint(headers)
