"""Every key in Redis: its name, type, lifetime and writer. Nothing else builds a key (held by a test).

A user belongs to the partition ``crc32(uid) % 1024``, fixed for a deployment. All keys of a user, and the due set of
its partition, carry the partition's hash tag, so that one script touches them in one slot, in a cluster too.

======================== ====== ========= =========================================== =====================
key                      type   lifetime  holds                                       written by
======================== ====== ========= =========================================== =====================
``{tag}:h:<uid>``        hash   permanent head, id → record, live and gone; see codec commit, collect
``{tag}:s:<uid>``        hash   permanent remembered intervals by category or prefix  commit, collect
``{tag}:n:<uid>``        zset   permanent live ``id␀category`` by created seq         commit
``{tag}:o:<uid>``        zset   permanent gone ids, hidings, unknown ids, by seq      commit, collect
``{tag}:a:<uid>``        zset   permanent agenda: expiries, reminders, forgetting     commit, collect
``{tag}:x:<uid>``        zset   permanent external messages by seq                    commit, collect
``{tag}:later:<uid>``    hash   permanent message id → delayed message               agenda
``{tag}:dev:<uid>``      hash   permanent device → registration                       devices
``{tag}:con:<uid>``      hash   permanent contact and preferences, as JSON            contacts
``{tag}:ack:<uid>``      hash   permanent device␀cats → acknowledged seq              devices
``{tag}:seen:<uid>``     list   retention the newest acknowledgements: from, to, when devices
``{tag}:on:<uid>``       hash   retention device␀session → presence lease; front      devices
``{tag}:rev:<uid>``      hash   token age device (or empty) → issued before           devices
``{tag}:led:<uid>/<i>``  hash   retention delivery → state, attempts, lease, story    ledger
``{tag}:ledx:<uid>``     zset   retention items with deliveries, by time              ledger
``{tag}:wdr:<uid>``      hash   retention withdrawals that wait; when a device was woken ledger
``{tag}:fly:<uid>``      hash   minutes   place on a device's screen → delivery       ledger
``{tag}:due``            zset   permanent uid by its earliest work                    commit, collect
``{tag}:dead``           zset   retention dead states of the partition, by time      ledger, dead states
``{tag}:gen``            string permanent flush generation of the partition           flush of all
``{tag}:rate:<bucket>``  string seconds   GCRA: theoretical arrival time              access
``spread``               string permanent that of the last flush of all, seconds      flush of all
``partitions``           string permanent number of partitions of the deployment      start-up
``categories``           hash   permanent version → set of entries; ``version``       categories
``{mail}:suppressed``    hash   permanent hash of an address → address, why no mail  suppressions
``{mail}:suppressions``  zset   permanent the same hashes, by time                    suppressions
``forgotten``            zset   two days  traces of users who were forgotten, by time  forgetting
``keys``                 hash   permanent key id → service key (hashes of secrets)    access
``webhooks``             hash   permanent webhook id → webhook; ``version``           webhooks
``ticket:<hash>``        string token age what a ticket stands for                    access
``final:<hash>``         string an hour   how a stream ended for good                 access
``push:<hash>``          string permanent push token → its one owner                  devices
``deliveries:<channel>`` stream bounded   what a channel is to tell; on the queue Redis  scheduler
``…:retry:<channel>``    zset   bounded   what it is to tell later, by time           delivery
``…:aside:<channel>``    stream bounded   entries that nobody could read              delivery
======================== ====== ========= =========================================== =====================

All begin with the namespace (setting ``NAMESPACE``). *Permanent* keys of a user go when they are empty, or with
the user.
"""

from __future__ import annotations

import hashlib
from binascii import crc_hqx
from functools import cache, lru_cache
from typing import Final, NamedTuple
from zlib import crc32

PARTITIONS: Final = 1024
"""Balanced to 7 % up to about 100 primaries (256 would be 17 % at 50); the number can never change."""

