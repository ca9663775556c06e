"""A whole gateway in one process: memory store and pub/sub, a manual clock, real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from gregor.auth.device_tokens import Caller, TokenVerifier, mint
from gregor.clock import ManualClock
from gregor.config.settings import Settings
from gregor.core.items.announcement import CreationFrame
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.redis.pubsub import MemoryPubSub
from gregor.reference.store.store import MemoryStore
from gregor.store.contract.access import Ticket
from gregor.store.contract.store import Unavailable
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.context import GatewayContext, build
from gregor_gateway.protocol.deadlines import SessionRules
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.protocol.session import SessionState
from gregor_gateway.sessions.authenticator import NO_END_US, AuthenticatedCaller
from gregor_gateway.transports.http_app import StreamServer
from gregor_gateway.transports.websocket import WebSocketServer
from tests.support.wait import wait_until

NOW_US = 1_457_056_447_000_000
SECRET = "a secret of thirty-two characters!"
AskWithoutReading = Callable[[str], Awaitable[socket.socket]]


class UnavailableStore:
    """A store that cannot be reached."""

    def __getattr__(self, name: str) -> object:
        raise Unavailable("down")


@dataclass
class Gateway:
    """The objects of one gateway, and its store, pub/sub and clock."""

    context: GatewayContext
    store: MemoryStore
    feed: MemoryPubSub
    clock: ManualClock
    sockets: WebSocketServer
    rules: SessionRules
    port: int = 0
    seeds: int = field(default=0)

    def token(self, uid: str = "alice", device: str = "phone", lives_s: int = 3600, **claims: Any) -> str:
        return mint(SECRET, uid, device, lives_s, now_us=self.clock.now_us(), **claims)

    async def send(self, body: dict[str, Any], uid: str = "alice", device: str = "", system: str = "gregor") -> int:
        """Commit a message of the backend or a device; return its seq."""
        message = parse_message({"system": system, "body": body}, Limits())
        self.seeds += 1
        commit = plan(message, Sender(device), self.clock.now_us(), self.seeds.to_bytes(3, "big"), Limits())
        return (await self.store.users.commit(uid, commit)).seq

    async def create(self, *ids: str, category: str = "user.joined", uid: str = "alice", **more: Any) -> int:
        return await self.send({"create": {name: {"category": category, **more} for name in ids}}, uid)

    async def dismiss(self, *ids: str, uid: str = "alice", device: str = "") -> int:
        return await self.send({"dismiss": {"ids": list(ids)}}, uid, device)

    def dial(self, device: str = "phone", uid: str = "alice", hello: Hello | None = None, **claims: Any) -> LocalDevice:
        """Start to connect a device."""
        return LocalDevice(self, uid, device, hello or Hello(), self.rules, **claims)

    def observe(self, device: str = "", uid: str = "alice", **claims: Any) -> LocalDevice:
        """Connect an observer with a ticket; ``claims``: those of its service key.

        It sees a device's view, or every item.
        """
        ticket = Ticket(uid, device, True, None, None, {"cats": None, **claims})
        caller = AuthenticatedCaller(Caller(uid, device, NO_END_US), ticket)
        return LocalDevice(self, uid, device, Hello(), self.rules, caller)

    async def connect(
        self, device: str = "phone", uid: str = "alice", hello: Hello | None = None, **claims: Any
    ) -> LocalDevice:
        """Connect a device, wait for its first sync, and clear the frames received so far."""
        line = self.dial(device, uid, hello, **claims)
        await wait_until(lambda: line.connection.session.state is SessionState.LIVE, "the first sync")
        await settle()
        line.frames.clear()
        return line

    def closes(self, code: int) -> float:
        """Return how many connections were closed with this code."""
        value: float = self.context.metrics.closes.labels(str(code))._value.get()
        return value

    def pass_time(self, seconds: float) -> None:
        """Advance the clock, and run the timers that are due."""
        self.clock.advance(seconds)
        self.context.timers.turn()


class LocalDevice:
    """A device in the same process: a transport without a socket. ``is_held``: the gateway stopped reading from it."""

    def __init__(
        self,
        gateway: Gateway,
        uid: str,
        device: str,
        hello: Hello,
        rules: SessionRules,
        admitted: AuthenticatedCaller | None = None,
        **claims: Any,
    ) -> None:
        self.frames: list[dict[str, Any]] = []
        self.writes: list[list[bytes]] = []
        self.closed: int | None = None
        self.close_reason = ""
        self.is_held = False
        self.connection = DeviceConnection(gateway.context, self, rules, "test")
        caller = Caller(uid, device, gateway.clock.now_us() + 3_600_000_000, iat_us=gateway.clock.now_us(), **claims)
        self.connection.open(admitted or AuthenticatedCaller(caller), hello)

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        return frame

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        return self.write([creation.frame for creation in run])

    def write(self, packed: Sequence[bytes]) -> int:
        self.writes.append(list(packed))
        self.frames += map(json.loads, packed)
        return sum(map(len, packed))

    def close(self, code: int, reason: str) -> None:
        self.closed, self.close_reason = code, reason

    def confirmed(self) -> None:
        """See ``Transport.confirmed``: nothing to record, the tests compare frames."""

    def hold_reading(self, is_held: bool) -> None:
        self.is_held = is_held

    def send(self, **frame: Any) -> None:
        self.connection.receive(json.dumps(frame).encode())

    @property
    def seqs(self) -> list[int]:
        """The seq of each frame that has one, in order."""
        return [frame["seq"] for frame in self.frames if "seq" in frame]

    @property
    def kinds(self) -> list[str]:
        """The kind of each frame: that of a sync, the members of a live frame's body, or the only member."""
        return [
            frame.get("sync") or ("+".join(frame["body"]) if "body" in frame else next(k for k in frame if k != "ref"))
            for frame in self.frames
        ]

    async def until(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for the ``count``-th frame of a kind, and return it."""
        await wait_until(lambda: self.kinds.count(kind) >= count, f"{count} × {kind}; came: {self.kinds}")
        return [frame for frame, each in zip(self.frames, self.kinds, strict=True) if each == kind][count - 1]


async def ticket(gateway: Gateway, token_key: str = "", token_claims: str = "", **members: Any) -> str:
    """Create a ticket as ingest does. Tickets of earlier releases lack the marks of the key and of the claims."""
    claims: dict[str, Any] = {"exp": gateway.clock.now_us() / 1e6 + 3_600, "iat": gateway.clock.now_us() / 1e6}
    if token_key:
        claims["token_key"] = token_key
    if token_claims:
        claims["token_claims"] = token_claims
    made = Ticket(
        "alice", "phone", **({"observe": False, "prefixes": None, "systems": None, "claims": claims} | members)
    )
    return await gateway.store.access.create_ticket(made, gateway.clock.now_us(), 30_000_000)


def items(frame: dict[str, Any]) -> set[str]:
    """Return the ids of the items that a frame creates."""
    return set(frame.get("body", {}).get("create", {}))


async def settle(turns: int = 20) -> None:
    """Run the event loop until pending work in this process is done."""
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with open_gateway() as made:
        yield made


@asynccontextmanager
async def open_gateway(**settings_of_test: Any) -> AsyncIterator[Gateway]:
    """Run a gateway inside the context."""
    feed = MemoryPubSub()
    store = MemoryStore(Limits(), feed)
    clock = ManualClock(NOW_US)
    settings = Settings(token_secret=SECRET, origins=("http://localhost:*",), **settings_of_test)
    context = build(settings, store, feed, TokenVerifier(settings), clock)
    await context.readiness.check()
    sockets = WebSocketServer(context)
    server = await asyncio.get_running_loop().create_server(sockets, "127.0.0.1", 0)
    await feed.subscribe(store.reset_channel, context.reset_all, sharded=False)
    rules = replace(context.rules(pings=False, welcomes=False, sends_unchanged=True), queue_bytes=5_000)
    made = Gateway(context, store, feed, clock, sockets, rules, server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        for connection in tuple(sockets.connections):
            connection.close(1001)
        server.close()
    server.close()
    await context.background.close()


@pytest.fixture
async def streams(gateway: Gateway) -> AsyncIterator[str]:
    """The URL of the stream port."""
    server = StreamServer(gateway.context)
    listening = socket.create_server(("127.0.0.1", 0))
    # As on a slow network: otherwise the kernel takes a whole response that the client does not read.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    serving = asyncio.create_task(server.serve(listening))
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    for connection in tuple(server.connections):
        connection.close(4001)
    server.stop()
    await serving
    listening.close()


@pytest.fixture
async def ask_without_reading(gateway: Gateway, streams: str) -> AsyncIterator[AskWithoutReading]:
    """Send a GET with the token of alice's phone, wait for the first byte, and read no more: returns the socket."""
    loop, sockets = asyncio.get_running_loop(), []
    head = f"Host: gregor.test\r\nAuthorization: Bearer {gateway.token()}\r\n\r\n"

    async def ask(target: str) -> socket.socket:
        opened = socket.socket()
        sockets.append(opened)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        opened.setblocking(False)
        await loop.sock_connect(opened, ("127.0.0.1", int(streams.rpartition(":")[2])))
        await loop.sock_sendall(opened, f"GET {target} HTTP/1.1\r\n{head}".encode())
        await loop.sock_recv(opened, 1)
        return opened

    yield ask
    for opened in sockets:
        opened.close()


@pytest.fixture
async def api(gateway: Gateway, streams: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with the token of alice's phone."""
    headers = {"Authorization": f"Bearer {gateway.token()}"}
    async with httpx.AsyncClient(base_url=streams, headers=headers, trust_env=False) as client:
        yield client
