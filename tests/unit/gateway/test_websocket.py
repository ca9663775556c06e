"""Devices over real sockets: with the websockets library, and with raw bytes if that is too polite."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from ipaddress import ip_address
from typing import Any, cast

import httpx
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gregor.core.close_codes import CloseCode
from gregor.core.limits import Limits
from gregor.core.rate_limit import Bucket
from gregor.net.connection_limits import ConnectionLimiter, ConnectionLimits
from gregor_gateway.protocol import session as session_module
from gregor_gateway.protocol.client_frames import decode_frame
from gregor_gateway.sessions.device_rates import DeviceRates
from gregor_gateway.transports import websocket
from gregor_gateway.transports.admin_port import AdminServer
from gregor_gateway.transports.ws_frames import FrameParser, Opcode, encode, encode_close, unmask
from tests.support.unfinished_requests import UnfinishedRequests
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, open_gateway, settle
from tests.unit.net.test_proxy_protocol import header

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Host": "gateway",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


class Phone:
    """A device on a WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        frames_of: dict[str, Any] = json.loads(await self.socket.recv())
        return frames_of

    async def closed(self) -> tuple[int, str]:
        """Wait for the close; return its code and reason."""
        with pytest.raises(ConnectionClosed):
            while True:
                await self.socket.recv()
        return self.socket.close_code or 0, self.socket.close_reason or ""


