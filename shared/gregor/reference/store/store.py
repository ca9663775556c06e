"""``MemoryStore``: the one door, without a server behind it."""

from __future__ import annotations

from gregor.core.limits import Limits
from gregor.store.contract.webhooks import RecordedEvents

from .access import MemoryAccess
from .agenda import MemoryAgenda
from .categories import MemoryCategories
from .contacts import MemoryContacts
from .data import MemoryData, Publisher
from .dead_letters import MemoryDeadLetters
from .devices import MemoryDevices
from .ledger import MemoryLedger
from .push_context import MemoryPushContexts
from .suppressions import MemorySuppressions
from .users import MemoryUsers
from .webhooks import MemoryWebhooks


class MemoryStore:
    """``contract.Store`` in memory: the same answers and announcements as the Redis store, gone with the process.

    ``feed`` is where announcements go (``MemoryFeed``); ``None``: nowhere.
    """

    def __init__(self, limits: Limits, feed: Publisher | None = None, namespace: str = "gregor") -> None:
        self._shelf = MemoryData(limits, feed, namespace)
        self._users = MemoryUsers(self._shelf)
        self._devices = MemoryDevices(self._shelf, self._users)
        self._contacts = MemoryContacts(self._shelf)
        self._access = MemoryAccess()
        self._categories = MemoryCategories(self._shelf)
        self._webhooks = MemoryWebhooks(self._shelf)
        self._agenda = MemoryAgenda(self._shelf)
        self._ledger = MemoryLedger(self._shelf)
        self._dead_letters = MemoryDeadLetters(self._shelf)
        self._suppressions = MemorySuppressions()
        self._push_contexts = MemoryPushContexts(self._users, self._devices, self._contacts, self._ledger)

    @property
    def recorded_events(self) -> RecordedEvents:
        """The webhook events that commits of this store record."""
        return self._shelf.recorded_events

    @property
    def users(self) -> MemoryUsers:
        """The state of users."""
        return self._users

    @property
    def devices(self) -> MemoryDevices:
        """Their devices."""
        return self._devices

    @property
    def contacts(self) -> MemoryContacts:
        """How they may be reached."""
        return self._contacts

    @property
    def access(self) -> MemoryAccess:
        """Keys, tickets, rates."""
        return self._access

    @property
    def categories(self) -> MemoryCategories:
        """Notification types."""
        return self._categories

    @property
    def webhooks(self) -> MemoryWebhooks:
        """Who is told of events."""
        return self._webhooks

    @property
    def agenda(self) -> MemoryAgenda:
        """What is to be done at a time."""
        return self._agenda

    @property
    def ledger(self) -> MemoryLedger:
        """What became of deliveries."""
        return self._ledger

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        """Deliveries that were given up."""
        return self._dead_letters

    @property
    def suppressions(self) -> MemorySuppressions:
        """Addresses that get no mail."""
        return self._suppressions

    @property
    def push_contexts(self) -> MemoryPushContexts:
        """All that decides a push."""
        return self._push_contexts

    def channel_of(self, uid: str) -> str:
        """As ``Store`` says."""
        return self._shelf.channel_of(uid)

    @property
    def reset_channel(self) -> str:
        """As ``Store`` says. It is a channel of the whole cluster: subscribe with ``sharded=False``."""
        return self._shelf.reset_channel

    @property
    def categories_channel(self) -> str:
        """As ``Store`` says. It is a channel of the whole cluster: subscribe with ``sharded=False``."""
        return self._shelf.categories_channel

    @property
    def webhooks_channel(self) -> str:
        """As ``Store`` says. It is a channel of the whole cluster: subscribe with ``sharded=False``."""
        return self._shelf.webhooks_channel

    async def ping(self) -> None:
        """Always answers."""

    async def close(self) -> None:
        """Nothing to close."""
