"""The part of the store contract about time: the agenda of each user, leases on due users, their due work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from gregor.core.category_filter import unpack_category_filter
from gregor.core.errors import Problem
from gregor.core.items.sync import LiveItem, Removal, View
from gregor.core.limits import Limits
from gregor.core.messages.model import BY_BACKEND, Sender

TRACES_KEPT_S: Final = 86_400
"""Lifetime of the trace of an item. Collectors seldom join spans that are further apart."""
MOST_TRACES: Final = 256
"""Items of one user whose traces are kept."""
CLAIMED: Final = b'{"claimed":true,'
"""Start of a delayed message that a scheduler has begun to commit. The Lua scripts have it too."""


class WorkKind(Enum):
    """The kind of an agenda entry. The value is the first letter of the entry's name in the store."""

    EXPIRE = "x"
    FORGET = "g"
    DEVICES = "v"
    REMIND = "r"
    FOLLOW = "n"
    PUSH = "p"
    MAIL = "q"
    WINDOW = "w"
    DELAYED = "d"
    LEFT = "z"
    HIDDEN = "y"
    ACKED = "k"
    SETTLED = "f"
    OVERDUE = "o"


@dataclass(frozen=True, slots=True)
class DueWork:
    """One entry of an agenda that is due. Which attributes are set depends on ``kind``.

    Attributes:
        name: The item id, or the id of a delayed message. For an aggregation window ``category␀for_device`` (empty: all
            devices). Empty for housekeeping.
        entry: The name of the entry in the store.
        item: The live item, for a reminder, push, mail or the work after a reminder (``FOLLOW``). For a removal
        (``LEFT``) or
            hiding (``HIDDEN``) the item as it was. ``None`` if the store no longer has it.
        n: Index of the reminder. For an acknowledgement (``ACKED``) the seq acknowledged before.
        seq: The event that caused the work: the creation, the reminder, the removal, or the acknowledged seq.
        gone: For a removal or hiding: when, why and by which device.
        view: For an acknowledgement: the view.
        delivery: For a delivery that was sent or is dead (``SETTLED``): its key within the item.
        trace: The packed trace context of the message that created the live ``item``, if that was sampled.
    """

    kind: WorkKind
    name: str
    at_us: int
    entry: bytes
    item: LiveItem | None = None
    n: int = 0
    seq: int = 0
    gone: Removal | None = None
    view: View | None = None
    delivery: str = ""
    trace: bytes = b""


@dataclass(frozen=True, slots=True)
class CompletedWork:
    """The result of one entry of due work. Without ``again_us`` the entry is removed, otherwise it moves to that time.

    With ``seq`` the entry moves only if the user's seq is different by now; if it is equal, the entry is removed.
    """

    work: DueWork
    again_us: int | None = None
    seq: int | None = None


# ---- the agenda


class ItemGroups(Protocol):
    """The live items of some categories of a user, as they were read together."""

    @property
    def seq(self) -> int:
        """The seq of the user before the read."""
        ...

    def of(self, category: str, for_device: str | None) -> list[LiveItem]:
        """Return the items of one of the categories with exactly this ``for_device``, by (created, id)."""
        ...