def dial(gateway: Gateway, token: str | None = "", **options: Any) -> Any:
    """Connect; ``token``: empty for the phone's, ``None`` for no token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token or gateway.token()}"}
    options = {"subprotocols": ["gregor.v1"], "additional_headers": headers, "proxy": None} | options
    return connect(f"ws://127.0.0.1:{gateway.port}/v1/connect", **options)


async def raw(gateway: Gateway, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a TCP connection and send ``data``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(data)
    return reader, writer


def head(path: str = "/v1/connect", method: str = "GET", **headers: str) -> bytes:
    headers = {"Host": "gateway"} | headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def masked(frame: bytes, opcode: int = 0x81) -> bytes:
    return bytes([opcode, 0x80 | len(frame)]) + b"abcd" + unmask(frame, b"abcd")


async def test_device_gets_welcome_sync_and_live_frames(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        phone = Phone(socket)
        await phone.send(hello={})

        welcome = (await phone.receive())["welcome"]
        assert (welcome["expires_in"], welcome["now"]) == (3600, gateway.clock.now_us() // 1_000)
        assert (await phone.receive())["sync"] == "full"
        await gateway.create("aa")
        assert "aa" in (await phone.receive())["body"]["create"]
        await phone.send(ref=1, system="gregor", body={"dismiss": {"ids": ["aa"]}})
        assert (await phone.receive())["body"] == {"dismiss": {"ids": ["aa"]}}
        receipt = await phone.receive()
        assert (receipt["ref"], receipt["receipt"]["dismissed"]) == (1, ["aa"])
        assert socket.subprotocol == "gregor.v1"


async def test_token_subprotocol_is_never_echoed(gateway: Gateway) -> None:
    async with dial(gateway, None, subprotocols=["gregor.v1", gateway.token()]) as socket:
        phone = Phone(socket)
        await phone.send(hello={})

        assert "welcome" in await phone.receive()
        assert socket.subprotocol == "gregor.v1"


async def test_token_may_come_in_hello(gateway: Gateway) -> None:
    async with dial(gateway, None, subprotocols=None) as socket:
        phone = Phone(socket)
        await phone.send(hello={"token": gateway.token()})

        assert "welcome" in await phone.receive()
        assert socket.subprotocol is None


@pytest.mark.parametrize(
    ("lives_s", "expected"), [(-31, (4004, "token_expired")), (40 * 86_400, (4501, "unauthorised"))]
)
async def test_invalid_token_is_closed_with_4501(gateway: Gateway, lives_s: int, expected: tuple[int, str]) -> None:
    async with dial(gateway, gateway.token(lives_s=lives_s)) as socket:
        assert await Phone(socket).closed() == expected


async def test_token_that_has_just_expired_is_accepted(gateway: Gateway) -> None:
    async with dial(gateway, gateway.token(lives_s=-20)) as socket:
        phone = Phone(socket)
        await phone.send(hello={})

        assert (await phone.receive())["welcome"]["expires_in"] == 0
        gateway.pass_time(0.2)
        assert [await phone.receive(), await phone.receive()][1] == {"refresh": {"expires_in": 0}}
        gateway.pass_time(5.2)
        assert await phone.closed() == (4004, "token_expired")


async def test_other_authorization_scheme_is_refused(gateway: Gateway) -> None:
    async with dial(gateway, None, additional_headers={"Authorization": "Basic YTpi"}) as socket:
        assert await Phone(socket).closed() == (4501, "unauthorised")


async def test_close_before_the_join_is_logged_and_counted(gateway: Gateway) -> None:
    failures = gateway.context.metrics.auth_failures
    with capture_logs() as logs:
        headers = {"Authorization": f"Bearer {gateway.token(lives_s=-31)}", "X-Request-Id": "order-66"}
        async with dial(gateway, None, additional_headers=headers) as socket:
            assert await Phone(socket).closed() == (4004, "token_expired")
        async with dial(gateway) as socket:
            phone = Phone(socket)
            await phone.send(hello={})
            await phone.receive()
            await socket.send("no JSON")
            assert (await phone.closed())[0] == 4503

    [line] = [line for line in logs if line["event"] == "connection.refused"]
    assert (line["code"], line["reason"], line["request_id"]) == (4004, "token_expired", "order-66")
    assert failures.labels("token_expired")._value.get() == 1


async def test_revoked_token_is_closed_with_4502(gateway: Gateway) -> None:
    token = gateway.token()
    await gateway.store.devices.revoke("alice", "phone", gateway.clock.now_us() + 1, gateway.clock.now_us())

    async with dial(gateway, token) as socket:
        phone = Phone(socket)
        await phone.send(hello={})
        assert await phone.closed() == (4502, "revoked")


async def test_new_token_is_answered_with_its_expiry(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        phone = Phone(socket)
        await phone.send(hello={})
        await phone.receive()
        await phone.receive()
        gateway.clock.advance(100)
        await phone.send(token=gateway.token())
        assert await phone.receive() == {"token": {"expires_in": 3600}}
        await phone.send(ref=1, token="nonsense")
        refusal = await phone.receive()
        assert (refusal["ref"], refusal["problem"]["code"]) == (1, "unauthorised")
        await phone.send(token=gateway.token(device="laptop"))
        assert await phone.closed() == (4003, "state_invalidated")


async def test_hello_timeout_closes_with_4005(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        gateway.pass_time(15.2)

        assert await Phone(socket).closed() == (4005, "hello_timeout")


async def test_unanswered_pings_close_with_4007(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        phone = Phone(socket)
        await phone.send(hello={})
        await phone.receive()
        await phone.receive()
        for n in (1, 2):
            gateway.pass_time(28)
            assert await phone.receive() == {"ping": n}
        gateway.pass_time(28)

        assert await phone.closed() == (4007, "ping_timeout")


async def test_malformed_json_and_binary_close_with_4503(gateway: Gateway) -> None:
    for frame in ("no json", b"{}"):
        async with dial(gateway) as socket:
            await socket.send(frame)
            assert await Phone(socket).closed() == (4503, "bad_protocol")


async def test_frame_above_1_mib_closes_with_1009(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        phone = Phone(socket)
        await phone.send(hello={})
        await phone.receive()
        await phone.receive()
        frame = json.dumps({"ref": 1, "system": "gregor", "body": {"create": {}}})
        await socket.send(frame[:-1] + " " * (2**20 - len(frame)) + "}")
        assert (await phone.receive())["problem"]["code"] == "message_too_large"
        await socket.send("x" * (2**20 + 1))
        await wait_until(lambda: gateway.closes(1009), "the close")
        gateway.pass_time(1.2)
        assert (await phone.closed())[0] == 1009


async def test_websocket_ping_and_close_are_answered(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        await (await socket.ping())
        await socket.close(3001, "bye")

        assert socket.close_code == 3001
    await wait_until(lambda: not gateway.sockets.connections, "the connection is forgotten")


async def test_unread_pongs_are_not_queued(gateway: Gateway) -> None:
    endless = Bucket("frames", 1e9, 1_000_000_000)
    object.__setattr__(gateway.context, "frame_bucket", endless)
    object.__setattr__(gateway.context, "frame_rates", DeviceRates(endless))
    reader, writer = await raw(gateway, head(**UPGRADE, Authorization=f"Bearer {gateway.token()}"))
    await reader.readuntil(b"\r\n\r\n")
    await wait_until(lambda: gateway.sockets.connections, "the connection")
    (connection,) = gateway.sockets.connections
    for number in range(100_000):
        writer.write(masked(b"%0100d" % number, 0x89))
    await writer.drain()
    await settle()

    assert connection.transport._socket.get_write_buffer_size() < 500_000  # type: ignore[attr-defined]
    frames_of = b""
    while not frames_of.endswith(b"%0100d" % 99_999):
        assert not reader.at_eof()
        frames_of = frames_of[-100:] + await reader.read(65_536)
    writer.close()


@pytest.mark.parametrize("opcode", [0x89, 0x8A])
async def test_flood_of_control_frames_is_closed_with_4009(gateway: Gateway, opcode: int) -> None:
    """A ping of 6 bytes took 2 µs: 1 MB of them 0.3 s, without a token."""
    reader, writer = await raw(gateway, head(**UPGRADE))
    writer.write(masked(b"", opcode) * 1_000)
    answer = await reader.readuntil(encode_close(4009, "rate_limited"))
    gateway.pass_time(1.1)

    assert answer.count(encode(b"", Opcode.PONG)) == (10 if opcode == 0x89 else 0)
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("opcode", [0x81, 0x82, 0x89, 0x8A])
async def test_flood_after_a_close_is_not_parsed(gateway: Gateway, opcode: int) -> None:
    """A stranger was closed for its first frame, and then kept the process busy for ten seconds with tiny ones."""
    reader, writer = await raw(gateway, head(**UPGRADE) + masked(b"{}"))
    await reader.readuntil(encode_close(4503, "bad_protocol"))
    for _ in range(9):
        writer.write(masked(b"", opcode))
    await settle()
    assert not reader.at_eof()
    writer.write(masked(b"", opcode) * 2)

    async with asyncio.timeout(5):
        assert await reader.read() == b""  # returns although the clock stands still
    writer.close()


async def test_flood_of_frames_is_closed_with_4009(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        phone = Phone(socket)
        await phone.send(hello={})
        for _ in range(999):
            await phone.send(ack=1)
        await settle()
        assert gateway.closes(4009) == 0
        await phone.send(ack=1)

        assert await phone.closed() == (4009, "rate_limited")


async def test_flood_of_empty_fragments_is_closed(gateway: Gateway) -> None:
    reader, writer = await raw(gateway, head(**UPGRADE))
    writer.write(masked(b"{", 0x01) + masked(b"", 0x00) * 1_000)

    assert (await reader.read()).endswith(encode_close(4009, "rate_limited"))
    writer.close()


async def test_tiny_fragments_take_more_units(gateway: Gateway) -> None:
    """400 messages a second, of 64 fragments each, took an eighth of a core."""

    def left() -> int:
        return gateway.context.frame_rates.left("alice", "phone", gateway.context.timers.now).remaining

    def fragments(text: bytes, count: int) -> bytes:
        parts = [masked(b"", 0x00)] * (count - 2)
        return b"".join([masked(text, 0x01), *parts, masked(b"", 0x80)])

    request = head(**UPGRADE, Authorization=f"Bearer {gateway.token()}") + masked(b'{"hello":{}}')
    reader, writer = await raw(gateway, request)
    await reader.readuntil(b'"sync"')
    before = left()
    for text, count in ((b'{"ping":1}', 16), (b'{"ping":2}', 64), (b'{"ping":3}'.ljust(125), 17)):
        writer.write(fragments(text, count))
        await reader.readuntil(b'{"pong":%d}' % int(text[8:9]))

    assert before - left() == 1 + (1 + 3) + (1 + 1)
    writer.close()


async def test_large_message_before_hello_is_closed_unread(gateway: Gateway) -> None:
    reader, writer = await raw(gateway, head(**UPGRADE))
    writer.write(b"\x81\xfe" + (16_385).to_bytes(2, "big") + b"abcd")  # the head alone

    assert encode_close(1009, "message too big") in await reader.read()
    writer.close()


async def test_hello_may_have_16_kib(gateway: Gateway) -> None:
    async with dial(gateway) as socket:
        hello = json.dumps({"hello": {}})
        await socket.send(hello + " " * (16_384 - len(hello)))
        assert "welcome" in await Phone(socket).receive()


async def test_frames_wait_for_the_token(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger with an invalid token must not make the gateway decode what follows the hello."""
    decoded: list[int] = []

    def decode(text: bytes, limits: Limits) -> Any:
        decoded.append(len(text))
        return decode_frame(text, limits)

    monkeypatch.setattr(session_module, "decode_frame", decode)
    large = {"system": "gregor", "body": {"create": {f"i{n}": {"category": "a", "body": "x" * 9_000} for n in "ab"}}}
    async with dial(gateway, None) as socket:
        await Phone(socket).send(hello={"token": "x.y.z"})
        await Phone(socket).send(ping=1)
        await Phone(socket).send(ref=1, **large)
        assert (await Phone(socket).closed())[0] == 4501
    assert decoded == [len('{"hello": {"token": "x.y.z"}}')]
    async with dial(gateway, None) as socket:
        phone = Phone(socket)
        await phone.send(hello={"token": gateway.token()})
        await phone.send(ref=1, **large)
        await phone.send(ref=2, ack=1)
        while "receipt" not in (frame := await phone.receive()):
            pass

    assert frame["receipt"]["created"] == ["ia", "ib"]


