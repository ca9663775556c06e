"""A WebSocket device written by hand, which keeps every frame: a test can compare the exact frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gregor.client.mirror import Mirror
from tests.support.wait import wait_until

Frame = dict[str, Any]


class WireDevice:
    """One connection from hello to close. `frames`: all frames received except pings, which are answered."""

    def __init__(self, url: str, token: str | None, hello: Frame | None = None, **options: Any) -> None:
        self.frames: list[Frame] = []
        self.raw: list[str] = []
        self.mirror = Mirror()
        self.close_code: int | None = None
        self.close_reason = ""
        self._url = f"{url}/v1/connect"
        self._token = token
        self._hello = hello
        self._options = options
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        options = {
            "subprotocols": ["gregor.v1"],
            "additional_headers": headers,
            "ping_interval": None,
            "max_size": None,
        }
        self._socket = await connect(self._url, **{**options, "proxy": None, **self._options})
        self._reader = asyncio.create_task(self._read(self._socket))
        if self._hello is not None:
            # If the server refuses the connection, it may have closed already: `closed` returns the code.
            with suppress(ConnectionClosed):
                await self.send({"hello": self._hello})
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await self._reader

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None
        return self._socket

    @property
    def live(self) -> list[Frame]:
        """The live frames so far: frames with a seq that are not sync objects."""
        return [frame for frame in self.frames if "seq" in frame and "sync" not in frame]

    @property
    def syncs(self) -> list[Frame]:
        return [frame for frame in self.frames if "sync" in frame]

    async def send(self, frame: Frame) -> None:
        await self.socket.send(json.dumps(frame))

    async def send_text(self, text: str | bytes) -> None:
        """Send any text or bytes, JSON or not."""
        await self.socket.send(text)

    async def until(self, predicate: Callable[[Frame], Any], description: str, timeout_s: float = 15) -> Frame:
        """Wait for the first frame for which `predicate` is true, and return it."""

        def found() -> Frame | None:
            return next((frame for frame in self.frames if predicate(frame)), None)

        try:
            frame: Frame = await wait_until(found, description, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; closed: {self.close_code}; came: {self.frames[-20:]}") from None
        return frame

    async def synced(self) -> Self:
        await self.until(lambda frame: "sync" in frame, "a sync object")
        return self

    async def submit(self, ref: int, body: Any, system: str = "gregor", **members: Any) -> Frame:
        """Send a message, and return the frame that answers it: a receipt or a problem."""
        await self.send({"ref": ref, "system": system, "body": body, **members})
        return await self.until(lambda frame: frame.get("ref") == ref, f"an answer to {ref}")

    async def closed(self, timeout_s: float = 15) -> tuple[int, str]:
        """Wait for the close; return its code and reason."""
        await wait_until(lambda: self.close_code is not None, f"a close; came: {self.frames[-5:]}", timeout_s)
        return self.close_code or 0, self.close_reason

    async def _read(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            async for text in socket:
                frame = json.loads(text)
                if "ping" in frame:
                    await self.send({"pong": frame["ping"]})
                    continue
                self.raw.append(str(text))
                self.frames.append(frame)
                self.mirror.apply(frame)
        self.close_code = socket.close_code
        self.close_reason = socket.close_reason or ""
