"""Client addresses: trusted proxies, ``X-Forwarded-For``, and the key of the limits per address."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gregor.net.client_address import MAX_PROXIES, ClientAddresses, embedded_ipv4, limit_key, parse_address

ADDRESSES = ClientAddresses(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])
any_address = st.ip_addresses()
public_address = any_address.filter(lambda address: address.is_global)


def find(peer: str | None, forwarded_for: str = "") -> str:
    return str(ADDRESSES.find(peer, forwarded_for))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("198.51.100.1", "", "198.51.100.1"),
        ("198.51.100.1", "203.0.113.9", "198.51.100.1"),
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "1.1.1.1, 203.0.113.9, 10.9.9.9, 192.0.2.7", "203.0.113.9"),
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", '"[2001:db8::1]:4711"', "2001:db8::1"),
        ("::ffff:10.1.2.3", "::ffff:203.0.113.9", "203.0.113.9"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        ("10.1.2.3", "203.0.113.9, unknown", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9,", "10.1.2.3"),
        ("10.1.2.3", "10.4.4.4", "10.4.4.4"),
        (None, "203.0.113.9", "None"),
        ("", "203.0.113.9", "None"),
    ],
)
def test_client_is_the_rightmost_untrusted_address(peer: str | None, forwarded_for: str, client: str) -> None:
    assert find(peer, forwarded_for) == client


@given(public_address, st.lists(st.text(alphabet='0123456789.,: []"x', max_size=20)))
def test_spoofed_forwarded_for_changes_nothing(client: object, invented: list[str]) -> None:
    assert find("10.0.0.1", ",".join([*invented, str(client)])) == str(parse_address(str(client)))


@given(public_address, st.text())
def test_untrusted_peer_is_the_client(peer: object, header: str) -> None:
    assert ADDRESSES.find(str(peer), header) == parse_address(str(peer))


def test_only_the_last_proxies_are_examined() -> None:
    assert find("10.0.0.1", "203.0.113.9" + ",10.0.0.2" * (MAX_PROXIES - 1)) == "203.0.113.9"
    assert find("10.0.0.1", "203.0.113.9" + ",10.0.0.2" * MAX_PROXIES) == "10.0.0.2"


@given(st.ip_addresses(v=6), st.integers(0, (1 << 64) - 1))
def test_ipv6_is_limited_by_its_64_bit_network(address: IPv6Address, host: int) -> None:
    neighbour = IPv6Address(int(address) >> 64 << 64 | host)
    assume(embedded_ipv4(address) is None and embedded_ipv4(neighbour) is None)

    assert limit_key(neighbour) == limit_key(address)
    assert limit_key(neighbour).endswith("/64")


@pytest.mark.parametrize("address", ["64:ff9b::cb00:7109", "2002:cb00:7109::1", "::ffff:203.0.113.9"])
def test_translated_clients_do_not_share_a_limit(address: str) -> None:
    assert limit_key(IPv6Address(address)) == "203.0.113.9"


@given(st.ip_addresses(v=4))
def test_ipv4_is_limited_by_address(address: IPv4Address) -> None:
    assert limit_key(address) == str(address)


def test_trusted_proxies_are_not_limited() -> None:
    assert ADDRESSES.limited(parse_address("10.0.0.1")) is None
    assert ADDRESSES.limited(parse_address("203.0.113.9")) == "203.0.113.9"


@pytest.mark.parametrize("private", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fe80::1", "fd00::1"])
def test_private_addresses_are_limited_only_with_trusted_proxies(private: str) -> None:
    assert ClientAddresses().limited(parse_address(private)) is None
    assert ClientAddresses(["203.0.113.0/24"]).limited(parse_address(private)) is not None


def test_invalid_network_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits set"):
        ClientAddresses(["10.0.0.1/8"])