async def test_message_between_hello_and_close_counts(gateway: Gateway) -> None:
    """All in one packet, while the token is not verified."""
    message = b'{"system":"gregor","body":{"create":{"a":{"category":"a"}}}}'
    hello = b'{"hello":{"token":"%s"}}' % gateway.token().encode()
    frames = b"\x81\xfe" + len(hello).to_bytes(2, "big") + b"abcd" + unmask(hello, b"abcd") + masked(message)
    reader, writer = await raw(gateway, head(**UPGRADE) + frames + masked(b"\x03\xe8", 0x88))
    assert (await reader.read()).endswith(encode_close(1000, ""))
    writer.close()

    committed = gateway.context.metrics.messages.labels("effect")
    await wait_until(lambda: committed._value.get() == 1, "the message")


async def test_hello_may_come_with_the_upgrade(gateway: Gateway) -> None:
    request = head(**UPGRADE, Authorization=f"Bearer {gateway.token()}")
    hello = b'{"hello":{}}'
    data = request + masked(hello[:5], 0x01) + masked(hello[5:], 0x80)
    reader, writer = await raw(gateway, data[:30])
    await settle()
    writer.write(data[30:])

    assert b" 101 " in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    assert b'"welcome"' in await reader.readuntil(b"uncounted")
    writer.close()


