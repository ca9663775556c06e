"""One WebSocket to a gateway: JSON values in and out, until it closes. Over picows; nothing is decided here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from gregor.core.close_codes import CloseCode

SUBPROTOCOL = "gregor.v1"
HANDSHAKE_S = 10.0
MAX_FRAME_BYTES = 16 * 1_048_576
"""A full copy is at most 1 MiB of items and 256 KiB of external messages; the rest is room for a larger setting."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over: the close code (1006: none came) and reason of the server."""

    code: int
    reason: str = ""


Received = dict[str, Any] | Closed


class Connection(WSListener):
    """An open connection. `receive` gives what came, in order, `Closed` last; `send` never waits."""

    def __init__(self) -> None:
        self._transport: WSTransport | None = None
        self._received: asyncio.Queue[Received] = asyncio.Queue()
        self._parts: list[bytes] = []
        self._closed: Closed | None = None

    @classmethod
    async def open(cls, url: str, token: str) -> Connection:
        """Connect to `/v1/connect` of a gateway. Raises OSError where that fails, a refused upgrade included."""
        headers = {"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": SUBPROTOCOL}
        try:
            connection = cls()
            await ws_connect(
                lambda: connection,
                url.rstrip("/") + "/v1/connect",
                extra_headers=headers,
                websocket_handshake_timeout=HANDSHAKE_S,
                max_frame_size=MAX_FRAME_BYTES,
            )
        except TimeoutError:
            raise OSError(f"{url} did not answer within {HANDSHAKE_S:g} s") from None
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"{url} refused the connection: {error}") from error
        return connection

    def send(self, frame: Mapping[str, Any]) -> None:
        """Write one frame; where the connection is gone, nothing happens: `receive` tells."""
        if self._transport is not None and self._closed is None:
            text = json.dumps(frame, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            self._transport.send(WSMsgType.TEXT, text.encode())

    async def receive(self, timeout_s: float) -> Received:
        """The next frame, or `Closed`. TimeoutError where nothing comes for so long."""
        # Not wait_for: before Python 3.12 that swallows a cancellation which meets a result.
        async with asyncio.timeout(timeout_s):
            return await self._received.get()

    def close(self) -> None:
        """Say goodbye and close; does nothing where it is closed."""
        if self._transport is not None and self._closed is None:
            self._transport.send_close(WSCloseCode.OK)
            self._transport.disconnect()
            self._end(Closed(CloseCode.NORMAL))

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Called by picows."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Called by picows for each frame; a proxy may have cut one message into several."""
        if frame.msg_type == WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            code = int.from_bytes(payload[:2], "big") or CloseCode.NO_STATUS
            self._end(Closed(code, payload[2:].decode("utf-8", "replace")))
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            self._parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                text, self._parts = b"".join(self._parts), []
                self._received.put_nowait(json.loads(text))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Called by picows, after a close frame or without one."""
        self._end(Closed(CloseCode.ABNORMAL))

    def _end(self, closed: Closed) -> None:
        if self._closed is None:
            self._closed = closed
            self._received.put_nowait(closed)
