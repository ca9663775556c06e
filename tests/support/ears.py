"""Receivers that remember what they hear, and a feed for them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gregor.redis.pubsub import Feed
from tests.support.servers import Server, linked
from tests.support.wait import wait_until

Publish = Callable[..., Awaitable[None]]


@dataclass(eq=False)
class Ear:
    """Remembers what it hears; "gap" stands for a hole."""

    heard: list[bytes | str] = field(default_factory=list)

    def receive(self, payload: bytes) -> None:
        self.heard.append(payload)

    def gap(self) -> None:
        self.heard.append("gap")


class Deaf(Ear):
    """Raises at everything."""

    def receive(self, payload: bytes) -> None:
        raise RuntimeError("deaf")

    def gap(self) -> None:
        raise RuntimeError("deaf")


@asynccontextmanager
async def fed(server: Server, url: str | None = None, **options: Any) -> AsyncIterator[tuple[Feed, Publish]]:
    """A feed and a way to publish to it."""
    async with linked(server.url) as link:
        feed = Feed(url or server.url, link, **options)
        await feed.open()

        async def publish(channel: str, payload: bytes, *, sharded: bool = True) -> None:
            await link.call("SPUBLISH" if sharded else "PUBLISH", channel, payload)

        try:
            yield feed, publish
        finally:
            await feed.close()


async def heard(ear: Ear, last: bytes | str) -> list[bytes | str]:
    """All that an ear has heard, once ``last`` has come."""
    await wait_until(lambda: last in ear.heard, f"{last!r} is heard")
    return ear.heard