async def test_unmasked_frame_closes_with_1002(gateway: Gateway) -> None:
    reader, writer = await raw(gateway, head(**UPGRADE) + encode(b"{}"))
    await reader.readuntil(b"\r\n\r\n")

    assert await reader.readexactly(4) == b"\x88" + bytes([2 + len("reserved bits, or not masked")]) + b"\x03\xea"
    writer.write(masked(b"whatever it says now"))
    gateway.pass_time(1.2)
    with pytest.raises(ConnectionError):
        while await reader.read(1_000):
            pass
        raise ConnectionError
    writer.close()


async def test_message_before_a_bad_frame_is_answered(gateway: Gateway) -> None:
    request = head(**UPGRADE, Authorization=f"Bearer {gateway.token()}")
    reader, writer = await raw(gateway, request + masked(b'{"hello":{}}') + masked(b'{"ping":3}') + masked(b"", 0xC1))

    answer = await reader.read()

    assert b'{"pong":3}' in answer
    assert b"\x03\xea" in answer  # 1002
    writer.close()


@pytest.mark.parametrize("data", [masked(b"", 0xC1), masked(b"x" * 126, 0x89), masked(b"\x03\xe8\xff", 0x88)])
async def test_server_ends_tcp_at_once_after_a_bad_frame(gateway: Gateway, data: bytes) -> None:
    """The server shuts down its direction, and reads on until the client closes (RFC 6455, 7.1.1)."""
    reader, writer = await raw(gateway, head(**UPGRADE) + data)

    async with asyncio.timeout(5):
        assert b"\x88" in await reader.read()  # returns although the clock stands still
    writer.write(masked(b"\x03\xea", 0x88))
    writer.close()
    await writer.wait_closed()
    await wait_until(lambda: not gateway.sockets.connections, "the end of the connection")


