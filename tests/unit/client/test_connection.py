"""The WebSocket of the client: a message in several frames is joined, up to a length."""

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


async def test_message_of_endless_fragments_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_FRAME_BYTES", 1_000)
    async with scripted_gateway() as gateway:
        device = await GatewayConnection.open(gateway.url, "token")
        server = await gateway.next_connection()
        await server.send_fragments('{"ping":"', *["x" * 400] * 3, '"}')

        assert await device.receive(5) == GatewayClosed(CloseCode.MESSAGE_TOO_BIG)
        device.close()
