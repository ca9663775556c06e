"""Every key in Redis: its name, type, lifetime and writer. A test checks that no other module builds keys.

A user belongs to one of the partitions (``partitions.py``), whose number is fixed for a deployment. All keys of a user,
and the due users of its partition, have the partition's hash tag. Therefore one script finds them in one slot, in a
cluster too.

======================== ====== ========= =========================================== =====================
key                      type   lifetime  holds                                       written by
======================== ====== ========= =========================================== =====================
``{tag}:h:<uid>``        hash   permanent head, id → record, live and gone; see codec commit, collect
``{tag}:s:<uid>``        hash   permanent remembered intervals by category or prefix  commit, collect
``{tag}:n:<uid>``        zset   permanent live ``id␀category`` by created seq         commit
``{tag}:o:<uid>``        zset   permanent gone ids, hidings, unknown ids, by seq      commit, collect
``{tag}:a:<uid>``        zset   permanent agenda: expiries, reminders, housekeeping  commit, collect
``{tag}:x:<uid>``        zset   permanent external messages by seq                    commit, collect
``{tag}:later:<uid>``    hash   permanent message id → delayed message               agenda
``{tag}:dev:<uid>``      hash   permanent device → registration                       devices
``{tag}:con:<uid>``      hash   permanent contact and preferences, as JSON            contacts
``{tag}:ack:<uid>``      hash   permanent device → its acknowledged views and seqs    devices
``{tag}:seen:<uid>``     list   retention the newest acknowledgements: from, to, when devices
``{tag}:on:<uid>``       hash   retention device␀session → presence lease; front      devices
``{tag}:rev:<hash>``     hash   token age device (or empty) → issued before           devices
``{tag}:tickets:<uid>``  hash   token age hash of a ticket → created, expiry, size, holder access
``{tag}:led:<uid>/<i>``  hash   retention delivery → state, attempts, lease, history  ledger
``{tag}:ledx:<uid>``     zset   retention items with deliveries, by time              ledger
``{tag}:evx:<uid>``      zset   retention items with webhook events, by time          ledger
``{tag}:wdr:<uid>``      hash   retention withdrawals, categories, device wake-ups      ledger
``{tag}:fold:<uid>``     zset   a day     deliveries above the push budget            ledger
``{tag}:trace:<uid>``    hash   a day     item id → trace of its sampled message       agenda
``{tag}:fly:<uid>``      hash   minutes   place on a device's screen → delivery       ledger
``{tag}:due``            zset   permanent uid by its earliest work                    commit, collect
``{tag}:dead``           zset   retention dead states of the partition, by time      ledger, dead states
``{tag}:gen``            string permanent generation of the partition                 reset of all
``{tag}:reset``          string permanent the last reset of all: number, spread       reset of all
``{tag}:rate:<hash>``    string seconds   GCRA: theoretical arrival time              access
``{tag}:rate:<n>/<uid>`` string seconds   the same, of deliveries and acknowledged items ledger, devices
``{tag}:wait``           string a minute  written before WAIT, which needs a write              replication
``partitions``           string permanent number of partitions of the deployment      start-up
``formats``              hash   permanent written and oldest format; mark of a finish start-up, upgrade
``gateways``             zset   retention gateways by the last renewal of their lease        gateways
``processes``            zset   a minute  running processes: service, release, formats start-up
``jobs:{jobs}``          hash   permanent job id → job; ``#``: the last number        jobs
``job_order:{jobs}``     zset   permanent the same ids by number, and by state        jobs
``categories``           hash   permanent version → set of entries; ``version``       categories
``{mail}:suppressed``    hash   permanent hash of an address → suppression           suppressions
``{mail}:suppressions``  zset   permanent the same hashes, by time                    suppressions
``forgotten``            zset   two days  hashes of deleted users, by time            delete_user
``keys``                 hash   permanent key id → service key (hashes of secrets)    access
``keys_used``            hash   permanent key id → time of its last use               access
``audit``                stream bounded   writes of service keys, by time             access
``webhooks``             hash   permanent webhook id → webhook; ``version``           webhooks
``ticket:<hash>``        string token age ticket                                      access
``final:<hash>``         string an hour   terminal close of a stream, encrypted       access
``push:<hash>``          string permanent push token → its owner                      devices
``deliveries:<channel>`` stream bounded   deliveries of a channel; on the queue Redis scheduler
``…:retry:<channel>``    zset   bounded   waiting deliveries of a channel, by time    delivery
``…:aside:<channel>``    stream two weeks entries that cannot be parsed               delivery
======================== ====== ========= =========================================== =====================

All begin with the namespace (setting ``NAMESPACE``). *Permanent* keys of a user are deleted when they are empty, or
with the user. The revocation of a deleted user must stay until its tokens have expired, and buckets of rate limits for
seconds: their names are hashes, and contain no uid.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

from gregor.config.values import DEFAULT_PARTITIONS
from gregor.core.notify.ledger import MAIL_BUDGET, PUSH_BUDGET
from gregor.core.notify.timeline import ACKNOWLEDGED_ITEMS
from gregor.store.deleted_users import user_id_hash

from .partitions import Partitions, partitions_of

CACHED_USERS: Final = 8_192
"""Users whose keys a process keeps: 3.4 KB each, so at most 28 MB. Others cost a few µs more a call."""

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
        "reset",
        "jobs",
        "job_order",
        "partitions",
        "formats",
        "keys",
        "keys_used",
        "audit",
        "push",
        "categories",
        "webhooks",
        "suppressed",
        "suppressions",
    ]
)
"""The kinds of keys without a TTL. A test fails for any other key without one."""


# ---- keys of the deployment and of partitions


class _Prefixes(dict[int, str]):
    """The prefix of each partition that was needed so far."""

    def __init__(self, namespace: str, partitions: Partitions) -> None:
        self._namespace = namespace
        self._partitions = partitions

    def __missing__(self, partition: int) -> str:
        prefix = self[partition] = f"{self._namespace}:{{{self._partitions.tag(partition)}}}:"
        return prefix


class Keys:
    """The keys of one namespace in a deployment with ``partition_count`` partitions."""

    def __init__(self, namespace: str, partition_count: int = DEFAULT_PARTITIONS) -> None:
        self.namespace = namespace
        self.partition_count = partition_count
        self._partitions = partitions_of(partition_count)
        self._prefixes = _Prefixes(namespace, self._partitions)
        self.of_user = lru_cache(maxsize=CACHED_USERS)(self._of_user)

    def prefix(self, uid: str) -> str:
        """Return the prefix of every key of this user: namespace, and hash tag of its partition."""
        return self._prefixes[self._partitions.of_user(uid)]

    def _of_user(self, uid: str) -> UserKeys:
        return UserKeys(self.prefix(uid), uid)

    def creation(self, uid: str) -> tuple[str, ...]:
        """Return ``of_user(uid).commit.creation``, in a tenth of the time if the user is not cached."""
        return _creation_keys(self.prefix(uid), uid)

    def timed_creation(self, uid: str) -> tuple[str, ...]:
        """Return ``of_user(uid).commit.timed_creation``; see ``creation``."""
        prefix = self.prefix(uid)
        return _timed_creation_keys(_creation_keys(prefix, uid), prefix, uid)

    def generation(self, partition: int) -> str:
        """Return the key of a partition's generation."""
        return self._prefixes[partition] + "gen"

    def last_reset(self, partition: int) -> str:
        """Return the key of the last reset of all users that reached a partition: its number, and its spread."""
        return self._prefixes[partition] + "reset"

    def last_reset_of_user(self, uid: str) -> str:
        """Return ``last_reset`` of the partition of a user."""
        return self.prefix(uid) + "reset"

    def replication(self, uid: str) -> str:
        """Return the key that is written before WAIT: in the user's slot, one for a partition."""
        return f"{self.prefix(uid)}wait"

    def due(self, partition: int) -> str:
        """Return the key of a partition's due users."""
        return self._prefixes[partition] + "due"

    def dead(self, partition: int) -> str:
        """Return the key of a partition's dead letters."""
        return self._prefixes[partition] + "dead"

    def deliveries(self, uid: str, item: str) -> str:
        """Return the key of an item's deliveries. A slash is in no name, so no two pairs share a key."""
        return f"{self.prefix(uid)}led:{uid}/{item}"

    def rate(self, bucket: str, owner: str) -> str:
        """Return the key of a rate limiter's bucket. All buckets of an owner are in one slot."""
        return f"{self.prefix(owner)}rate:{hashlib.blake2b(bucket.encode(), digest_size=16).hexdigest()}"

    def kind_of(self, key: str) -> str:
        """Return the kind of a key: the part before the uid, or the whole name of a key of the deployment."""
        rest = key.removeprefix(f"{self.namespace}:")
        return (rest.partition("}:")[2] if rest.startswith("{") else rest).partition(":")[0]

    @property
    def partitions(self) -> str:
        return f"{self.namespace}:partitions"

    @property
    def formats(self) -> str:
        """The written format of the deployment."""
        return f"{self.namespace}:formats"

    @property
    def processes(self) -> str:
        """The running processes, by the time when they expire."""
        return f"{self.namespace}:processes"

    @property
    def gateways(self) -> str:
        """The gateways, by the last renewal of their lease."""
        return f"{self.namespace}:gateways"

    @property
    def deleted_users(self) -> str:
        """The hashes of deleted users, by time."""
        return f"{self.namespace}:forgotten"

    @property
    def service_keys(self) -> str:
        return f"{self.namespace}:keys"

    @property
    def service_key_uses(self) -> str:
        return f"{self.namespace}:keys_used"

    @property
    def audit(self) -> str:
        return f"{self.namespace}:audit"

    @property
    def jobs(self) -> str:
        """The jobs, by id."""
        return f"{self.namespace}:jobs:{{jobs}}"

    @property
    def job_order(self) -> str:
        """All jobs by number, the open ones by number, and the others by their end; in the same slot."""
        return f"{self.namespace}:job_order:{{jobs}}"

    @property
    def categories(self) -> str:
        """The versions of the categories."""
        return f"{self.namespace}:categories"

    @property
    def suppressed(self) -> str:
        """The suppressions, by hash of the address."""
        return f"{self.namespace}:{{mail}}:suppressed"

    @property
    def suppressed_order(self) -> str:
        """The same hashes by time, in the same slot."""
        return f"{self.namespace}:{{mail}}:suppressions"

    @property
    def categories_channel(self) -> str:
        """The channel (not a key) for new versions of the categories; it has the name of the key."""
        return self.categories

    @property
    def webhooks(self) -> str:
        """The webhooks."""
        return f"{self.namespace}:webhooks"

    @property
    def webhooks_channel(self) -> str:
        """The channel (not a key) for changes of webhooks; it has the name of the key."""
        return self.webhooks

    @property
    def reset_channel(self) -> str:
        """The channel (not a key) for resets of all users."""
        return f"{self.namespace}:flush"

    def ticket(self, name: str) -> str:
        """Return the key of a ticket. ``name``: its hash, because a list of keys must not reveal its text."""
        return f"{self.namespace}:ticket:{name}"

    def terminal_close(self, opened_with: str) -> str:
        """Return the key of a terminal close: a hash of the credential and session that opened the stream."""
        return f"{self.namespace}:final:{hashlib.sha256(opened_with.encode()).hexdigest()}"

    def stream(self, channel: str) -> str:
        """Return the key of a channel's delivery stream (on the queue Redis)."""
        return f"{self.namespace}:deliveries:{channel}"

    def waiting(self, channel: str) -> str:
        """Return the key of a channel's waiting intents, by time."""
        return f"{self.namespace}:deliveries:retry:{channel}"

    def quarantine(self, channel: str) -> str:
        """Return the key of a channel's entries that cannot be parsed."""
        return f"{self.namespace}:deliveries:aside:{channel}"

    def push(self, token: str) -> str:
        """Return the key of a push token's owner: a hash of the token."""
        return f"{self.namespace}:push:{hashlib.sha256(token.encode()).hexdigest()}"


