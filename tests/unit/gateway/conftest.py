"""A whole gateway in one process: memory store and feed, a clock that stands still, real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gregor.clock import ManualClock
from gregor.core.limits import Limits
from gregor.core.machine import plan
from gregor.core.messages import Sender
from gregor.core.wire import parse_message
from gregor.feed import MemoryFeed
from gregor.settings import Settings
from gregor.store.memory.store import MemoryStore
from gregor.tokens import Tokens, mint
from services.gateway.parts import Parts, build
from services.gateway.websocket import WebSocketServer

NOW_US = 1_457_056_447_000_000
SECRET = "a secret of thirty-two characters!"


@dataclass
class House:
    """The parts of one gateway, and the pieces of the world that a test moves."""

    parts: Parts
    store: MemoryStore
    feed: MemoryFeed
    clock: ManualClock
    sockets: WebSocketServer
    port: int = 0
    seeds: int = field(default=0)

    def token(self, uid: str = "alice", device: str = "phone", lives_s: int = 3600, **claims: Any) -> str:
        return mint(SECRET, uid, device, lives_s, now_us=self.clock.now_us(), **claims)

    async def send(self, body: dict[str, Any], uid: str = "alice", device: str = "", system: str = "gregor") -> int:
        """A message of the backend (or of a device); its seq."""
        message = parse_message({"system": system, "body": body}, Limits())
        self.seeds += 1
        commit = plan(message, Sender(device), self.clock.now_us(), self.seeds.to_bytes(3, "big"), Limits())
        return (await self.store.users.commit(uid, commit)).seq

    async def create(self, *ids: str, category: str = "user.joined", uid: str = "alice", **more: Any) -> int:
        return await self.send({"create": {name: {"category": category, **more} for name in ids}}, uid)

    async def dismiss(self, *ids: str, uid: str = "alice", device: str = "") -> int:
        return await self.send({"dismiss": {"ids": list(ids)}}, uid, device)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock, and let the wheel turn."""
        self.clock.advance(seconds)
        self.parts.wheel.turn()


MakeHouse = Callable[..., House]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    feed = MemoryFeed()
    store = MemoryStore(Limits(), feed)
    clock = ManualClock(NOW_US)
    settings = Settings(token_secret=SECRET, origins=("http://localhost:*",))
    parts = build(settings, store, feed, Tokens(settings), clock)
    await parts.readiness.check()
    sockets = WebSocketServer(parts)
    server = await asyncio.get_running_loop().create_server(sockets, "127.0.0.1", 0)
    await feed.subscribe(store.flush_channel, parts.flush_of_all, sharded=False)
    made = House(parts, store, feed, clock, sockets, server.sockets[0].getsockname()[1])
    yield made
    for connection in tuple(sockets.connections):
        connection.shut(1001)
    server.close()
    await parts.background.close()
