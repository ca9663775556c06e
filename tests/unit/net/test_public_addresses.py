"""Public addresses, and requests from the operator's own network."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.net.client_address import ClientAddresses, parse_address
from gregor.net.public_addresses import FORWARDING_HEADERS, is_internal, is_public


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_internet_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b:1::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
        *(
            "168.63.129.16",
            "192.0.0.8",
            "3fff::1",
            "5f00::1",
            "100:0:0:1::1",
        ),  # CVE-2024-4032, and networks of later years
        *("", "localhost", "127.1", "0x7f.1", "8.8.8.8.8"),
    ],
)
def test_internal_and_malformed_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


NO_PROXIES = ClientAddresses()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "100.64.0.1", "fd00::1", "fe80::1"])
def test_request_of_the_own_network_is_internal(address: str) -> None:
    for proxies in (NO_PROXIES, ClientAddresses(["10.9.0.0/16"])):
        assert is_internal(parse_address(address), ["host", "user-agent"], proxies)
        assert is_internal(None, [], proxies)


@given(st.ip_addresses().filter(lambda address: is_public(str(address))))
def test_request_of_a_public_address_is_not_internal(address: object) -> None:
    assert not is_internal(parse_address(str(address)), ["host"], NO_PROXIES)


@pytest.mark.parametrize("name", sorted(FORWARDING_HEADERS))
def test_request_through_a_proxy_is_not_internal(name: str) -> None:
    assert not is_internal(ip_address("127.0.0.1"), ["host", name], NO_PROXIES)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.9.1.2", "fd00::7"])
def test_request_of_a_trusted_proxy_is_not_internal(address: str) -> None:
    """nginx and HAProxy add no header unless they are told to."""
    proxies = ClientAddresses(["127.0.0.1", "10.9.0.0/16", "fd00::/8"])

    assert not is_internal(parse_address(address), ["host"], proxies)
