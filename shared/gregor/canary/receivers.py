"""The receiving half of a round: frames of a WebSocket or of server-sent events, and the copy that they make."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx

from gregor.client.connection import MAX_FRAME_BYTES, GatewayClosed, GatewayConnection
from gregor.client.mirror import Mirror
from gregor.core.close_codes import CloseCode
from gregor.core.json_text import decode_published
from gregor.net.bounded_responses import UNCOMPRESSED, LineSplitter, compression_fault
from gregor.net.outgoing.http_clients import async_client
from gregor.net.outgoing.tls import outgoing_context

from .failure import NOT_GREGOR, RoundFailed, Stage, connection_failure

Frame = dict[str, Any]
Transport = Literal["websocket", "sse"]
_SILENCE_S: Final = 60.0
"""Longer than any wait of a round, which has its own timeouts."""
_REFUSED_TOKEN: Final = (CloseCode.UNAUTHORISED, CloseCode.REVOKED, CloseCode.TOKEN_EXPIRED)


async def websocket_frames(url: str, token: str, timeout_s: float) -> AsyncIterator[Frame]:
    """Yield the frames of a new WebSocket. Raises `RoundFailed` if it cannot be opened, or is closed."""
    try:
        connection = await GatewayConnection.open(url, token, timeout_s)
    except TimeoutError as error:
        raise RoundFailed(Stage.NO_SYNC, str(error)) from error
    except OSError as error:
        raise connection_failure(error, Stage.TLS, Stage.CONNECT) from error
    try:
        connection.send({"hello": {"session": secrets.token_hex(8)}})
        while not isinstance(frame := await connection.receive(_SILENCE_S), GatewayClosed):
            yield frame
    finally:
        connection.close()
    raise _closed(frame.code, frame.reason)


async def stream_frames(url: str, token: str, timeout_s: float) -> AsyncIterator[Frame]:
    """Yield the frames of a new stream of server-sent events. Raises `RoundFailed` as `websocket_frames` does."""
    timeout = httpx.Timeout(_SILENCE_S, connect=timeout_s)
    # The authorities of the system, as of the WebSocket; httpx has its own.
    async with async_client(timeout=timeout, tls=outgoing_context()) as http:
        query = {"session": secrets.token_hex(8)}
        headers = {"Authorization": f"Bearer {token}", **UNCOMPRESSED}
        try:
            async with http.stream("GET", f"{url}/v1/stream", params=query, headers=headers) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code)
                if (fault := compression_fault(response.headers)) is not None:
                    raise RoundFailed(Stage.CONNECT, fault)
                split = LineSplitter(MAX_FRAME_BYTES)
                async for chunk in response.aiter_raw():
                    for frame in _events(split.feed(chunk)):
                        if "close" in frame:
                            raise _closed(frame["close"]["code"], frame["close"]["reason"])
                        yield frame
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise connection_failure(error, Stage.TLS, Stage.CONNECT) from error
        except httpx.HTTPError as error:
            raise RoundFailed(Stage.CLOSED, str(error) or type(error).__name__) from error
    raise RoundFailed(Stage.CLOSED, "the stream ended")


def _events(lines: Iterable[bytes]) -> Iterator[Frame]:
    return (decode_published(line[5:]) for line in lines if line.startswith(b"data:"))


def _refused(status: int) -> RoundFailed:
    stage = Stage.AUTH if status in (401, 403) else Stage.CONNECT
    return RoundFailed(stage, f"the stream was answered with {status}")


def _closed(code: int, reason: str) -> RoundFailed:
    stage = Stage.AUTH if code in _REFUSED_TOKEN else Stage.CLOSED
    return RoundFailed(stage, f"the gateway closed the connection: {code} {reason}".strip())


class CanaryDevice:
    """A device of the canary, connected inside its context: reads frames into a copy, and notes when items arrive."""

    def __init__(self, frames: AsyncIterator[Frame]) -> None:
        self.mirror = Mirror()
        self.clock_ahead_s = 0.0
        """Seconds by which the clock of the server is ahead of ours."""
        self.arrived_s: dict[str, float] = {}
        """Monotonic time at which each item appeared in the copy."""
        self._frames = frames
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError, RoundFailed):
                await self._reading

    async def wait_until(self, holds: Callable[[], bool], timeout_s: float, missing: RoundFailed) -> None:
        """Wait until the copy fulfils a condition. Raises `missing` at the timeout, `RoundFailed` if reading ends."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    if self._reading is not None and self._reading.done():
                        self._reading.result()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise missing from None

    async def _read(self) -> None:
        try:
            async for frame in self._frames:
                self._apply(frame, time.monotonic())
        except NOT_GREGOR as error:
            raise RoundFailed(Stage.WRONG_BODY, f"a frame cannot be applied: {error!r}") from error

    def _apply(self, frame: Frame, now_s: float) -> None:
        if "welcome" in frame:
            self.clock_ahead_s = frame["welcome"]["now"] / 1_000 - time.time()
        self.mirror.apply(frame)
        for item_id in self.mirror.items:
            self.arrived_s.setdefault(item_id, now_s)
        self._changed.set()
