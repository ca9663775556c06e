"""Pub/sub of a cluster: a subscriber for each primary, and channels that follow their slot."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from gregor.redis.cluster.answers import Action, decide
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.cluster.slots import NodeAddress, slot_of
from gregor.redis.errors import RedisUnavailable, ReplyError

from .channel import PubSubChannel
from .contract import PubSubStatus, Receiver, SubscriptionReport
from .node import NodeSubscriptions
from .probe import MAX_PROBE_FAILURES, Probe

_log = logging.getLogger(__name__)

REDIRECTS_AT_ONCE: Final = 5
"""Every fifth redirect of a slot is not followed, but waits for the slot map: the nodes may redirect in a circle."""
MAX_PROBE_NAMES: Final = 200_000
"""Names that are tried for a probe channel. A primary with one slot needs 16,384 on average."""
RETRY_S: Final = 0.1
"""Interval at which slots without a subscriber look for their owner."""
SAME_OWNER_S: Final = 1.0
"""How long a slot waits for another owner after a server withdrew it; afterwards the same server is tried again."""
_PLAIN: Final = -1  # key of the channels of the whole cluster, in the tables by slot


class ClusterPubSub:
    """``PubSub`` of a cluster.

    A sharded channel is subscribed at the owner of its slot. When the slot moves, its channels move, and their
    receivers get ``gap``; receivers of other slots are not affected. A probe for each primary detects a subscription
    that is confirmed but delivers nothing, such as at a replica that was cut off. Channels of the whole cluster are
    subscribed at one node.

    Args:
        client: Knows the owners, and publishes the probes.
        probe_s: Interval between the probes of each primary.
        probe_timeout_s: How long a probe may take to come back.
    """

    def __init__(
        self,
        client: ClusterClient,
        *,
        namespace: str = "gregor",
        probe_s: float = 5.0,
        probe_timeout_s: float = 2.0,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = f"{namespace}-pubsub"
        self._probe_s = probe_s
        self._probe_timeout_s = probe_timeout_s
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[NodeAddress, NodeSubscriptions] = {}
        self._channels: dict[int, dict[bytes, PubSubChannel]] = {}  # by slot
        self._homes: dict[int, NodeSubscriptions] = {}  # by slot
        # Slots with channels but without a home: the node that withdrew them, and since when.
        self._homeless: dict[int, tuple[NodeAddress | None, float]] = {}
        self._redirects: dict[int, int] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._probes: dict[NodeAddress, Probe] = {}
        self._failures_in_a_row: dict[NodeAddress, int] = {}
        self._failed_probes: Counter[NodeAddress] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    # ---- the contract

    @property
    def status(self) -> PubSubStatus:
        """See ``PubSub.status``: ``late`` if the probe of some primary failed, ``down`` if all primaries are down."""
        failures = [self._failures_in_a_row.get(address, MAX_PROBE_FAILURES) for address in self._primaries()]
        if failures and not any(failures):
            return "ok"
        return "late" if any(count < MAX_PROBE_FAILURES for count in failures) else "down"

    @property
    def healthy(self) -> bool:
        """See ``PubSub.healthy``."""
        return self.status != "down"

    @property
    def failing(self) -> tuple[str, ...]:
        """The primaries without a successful last probe, as ``host:port``."""
        return tuple(
            f"{host}:{port}" for host, port in self._primaries() if self._failures_in_a_row.get((host, port), 1)
        )

    def report(self) -> Mapping[str, SubscriptionReport]:
        """See ``PubSub.report``."""
        return {node.name: self._report_of(address, node) for address, node in self._nodes.items()}

    def _report_of(self, address: NodeAddress, node: NodeSubscriptions) -> SubscriptionReport:
        probe = self._probes.get(address)
        probe_s = None if probe is None else probe.round_trip_s
        channels = sum(map(len, node.channels.values()))
        return SubscriptionReport(probe_s, self._failed_probes[address], max(0, node.connections - 1), channels)

    async def open(self) -> None:
        """Subscribe at the primaries, and probe once. Raises ``RedisUnavailable`` if no primary answers."""
        self._client.slot_listeners.append(self._on_slots_changed)
        await self.probe()
        if not any(node.connected for node in self._nodes.values()):
            raise RedisUnavailable("no primary of the cluster can be subscribed to")
        self._start_task(self._keep_probing())

    async def close(self) -> None:
        """See ``PubSub.close``."""
        self._closed = True
        if self._on_slots_changed in self._client.slot_listeners:
            self._client.slot_listeners.remove(self._on_slots_changed)
        if self._retry is not None:
            self._retry.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self._nodes.values()))
        for channels in self._channels.values():
            for channel in channels.values():
                channel.fail(RedisUnavailable("the subscriptions of the cluster are closed"))
        self._channels.clear()

    def subscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> asyncio.Future[None]:
        """See ``PubSub.subscribe``."""
        name = channel.encode() if isinstance(channel, str) else channel
        slot = slot_of(name) if sharded else _PLAIN
        channels = self._channels.setdefault(slot, {})
        found = channels.get(name)
        if found is None:
            found = PubSubChannel(name, sharded)
            if not self._closed:
                channels[name] = found
                self._subscribe_at_home(slot, found)
        future = found.add(receiver)
        if self._closed:
            found.fail(RedisUnavailable("the subscriptions of the cluster are closed"))
        return future

    def unsubscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> None:
        """See ``PubSub.unsubscribe``."""
        name = channel.encode() if isinstance(channel, str) else channel
        slot = slot_of(name) if sharded else _PLAIN
        found = self._channels.get(slot, {}).get(name)
        if found is None:
            return
        found.remove(receiver)
        if not found.receivers:
            self._forget(slot, found)

    def _forget(self, slot: int, channel: PubSubChannel) -> None:
        channels = self._channels[slot]
        del channels[channel.name]
        home = self._homes.get(slot)
        if home is not None:
            home.drop(channel)
        if not channels:
            del self._channels[slot]
            self._homes.pop(slot, None)
            self._homeless.pop(slot, None)

    # ---- where channels are subscribed

    def _subscribe_at_home(self, slot: int, channel: PubSubChannel) -> None:
        """Subscribe a new channel at the node of its slot (its home). If the slot has no home yet, find one."""
        home = self._homes.get(slot)
        if home is not None:
            home.add(channel)
        elif slot not in self._homeless:
            self._move(slot, self._owner(slot))

    def _owner(self, slot: int) -> NodeAddress | None:
        if slot != _PLAIN:
            return self._client.owner_address(slot)
        reachable = [address for address, node in self._nodes.items() if node.connected]
        return next(iter((*reachable, *self._primaries())), None)

    def _move(self, slot: int, address: NodeAddress | None, avoid: NodeAddress | None = None) -> None:
        """Move the channels of a slot to another node. Without one, they wait until the slot has an owner."""
        channels = self._channels.get(slot)
        if not channels:
            return
        old = self._homes.pop(slot, None)
        for channel in channels.values():
            channel.interrupt()
            if old is not None:
                old.drop(channel, was_withdrawn=avoid is not None)
        if address is None:
            self._homeless.setdefault(slot, (avoid, self._loop.time()))
            self._client.refresh()
            self._schedule_retry()
            return
        self._homeless.pop(slot, None)
        home = self._homes[slot] = self._node(address)
        for channel in channels.values():
            home.add(channel)

    def _node(self, address: NodeAddress) -> NodeSubscriptions:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = NodeSubscriptions(address, self._client.opener(self._name), self)
        return node

    def _schedule_retry(self) -> None:
        if self._retry is None and not self._closed:
            self._retry = self._loop.call_later(RETRY_S, self._find_homes)

    def _find_homes(self) -> None:
        """Subscribe the channels of slots without a home, if their slot has an owner now."""
        self._retry = None
        now = self._loop.time()
        for slot, (avoid, since) in list(self._homeless.items()):
            owner = self._owner(slot)
            if owner is not None and (owner != avoid or now - since >= SAME_OWNER_S):
                self._move(slot, owner)
        if self._homeless:
            self._client.refresh()
            self._schedule_retry()

    def _on_slots_changed(self, slots: set[int]) -> None:
        """Follow the slots to their new owners, and close the subscribers of nodes that own none."""
        for slot in slots & self._channels.keys():
            self._redirects.pop(slot, None)
            owner, home = self._owner(slot), self._homes.get(slot)
            if owner is not None and (home is None or home.address != owner):
                self._move(slot, owner)
        self._retire()

    def _retire(self) -> None:
        primaries = set(self._primaries())
        for address, node in list(self._nodes.items()):
            if address in primaries:
                continue
            if self._homes.get(_PLAIN) is node:
                self._move(_PLAIN, next(iter(primaries), None))
            if not any(node.channels.values()) and node not in self._homes.values():
                del self._nodes[address]
                self._failures_in_a_row.pop(address, None)
                self._probes.pop(address, None)
                self._start_task(node.close())

    # ---- events of the nodes

    def on_withdrawn(self, node: NodeSubscriptions, channel: PubSubChannel) -> None:
        """See ``NodeSubscriptionEvents``: only this slot looks for its new owner."""
        slot = slot_of(channel.name)
        if self._homes.get(slot) is node:
            _log.info("pubsub.slot_withdrawn server=%s slot=%d", node.name, slot)
            self._move(slot, None, avoid=node.address)

    def on_refused(self, node: NodeSubscriptions, channels: list[PubSubChannel], error: ReplyError) -> None:
        """See ``NodeSubscriptionEvents``: follow a redirect, wait for a slot that is not served, fail the rest."""
        slot = slot_of(channels[0].name) if channels[0].sharded else _PLAIN
        decision = decide(error, node.address)
        if self._homes.get(slot) is not node:
            return
        if decision.action is not Action.RETURN:
            redirects = self._redirects[slot] = self._redirects.get(slot, 0) + 1
            follows = (
                decision.action is Action.FOLLOW and decision.address != node.address and redirects % REDIRECTS_AT_ONCE
            )
            self._move(slot, decision.address if follows else None)
            return
        for channel in channels:
            if channel.interrupted:
                node.abort(f"refused a channel that was subscribed before: {error}")
                return
            channel.fail(error)
            self._forget(slot, channel)

    def on_disconnected(self, node: NodeSubscriptions) -> None:
        """See ``NodeSubscriptionEvents``: the slots may get another owner; plain channels move at once."""
        self._client.refresh()
        if self._homes.get(_PLAIN) is node:
            self._move(_PLAIN, self._owner(_PLAIN))

    # ---- probes

    async def probe(self) -> bool:
        """Publish a message to ourselves through each primary. Returns whether all came back.

        Runs automatically every ``probe_s``. A connection that does not return its probe is replaced.
        """
        primaries = self._primaries()
        came_back = await asyncio.gather(*map(self._probe_primary, primaries))
        for address, has_returned in zip(primaries, came_back, strict=True):
            self._failures_in_a_row[address] = 0 if has_returned else self._failures_in_a_row.get(address, 0) + 1
            self._failed_probes[address] += not has_returned
        return all(came_back)

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            await self.probe()

    async def _probe_primary(self, address: NodeAddress) -> bool:
        probe, node = self._probe_of(address), self._node(address)
        if probe is None:
            return False
        try:
            await probe.go_round(self.subscribe, self._client, self._probe_timeout_s)
        except TimeoutError:
            self._client.refresh()
            if self._owner(slot_of(probe.channel.encode())) == address:
                node.abort(f"did not return a probe within {self._probe_timeout_s:g} s")
            return False
        except (RedisUnavailable, ReplyError) as error:
            _log.warning("pubsub.probe_failed server=%s:%d error=%s", *address, error)
            return False
        return True

    def _probe_of(self, address: NodeAddress) -> Probe | None:
        """Return the probe of a primary, on a channel of a slot that it owns."""
        known = self._probes.get(address)
        if known is not None:
            if self._owner(slot_of(known.channel.encode())) == address:
                return known
            self.unsubscribe(known.channel, known)
            del self._probes[address]
        token = secrets.token_hex(8)
        for n in range(MAX_PROBE_NAMES):
            channel = f"{self._namespace}:probe:{token}:{{{n}}}"
            if self._owner(slot_of(channel.encode())) == address:
                probe = self._probes[address] = Probe(channel)
                return probe
        return None

    # ---- helpers

    def _primaries(self) -> tuple[NodeAddress, ...]:
        return self._client.primary_addresses

    def _start_task(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
