"""PROXY protocol version 2: the parser."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.net.proxy_protocol import HEAD_BYTES, MAX_BYTES, SIGNATURE, ProxyHeaderError, parse_proxy_header

ports = st.integers(0, 65_535)


def header(source: IPv4Address | IPv6Address, port: int = 4711, extensions: bytes = b"", command: int = 0x21) -> bytes:
    family = 0x11 if source.version == 4 else 0x21
    target = ip_address("203.0.113.1" if source.version == 4 else "2001:db8::1")
    body = source.packed + target.packed + port.to_bytes(2, "big") + b"\x01\xbb" + extensions
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


@given(st.ip_addresses(), ports, st.binary(max_size=200), st.binary(max_size=50), st.data())
def test_header_is_found_in_any_pieces(
    source: IPv4Address | IPv6Address, port: int, extensions: bytes, rest: bytes, data: st.DataObject
) -> None:
    whole = header(source, port, extensions)
    cut = data.draw(st.integers(0, len(whole) - 1))
    mapped = source.ipv4_mapped if isinstance(source, IPv6Address) else None

    assert parse_proxy_header(whole[:cut]) is None
    found = parse_proxy_header(whole + rest)
    assert found is not None
    assert (found.client, found.size) == (mapped or source, len(whole))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_an_error(received: bytes) -> None:
    for text in (received, SIGNATURE + received):
        try:
            found = parse_proxy_header(text)
        except ProxyHeaderError:
            continue
        assert found is None or HEAD_BYTES <= found.size <= min(len(text), MAX_BYTES)


@given(st.binary(min_size=1, max_size=40).filter(lambda text: not SIGNATURE.startswith(text[: len(SIGNATURE)])))
def test_other_bytes_are_refused_at_once(received: bytes) -> None:
    if received.startswith(SIGNATURE):
        return
    with pytest.raises(ProxyHeaderError, match="does not begin"):
        parse_proxy_header(received)


def test_health_check_has_no_client() -> None:
    local = parse_proxy_header(SIGNATURE + b"\x20\x00\x00\x00")
    unix = parse_proxy_header(SIGNATURE + b"\x21\x31" + (216).to_bytes(2, "big") + bytes(216))

    assert local is not None
    assert unix is not None
    assert (local.client, local.size, unix.client) == (None, HEAD_BYTES, None)


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (b"PROXY TCP4 203.0.113.9 203.0.113.1 4711 443\r\n", "does not begin"),
        (SIGNATURE + b"\x11\x11\x00\x0c", "unknown version"),
        (SIGNATURE + b"\x22\x11\x00\x0c", "unknown version"),
        (SIGNATURE + b"\x21\x11\x00\x0b", "incomplete"),
        (SIGNATURE + b"\x21\x21\x00\x23", "incomplete"),
        (SIGNATURE + b"\x21\x11\x0f\xf1", "4097 bytes; the limit is 4096"),
    ],
)
def test_invalid_header_is_refused_before_it_is_complete(received: bytes, reason: str) -> None:
    with pytest.raises(ProxyHeaderError, match=reason):
        parse_proxy_header(received)
