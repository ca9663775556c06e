"""The store contract. ``MemoryStore`` and ``RedisStore`` implement it and pass the same tests.

A store decides only what needs atomicity; everything else is decided in `core`. Every method may raise ``Unavailable``:
it is then unknown whether the call was executed. A call is safe to repeat if its docstring says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gregor.core.errors import Problem
from gregor.core.formats import unknown_format_text
from gregor.core.ids import Prefixes
from gregor.core.items.sync import Cursor, Full, HistoryEntry, SyncResult, UserPosition, UserSizes, View
from gregor.core.messages.model import Commit, Receipt
from gregor.store.connections import ConnectionReport
from gregor.store.exported import StoredEntry
from gregor.store.formats import Deployment, Rewriting
from gregor.store.gateways import Gateways
from gregor.store.jobs import Jobs

from .access import Access
from .agenda import Agenda
from .contacts import Contacts
from .dead_letters import DeadLetters
from .devices import Devices
from .ledger import Ledger
from .push_context import PushContexts
from .replication import Replication
from .suppressions import Suppressions
from .webhooks import RecordedEvents, Webhooks

KEPT_VERSIONS: Final = 50
"""Number of earlier category sets that can be restored."""


# ---- errors


class Unavailable(Exception):
    """The store cannot be reached: retry later.

    The text is for logs and may name the server; clients get ``problem``.
    """

    def problem(self) -> Problem:
        """Return the error for the client."""
        return Problem("unavailable", "The store cannot be reached. Try again.", retry_after_s=1.0)


class Contended(Unavailable):
    """Concurrent updates of the same value made every attempt fail. The store is healthy; nothing was changed."""

    def problem(self) -> Problem:
        """Return the error for the client."""
        return Problem("unavailable", "The same value was changed concurrently. Try again.", retry_after_s=1.0)


class UnreadableValue(Unavailable):
    """A stored value has a format of a later release; this process must be upgraded. Nothing was changed.

    ``kind``: what the value is; ``first``: its first byte (``core/formats.py``).
    """

    def __init__(self, kind: str, first: int) -> None:
        self.kind = kind
        self.first = first
        super().__init__(unknown_format_text(kind, first))

    def problem(self) -> Problem:
        """Return the error for the client."""
        detail = "This server is too old for the stored data; an upgrade is under way. Try again."
        return Problem("unavailable", detail, retry_after_s=1.0)


# ---- values


@dataclass(frozen=True, slots=True)
class CategorySet:
    """All category entries as they were applied: name to entry, as written."""

    version: int
    entries: Mapping[str, Any]
    applied_us: int


# ---- users

CommitResult = Receipt | Problem | Unavailable
"""The result of one commit of many: its receipt, why it was refused, or why the store could not decide."""


class Users(Protocol):
    """The state of users: commits in one order for each user, each whole or not at all, and consistent reads."""

    def commit(self, uid: str, commit: Commit) -> Awaitable[Receipt]:
        """Apply one message, whole or not at all, and publish it in the same step (L1–L5).

        Items that have expired by ``commit.now_us`` are removed first, by a separate commit (L6). If all users were
        reset and this one was not yet, it is reset first. Repeating is safe as L2 says. Raises ``Problem``:
        ``state_full``, ``too_many_dismissals``, ``id_reused``; ``unauthorised`` if the commit would create the user,
        and the token of its sender (``Sender.issued_us``) is revoked.
        """
        ...

    async def commit_many(self, commits: Sequence[tuple[str, Commit]]) -> list[CommitResult]:
        """Apply many commits in few round trips, in order for each user. Raises nothing: each commit has its result.

        A ``Problem`` is final: a repeat gets it again. After ``Unavailable``, the commit may or may not have been
        applied, and the caller must repeat it.
        """
        ...

    async def rehearse(self, uid: str, commit: Commit) -> Receipt:
        """Return the receipt that ``commit`` would have now, without changing anything (dry run).

        Raises the same errors.

        Due work is committed first, as by any read.
        """
        ...

    async def sync(
        self,
        uid: str,
        view: View,
        cursor: Cursor | None,
        digest: bytes | None,
        now_us: int,
        systems: Prefixes = None,
        epoch_seed: bytes = ...,
    ) -> SyncResult:
        """Return the sync result that brings a copy of ``view`` at ``cursor`` up to date (L9), with the external
        messages of ``systems`` since then (L13).
        """
        ...

    async def state(self, uid: str, view: View, now_us: int) -> Full:
        """Return the view as it is now. ``external`` is empty."""
        ...

    async def state_at(self, uid: str, view: View, at_us: int, now_us: int) -> Full:
        """Return the view as it was at ``at_us``, as far as the history is kept (semantics.md, "History")."""
        ...

    async def item(self, uid: str, item_id: str, view: View, now_us: int) -> HistoryEntry | None:
        """Return one item, live or from the history; ``None`` if the view never had it or it is no longer stored."""
        ...

    async def history(
        self, uid: str, view: View, before: tuple[int, str] | None, limit: int, now_us: int
    ) -> list[HistoryEntry]:
        """Return up to ``limit`` items of the view before ``before``, live and gone, newest first by (seq, id)."""
        ...

    async def heads(self, uids: Sequence[str]) -> list[UserPosition | None]:
        """Return position and digest (of the view that all devices share) of many users; ``None`` for an unknown
        user. Read only.
        """
        ...

    async def reachable_heads(self, uids: Sequence[str]) -> Mapping[str, UserPosition | None]:
        """Return the ``heads`` by uid, without users of unreachable servers. Raises ``Unavailable`` if none answers.

        A server that hangs does not delay the answer for the users of the others.
        """
        ...

    async def sizes(self, uid: str) -> UserSizes:
        """Return how many stored items a read of the user would read, from stored counters. Read only."""
        ...

    async def wrong_digests(self, uid: str) -> list[str]:
        """Return the devices whose stored digest is not that of their live items (L10); ``""``: the view of backends.

        Read only, and in one step: due work stays due, and a concurrent commit causes no difference.
        """
        ...

    def stored(self, uid: str) -> AsyncIterator[StoredEntry]:
        """Yield all that is stored of a user and no other read returns, page by page. Read only: due work stays due.

        An entry that changes meanwhile may come twice, or in both forms.
        """
        ...

    async def reset_partitions(self, number: int, partitions: Sequence[int], spread_s: int) -> frozenset[int]:
        """Start a new epoch for the users of these partitions at their next commit, sync or comparison (L14).

        Repeatable: a partition that saw this number or a larger one is not reset again. Returns the partitions whose
        server answered; the others may be reset or not. Raises ``Unavailable`` if no server answers.
        """
        ...

    async def announce_reset(self, spread_s: int) -> None:
        """Publish to all gateways that partitions were reset. Devices get full copies within ``spread_s`` seconds."""
        ...

    async def delete_user(self, uid: str, now_us: int) -> None:
        """Delete everything stored of a user, revoke its tokens issued up to now, close its connections. Repeatable."""
        ...

    async def deleted_since(self, since_us: int) -> frozenset[str]:
        """Return the hashes (``user_id_hash``) of users deleted since a time, kept for
        ``DELETED_USERS_KEPT_US``.
        """
        ...

    async def commit_due(self, uid: str, now_us: int) -> None:
        """Remove expired items in one commit (L6), and collect what passed its retention (L4)."""
        ...

    async def collect(self, uid: str, now_us: int) -> int:
        """Remove what passed its retention: history, tombstones, message ids, external messages. Returns how many."""
        ...


# ---- categories


class Categories(Protocol):
    """The category entries of a deployment, in versions. The store does not interpret them."""

    async def version(self) -> int:
        """Return the current version; 0 if none was ever applied."""
        ...

    async def load(self, version: int | None = None) -> CategorySet | None:
        """Return the current set, or one of the last ``KEPT_VERSIONS``; ``None`` if it is not stored."""
        ...

    async def apply(self, entries: Mapping[str, Any], now_us: int, expected: int | None = None) -> int | None:
        """Make this whole set the current one, and publish that to all processes. Returns the new version.

        Returns ``None`` and changes nothing if ``expected`` is not the current version (another process was faster).
        """
        ...


# ---- the whole store


class ChangeTracker(Protocol):
    """Reads keys, and reports their later changes: see ``gregor.redis.tracking.KeyTracker``."""

    def add_listener(self, listener: Any) -> None:
        """See ``KeyTracker.add_listener``."""
        ...

    async def read(self, commands: Sequence[tuple[bytes | str | int, ...]]) -> list[Any]:
        """See ``KeyTracker.read``."""
        ...

    async def close(self) -> None:
        """See ``KeyTracker.close``."""
        ...


class Store(Protocol):
    """Everything that is stored.

    ``channel_of(uid)`` is the pub/sub channel of a user's announcements and control messages.
    """

    @property
    def users(self) -> Users: ...
    @property
    def devices(self) -> Devices: ...
    @property
    def gateways(self) -> Gateways: ...
    @property
    def contacts(self) -> Contacts: ...
    @property
    def access(self) -> Access: ...
    @property
    def categories(self) -> Categories: ...
    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def agenda(self) -> Agenda: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def suppressions(self) -> Suppressions: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def deployment(self) -> Deployment: ...
    @property
    def rewriting(self) -> Rewriting: ...
    @property
    def recorded_events(self) -> RecordedEvents: ...
    @property
    def push_contexts(self) -> PushContexts: ...
    @property
    def replication(self) -> Replication: ...
    @property
    def tracker(self) -> ChangeTracker | None:
        """Reports changes of keys; ``None`` if they must be polled."""
        ...

    def channel_of(self, uid: str) -> str:
        """Return the pub/sub channel of a user's announcements and control messages."""
        ...

    @property
    def reset_channel(self) -> str:
        """The channel on which a reset of all users is published."""
        ...

    @property
    def categories_channel(self) -> str:
        """The channel on which the version of a new category set is published, in digits."""
        ...

    @property
    def webhooks_channel(self) -> str:
        """The channel on which the version of the webhooks is published after a change, in digits."""
        ...

    async def ping(self) -> Mapping[str, float | None]:
        """Return the round trip to each shard in seconds, by the name of its server; ``None``: it does not answer.

        Raises ``Unavailable`` if none answers.
        """
        ...

    def connection_report(self) -> ConnectionReport:
        """Return what this process knows of its connections, without a request."""
        ...

    async def close(self) -> None: ...
