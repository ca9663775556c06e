"""Pub/sub receivers that record messages, and a pub/sub for them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gregor.redis.pubsub import RedisPubSub
from tests.support.servers import Server, open_client
from tests.support.wait import wait_until

Publish = Callable[..., Awaitable[None]]


@dataclass(eq=False)
class RecordingReceiver:
    """Records messages; "gap" stands for an interruption. ``servers``: for each gap, whether the server is the same."""

    heard: list[bytes | str] = field(default_factory=list)
    losses: int = 0
    servers: list[bool] = field(default_factory=list)

    def receive(self, payload: bytes) -> None:
        self.heard.append(payload)

    def lost(self) -> None:
        self.losses += 1

    def gap(self, *, same_server: bool) -> None:
        self.heard.append("gap")
        self.servers.append(same_server)


class FailingReceiver(RecordingReceiver):
    """Raises on every call."""

    def receive(self, payload: bytes) -> None:
        raise RuntimeError("deaf")

    def lost(self) -> None:
        raise RuntimeError("deaf")

    def gap(self, *, same_server: bool) -> None:
        raise RuntimeError("deaf")


@asynccontextmanager
async def open_pubsub(
    server: Server, url: str | None = None, **options: Any
) -> AsyncIterator[tuple[RedisPubSub, Publish]]:
    """Return a pub/sub, and a function that publishes to it."""
    async with open_client(server.url) as client:
        pubsub = RedisPubSub(url or server.url, client, **options)
        await pubsub.open()

        async def publish(channel: str, payload: bytes, *, sharded: bool = True) -> None:
            await client.call("SPUBLISH" if sharded else "PUBLISH", channel, payload)

        try:
            yield pubsub, publish
        finally:
            await pubsub.close()


async def wait_for_payload(receiver: RecordingReceiver, last: bytes | str) -> list[bytes | str]:
    """Wait for ``last`` and return everything that was received."""
    await wait_until(lambda: last in receiver.heard, f"{last!r} is heard")
    return receiver.heard
