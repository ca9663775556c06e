"""The WebSocket of the client: a message in several frames is joined, and a hostile gateway fills no memory."""

import asyncio

import pytest

from gregor.client import connection as connections
from gregor.client.connection import GatewayClosed, GatewayConnection
from gregor.core.close_codes import CloseCode

from .scripted_gateway import scripted_gateway


async def test_fragments_of_a_message_are_joined() -> None:
    async with scripted_gateway() as gateway:
        device = await GatewayConnection.open(gateway.url, "token")
        await (await gateway.next_connection()).send_fragments('{"pi', 'ng":', "1}")

        assert await device.receive(5) == {"ping": 1}
        device.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching"])
async def test_connection_that_ends_during_the_handshake_is_an_error(answer: bytes) -> None:
    """picows returns without an error, so the device waited for 50 s, until its first ping timed out."""

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(OSError, match="closed the connection during the handshake"):
            await GatewayConnection.open(url, "token")


async def test_message_of_endless_fragments_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_FRAME_BYTES", 1_000)
    async with scripted_gateway() as gateway:
        device = await GatewayConnection.open(gateway.url, "token")
        server = await gateway.next_connection()
        await server.send_fragments('{"ping":"', *["x" * 400] * 3, '"}')

        assert await device.receive(5) == GatewayClosed(CloseCode.MESSAGE_TOO_BIG)
        device.close()


async def test_message_of_endless_empty_fragments_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_FRAGMENTS", 50, raising=False)
    async with scripted_gateway() as gateway:
        device = await GatewayConnection.open(gateway.url, "token")
        server = await gateway.next_connection()
        for empty in (40, 40, 60):  # the limit is that of one message
            await server.send_fragments('{"ping":"', *[""] * empty, '"}')

        assert [await device.receive(5) for _ in range(2)] == [{"ping": ""}] * 2
        assert await device.receive(5) == GatewayClosed(CloseCode.MESSAGE_TOO_BIG)
        device.close()


async def test_connection_ends_if_the_gateway_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_UNSENT_BYTES", 1_048_576, raising=False)
    async with scripted_gateway() as gateway:
        device = await GatewayConnection.open(gateway.url, "token")
        await gateway.next_connection()
        for _ in range(64):  # the event loop has no turn in which the gateway could read
            device.send({"pong": "x" * 1_000_000})

        assert await device.receive(5) == GatewayClosed(CloseCode.ABNORMAL, "the gateway does not read")


async def test_websocket_ping_is_answered_while_the_gateway_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_gateway() as gateway:
        device = await GatewayConnection.open(gateway.url, "token")
        server = await gateway.next_connection()
        await asyncio.wait_for(server.ping(), 5)

        monkeypatch.setattr(connections, "MAX_UNSENT_BYTES", -1, raising=False)
        unanswered = asyncio.create_task(server.ping())

        assert await device.receive(5) == GatewayClosed(CloseCode.ABNORMAL, "the gateway does not read")
        await asyncio.wait({unanswered}, timeout=5)
        assert unanswered.done() and unanswered.exception() is not None


async def test_frames_of_a_gateway_wait_in_the_network_until_the_device_reads() -> None:
    frames = [{"ping": number, "text": "x" * 65_536} for number in range(200)]
    async with scripted_gateway() as gateway:
        device = await GatewayConnection.open(gateway.url, "token")
        sending = asyncio.create_task((await gateway.next_connection()).send(*frames))
        await asyncio.wait({sending}, timeout=1)

        assert not sending.done()
        assert [await device.receive(5) for _ in frames] == frames
        await asyncio.wait_for(sending, 5)
        device.close()
