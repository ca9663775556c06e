"""One WebSocket to a gateway, over picows: JSON values in and out until it closes. It decides nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from gregor.core.close_codes import CloseCode
from gregor.core.items.frames import check_frame
from gregor.core.json_text import decode_published
from gregor.net.outgoing.tls import outgoing_context

SUBPROTOCOL = "gregor.v1"
HANDSHAKE_S = 10.0
MAX_FRAME_BYTES = 16 * 1_048_576
"""A full copy is at most 1 MiB of items and 256 KiB of external messages; the rest leaves room for larger limits."""
MAX_FRAGMENTS = 65_536
"""Most fragments of one frame: empty fragments never reach a limit in bytes."""
MAX_UNSENT_BYTES = 64 * 1_048_576
"""Most bytes that wait until the gateway reads them. The outbox has at most half of it in flight."""
MAX_LOST_BYTES = 65_536
"""Most unsent bytes that a close still sends. More are dropped, because the gateway may never read them."""
MAX_QUEUED = 16
"""Most frames that wait for the device. At this number, the connection stops reading from the gateway."""


@dataclass(frozen=True, slots=True)
class GatewayClosed:
    """The connection is closed: the server's close code (1006: none arrived) and reason."""

    code: int
    reason: str = ""


Received = dict[str, Any] | GatewayClosed


def malformed(error: Exception) -> GatewayClosed:
    """Return the end of a connection that sent a frame which cannot be processed."""
    return GatewayClosed(CloseCode.ABNORMAL, f"malformed frame: {str(error)[:300] or type(error).__name__}")


class GatewayConnection(WSListener):
    """An open connection. `receive` returns frames in order, `GatewayClosed` last; `send` never blocks."""

    def __init__(self) -> None:
        self._transport: WSTransport | None = None
        self._received: asyncio.Queue[Received] = asyncio.Queue()
        self._is_paused = False
        self._message = bytearray()
        self._fragments = 0
        self._closed: GatewayClosed | None = None

    @classmethod
    async def open(cls, url: str, token: str, timeout_s: float = HANDSHAKE_S) -> GatewayConnection:
        """Connect to `/v1/connect` of a gateway. `timeout_s`: of the WebSocket handshake.

        Raises OSError if that fails, or if the upgrade is refused; TimeoutError if the gateway does not answer.
        """
        headers = {"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": SUBPROTOCOL}
        try:
            connection = cls()
            await ws_connect(
                lambda: connection,
                url.rstrip("/") + "/v1/connect",
                ssl_context=outgoing_context() if url.lower().startswith("wss:") else None,
                extra_headers=headers,
                websocket_handshake_timeout=timeout_s,
                max_frame_size=MAX_FRAME_BYTES,
                enable_auto_pong=False,  # automatic pongs would wait without a limit
                max_redirects=0,  # the token belongs to this host alone
            )
        except TimeoutError:
            raise TimeoutError(f"{url} did not answer within {timeout_s:g} s") from None
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"{url} refused the connection: {error}") from error
        # picows returns without an error if the gateway closes before the handshake is complete.
        if connection._transport is None:
            raise OSError(f"{url} closed the connection during the handshake")
        return connection

    def send(self, frame: Mapping[str, Any]) -> None:
        """Write one frame; on a closed connection nothing happens, since `receive` reports the close."""
        if (transport := self._open_transport()) is not None:
            text = json.dumps(frame, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            transport.send(WSMsgType.TEXT, text.encode())

    async def receive(self, timeout_s: float) -> Received:
        """Return the next frame, or `GatewayClosed`. Raises TimeoutError if none arrives in time."""
        if self._is_paused and self._transport is not None and self._received.qsize() < MAX_QUEUED:
            self._is_paused = False
            self._transport.underlying_transport.resume_reading()
        # Not wait_for: before Python 3.12 it loses a cancellation that coincides with a result.
        async with asyncio.timeout(timeout_s):
            return await self._received.get()

    def close(self) -> None:
        """Send a close frame and disconnect, unless the connection is closed already."""
        if self._transport is not None and self._closed is None:
            self._hang_up(self._transport, GatewayClosed(CloseCode.NORMAL), WSCloseCode.OK)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Callback of picows."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Callback of picows for each frame; a proxy may have split one message into several."""
        if self._closed is not None:
            return  # frames that were received together with the last one
        if frame.msg_type == WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            code = int.from_bytes(payload[:2], "big") or CloseCode.NO_STATUS
            self._hang_up(transport, GatewayClosed(code, payload[2:].decode("utf-8", "replace")), WSCloseCode.OK)
        elif frame.msg_type == WSMsgType.PING:
            if self._open_transport() is not None:
                transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            self._message += frame.get_payload_as_bytes()
            self._fragments += 1
            if len(self._message) > MAX_FRAME_BYTES or self._fragments > MAX_FRAGMENTS:
                self._message = bytearray()
                self._hang_up(transport, GatewayClosed(CloseCode.MESSAGE_TOO_BIG), WSCloseCode.MESSAGE_TOO_BIG)
            elif frame.fin:
                text, self._message, self._fragments = bytes(self._message), bytearray(), 0
                self._receive(text, transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Callback of picows, with or without a close frame before."""
        self._end(GatewayClosed(CloseCode.ABNORMAL))

    def _receive(self, text: bytes, transport: WSTransport) -> None:
        """Queue the frame of a text. A malformed one ends the connection: the copy stays as it is."""
        try:
            frame = decode_published(text)
            check_frame(frame)
        except (ValueError, RecursionError) as error:
            self._hang_up(transport, malformed(error), WSCloseCode.PROTOCOL_ERROR)
        else:
            self._received.put_nowait(frame)
            if self._received.qsize() >= MAX_QUEUED and not self._is_paused:
                self._is_paused = True
                transport.underlying_transport.pause_reading()

    def _open_transport(self) -> WSTransport | None:
        """Return the transport while the connection is open. Ends the connection if too many bytes are unsent."""
        if self._transport is None or self._closed is not None:
            return None
        if self._transport.underlying_transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._hang_up(
                self._transport, GatewayClosed(CloseCode.ABNORMAL, "the gateway does not read"), WSCloseCode.OK
            )
            return None
        return self._transport

    def _hang_up(self, transport: WSTransport, closed: GatewayClosed, code: WSCloseCode) -> None:
        """End the connection: send a close frame and disconnect."""
        self._end(closed)
        transport.send_close(code)
        transport.disconnect(transport.underlying_transport.get_write_buffer_size() <= MAX_LOST_BYTES)

    def _end(self, closed: GatewayClosed) -> None:
        if self._closed is None:
            self._closed = closed
            self._received.put_nowait(closed)
