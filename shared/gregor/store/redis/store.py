"""The store over one Redis-protocol server (Redis ≥ 7.2 or Valkey ≥ 8)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from gregor.clock import SystemClock
from gregor.config.values import DEFAULT_PARTITIONS
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Receipt
from gregor.redis.address import UrlSource
from gregor.redis.client import RedisClient
from gregor.redis.clients import client_of, tracker_of
from gregor.redis.cluster.answers import CLUSTER_CODES
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.commands import RedisCommands, RedisNode
from gregor.redis.errors import RedisUnavailable
from gregor.redis.tracking import KeyTracker
from gregor.store.connections import ConnectionReport, ServerReport
from gregor.store.contract.store import Unavailable
from gregor.store.contract.webhooks import RecordedEvents

from .access import RedisAccess
from .contacts import RedisContacts
from .delivery.agenda import RedisAgenda
from .delivery.dead_letters import RedisDeadLetters
from .delivery.due_times import RedisDueTimes
from .delivery.ledger import RedisLedger
from .deployment import RedisDeployment
from .devices.device_state import TOKEN_LIFE_US, RedisDevices
from .devices.gateways import RedisGateways
from .devices.push_context import RedisPushContexts
from .errors import result_of, result_or_raise
from .global_data.categories import RedisCategories
from .global_data.jobs import RedisJobs
from .global_data.suppressions import RedisSuppressions
from .global_data.webhooks import RedisWebhooks
from .keys import Keys
from .replication import WAIT_SILENCE_S, RedisReplication
from .rewriting import RedisRewriting
from .users.user_state import ALL_PAGES, RedisUsers, ScriptPages

_PING_S: Final = 1.0
"""How long one server of a cluster may take to answer a ping."""


class RedisStore:
    """``Store`` over ``RedisCommands``. Services call ``open_store``; tests pass other commands.

    Args:
        partitions: The number of partitions of the deployment.
        allow_oom: Whether the server supports script flags (fakeredis does not).
        general: Send every commit to the general path; tests compare it with the fast path.
        pages: How much one script may examine.
    """

    tracker: KeyTracker | None = None
    """Reports changes of keys that were read through it; ``None``: keys must be polled."""

    def __init__(
        self,
        connection: RedisCommands,
        limits: Limits,
        namespace: str = "gregor",
        *,
        partitions: int = DEFAULT_PARTITIONS,
        token_life_us: int = TOKEN_LIFE_US,
        allow_oom: bool = True,
        general: bool = False,
        pages: ScriptPages = ALL_PAGES,
    ) -> None:
        self._connection = connection
        self.keys = keys = Keys(namespace, partitions)
        self._add_deployment_parts(connection, limits, allow_oom=allow_oom)
        self.recorded_events = recorded = RecordedEvents()
        self.devices = RedisDevices(
            connection,
            keys,
            limits,
            self.gateways.live,
            self._commit,
            recorded_events=recorded,
            token_life_us=token_life_us,
            allow_oom=allow_oom,
        )
        self.users = RedisUsers(
            connection,
            keys,
            limits,
            self.devices,
            recorded_events=recorded,
            allow_oom=allow_oom,
            general=general,
            pages=pages,
        )
        self.agenda = RedisAgenda(connection, keys, limits, allow_oom=allow_oom)
        self.ledger = RedisLedger(connection, keys, limits, recorded_events=recorded, allow_oom=allow_oom)
        self.contacts = RedisContacts(connection, keys)
        self.push_contexts = RedisPushContexts(connection, keys, self.gateways.live, self._commit_due)

    def _add_deployment_parts(self, connection: RedisCommands, limits: Limits, *, allow_oom: bool) -> None:
        """Add the parts with data of the whole deployment."""
        self.deployment = RedisDeployment(connection, self.keys, allow_oom=allow_oom)
        self.replication = RedisReplication(connection, self.keys, None)
        self.gateways = RedisGateways(connection, self.keys, limits, allow_oom=allow_oom)
        self.categories = RedisCategories(connection, self.keys)
        self.webhooks = RedisWebhooks(connection, self.keys)
        self.suppressions = RedisSuppressions(connection, self.keys, allow_oom=allow_oom)
        self.jobs = RedisJobs(connection, self.keys)
        self.access = RedisAccess(connection, self.keys, limits, allow_oom=allow_oom)
        self.dead_letters = RedisDeadLetters(connection, self.keys, limits, allow_oom=allow_oom)

    @property
    def rewriting(self) -> RedisRewriting:
        """See ``Store.rewriting``."""
        return RedisRewriting(self._connection, self.keys)

    def due_times(self) -> RedisDueTimes:
        """Return the due times of all partitions, for a scheduler."""
        return RedisDueTimes(self._connection, self.keys, self.tracker)

    async def _commit(self, uid: str, commit: Commit) -> Receipt:
        return await self.users.commit(uid, commit)

    async def _commit_due(self, uid: str, now_us: int) -> None:
        await self.users.state(uid, View(), now_us)

    # ---- pub/sub channels

    def channel_of(self, uid: str) -> str:
        """See ``Store.channel_of``."""
        return self.keys.of_user(uid).channel

    @property
    def reset_channel(self) -> str:
        """See ``Store.reset_channel``."""
        return self.keys.reset_channel

    @property
    def categories_channel(self) -> str:
        """See ``Store.categories_channel``."""
        return self.keys.categories_channel

    @property
    def webhooks_channel(self) -> str:
        """See ``Store.webhooks_channel``."""
        return self.keys.webhooks_channel

    # ---- life cycle

    async def prepare(self, service: str = "") -> None:
        """Load the scripts, and check the number of partitions and the format of the data.

        ``service``: the name under which this process is registered (empty: it is not).

        Raises ``Unavailable``, and ``ValueError`` if the deployment has another number or a format of another release.
        If a server of a cluster is unreachable, both are checked as soon as it answers.
        """
        scripts = (
            *self.users.all_scripts,
            *self.devices.all_scripts,
            *self.gateways.all_scripts,
            *self.access.all_scripts,
            *self.categories.all_scripts,
            *self.webhooks.all_scripts,
            *self.agenda.all_scripts,
            *self.ledger.all_scripts,
            *self.dead_letters.all_scripts,
            *self.suppressions.all_scripts,
            *self.contacts.all_scripts,
            *self.jobs.all_scripts,
            *self.push_contexts.all_scripts,
            *self.deployment.all_scripts,
            *self.rewriting.all_scripts,
        )
        await result_of(self._connection.load(scripts))
        await self.deployment.agree_now_or_later(service)

    async def ping(self) -> dict[str, float | None]:
        """See ``Store.ping``. The servers are in the order of their slots."""
        pings = {node.name: node.call("PING") for node in self._connection.nodes}
        if not pings:
            raise Unavailable("no server of the cluster is known")
        loop = asyncio.get_running_loop()
        ended_s: dict[asyncio.Future[Any], float] = {}
        begun_s = loop.time()
        for ping in pings.values():
            ping.add_done_callback(lambda done: ended_s.setdefault(done, loop.time()))
        # A server that hangs must not hide that the others answer.
        try:
            answered, _ = await asyncio.wait(pings.values(), timeout=_PING_S if len(pings) > 1 else None)
        finally:
            # Without effect on those that have ended. The error of a late one would be logged as never retrieved.
            for ping in pings.values():
                ping.cancel()
        failures = {ping: ping.exception() for ping in answered}
        if None not in failures.values():
            result_or_raise(next(iter(failures.values()), RedisUnavailable("no server answers in time")))
        has_answered = {ping for ping in answered if failures[ping] is None}
        return {name: ended_s[ping] - begun_s if ping in has_answered else None for name, ping in pings.items()}

    def node_of(self, uid: str) -> RedisNode | None:
        """Return the server of a user; ``None`` if no known server owns its slot now."""
        [group] = self._connection.group_by_node([self.channel_of(uid)])
        return group.node

    def connection_report(self) -> ConnectionReport:
        """See ``Store.connection_report``."""
        client = self._connection
        if not isinstance(client, RedisClient | ClusterClient):
            return ConnectionReport()
        return ConnectionReport(
            {node.name: ServerReport(node.outstanding, node.reconnections) for node in client.nodes},
            _events_of(client),
            client.waiting,
            client.covered_slots,
            self.deployment.clock_offset_s,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.gateways.close()
        await self.deployment.close()
        await self.replication.close()
        if self.tracker is not None:
            await self.tracker.close()
        await self._connection.close()


def _events_of(client: RedisClient | ClusterClient) -> dict[str, int]:
    """Return the events of the connections: error replies of a cluster by code, its slot maps, changes of a primary."""
    if isinstance(client, RedisClient):
        return {"primary_switch": client.primary_switches}
    replies = {code.lower(): count for code, count in client.error_replies.items() if code in CLUSTER_CODES}
    return {**replies, "slot_map_read": client.topology_reads, "slots_moved": client.slot_changes}


async def open_store(
    url: UrlSource,
    limits: Limits,
    namespace: str = "gregor",
    *,
    partitions: int = DEFAULT_PARTITIONS,
    token_life_us: int = TOKEN_LIFE_US,
    service: str = "",
    replicas: int = 1,
    replication_timeout_s: float = 1.0,
    clock_offset_s: float = 0,
) -> RedisStore:
    """Return a connected, prepared store. Raises ``Unavailable`` if the server cannot be reached.

    Raises ``ValueError`` if the deployment has another number of ``partitions`` (setting ``PARTITIONS``), or data that
    this release cannot read.

    ``service``: the name under which this process is registered; it then also follows which
    gateways are alive (empty: neither). ``clock_offset_s``: setting ``CLOCK_OFFSET``.
    ``token_life_us``: how far in the future the ``exp`` of a device token may be (setting ``TOKEN_MAX_AGE``);
    revocations are kept that long. ``replicas``, ``replication_timeout_s``: see ``RedisReplication``.
    """
    link = client_of(url)
    try:
        await link.open()
    except ConnectionError as error:
        await link.close()
        raise Unavailable(str(error)) from error
    store = RedisStore(link, limits, namespace, partitions=partitions, token_life_us=token_life_us)
    store.access.use_server_time()
    connect = partial(_client_for_wait, url, replication_timeout_s)
    store.replication = RedisReplication(link, store.keys, connect, required=replicas, timeout_s=replication_timeout_s)
    if isinstance(link, ClusterClient):
        link.slot_listeners.append(store.replication.follow_slots)
    try:
        await store.prepare(service)
    except BaseException:
        await store.close()
        raise
    if service:
        store.tracker = tracker_of(url, link)
        store.jobs.track(store.tracker)
        now_us = SystemClock(clock_offset_s).now_us
        store.deployment.start_registration(now_us)
        await store.gateways.start(now_us)
    return store


def _client_for_wait(url: UrlSource, timeout_s: float) -> RedisClient | ClusterClient:
    client = client_of(url, name="gregor-wait")
    if isinstance(client, ClusterClient):
        return client
    # A hung server answers no WAIT at all: it is dropped soon after the WAIT should have ended.
    return RedisClient(url, name="gregor-wait", timeout_s=timeout_s + WAIT_SILENCE_S)