class Agenda(Protocol):
    """Timed work of users, executed by any scheduler (time.md, "Agenda, claim, complete").

    The cycle is ``claim``, ``due_work``, act, ``complete``. A claim is a lease. If a scheduler dies, another one
    repeats the work after the lease, so every action must be idempotent.
    """

    @property
    def partition_count(self) -> int:
        """The number of partitions of the deployment."""
        ...

    async def next_due_times(self) -> dict[int, int | None]:
        """Return for each partition when its first user is due (µs), or ``None``. Cheap plain reads.

        A partition is missing if its server is unreachable: it is then unknown whether its users are due. Raises
        ``Unavailable`` if no server answers.
        """
        ...

    async def known_users(self, partitions: Sequence[int]) -> dict[int, list[str]]:
        """Return the users of each partition that have a registered device or other timed work, sorted.

        A partition is missing if its server is unreachable. Raises ``Unavailable`` if no server answers.
        """
        ...

    async def claim(self, partition: int, now_us: int, lease_until_us: int, most: int) -> list[str]:
        """Lease up to ``most`` users whose work is due, the longest due first. No other scheduler gets them until
        the lease ends.
        """
        ...

    async def due_work(self, uid: str, now_us: int, most: int, skip: int = 0) -> list[DueWork]:
        """Return up to ``most`` entries that are due, oldest first, after the first ``skip``."""
        ...

    async def keep_trace(self, uid: str, items: Sequence[str], trace: bytes) -> None:
        """Store the trace of the sampled message that creates these items, for a day. ``due_work`` returns it.

        ``trace``: a packed trace context. If a user would have more than ``MOST_TRACES``, the older ones are deleted.
        """
        ...

    def server_of(self, uid: str) -> object:
        """Return the incarnation of the server that stores a user.

        It is an opaque value that differs after a failover, a restart or a reconnect. Call this before the due work is
        read, and pass the result to ``complete``.
        """
        ...

    async def complete(
        self,
        uid: str,
        lease_until_us: int,
        done: Sequence[CompletedWork],
        postponed: Sequence[DueWork] = (),
        retry_us: int = 0,
        now_us: int = 0,
        server: object = None,
    ) -> None:
        """Remove or move the completed entries, and end the lease if it is still held.

        An entry that moved in the meantime stays, and so does a delayed message that is not claimed.

        Args:
            postponed: Entries that could not be completed. They stay, and the user is due again at ``retry_us``. Other
                entries keep their time.
            now_us: The user is not due earlier: if work is left, the users who are due already precede this one.
            server: The result of ``server_of``. If the server or its connection was replaced since, all entries stay
                and are due again: a promoted replica may have them, and not the effects of their work. ``None``: do not
                compare.
        """
        ...

    async def category_items(self, uid: str, categories: Collection[str]) -> ItemGroups:
        """Read the live items of these categories, without those below them. One read serves any number of groups."""
        ...

    async def live_item(self, uid: str, item: str) -> LiveItem | None:
        """Return one live item; ``None`` if it is gone or unknown. An expired one may still be found. Read only."""
        ...

    async def mailable(
        self, uid: str, item: str, is_wanted: Callable[[str], bool], most: int
    ) -> list[tuple[LiveItem, int | None]]:
        """Return the items for one mail: ``item``, then the newest others of wanted categories, up to ``most``.

        Each comes with the time of its mail timer (µs), or ``None`` if the agenda has no timer for it.
        """
        ...

    async def delay(
        self, uid: str, message_id: str, document: bytes, not_before_us: int, sender: Sender = BY_BACKEND
    ) -> bytes:
        """Keep a message until its time. Returns the document stored under the id: the first content wins. Repeatable.

        Raises ``Problem`` ``state_full`` if the user has too many delayed messages, or too many bytes of them, and
        ``unauthorised`` if the token of the sender is revoked.
        """
        ...

    async def delayed(self, uid: str, message_id: str) -> bytes | None:
        """Return the document of a delayed message, or ``None`` if it is unknown or was sent."""
        ...

    async def list_delayed(self, uid: str, message_ids: Sequence[str] | None = None) -> list[bytes]:
        """Return the documents of all delayed messages of a user, unordered, or of those with these ids."""
        ...

    async def count_delayed(self, uid: str) -> int:
        """Return the number of delayed messages of a user."""
        ...

    async def delayed_bytes(self, uid: str, message_id: str | None = None) -> int:
        """Return the bytes of all delayed messages of a user, or of one of them; 0 if it is unknown. Reads none."""
        ...

    async def delayed_sizes(self, uid: str) -> dict[str, int]:
        """Return the bytes of each delayed message of a user, by its id. Reads none."""
        ...

    async def claim_delayed(self, uid: str, message_id: str, document: bytes) -> bool:
        """Begin to commit a delayed message: it can no longer be cancelled. Repeatable.

        ``document``: the message as it was read. Returns whether it is still stored: it may be cancelled, and another
        one stored under its id.
        """
        ...

    async def replace_delayed(self, uid: str, message_id: str, expected: bytes, document: bytes) -> bool:
        """Compare-and-set: replace a delayed message by one for the same time, if ``expected`` is stored.

        Returns whether it was replaced.
        """
        ...

    async def cancel_delayed(self, uid: str, message_id: str, document: bytes | None = None) -> bool:
        """Cancel a delayed message. Returns whether it was still waiting: neither committed nor claimed for that.

        ``document``: cancel the message only if this form of it is stored, even if it is claimed.
        """
        ...


