"""Pacing of handshakes: a few in each iteration of the event loop, in order; connected devices do not wait."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message

from gregor_gateway.runtime.handshake_pacer import STEPS_A_TURN
from gregor_gateway.transports.http_app import StreamServer
from gregor_gateway.transports.websocket import WebSocketTransport
from gregor_gateway.transports.ws_frames import Opcode, encode
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway
from tests.unit.gateway.test_websocket import UPGRADE, head, masked

STORM = 5 * STEPS_A_TURN


class Socket(asyncio.Transport):
    """A socket whose client only sends."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reads = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def connect(gateway: Gateway) -> tuple[WebSocketTransport, Socket]:
    transport, socket = gateway.sockets(), Socket()
    transport.connection_made(socket)
    return transport, socket


def request(gateway: Gateway) -> bytes:
    return head(**UPGRADE, Authorization=f"Bearer {gateway.token()}")


async def test_storm_of_requests_takes_turns(gateway: Gateway) -> None:
    devices = [connect(gateway) for _ in range(STORM)]
    for transport, _ in devices:
        transport.data_received(request(gateway))

    answered = [socket.written.startswith(b"HTTP/1.1 101") for _, socket in devices]
    assert answered == [True] * STEPS_A_TURN + [False] * (STORM - STEPS_A_TURN)
    # A client that waits cannot fill the memory.
    assert [socket.reads for _, socket in devices] == answered
    assert b"gregor_handshakes_waiting 32.0" in gateway.context.metrics.exposition()

    await wait_until(lambda: all(b" 101 " in socket.written for _, socket in devices), "the upgrades")
    assert all(socket.reads for _, socket in devices)


async def test_storm_does_not_delay_connected_devices(gateway: Gateway) -> None:
    connected, socket = connect(gateway)
    connected.data_received(request(gateway))
    connected.data_received(masked(b'{"hello":{}}'))
    await wait_until(lambda: b'"sync"' in socket.written, "the sync object")
    for _ in range(STORM):
        connect(gateway)[0].data_received(request(gateway))
    connected.data_received(masked(b"now", 0x80 | Opcode.PING))

    assert socket.written.endswith(encode(b"now", Opcode.PONG))


async def test_client_that_leaves_while_it_waits(gateway: Gateway) -> None:
    devices = [connect(gateway) for _ in range(STORM)]
    for transport, _ in devices:
        transport.data_received(request(gateway))
    gone, socket = devices[-1]
    gone.connection_lost(None)
    await wait_until(lambda: not len(gateway.context.handshakes), "the handshakes")

    assert socket.written == b""
    assert len(gateway.sockets.connections) == STORM - 1


async def test_streams_take_turns_and_probes_do_not(gateway: Gateway) -> None:
    app = StreamServer(gateway.context).app
    answered: list[str] = []

    async def get(path: str) -> None:
        async def send(event: Message) -> None:
            if event["type"] == "http.response.start":
                answered.append(path)

        await app({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}, _nothing, send)

    paths = ["/v1/stream", "/v1/poll"] * STORM
    requests = [asyncio.ensure_future(get(path)) for path in [*paths, "/livez"]]
    sizes = []
    while not all(request.done() for request in requests):
        before = len(answered)
        await asyncio.sleep(0)
        sizes.append(len(answered) - before)

    assert sorted(answered) == sorted([*paths, "/livez"])
    assert max(sizes) <= 2 * STEPS_A_TURN
    assert answered.index("/livez") <= STEPS_A_TURN


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
