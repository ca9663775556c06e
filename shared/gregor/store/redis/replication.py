"""Waiting for replicas with WAIT, on a connection that carries nothing else, because WAIT blocks its connection.

WAIT covers the writes of the connection that sends it. It answers at once if that connection has written nothing since
its last WAIT. Therefore a small write comes first, in the same pipeline. The replication offset is one number for the
whole server: a replica that has this write also has every commit that the server executed before it, on any connection.

This holds only within one server process. A failover between the commit and the wait would let a promoted replica
confirm a commit that it never had. Therefore both connections must belong to the same server process, and neither may
have been replaced since ``prepare``.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from gregor.cooperative import CALLERS_A_TURN
from gregor.core.errors import Problem
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.commands import RedisCommands, RedisNode
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.store.contract.replication import ReplicationMark, replication_outcome
from gregor.store.contract.store import Unavailable

from .errors import result_of
from .keys import Keys

REPLICAS_KNOWN_S: Final = 5.0
"""How long a sufficient number of replicas is assumed before the server is asked again."""
WAIT_SILENCE_S: Final = 2.0
"""The connection for WAIT is closed if the server is silent for the timeout of WAIT and this time."""
_MARKER_MS: Final = 60_000
"""Lifetime of the key that is written before WAIT."""
_ONLINE: Final = re.compile(rb"^slave\d+:[^\r\n]*state=online", re.MULTILINE)


class WaitingClient(RedisCommands, Protocol):
    """A client for WAIT: ``RedisClient`` or ``ClusterClient``."""

    async def open(self) -> None:
        """Connect. Raises ``RedisUnavailable``."""
        ...


class Incarnation(NamedTuple):
    """A server process and the connection to it. Two are equal if neither of them was replaced in between."""

    node: RedisNode
    server_id: str | None
    generation: int

    @classmethod
    def of(cls, node: RedisNode) -> Incarnation:
        """Return the current incarnation of a node."""
        return cls(node, node.server_id, node.generation)


@dataclass(frozen=True, slots=True)
class RedisReplicationMark:
    """The key of each user that is written before WAIT, and the server of each key before the commits."""

    keys: Mapping[str, str]
    servers: Mapping[str, Incarnation]


class RedisReplication:
    """``Replication`` over Redis.

    Args:
        connection: The client that executes the commits.
        keys: Names the key that is written before WAIT.
        open_waiting: Returns a client for WAIT that is not open yet; it is opened at the first use.
        required: How many replicas must confirm.
        timeout_s: How long one WAIT may take.
    """

    def __init__(
        self,
        connection: RedisCommands,
        keys: Keys,
        open_waiting: Callable[[], WaitingClient] | None,
        *,
        required: int = 1,
        timeout_s: float = 1.0,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._open_waiting = open_waiting
        self.required = required
        self._timeout_s = timeout_s
        self.outcomes: Counter[str] = Counter()
        self._known_until: dict[Incarnation, float] = {}
        self._client: WaitingClient | None = None
        self._opening = asyncio.Lock()
        self._barriers: dict[RedisNode, _Barrier] = {}

    async def prepare(self, uids: Sequence[str]) -> RedisReplicationMark:
        """See ``Replication.prepare``."""
        keys = {uid: self._keys.replication(uid) for uid in uids}
        servers = self._servers(self._connection, set(keys.values()))
        for server in {*servers.values()}:
            await self._require_replicas(server)
        return RedisReplicationMark(keys, servers)

    async def confirm(self, mark: ReplicationMark) -> Mapping[str, int]:
        """See ``Replication.confirm``."""
        confirmed = await self._confirm(mark)
        self.outcomes.update(replication_outcome(replicas, self.required) for replicas in confirmed.values())
        return confirmed

    async def _confirm(self, mark: ReplicationMark) -> Mapping[str, int]:
        assert isinstance(mark, RedisReplicationMark)  # noqa: S101 - the type that prepare returned
        confirmed = dict.fromkeys(mark.servers, 0)
        # A commit whose connection was replaced cannot be confirmed, and a WAIT for it could go to a hung server.
        unchanged = self._unchanged(mark.servers)
        try:
            waiting = self._servers(await self._waiting_client(), set(unchanged))
        except (RedisUnavailable, Unavailable):
            waiting = {}
        nodes = {server.node: key for key, server in waiting.items()}
        counts = dict(zip(nodes, await asyncio.gather(*map(self._wait, nodes, nodes.values())), strict=True))
        for key, before in self._unchanged({key: mark.servers[key] for key in waiting}).items():
            count, server_id = counts[waiting[key].node]
            if before.server_id is not None and before.server_id == server_id:
                confirmed[key] = count
        return {uid: confirmed[key] for uid, key in mark.keys.items()}

    async def close(self) -> None:
        """Close the waiting connection."""
        if self._client is not None:
            await self._client.close()

    # ---- servers

    def follow_slots(self, slots: set[int]) -> None:
        """Refresh the slot map of the waiting client, because the client of the commits has found new owners.

        Otherwise each WAIT would go to a hung primary for seconds after the failover to its replica.
        """
        if isinstance(self._client, ClusterClient):
            self._client.refresh()

    def _servers(self, commands: RedisCommands, keys: set[str]) -> dict[str, Incarnation]:
        """Return the server of each key. Raises ``Unavailable`` if no known server owns a key."""
        names = sorted(keys)
        servers = {}
        for group in commands.group_by_node(names):
            if group.node is None:
                raise Unavailable("no server owns the slot of the user now")
            for number in group.places:
                servers[names[number]] = Incarnation.of(group.node)
        return servers

    def _unchanged(self, servers: Mapping[str, Incarnation]) -> dict[str, Incarnation]:
        """Return the servers to which the client of the commits still has the same connection."""
        try:
            now = self._servers(self._connection, set(servers))
        except Unavailable:
            return {}
        return {key: server for key, server in servers.items() if now[key] == server}

    async def _require_replicas(self, server: Incarnation) -> None:
        """Raise ``no_replicas`` if the server has fewer replicas than required."""
        now_s = asyncio.get_running_loop().time()
        if self._known_until.get(server, 0.0) > now_s:
            return
        found = len(_ONLINE.findall(await result_of(server.node.call("INFO", "replication"))))
        if found < self.required:
            self.outcomes["no_replicas"] += 1
            raise Problem(
                "no_replicas",
                f"The store has {found} replicas in sync, and {self.required} must confirm (GREGOR_REPLICAS). Nothing "
                "was written. Send the message without Gregor-Durability, or add replicas.",
            )
        self._known_until = {known: until for known, until in self._known_until.items() if until > now_s}
        self._known_until[server] = now_s + REPLICAS_KNOWN_S

    # ---- waiting

    async def _waiting_client(self) -> WaitingClient:
        """Return the connected client for WAIT. Raises ``RedisUnavailable``."""
        async with self._opening:
            if self._client is None:
                if self._open_waiting is None:
                    raise RedisUnavailable("this store has no connection for WAIT")
                client = self._open_waiting()
                try:
                    await client.open()
                except BaseException:
                    await client.close()
                    raise
                self._client = client
        return self._client

    async def _wait(self, node: RedisNode, key: str) -> tuple[int, str | None]:
        """Return how many replicas confirmed, and the id of the server process that reported it."""
        barrier = self._barriers.get(node)
        if barrier is None:
            barrier = self._barriers[node] = _Barrier(node, self.required, round(self._timeout_s * 1_000))
        return await barrier.wait(key)


class _Barrier:
    """Groups the waits for one server (group commit): a WAIT serves every caller that arrived before it was sent."""

    def __init__(self, node: RedisNode, required: int, timeout_ms: int) -> None:
        self._node = node
        self._required = required
        self._timeout_ms = timeout_ms
        self._waiting: list[asyncio.Future[tuple[int, str | None]]] = []
        self._running: asyncio.Task[None] | None = None
        self._key = ""

    async def wait(self, key: str) -> tuple[int, str | None]:
        future: asyncio.Future[tuple[int, str | None]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._key = key
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            outcome = await self._wait_once()
            for number, future in enumerate(waiting, 1):
                if not future.done():
                    future.set_result(outcome)
                if number % CALLERS_A_TURN == 0:
                    await asyncio.sleep(0)  # a hundred callers may have waited; other requests get their turn

    async def _wait_once(self) -> tuple[int, str | None]:
        server = Incarnation.of(self._node)
        # Issued in one iteration of the event loop: one write, and nothing comes between the two.
        written = self._node.call("SET", self._key, 1, "PX", _MARKER_MS)
        waited = self._node.call("WAIT", self._required, self._timeout_ms)
        outcomes: Sequence[Any] = await asyncio.gather(written, waited, return_exceptions=True)
        is_certain = not any(isinstance(each, RedisUnavailable | ReplyError) for each in outcomes)
        if not is_certain or Incarnation.of(self._node) != server:
            return 0, None
        return int(outcomes[1]), server.server_id