# ---- due times of partitions


SELDOM_S: Final = 0.3
"""How late changes of seldom watched partitions may be read. Many changes in this time cost one read."""


class DueTimes(Protocol):
    """The next due time of each watched partition."""

    @property
    def polled(self) -> int:
        """The number of watched partitions that every refresh reads, because the server does not report changes."""
        ...

    @property
    def unknown(self) -> int:
        """The number of watched partitions that are missing in the last answer of ``refresh``."""
        ...

    def watch(self, partitions: Collection[int], seldom: Collection[int] = ()) -> None:
        """Watch exactly these partitions from now on. Those of ``seldom`` may be read up to ``SELDOM_S`` late."""
        ...

    async def refresh(self) -> Mapping[int, int | None]:
        """Return for each watched partition when its first user is due (µs), or ``None`` if no user is.

        A partition is missing if its server is unreachable: it is then unknown whether its users are due. Raises
        ``Unavailable`` if something had to be read, and no server answered.
        """
        ...


class PolledDueTimes:
    """``DueTimes`` that reads every partition each time."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._watched: Collection[int] | None = None
        self._known = agenda.partition_count

    @property
    def polled(self) -> int:
        """See ``DueTimes.polled``."""
        return self._agenda.partition_count if self._watched is None else len(self._watched)

    @property
    def unknown(self) -> int:
        """See ``DueTimes.unknown``."""
        return self.polled - self._known

    def watch(self, partitions: Collection[int], seldom: Collection[int] = ()) -> None:
        """See ``DueTimes.watch``."""
        self._watched = {*partitions, *seldom}

    async def refresh(self) -> Mapping[int, int | None]:
        """See ``DueTimes.refresh``."""
        times = await self._agenda.next_due_times()
        watched = self._watched
        if watched is not None:
            times = {each: at_us for each, at_us in times.items() if each in watched}
        self._known = len(times)
        return times


# ---- entries that need decoding in every store


def acked(entry: bytes, at_us: int) -> DueWork:
    """Decode the entry of an acknowledgement: device, category filter, seq before, seq after."""
    device, limits, since, until = entry[1:].decode().split("\0")
    view = View(device, unpack_category_filter(limits))
    return DueWork(WorkKind.ACKED, device, at_us, entry, None, int(since), int(until), None, view)


def settled(entry: bytes, at_us: int) -> DueWork:
    """Decode the entry of a delivery that was sent or is dead: item and delivery key."""
    item, delivery = entry[1:].decode().split("\0")
    return DueWork(WorkKind.SETTLED, item, at_us, entry, delivery=delivery)


def claimed(document: bytes) -> bytes:
    """Return the stored form of a delayed message that is claimed."""
    return document if document.startswith(CLAIMED) else CLAIMED + document[1:]


def too_many_delayed(limits: Limits) -> Problem:
    """Return the problem that a user has the most delayed messages allowed."""
    most = f"{limits.delayed} delayed messages, with {limits.delayed_bytes} bytes together"
    detail = f"A user may have at most {most}; cancel one first."
    return Problem("state_full", detail)
