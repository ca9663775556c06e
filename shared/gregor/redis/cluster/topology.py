"""Reads the slot map from the cluster: single-flight, with jitter, until every slot has a connected owner."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from gregor.core.backoff import Backoff
from gregor.redis.connection import Command, NullListener, RedisConnection
from gregor.redis.errors import RedisAccessRefused, RedisUnavailable, ReplyError

from .node import ClusterNode, Opener
from .slots import NodeAddress, SlotMap, parse_info, parse_shards, parse_slots

_log = logging.getLogger(__name__)

JITTER_S: Final = 0.05
"""The longest delay of the first query. After a failover all clients would ask at the same moment."""
FIRST_REPEAT_S: Final = 0.2
MAX_REPEAT_S: Final = 1.0
"""Bounds of the delay between queries while slots lack a reachable owner."""
ELECTION_S: Final = 6.0
"""How long the delay stays at its lower bound: by then, a shard with a replica has a new primary."""
PERIOD_S: Final = 5.0
"""The map is read this often even if no reply gave a reason: a primary may have been replaced unnoticed."""
ANSWER_S: Final = 1.0
"""Timeout of one node's answer."""

_INFO: Final[Command] = ("CLUSTER", "INFO")
_SHARDS: Final[Command] = ("CLUSTER", "SHARDS")
_SLOTS: Final[Command] = ("CLUSTER", "SLOTS")


class Topology:
    """Keeps the slot map current.

    Args:
        opener: Opens a connection to a node that is not connected, for one query.
        seeds: The addresses of the URL, asked when no connected node answers.
        nodes: Returns the known nodes.
        apply: Called with each new map.
        is_settled: Returns whether every known primary is connected and no command waits.
        tls: Whether to use the TLS ports of the map.
    """

    def __init__(
        self,
        opener: Opener,
        seeds: Iterable[NodeAddress],
        nodes: Callable[[], Iterable[ClusterNode]],
        apply: Callable[[SlotMap], None],
        is_settled: Callable[[], bool],
        *,
        tls: bool,
    ) -> None:
        self._opener = opener
        self._seeds = tuple(seeds)
        self._nodes = nodes
        self._apply = apply
        self._is_settled = is_settled
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._is_requested = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._epoch = 0
        self.reads = 0
        """Maps that were read, for metrics and tests."""

    def request(self) -> None:
        """Read the map soon. Requests during a read lead to one more read after it."""
        self._is_requested = True
        if self._task is None:
            self._task = self._loop.create_task(self._keep_asking())

    async def close(self) -> None:
        """Stop asking."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def read(self) -> SlotMap:
        """Return the map of the first node that answers and is not behind the others.

        A node that was cut off from the others keeps answering with an outdated map. Its configuration epoch is lower
        then, or it reports that the cluster is down. Connected nodes are asked first; among them, those with a
        late reply come last. Raises ``RedisAccessRefused`` if a node refuses this client and no other answers, else
        ``RedisUnavailable``.
        """
        failures: list[Exception] = []
        best: tuple[bool, int, SlotMap] | None = None
        for address, node in self._candidates():
            try:
                is_ok, epoch, found = await (self._ask_once(address) if node is None else self._ask_node(node))
            except RedisUnavailable as error:
                failures.append(error)
                continue
            if best is None or (is_ok, epoch) > best[:2]:
                best = is_ok, epoch, found
            if is_ok and epoch >= self._epoch:
                break
        if best is not None:
            self._epoch = max(self._epoch, best[1])
            self.reads += 1
            return best[2]
        refused = next((error for error in failures if isinstance(error, RedisAccessRefused)), None)
        if refused is not None:
            raise refused
        raise RedisUnavailable("no node of the cluster knows its slots: " + "; ".join(map(str, failures)))

    def _candidates(self) -> list[tuple[NodeAddress, ClusterNode | None]]:
        """Return the nodes to ask: connected ones, then other known ones and the seeds by separate connections."""
        nodes = [node for node in self._nodes() if node.is_open]
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node.silent_s > ANSWER_S)
        asked = {node.address for node in nodes}
        known = [*self._seeds, *(node.address for node in self._nodes())]
        rest = dict.fromkeys(address for address in known if address not in asked)
        return [*((node.address, node) for node in nodes), *((address, None) for address in rest)]

    async def _ask_node(self, node: ClusterNode) -> tuple[bool, int, SlotMap]:
        return await self._ask(node.address, partial(_call, node))

    async def _ask_once(self, address: NodeAddress) -> tuple[bool, int, SlotMap]:
        """Ask a node over a connection that is opened only for this query."""
        connection = await self._opener(address, NullListener())
        try:
            return await self._ask(address, partial(_request, connection))
        finally:
            connection.abort("is no longer needed")

    async def _ask(self, address: NodeAddress, send: Callable[[Command], Any]) -> tuple[bool, int, SlotMap]:
        """Return whether the node sees a working cluster, the epoch of its configuration, and its map."""
        name = f"{address[0]}:{address[1]}"
        try:
            async with asyncio.timeout(ANSWER_S):
                is_ok, epoch = parse_info(await send(_INFO))
                return is_ok, epoch, await self._ask_both(address, send)
        except TimeoutError:
            raise RedisUnavailable(f"{name} did not report its slots within {ANSWER_S:g} s") from None
        except ReplyError as error:
            if "cluster support disabled" in str(error):
                raise RedisAccessRefused(f"{name} is not a cluster node; use redis:// for a single server") from None
            raise RedisUnavailable(f"{name} refused to report its slots: {error}") from None
        except ValueError as error:
            raise RedisUnavailable(f"{name}: {error}") from None

    async def _ask_both(self, address: NodeAddress, send: Callable[[Command], Any]) -> SlotMap:
        """Ask by CLUSTER SHARDS; by CLUSTER SLOTS if the first answer is refused or lacks slots.

        A node that has lost or never got the id of its shard lists its own slots without a primary, or not at all
        (seen with Redis 8.0.2 and Valkey 9.1.2).
        """
        found = SlotMap()
        try:
            found = parse_shards(await send(_SHARDS), address, tls=self._tls)
        except (ReplyError, ValueError) as error:
            _log.debug("redis.cluster_shards_refused error=%s", error)
        if found.is_complete:
            return found
        by_slots = parse_slots(await send(_SLOTS), address)
        return by_slots if by_slots.covered > found.covered else found

    async def _keep_asking(self) -> None:
        """Ask until no request is open and the client is settled."""
        backoff = Backoff(FIRST_REPEAT_S, MAX_REPEAT_S, lambda low, high: random.uniform(high / 2, high))
        began_s = self._loop.time()
        await asyncio.sleep(random.uniform(0, JITTER_S))
        while True:
            self._is_requested = False
            try:
                self._apply(await self.read())
            except RedisUnavailable as error:
                _log.info("redis.slots_unknown error=%s", error)
            else:
                if self._is_settled() and not self._is_requested:
                    break
            if self._loop.time() - began_s < ELECTION_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(PERIOD_S * random.uniform(0.9, 1.1), self.request)


async def _call(node: ClusterNode, command: Command) -> Any:
    return await node.call(*command)


async def _request(connection: RedisConnection, command: Command) -> Any:
    [reply] = await connection.request([command])
    if isinstance(reply, ReplyError):
        raise reply
    return reply
