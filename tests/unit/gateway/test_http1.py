"""Request heads on the WebSocket port, and the accept key of an upgrade."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.web.http_limits import MAX_FIELDS
from gregor_gateway.transports.http1 import MAX_HEAD_BYTES, RequestRefused, parse_head, split_head
from gregor_gateway.transports.websocket import accept_key
from tests.unit.gateway.test_websocket import UPGRADE, head


def test_accept_key_equals_the_one_of_rfc_6455() -> None:
    request = parse_head(head(**UPGRADE).removesuffix(b"\r\n\r\n"))

    assert accept_key(request) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_target_may_be_an_absolute_url() -> None:
    assert parse_head(b"GET http://gateway/readyz?x=1 HTTP/1.1\r\nHost: gateway").path == "/readyz"


def test_repeated_headers_are_joined() -> None:
    request = parse_head(b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nAccept: x\r\naccept: y")

    assert request.path == "/a"
    assert request.listed("accept") == ["x", "y"]


@pytest.mark.parametrize(
    "text",
    [
        b"GET /",
        b"GET x HTTP/1.1",
        b"GET / HTTP/2",
        b"GET /r\0 HTTP/1.1\r\nHost: a",
        b"G\x7fT / HTTP/1.1\r\nHost: a",
        b"GET /\xff HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: x",
        b"GET / HTTP/1.1\r\nHost: a\r\nspaced : x",
        b"GET / HTTP/1.1\r\nHost: a\r\nnull: \0",
        b"GET / HTTP/1.1\r\nHost: a\r\nline: \n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b",
        b"GET / HTTP/1.1",
    ],
)
def test_invalid_request_head_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"invalid|Host"):
        parse_head(text)


def test_head_of_many_fields_is_refused_unparsed() -> None:
    data = head().removesuffix(b"\r\n") + b"x: y\r\n" * (MAX_FIELDS - 1)

    assert split_head(data + b"\r\n") is not None
    with pytest.raises(RequestRefused, match="200 header fields"):
        split_head(data + b"no field\r\n\r\n")


@pytest.mark.parametrize("words", ["WebSocket", "h2c, websocket"])
def test_upgrade_header_may_list_several(words: str) -> None:
    assert accept_key(parse_head(head(**UPGRADE | {"Upgrade": words}).removesuffix(b"\r\n\r\n")))


def test_http_1_0_cannot_upgrade() -> None:
    old = head(**UPGRADE).removesuffix(b"\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")

    with pytest.raises(ValueError, match="Upgrade"):
        accept_key(parse_head(old))


@given(empty_lines=st.integers(0, 9), rest=st.binary(max_size=50), cut=st.integers(0, 60))
def test_head_is_split_from_what_follows(empty_lines: int, rest: bytes, cut: int) -> None:
    """Empty lines before the request line are ignored; the bytes behind the head are kept."""
    received = b"\r\n" * empty_lines + head("/readyz") + rest

    split = split_head(received)
    partial = split_head(received[: min(cut, len(received) - len(rest) - 1)])

    assert partial is None
    assert split is not None and (split[0].path, split[1]) == ("/readyz", rest)


@pytest.mark.parametrize("received", [b"GET /" + b"x" * MAX_HEAD_BYTES, b"\r\n" * MAX_HEAD_BYTES])
def test_head_that_is_too_large_is_refused(received: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        split_head(received)

    assert refused.value.response.startswith(b"HTTP/1.1 431 ")
