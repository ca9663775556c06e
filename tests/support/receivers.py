"""Receivers that remember what they hear, and a feed for them."""

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
    """Remembers what it hears; "gap" stands for a hole."""

    heard: list[bytes | str] = field(default_factory=list)

    def receive(self, payload: bytes) -> None:
        self.heard.append(payload)

    def gap(self) -> None:
        self.heard.append("gap")


class FailingReceiver(RecordingReceiver):
    """Raises at everything."""

    def receive(self, payload: bytes) -> None:
        raise RuntimeError("deaf")

    def gap(self) -> None:
        raise RuntimeError("deaf")


@asynccontextmanager
async def open_pubsub(
    server: Server, url: str | None = None, **options: Any
) -> AsyncIterator[tuple[RedisPubSub, Publish]]:
    """A feed and a way to publish to it."""
    async with open_client(server.url) as link:
        feed = RedisPubSub(url or server.url, link, **options)
        await feed.open()

        async def publish(channel: str, payload: bytes, *, sharded: bool = True) -> None:
            await link.call("SPUBLISH" if sharded else "PUBLISH", channel, payload)

        try:
            yield feed, publish
        finally:
            await feed.close()


async def wait_for_payload(ear: RecordingReceiver, last: bytes | str) -> list[bytes | str]:
    """All that an ear has heard, once ``last`` has come."""
    await wait_until(lambda: last in ear.heard, f"{last!r} is heard")
    return ear.heard
