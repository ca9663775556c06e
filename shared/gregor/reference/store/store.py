"""Executable specification: never runs in production. ``MemoryStore``: all parts of the store in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.reference.deployment import MemoryDeployment, MemoryRewriting
from gregor.reference.jobs import MemoryJobs
from gregor.store.connections import ConnectionReport
from gregor.store.contract.replication import ReplicationMark, replication_outcome
from gregor.store.contract.webhooks import RecordedEvents

from .access import MemoryAccess
from .agenda import MemoryAgenda
from .categories import MemoryCategories
from .contacts import MemoryContacts
from .data import MemoryData, Publisher
from .dead_letters import MemoryDeadLetters
from .devices import MemoryDevices, MemoryGateways
from .ledger import MemoryLedger
from .push_context import MemoryPushContexts
from .suppressions import MemorySuppressions
from .users import MemoryUsers
from .webhooks import MemoryWebhooks


class MemoryReplication:
    """``Replication`` without replicas. A test sets ``replicas``, and ``confirming``: how many of them answer."""

    def __init__(self) -> None:
        self.required = 1
        self.replicas = 0
        self.confirming = 0
        self.waits = 0
        self.outcomes: Counter[str] = Counter()

    async def prepare(self, uids: Sequence[str]) -> ReplicationMark:
        """See ``Replication.prepare``."""
        if self.replicas < self.required:
            self.outcomes["no_replicas"] += 1
            raise Problem("no_replicas", f"The store has {self.replicas} replicas, and {self.required} must confirm.")
        return tuple(uids)

    async def confirm(self, mark: ReplicationMark) -> Mapping[str, int]:
        """See ``Replication.confirm``."""
        self.waits += 1
        uids = mark if isinstance(mark, tuple) else ()
        self.outcomes[replication_outcome(self.confirming, self.required)] += len(uids)
        return dict.fromkeys(uids, self.confirming)


class MemoryStore:
    """``contract.Store`` in memory: the same results and announcements as the Redis store.

    ``feed``: the destination of announcements (``MemoryPubSub``); without it they are discarded.
    """

    def __init__(self, limits: Limits, feed: Publisher | None = None, namespace: str = "gregor") -> None:
        self._data = MemoryData(limits, feed, namespace)
        self._users = MemoryUsers(self._data)
        self._devices = MemoryDevices(self._data, self._users)
        self._gateways = MemoryGateways(self._data)
        self._contacts = MemoryContacts(self._data)
        self._access = MemoryAccess(self._data)
        self._categories = MemoryCategories(self._data)
        self._webhooks = MemoryWebhooks(self._data)
        self._agenda = MemoryAgenda(self._data)
        self._ledger = MemoryLedger(self._data)
        self._dead_letters = MemoryDeadLetters(self._data)
        self._suppressions = MemorySuppressions()
        self._jobs = MemoryJobs()
        self._deployment = MemoryDeployment()
        self._rewriting = MemoryRewriting()
        self._replication = MemoryReplication()
        self._push_contexts = MemoryPushContexts(self._users, self._devices, self._contacts, self._ledger)

    @property
    def tracker(self) -> None:
        """See ``contract.Store.tracker``."""
        return None

    @property
    def replication(self) -> MemoryReplication:
        """Confirmation by replicas."""
        return self._replication

    @property
    def recorded_events(self) -> RecordedEvents:
        """The webhook events that commits of this store record."""
        return self._data.recorded_events

    @property
    def users(self) -> MemoryUsers:
        """Users and their state."""
        return self._users

    @property
    def devices(self) -> MemoryDevices:
        """Devices."""
        return self._devices

    @property
    def gateways(self) -> MemoryGateways:
        """Leases of the gateways."""
        return self._gateways

    @property
    def contacts(self) -> MemoryContacts:
        """Contacts and preferences."""
        return self._contacts

    @property
    def access(self) -> MemoryAccess:
        """Keys, tickets and rate limits."""
        return self._access

    @property
    def categories(self) -> MemoryCategories:
        """Categories."""
        return self._categories

    @property
    def webhooks(self) -> MemoryWebhooks:
        """Webhooks."""
        return self._webhooks

    @property
    def agenda(self) -> MemoryAgenda:
        """Scheduled work."""
        return self._agenda

    @property
    def ledger(self) -> MemoryLedger:
        """The delivery ledger."""
        return self._ledger

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        """Dead letters."""
        return self._dead_letters

    @property
    def suppressions(self) -> MemorySuppressions:
        """Suppressed e-mail addresses."""
        return self._suppressions

    @property
    def jobs(self) -> MemoryJobs:
        """Jobs."""
        return self._jobs

    @property
    def deployment(self) -> MemoryDeployment:
        """The facts that all processes share."""
        return self._deployment

    @property
    def rewriting(self) -> MemoryRewriting:
        """Rewriting of stored values."""
        return self._rewriting

    @property
    def push_contexts(self) -> MemoryPushContexts:
        """Everything that decides a push."""
        return self._push_contexts

    def channel_of(self, uid: str) -> str:
        """See ``contract.Store.channel_of``."""
        return self._data.channel_of(uid)

    @property
    def reset_channel(self) -> str:
        """See ``contract.Store.reset_channel``. Subscribe with ``sharded=False``."""
        return self._data.reset_channel

    @property
    def categories_channel(self) -> str:
        """See ``contract.Store.categories_channel``. Subscribe with ``sharded=False``."""
        return self._data.categories_channel

    @property
    def webhooks_channel(self) -> str:
        """See ``contract.Store.webhooks_channel``. Subscribe with ``sharded=False``."""
        return self._data.webhooks_channel

    async def ping(self) -> dict[str, float | None]:
        """See ``contract.Store.ping``: the store is always available."""
        return {"memory": 0.0}

    def connection_report(self) -> ConnectionReport:
        """See ``contract.Store.connection_report``: there are no connections."""
        return ConnectionReport()

    async def close(self) -> None:
        """Do nothing."""
