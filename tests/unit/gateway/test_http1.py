"""Request heads on the WebSocket port, and the accept key of an upgrade."""

from __future__ import annotations

import pytest

from gregor_gateway.transports.http1 import parse_head
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


@pytest.mark.parametrize("words", ["WebSocket", "h2c, websocket"])
def test_upgrade_header_may_list_several(words: str) -> None:
    assert accept_key(parse_head(head(**UPGRADE | {"Upgrade": words}).removesuffix(b"\r\n\r\n")))


def test_http_1_0_cannot_upgrade() -> None:
    old = head(**UPGRADE).removesuffix(b"\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")

    with pytest.raises(ValueError, match="Upgrade"):
        accept_key(parse_head(old))
