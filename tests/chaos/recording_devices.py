"""Devices that record everything they get: over WebSocket, SSE and long poll, with reconnects."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from gregor.client.mirror import Mirror
from gregor.history.recorder import HistoryRecorder

ANSWER_S = 8
"""Time after which a device gives up the answer to its message."""
RESYNCS = 0.1
"""Share of the live frames after which a device asks for a sync, at its position before the frame."""
_numbers = itertools.count()
Document = dict[str, Any]


class RecordingDevice:
    """One device of a user. ``urls``: of the gateways, for its transport. Subclasses open one connection."""

    transport = ""

    def __init__(
        self, uid: str, name: str, token: Callable[[], str], urls: Sequence[str], recorder: HistoryRecorder, seed: int
    ) -> None:
        self.uid = uid
        self.name = name
        self.mirror = Mirror()
        self.errors = 0
        self._token = token
        self._urls = urls
        self._recorder = recorder
        self._dice = random.Random(seed)
        self._conn = ""
        self._last: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and reconnect until ``stop``."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the connection."""
        # One cancellation may be lost: wait_for of Python 3.11 returns the frame if both come at once.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)

    async def _run(self) -> None:
        while True:
            url = self._dice.choice(self._urls)
            self._conn = f"c{next(_numbers)}"
            is_whole = self.mirror.needs_full
            self._recorder.connect(
                self.uid,
                self._conn,
                device=self.name,
                resumes=self._last,
                cursor=None if is_whole else self.mirror.cursor,
            )
            self._last = self._conn
            code: int | None = None
            try:
                code = await self.session(url, None if is_whole else self.mirror.cursor)
            except (OSError, httpx.HTTPError, WebSocketException, TimeoutError, json.JSONDecodeError):
                self.errors += 1
            finally:
                self._recorder.close_connection(self.uid, self._conn, code)
            await asyncio.sleep(self._dice.uniform(0.1, 0.6))

    async def session(self, url: str, cursor: str | None) -> int | None:
        """Hold one connection until it ends, and return its close code."""
        raise NotImplementedError

    def take(self, text: str) -> Document:
        """Record a frame and apply it to the copy."""
        frame: Document = json.loads(text)
        if "system" in frame and "seq" in frame:
            self._recorder.frame(self.uid, self._conn, text)
            self.mirror.apply(frame)
        return frame

    def _resync(self) -> Document:
        """Return a resync for the position of the copy, with or without its digest."""
        digest = {"digest": self.mirror.digest} if self._dice.random() < 0.5 else {}
        return {"resync": {"cursor": self.mirror.cursor, **digest}}

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"}

    def _query(self, cursor: str | None) -> dict[str, Any]:
        query: dict[str, Any] = {"session": self.name, "digest": self.mirror.digest}
        return query | ({"cursor": cursor} if cursor else {})


class WebSocketDevice(RecordingDevice):
    """A device over WebSocket; it also sends messages."""

    transport = "websocket"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._socket: ClientConnection | None = None
        self._answers: dict[int, asyncio.Future[Document]] = {}

    async def session(self, url: str, cursor: str | None) -> int | None:
        async with connect(
            f"{url}/v1/connect",
            subprotocols=["gregor.v1"],  # type: ignore[list-item]
            additional_headers=self._headers(),
            ping_interval=None,
            max_size=None,
            proxy=None,
            open_timeout=5,
            close_timeout=1,
        ) as socket:
            hello = self._query(cursor)
            await socket.send(json.dumps({"hello": hello}))
            self._socket = socket
            try:
                # The gateway pings every 25 s; without any frame for longer, the link is dead.
                while True:
                    text = str(await asyncio.wait_for(socket.recv(), 40))
                    resync = self._resync() if self.mirror.cursor and self._dice.random() < RESYNCS else None
                    frame = self.take(text)
                    if resync is not None and "seq" in frame and "sync" not in frame:
                        await socket.send(json.dumps(resync))
                    if "ping" in frame:
                        await socket.send(json.dumps({"pong": frame["ping"]}))
                    elif "ref" in frame and frame["ref"] in self._answers:
                        answer = self._answers.pop(frame["ref"])
                        if not answer.done():
                            answer.set_result(frame)
                    elif self.mirror.needs_full:
                        return None
            finally:
                self._socket = None
                for answer in self._answers.values():
                    answer.cancel()
                self._answers.clear()

    async def send(self, message: Document) -> bool:
        """Send a message and record its outcome. Returns whether the outcome is known."""
        if self._socket is None:
            return True
        began, ref = self._recorder.now(), next(_numbers)
        answer: asyncio.Future[Document] = asyncio.get_running_loop().create_future()
        self._answers[ref] = answer
        try:
            await self._socket.send(json.dumps({"ref": ref, **message}))
            frame = await asyncio.wait_for(answer, ANSWER_S)
        except (OSError, WebSocketException, TimeoutError, asyncio.CancelledError, AttributeError):
            self._answers.pop(ref, None)
            self._recorder.send(self.uid, message, began, "unknown", device=self.name)
            return False
        status = frame.get("problem", {}).get("status", 200)
        outcome = "ok" if "receipt" in frame else "unknown" if status >= 500 else "refused"
        self._recorder.send(
            self.uid,
            message,
            began,
            outcome,  # type: ignore[arg-type]
            frame.get("receipt"),
            device=self.name,
        )
        return outcome != "unknown"


class StreamingDevice(RecordingDevice):
    """A device over server-sent events."""

    transport = "sse"

    async def session(self, url: str, cursor: str | None) -> int | None:
        timeout = httpx.Timeout(5, read=40)
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False) as client,
            client.stream("GET", f"{url}/v1/stream", params=self._query(cursor), headers=self._headers()) as answer,
        ):
            if answer.status_code != 200:
                await asyncio.sleep(1)
                return None
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    frame = self.take(line[5:].strip())
                    if "close" in frame:
                        return int(frame["close"]["code"])
                    if self.mirror.needs_full:
                        return None
        return None


class PollingDevice(RecordingDevice):
    """A device over long poll. Each poll is one connection: what happens between two of them is resumed."""

    transport = "poll"

    async def session(self, url: str, cursor: str | None) -> int | None:
        async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=30), trust_env=False) as client:
            query = self._query(cursor) | {"wait": 10}
            answer = await client.get(f"{url}/v1/poll", params=query, headers=self._headers())
            if answer.status_code != 200:
                await asyncio.sleep(1)
                return None
            for frame in answer.json()["frames"]:
                self.take(json.dumps(frame))
        return None


TRANSPORTS: tuple[type[RecordingDevice], ...] = (
    WebSocketDevice,
    WebSocketDevice,
    StreamingDevice,
    WebSocketDevice,
    PollingDevice,
)