async def test_text_that_is_not_utf8_is_closed_with_1007(gateway: Gateway) -> None:
    hello = masked(b'{"hello":{}}')
    for greeting in (b"", hello):
        request = head(**UPGRADE, Authorization=f"Bearer {gateway.token()}")
        reader, writer = await raw(gateway, request + greeting + masked(b'{"ack":"\xff"}'))
        await reader.readuntil(b"\x03\xef")  # 1007
        writer.write(masked(b"\x03\xef", 0x88))
        async with asyncio.timeout(5):
            assert await reader.read() in (b"", b"invalid UTF-8")
        writer.close()


async def test_empty_lines_before_a_request_are_ignored(gateway: Gateway) -> None:
    reader, writer = await raw(gateway, b"\r\n\r\n" + head("/healthz"))

    assert b" 200 " in await reader.readline()  # RFC 9112, 2.2
    writer.close()


async def test_stream_path_on_this_port_names_the_other_port(gateway: Gateway) -> None:
    for path in ("/v1/stream", "/v1/poll", "/v1/frames"):
        assert "GREGOR_STREAM_PORT" in (await get(gateway, path)).json()["detail"]


async def test_unanswered_close_aborts_after_10_seconds(gateway: Gateway) -> None:
    reader, writer = await raw(gateway, head(**UPGRADE) + masked(b"no json"))
    await reader.readuntil(b"bad_protocol")
    gateway.pass_time(10.2)
    with pytest.raises(ConnectionError):
        await reader.read()
        raise ConnectionError
    writer.close()


def unfinished(first: int) -> bytes:
    """Return most of a message of 1 MiB: ``first`` is the first byte of its frame."""
    part = bytes([first, 0xFF]) + (900_000).to_bytes(8, "big") + bytes(4) + b"x" * 900_000
    return part if first == 0x01 else part[:-5]


@pytest.mark.parametrize("first", [0x01, 0x81], ids=["a fragment", "a part of a frame"])
async def test_unfinished_message_is_dropped_at_the_close(gateway: Gateway, first: int) -> None:
    """With one token, displaced connections kept 180 MB, because nine others could open meanwhile."""
    hello = masked(b'{"hello":{}}')
    reader, writer = await raw(gateway, head(**UPGRADE, Authorization=f"Bearer {gateway.token()}") + hello)
    await reader.readuntil(b'"sync"')
    (connection,) = gateway.sockets.connections
    transport = cast("websocket.WebSocketTransport", connection.transport)
    parser = cast("FrameParser", transport._parser)
    writer.write(unfinished(first))
    await wait_until(lambda: parser.held_bytes >= 899_995, "the unfinished message")

    connection.close(CloseCode.SHUTDOWN)
    async with asyncio.timeout(5):
        assert (await reader.read()).endswith(encode_close(4001, "shutdown"))  # returns although the clock stands still
    assert transport._parser is None
    writer.write(unfinished(first))
    gateway.pass_time(1.2)
    await wait_until(lambda: not gateway.sockets.connections, "the end of the connection")
    writer.close()


@pytest.mark.parametrize("first", [0x01, 0x81], ids=["a fragment", "a part of a frame"])
async def test_unfinished_message_after_a_close_is_not_kept(gateway: Gateway, first: int) -> None:
    hello = masked(b'{"hello":{}}')
    reader, writer = await raw(gateway, head(**UPGRADE, Authorization=f"Bearer {gateway.token()}") + hello)
    await reader.readuntil(b'"sync"')
    (connection,) = gateway.sockets.connections
    writer.write(masked(b"no json"))
    await reader.readuntil(encode_close(4503, "bad_protocol"))
    assert not reader.at_eof()

    writer.write(unfinished(first))
    async with asyncio.timeout(5):
        assert await reader.read() == b""  # returns although the clock stands still
    assert cast("websocket.WebSocketTransport", connection.transport)._parser is None
    writer.close()