SLOTS_APART: Final = 16
"""16,384 cluster slots / 1,024 partitions: tag ``i`` hashes to slot ``i × 16``, so that any range of slots is fair."""

PERMANENT: Final = frozenset(
    [
        "h",
        "s",
        "n",
        "o",
        "a",
        "x",
        "later",
        "dev",
        "ack",
        "con",
        "due",
        "gen",
        "spread",
        "partitions",
        "keys",
        "push",
        "categories",
        "webhooks",
        "suppressed",
        "suppressions",
    ]
)
"""The kinds that may stand without a time to live; the tests fail on any other key that has none."""


@cache
def tags() -> tuple[str, ...]:
    """The hash tag of each partition: the shortest number whose CRC16 (XMODEM, as Redis) is the wanted slot."""
    wanted: dict[int, str] = {}
    number = 0
    while len(wanted) < PARTITIONS:
        text = format(number, "x")
        slot = crc_hqx(text.encode(), 0) % 16384
        if slot % SLOTS_APART == 0:
            wanted.setdefault(slot // SLOTS_APART, text)
        number += 1
    return tuple(wanted[i] for i in range(PARTITIONS))


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._prefixes = tuple(f"{namespace}:{{{tag}}}:" for tag in tags())
        self.of_user = lru_cache(maxsize=65_536)(self._of_user)

    def prefix(self, uid: str) -> str:
        """What begins every key of this user: namespace and hash tag of its partition."""
        return self._prefixes[crc32(uid.encode()) % PARTITIONS]

    def _of_user(self, uid: str) -> UserKeys:
        return UserKeys(self.prefix(uid), uid)

    def generation(self, partition: int) -> str:
        """The flush generation of a partition."""
        return self._prefixes[partition] + "gen"

    def due(self, partition: int) -> str:
        """The due set of a partition."""
        return self._prefixes[partition] + "due"

    def dead(self, partition: int) -> str:
        """The dead states of a partition's users."""
        return self._prefixes[partition] + "dead"

    def deliveries(self, uid: str, item: str) -> str:
        """The ledger of one item's deliveries; ``/`` is in no name, so that no two field_pairs share a key."""
        return f"{self.prefix(uid)}led:{uid}/{item}"

    def rate(self, bucket: str) -> str:
        """The GCRA state of a bucket."""
        return f"{self.prefix(bucket)}rate:{bucket}"

    @property
    def partitions(self) -> str:
        return f"{self.namespace}:partitions"

    @property
    def deleted_users(self) -> str:
        """Traces of users who were forgotten, by time."""
        return f"{self.namespace}:forgotten"

    @property
    def service_keys(self) -> str:
        return f"{self.namespace}:keys"

    @property
    def categories(self) -> str:
        """Where the versions of the categories are kept."""
        return f"{self.namespace}:categories"

    @property
    def suppressed(self) -> str:
        """Why addresses get no mail, by the hash of each."""
        return f"{self.namespace}:{{mail}}:suppressed"

    @property
    def suppressed_order(self) -> str:
        """The same hashes by time, in the same slot."""
        return f"{self.namespace}:{{mail}}:suppressions"

    @property
    def categories_channel(self) -> str:
        """The channel (not a key) on which a new version is told; named as the key is."""
        return self.categories

    @property
    def webhooks(self) -> str:
        """Where the webhooks are kept."""
        return f"{self.namespace}:webhooks"

    @property
    def webhooks_channel(self) -> str:
        """The channel (not a key) on which a change of them is told; named as the key is."""
        return self.webhooks

    @property
    def flush_spread(self) -> str:
        """Over how many seconds the last flush of all is spread."""
        return f"{self.namespace}:spread"

    @property
    def reset_channel(self) -> str:
        """The channel (not a key) on which a flush of all is told."""
        return f"{self.namespace}:flush"

    def ticket(self, text: str) -> str:
        """Where a ticket is kept: by the hash of its text, so that a look at the keys gives none away."""
        return f"{self.namespace}:ticket:{hashlib.sha256(text.encode()).hexdigest()}"

    def final(self, opened_with: str) -> str:
        """How what was opened with this credential and session ended, by a hash of both."""
        return f"{self.namespace}:final:{hashlib.sha256(opened_with.encode()).hexdigest()}"

    def stream(self, channel: str) -> str:
        """The stream of what is to be told by a channel; on the queue Redis."""
        return f"{self.namespace}:deliveries:{channel}"

    def waiting(self, channel: str) -> str:
        """What a channel is to tell later, by time; beside its stream."""
        return f"{self.namespace}:deliveries:retry:{channel}"

    def quarantine(self, channel: str) -> str:
        """Entries of a channel's queue that nobody could read; beside its stream."""
        return f"{self.namespace}:deliveries:aside:{channel}"

    def push(self, token: str) -> str:
        """Who owns a push token, by the hash of the token."""
        return f"{self.namespace}:push:{hashlib.sha256(token.encode()).hexdigest()}"


class CommitKeys(NamedTuple):
    """The keys of a commit, by what it is: each has those of the one before it, and more. A key costs 0.2 µs."""

    creation: tuple[str, ...]
    timed_creation: tuple[str, ...]
    dismissal: tuple[str, ...]
    every: tuple[str, ...]


class UserKeys:
    """The keys of one user, as text; ``commit``, ``sync`` and ``collect`` are in the order of the scripts' KEYS.

    The channel has the name of the state: channels are no keys, and a commit has one argument less.
    """

    __slots__ = (
        *(
            "acks",
            "seen",
            "agenda",
            "contact",
            "dead",
            "delivered",
            "later",
            "places",
            "plan",
            "withdrawals",
            "channel",
            "collect",
            "commit",
            "commit_beside",
            "devices",
            "due",
            "every",
            "hasten",
            "gone",
            "live",
        ),
        *("presence", "replay", "revoked", "scene", "settle", "state", "sync"),
    )

    def __init__(self, prefix: str, uid: str) -> None:
        self.state = f"{prefix}h:{uid}"
        self.live = f"{prefix}n:{uid}"
        self.gone = f"{prefix}o:{uid}"
        self.agenda = f"{prefix}a:{uid}"
        self.devices = f"{prefix}dev:{uid}"
        self.contact = f"{prefix}con:{uid}"
        self.delivered = f"{prefix}ledx:{uid}"
        self.places = f"{prefix}fly:{uid}"
        self.withdrawals = f"{prefix}wdr:{uid}"
        self.later = f"{prefix}later:{uid}"
        self.acks = f"{prefix}ack:{uid}"
        self.seen = f"{prefix}seen:{uid}"
        self.presence = f"{prefix}on:{uid}"
        self.revoked = f"{prefix}rev:{uid}"
        self.due = f"{prefix}due"
        self.dead = f"{prefix}dead"
        self.channel = self.state
        external, intervals, generation = f"{prefix}x:{uid}", f"{prefix}s:{uid}", f"{prefix}gen"
        creation = (self.state, self.live, generation)
        timers = (*creation, self.agenda, self.due)
        dismissal = (*timers, self.gone)
        self.commit = CommitKeys(creation, timers, dismissal, (*dismissal, intervals, external, self.devices))
        self.sync = (self.state, self.live, self.gone, generation, external)
        self.collect = (self.state, self.gone, self.agenda, self.due, external, intervals)
        self.plan = (self.delivered, self.withdrawals, self.state, self.agenda, self.due)
        self.settle = (self.places, self.withdrawals, self.agenda, self.due, self.dead)
        self.hasten = (self.agenda, self.due)
        self.replay = (self.dead, self.delivered, self.withdrawals, self.agenda, self.due)
        beside = (self.later, self.devices, self.acks, self.seen, self.presence, self.contact)
        told = (self.places, self.withdrawals)
        audience = (self.devices, self.presence, self.acks, self.contact, self.withdrawals)
        self.scene = (self.state, self.live, generation, *audience)
        self.every = (self.state, self.live, self.gone, intervals, self.agenda, external, *beside, *told)
