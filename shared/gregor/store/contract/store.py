"""What every store promises. ``MemoryStore`` and ``RedisStore`` are twins; one test body holds both to this page.

A store is the one door to what is kept. It decides nothing that ``core`` can decide; it makes whole or not at all what
only atomicity can decide. Every method may raise ``Unavailable`` (the store cannot be reached: nothing is known to be
done), and repeating any call is safe where its docstring says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.sync import Cursor, Full, HistoryEntry, SyncResult, UserPosition, View
from gregor.core.messages.model import Commit, Receipt

from .access import Access
from .agenda import Agenda
from .contacts import Contacts
from .dead_letters import DeadLetters
from .devices import Devices
from .ledger import Ledger
from .push_context import PushContexts
from .suppressions import Suppressions
from .webhooks import RecordedEvents, Webhooks

KEPT_VERSIONS: Final = 50
"""Sets of categories that can be gone back to."""


class Unavailable(Exception):
    """The store cannot be reached: retry later. Its text is for logs, it may name the server; ``problem`` is told."""

    def problem(self) -> Problem:
        """What a caller is told."""
        return Problem("unavailable", "The store cannot be reached. Try again.", retry_after_s=1.0)


class Contended(Unavailable):
    """Others changed the same thing again and again. The store is well; nothing was done."""

    def problem(self) -> Problem:
        """What a caller is told."""
        return Problem("unavailable", "Others change the same thing at this moment. Try again.", retry_after_s=1.0)


@dataclass(frozen=True, slots=True)
class CategorySet:
    """The entries of notification types as they were applied, whole: name to entry, as written."""

    version: int
    entries: Mapping[str, Any]
    applied_us: int


class Users(Protocol):
    """The state of users: commits in one order for each user, each whole or not at all, and consistent reads."""

    def commit(self, uid: str, commit: Commit) -> Awaitable[Receipt]:
        """Apply one message, whole or not at all, and announce it in the same step (L1–L5).

        An expiry that is due at ``commit.now_us`` is committed first, as a message of its own (L6). A user of an older
        flush generation is flushed first. Repeating is safe as L2 says. Raises ``Problem``: ``state_full``,
        ``too_many_dismissals``, ``id_reused``.
        """
        ...

    async def commit_many(self, commits: Sequence[tuple[str, Commit]]) -> list[Receipt | Problem]:
        """Many commits, in order for each user, in few round trips. A refusal is a value here and spoils no other."""
        ...

    async def rehearse(self, uid: str, commit: Commit) -> Receipt:
        """The receipt that ``commit`` would have now, with the present seq; nothing of it is done. Raises as it does.

        What is due is committed first, as by any read.
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
        """What leads ``view`` from ``cursor`` to now (L9), with the external messages of ``systems`` since (L13)."""
        ...

    async def state(self, uid: str, view: View, now_us: int) -> Full:
        """The view now. ``external`` is empty."""
        ...

    async def state_at(self, uid: str, view: View, at_us: int, now_us: int) -> Full:
        """The view as it was at ``at_us``, from what is known now (semantics.md, "History")."""
        ...

    async def item(self, uid: str, item_id: str, view: View, now_us: int) -> HistoryEntry | None:
        """One item, live or from the history; ``None`` where the view never held it or it is forgotten."""
        ...

    async def history(
        self, uid: str, view: View, before: tuple[int, str] | None, limit: int, now_us: int
    ) -> list[HistoryEntry]:
        """Up to ``limit`` items of the view, live and gone, newest first by (seq, id), those below ``before``."""
        ...

    async def heads(self, uids: Sequence[str]) -> list[UserPosition | None]:
        """Position and digest (the view of all devices) of many users; ``None`` for a user never seen. Read only."""
        ...

    async def reset_all_users(self, spread_s: int) -> None:
        """Start a new epoch for every user, each at its next commit, sync or comparison (L14); tells all gateways."""
        ...

    async def delete_user(self, uid: str, now_us: int) -> None:
        """Drop all that is kept of a user, void its tokens issued up to now, close its connections. Repeatable."""
        ...

    async def deleted_since(self, since_us: int) -> frozenset[str]:
        """Who was forgotten since that moment: the traces (``forgotten.trace_of``), known for ``KNOWN_US``."""
        ...

    async def commit_due(self, uid: str, now_us: int) -> None:
        """Commit what is due at ``now_us`` (expiries, as one message), forget what passed its retention (L4, L6)."""
        ...

    async def collect(self, uid: str, now_us: int) -> int:
        """Forget what passed its retention: history, dismissals, message ids, external messages. How many went."""
        ...


class Categories(Protocol):
    """The entries of notification types, in versions. What they say is not looked at here."""

    async def version(self) -> int:
        """Of the set that holds now; 0 where none was ever applied."""
        ...

    async def load(self, version: int | None = None) -> CategorySet | None:
        """The set that holds now, or one of the last ``KEPT_VERSIONS``; ``None`` where it is not kept."""
        ...

    async def apply(self, entries: Mapping[str, Any], now_us: int, expected: int | None = None) -> int | None:
        """Make this whole set the one that holds, and tell all processes. The new version.

        ``None``, and nothing done, where ``expected`` is not the version that holds: somebody else was faster.
        """
        ...


class Store(Protocol):
    """The one door. ``channel_of(uid)`` is where a user's announcements and controls come (see ``feed``)."""

    @property
    def users(self) -> Users: ...
    @property
    def devices(self) -> Devices: ...
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
    def recorded_events(self) -> RecordedEvents: ...
    @property
    def push_contexts(self) -> PushContexts: ...

    def channel_of(self, uid: str) -> str:
        """The pub/sub channel of a user's announcements and controls."""
        ...

    @property
    def reset_channel(self) -> str:
        """The one channel on which a flush of all is told."""
        ...

    @property
    def categories_channel(self) -> str:
        """The one channel on which a new set of categories is told: its version, in digits."""
        ...

    @property
    def webhooks_channel(self) -> str:
        """The one channel on which a change of the webhooks is told: their version, in digits."""
        ...

    async def ping(self) -> None:
        """Raises ``Unavailable`` where the store does not answer."""
        ...

    async def close(self) -> None: ...