async def test_unread_copy_of_a_client_that_closed_is_dropped_after_10_seconds(gateway: Gateway) -> None:
    """It has no limit otherwise: a client that reads a byte now and then would keep a copy for each join."""
    await gateway.create(*(f"i{n}" for n in range(60)), body="x" * 15_000)
    loop, limiter = asyncio.get_running_loop(), gateway.context.connection_limiter
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        opened.setblocking(False)
        await loop.sock_connect(opened, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(opened, head(**UPGRADE, Authorization=f"Bearer {gateway.token()}"))
        await wait_until(lambda: gateway.sockets.connections, "the connection")
        (connection,) = gateway.sockets.connections
        kept = connection.transport._socket  # type: ignore[attr-defined]
        kept.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        await loop.sock_sendall(opened, masked(b'{"hello":{}}'))
        await wait_until(lambda: kept.get_write_buffer_size() > 100_000, "the unread copy")
        await loop.sock_sendall(opened, masked(b"{", 0x01) + masked(b"", 0x88))
        await wait_until(lambda: not gateway.sockets.connections, "the close frame")
        assert limiter.connections == 1
        assert connection.transport._parser is None  # type: ignore[attr-defined]
        gateway.pass_time(10.2)
        await wait_until(lambda: not limiter.connections, "the end of the connection")


async def test_incomplete_request_aborts_after_10_seconds(gateway: Gateway) -> None:
    reader, writer = await raw(gateway, b"GET /v1/conn")
    await settle()
    gateway.pass_time(10.2)
    with pytest.raises(ConnectionError):
        await reader.read()
        raise ConnectionError
    writer.close()


async def get(gateway: Gateway, path: str, method: str = "GET", port: int = 0, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, f"http://127.0.0.1:{port or gateway.port}{path}", headers=headers)


async def test_probes_answer_plain_get(gateway: Gateway) -> None:
    alive, ready, figures = [await get(gateway, path) for path in ("/healthz", "/readyz", "/metrics")]

    assert (alive.status_code, ready.status_code, figures.status_code) == (200, 200, 200)
    assert ready.json() == {"ready": True, "checks": {"redis": "ok", "probe": "ok", "draining": False}}
    assert "gregor_connections" in figures.text
    assert (await get(gateway, "/healthz", "HEAD")).content == b""


@pytest.mark.parametrize("path", ["/healthz", "/v2/connect", "/v1/connect"])
async def test_head_response_has_no_body(gateway: Gateway, path: str) -> None:
    reader, writer = await raw(gateway, head(path, "HEAD"))
    answer = await reader.read()
    writer.close()

    assert b"Content-Length: " in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "data", [b"HEAD /healthz HTTP/1.1\r\n\r\n", b"HEAD / HTTP/1.1\r\n" + b"x: y\r\n" * 300 + b"\r\n"]
)
async def test_refusal_of_an_invalid_head_request_has_no_body(gateway: Gateway, data: bytes) -> None:
    reader, writer = await raw(gateway, data)
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.endswith(b"\r\n\r\n")


