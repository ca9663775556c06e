"""A device over SSE, written by hand: it keeps the frames and their event ids."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any, Self

import httpx

from gregor.client.mirror import Mirror
from tests.support.wait import wait_until

Frame = dict[str, Any]


class StreamDevice:
    """One `GET /v1/stream`. `events`: id and frame of each event; `status`: the HTTP status."""

    def __init__(self, url: str, query: Frame | None = None, headers: Frame | None = None) -> None:
        self.events: list[tuple[str | None, Frame]] = []
        self.retry_ms: int | None = None
        self.status = 0
        self.answer_headers = httpx.Headers()
        self.mirror = Mirror()
        self.is_ended = False
        self._request: dict[str, Any] = {"url": f"{url}/v1/stream", "params": query or {}, "headers": headers or {}}
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        await wait_until(lambda: self.status or self.is_ended, "the stream answers")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    @property
    def frames(self) -> list[Frame]:
        return [frame for _, frame in self.events]

    async def until(self, wanted: str, timeout_s: float = 15) -> Frame:
        """Wait for the first frame whose text contains `wanted`, and return it."""

        def found() -> Frame | None:
            return next((frame for frame in self.frames if wanted in json.dumps(frame)), None)

        frame: Frame = await wait_until(found, f"a frame with {wanted}; came: {self.frames}", timeout_s)
        return frame

    async def _read(self) -> None:
        async with httpx.AsyncClient(timeout=httpx.Timeout(10, read=60), trust_env=False) as client:
            with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                async with client.stream("GET", **self._request) as answer:
                    self.answer_headers = answer.headers
                    self.status = answer.status_code
                    if answer.status_code == 200:
                        await self._take(answer)
        self.is_ended = True

    async def _take(self, answer: httpx.Response) -> None:
        event_id: str | None = None
        data: list[str] = []
        async for line in answer.aiter_lines():
            if line.startswith("retry:"):
                self.retry_ms = int(line[6:])
            elif line.startswith("id:"):
                event_id = line[3:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].strip())
            elif not line and data:
                frame = json.loads("\n".join(data))
                self.mirror.apply(frame)
                self.events.append((event_id, frame))
                event_id, data = None, []