# ---- keys of one user


class CommitKeys(NamedTuple):
    """The keys of a commit by its shape; each has those of the one before it, and more. A key costs 0.2 µs."""

    creation: tuple[str, ...]
    timed_creation: tuple[str, ...]
    dismissal: tuple[str, ...]
    general: tuple[str, ...]


def _creation_keys(prefix: str, uid: str) -> tuple[str, ...]:
    return f"{prefix}h:{uid}", f"{prefix}n:{uid}", f"{prefix}gen"


def _timed_creation_keys(creation: tuple[str, ...], prefix: str, uid: str) -> tuple[str, ...]:
    return (*creation, f"{prefix}a:{uid}", f"{prefix}due")


class UserKeys:
    """The keys of one user, as text. Tuples are in the order of the scripts' KEYS.

    The pub/sub channel has the name of the state key: channels are not keys, and a commit needs one argument less.
    """

    __slots__ = (
        "acknowledged_items",
        "acks",
        "agenda",
        "beside_deliveries",
        "budgets",
        "channel",
        "collect",
        "commit",
        "contact",
        "dead",
        "delivered",
        "devices",
        "due",
        "event_items",
        "every",
        "expedite",
        "external",
        "gone",
        "intervals",
        "later",
        "live",
        "places",
        "plan",
        "presence",
        "push_context",
        "record_outcome",
        "replay",
        "revoked",
        "seen",
        "state",
        "sync",
        "tickets",
        "traces",
        "withdrawals",
    )

    def __init__(self, prefix: str, uid: str) -> None:
        self.state = f"{prefix}h:{uid}"
        self.live = f"{prefix}n:{uid}"
        self.gone = f"{prefix}o:{uid}"
        self.agenda = f"{prefix}a:{uid}"
        self.devices = f"{prefix}dev:{uid}"
        self.contact = f"{prefix}con:{uid}"
        self.delivered, self.event_items = f"{prefix}ledx:{uid}", f"{prefix}evx:{uid}"
        self.places = f"{prefix}fly:{uid}"
        self.withdrawals = f"{prefix}wdr:{uid}"
        self.budgets = _budget_keys(prefix, uid)
        self.later = f"{prefix}later:{uid}"
        self.acks, self.traces = f"{prefix}ack:{uid}", f"{prefix}trace:{uid}"
        self.seen, self.acknowledged_items = f"{prefix}seen:{uid}", f"{prefix}rate:{ACKNOWLEDGED_ITEMS.name}/{uid}"
        self.presence = f"{prefix}on:{uid}"
        self.revoked = f"{prefix}rev:{user_id_hash(uid)}"
        self.tickets = f"{prefix}tickets:{uid}"
        self.due, self.dead = f"{prefix}due", f"{prefix}dead"
        self.channel = self.state
        self.external, self.intervals, generation = f"{prefix}x:{uid}", f"{prefix}s:{uid}", f"{prefix}gen"

        # KEYS of the scripts, in their order
        creation = _creation_keys(prefix, uid)
        timed_creation = _timed_creation_keys(creation, prefix, uid)
        dismissal = (*timed_creation, self.gone)
        general = (*dismissal, self.intervals, self.external, self.devices, self.revoked)
        self.commit = CommitKeys(creation, timed_creation, dismissal, general)
        self.sync = (self.state, self.live, self.gone, generation, self.external)
        self.collect = (self.state, self.gone, self.agenda, self.due, self.external, self.intervals)
        self.plan = (self.delivered, self.withdrawals, self.state, self.agenda, self.due, self.event_items)
        self.record_outcome = (self.places, self.withdrawals, self.agenda, self.due, self.dead, self.state)
        self.expedite = (self.agenda, self.due)
        self.replay = (self.dead, self.delivered, self.withdrawals, self.agenda, self.due, self.event_items)
        device_keys = (self.devices, self.presence, self.acks, self.contact, self.withdrawals)
        self.push_context = (self.state, self.live, generation, *device_keys)
        # everything that is deleted with the user
        state_keys = (self.state, self.live, self.gone, self.intervals, self.agenda, self.external)
        beside_keys = (self.later, self.devices, self.acks, self.seen, self.presence, self.contact, self.traces)
        self.beside_deliveries = (self.places, self.event_items, self.withdrawals, *chain(*self.budgets.values()))
        self.every = (*state_keys, *beside_keys, self.acknowledged_items, *self.beside_deliveries)


def _budget_keys(prefix: str, uid: str) -> dict[str, tuple[str, ...]]:
    """Return the bucket of each budget; for pushes also the deliveries above it."""
    pushes, mails = (f"{prefix}rate:{name}/{uid}" for name in (PUSH_BUDGET, MAIL_BUDGET))
    return {PUSH_BUDGET: (pushes, f"{prefix}fold:{uid}"), MAIL_BUDGET: (mails,)}