async def test_readiness_fails_without_pubsub(gateway: Gateway) -> None:
    gateway.feed.status = "down"

    answer = await get(gateway, "/readyz")

    assert (answer.status_code, answer.json()["checks"]["probe"]) == (503, "down")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v2/connect", {}, 404, "not_found"),
        ("GET", "/v1/connect", {}, 426, "invalid"),
        ("GET", "/v1/connect", UPGRADE | {"Sec-WebSocket-Version": "8"}, 426, "invalid"),
        ("GET", "/v1/connect", UPGRADE | {"Sec-WebSocket-Key": "short"}, 426, "invalid"),
        ("GET", "/v1/connect", UPGRADE | {"Content-Length": "5"}, 426, "invalid"),
        ("GET", "/v1/connect", UPGRADE | {"Transfer-Encoding": "chunked"}, 426, "invalid"),
        ("POST", "/v1/connect", {}, 405, "method_not_allowed"),
        ("POST", "/readyz", {}, 405, "method_not_allowed"),
        ("GET", "/v1/connect", UPGRADE | {"Origin": "https://evil.example"}, 403, "origin_not_allowed"),
    ],
)
async def test_request_without_upgrade_is_a_problem(
    gateway: Gateway, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    reader, writer = await raw(gateway, head(path, method, **headers, **{"X-Request-Id": "known-by-this"}))
    answer = await reader.read()
    writer.close()

    first, _, body = answer.partition(b"\r\n\r\n")
    assert first.split(b" ")[1] == str(status).encode()
    assert json.loads(body)["request_id"] == "known-by-this"
    assert b"X-Request-Id: known-by-this" in first
    assert (json.loads(body)["code"], json.loads(body)["status"]) == (code, status)
    assert b"Sec-WebSocket-Version: 13" in first if status == 426 else True


@pytest.mark.parametrize(
    ("data", "status"), [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nx" + b"y" * 20_000, 431)]
)
async def test_invalid_request_is_refused(gateway: Gateway, data: bytes, status: int) -> None:
    reader, writer = await raw(gateway, data)

    assert (await reader.readline()).split(b" ")[1] == str(status).encode()
    writer.close()
    await wait_until(lambda: not gateway.context.connection_limiter.connections, "the end of the connection")


@pytest.mark.parametrize(
    "start",
    [
        head(**{"Content-Length": "8000000"}),
        head(**UPGRADE, **{"Transfer-Encoding": "chunked"}),
        head("/nothing", "POST", **{"Content-Length": "8000000"}),
        head(Origin="https://evil.example", **{"Content-Length": "8000000"}),
        b"nonsense\r\n\r\n",
    ],
    ids=["body", "chunks", "path", "origin", "malformed"],
)
async def test_body_of_a_refused_request_is_not_reset(gateway: Gateway, start: bytes) -> None:
    """A proxy such as nginx marks a server that resets its connection as failed, for all users."""
    await assert_not_reset(*await raw(gateway, start), gateway.context.connection_limiter)


async def assert_not_reset(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limiter: ConnectionLimiter
) -> None:
    """Read the answer to its end; then send 8 MB as the rest of the request."""
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 4")
        writer.write(b"a" * 8_000_000)
        await writer.drain()
    writer.close()
    await wait_until(lambda: not limiter.connections, "the end of the connection")


async def test_bytes_behind_a_refused_request_are_bounded(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "LINGER_BYTES", 100_000)
    limiter = gateway.context.connection_limiter
    reader, writer = await raw(gateway, head(**{"Content-Length": "8000000"}))
    await reader.read()
    assert limiter.connections == 1
    writer.write(b"a" * 100_001)

    # The clock does not move, so no timeout ends the connection.
    await wait_until(lambda: not limiter.connections, "the end of the connection")
    writer.close()


async def test_lingering_connection_ends_after_a_second(gateway: Gateway) -> None:
    limiter = gateway.context.connection_limiter
    reader, writer = await raw(gateway, head(**{"Content-Length": "8000000"}))
    await reader.read()
    assert limiter.connections == 1
    gateway.pass_time(1.2)

    await wait_until(lambda: not limiter.connections, "the end of the connection")
    writer.close()


async def test_only_allowed_origins_may_connect(gateway: Gateway) -> None:
    async with dial(gateway, origin="http://localhost:3000"):
        pass
    with pytest.raises(InvalidStatus) as refused:
        await dial(gateway, origin="https://evil.example")

    assert refused.value.response.status_code == 403


async def test_draining_gateway_closes_with_4001(gateway: Gateway) -> None:
    gateway.context.readiness.stopping = gateway.context.readiness.draining = True

    async with dial(gateway) as socket:
        assert await Phone(socket).closed() == (4001, "shutdown")
    assert (await get(gateway, "/readyz")).json()["checks"]["draining"] is True


async def test_metrics_are_shown_to_internal_clients_only(gateway: Gateway) -> None:
    forwarded: dict[str, Any] = {"X-Forwarded-For": "127.0.0.1"}

    assert (await get(gateway, "/metrics")).status_code == 200
    hidden = await get(gateway, "/metrics", **forwarded)
    assert (hidden.status_code, hidden.json()["code"]) == (404, "not_found")
    assert "GREGOR_METRICS_PUBLIC" in hidden.json()["detail"]
    assert (await get(gateway, "/readyz", **forwarded)).status_code == 200


async def test_hidden_metrics_are_not_collected(gateway: Gateway) -> None:
    """They take milliseconds, and a stranger behind a proxy can request them."""
    scrapes = itertools.count(1)
    gateway.context.metrics.reading("gauge", "scrapes", "Scrapes.").read_from(lambda: {(): next(scrapes)})
    forwarded: dict[str, Any] = {"X-Forwarded-For": "127.0.0.1"}

    assert (await get(gateway, "/metrics", **forwarded)).status_code == 404
    assert "gregor_scrapes 1.0" in (await get(gateway, "/metrics")).text


@pytest.mark.parametrize(("proxies", "expected"), [(("127.0.0.1",), 404), (("192.0.2.1",), 200)])
async def test_trusted_proxy_without_headers_gets_no_metrics(proxies: tuple[str, ...], expected: int) -> None:
    async with open_gateway(trusted_proxies=proxies) as gateway:
        assert (await get(gateway, "/metrics")).status_code == expected
        assert (await get(gateway, "/readyz")).status_code == 200


async def test_flood_without_proxy_headers_does_not_flood_the_log() -> None:
    async with open_gateway(proxy_protocol=True) as gateway:
        with capture_logs() as logs:
            for _ in range(150):
                reader, writer = await raw(gateway, head("/v1/connect"))
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()

        assert {(line["event"], line["limit"]) for line in logs} == {("connection.refused", "proxy_header")}
        assert len(logs) < 150
        refused = gateway.context.metrics.connections_refused.labels("proxy_header")
        assert refused._value.get() == 150


async def test_metrics_are_hidden_from_public_addresses() -> None:
    async with open_gateway(proxy_protocol=True) as gateway:
        answers = []
        for client in ("8.8.8.8", "10.0.0.1"):
            reader, writer = await raw(gateway, header(ip_address(client)) + head("/metrics"))
            answers.append((await reader.read())[:12])
            writer.close()

    assert answers == [b"HTTP/1.1 404", b"HTTP/1.1 200"]


async def test_supervisor_reaches_an_admin_port_that_is_full_of_unfinished_requests(gateway: Gateway) -> None:
    factory = AdminServer(gateway.context)
    factory.limiter.limits = ConnectionLimits(process=32)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with UnfinishedRequests(port, 32):
        answers = [await get(gateway, "/readyz", port=port) for _ in range(20)]
    await wait_until(lambda: factory.limiter.connections == 0, "the ends")

    assert [answer.status_code for answer in answers] == [200] * 20
    server.close()


async def test_address_is_aborted_by_admin_port_one_above_its_limit() -> None:
    async with open_gateway(trusted_proxies=("192.0.2.1",)) as gateway:
        factory = AdminServer(gateway.context)
        factory.limiter.limits = ConnectionLimits(address=2)
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await wait_until(lambda: factory.limiter.connections == 2, "the connections")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        for _, each in (*held, (reader, writer)):
            each.close()
        await wait_until(lambda: factory.limiter.connections == 0, "the ends")

        assert (await get(gateway, "/healthz", port=port)).status_code == 200
        server.close()


async def test_admin_port_serves_only_probes(gateway: Gateway) -> None:
    admin = AdminServer(gateway.context)
    server = await asyncio.get_running_loop().create_server(admin, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    assert "gregor_ready" in (await get(gateway, "/metrics", port=port)).text
    assert (await get(gateway, "/v1/users", port=port)).status_code == 404
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head("/readyz", "POST", **{"Content-Length": "8000000"}))
    await assert_not_reset(reader, writer, admin.limiter)
    server.close()


@pytest.mark.parametrize(("path", "port"), [("/readyz", "admin"), ("/metrics", "admin"), ("/v1/poll", "stream")])
async def test_path_of_another_port_names_its_setting_but_no_number(path: str, port: str) -> None:
    async with open_gateway(admin_port=8790) as gateway:
        detail = (await get(gateway, path)).json()["detail"]

    assert detail == f"{path} is served on the {port} port (GREGOR_{port.upper()}_PORT)."


async def test_web_page_reads_no_metrics_and_no_probe_of_the_admin_port(gateway: Gateway) -> None:
    page = {"Host": "evil.example", "User-Agent": "Mozilla/5.0", "Accept-Language": "en"}
    server = await asyncio.get_running_loop().create_server(AdminServer(gateway.context), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    for path in ("/metrics", "/healthz", "/readyz"):
        assert (await get(gateway, path, "GET", port, **page)).status_code == 403
        assert (await get(gateway, path, "GET", port, **{"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert (await get(gateway, "/metrics", "GET", 0, **page)).status_code == 403
    assert (await get(gateway, "/readyz", "GET", 0, **page)).status_code == 200
    server.close()


def test_opcodes_equal_rfc_6455() -> None:
    assert [opcode.value for opcode in Opcode] == [0, 1, 2, 8, 9, 10]
