"""Devices over real sockets, with a client of another make."""

from __future__ import annotations

import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from .conftest import House


class Phone:
    """A device on a WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(await self.socket.recv())
        return heard


PROTOCOL = Subprotocol("gregor.v1")


def dial(house: House, token: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {token or house.token()}"}
    return connect(
        f"ws://127.0.0.1:{house.port}/v1/connect",
        additional_headers=headers,
        subprotocols=[PROTOCOL],
        proxy=None,
    )


async def test_a_device_is_welcomed_synced_and_told_what_happens(house: House) -> None:
    async with dial(house) as socket:
        phone = Phone(socket)
        await phone.say(hello={})

        assert (await phone.hear())["welcome"]["expires_in"] == 3600
        assert (await phone.hear())["sync"] == "full"
        await house.create("aa")
        assert "aa" in (await phone.hear())["body"]["create"]
        await phone.say(ref=1, system="gregor", body={"dismiss": {"ids": ["aa"]}})
        assert (await phone.hear())["body"] == {"dismiss": {"ids": ["aa"]}}
        receipt = await phone.hear()
        assert (receipt["ref"], receipt["receipt"]["dismissed"]) == (1, ["aa"])
