"""What a store promises of time: the agenda of its users, and where what is to be delivered is handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gregor.core.errors import Problem
from gregor.core.items.sync import LiveItem, Removal, View
from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent
from gregor.store.category_filter import unpack_category_filter


class WorkKind(Enum):
    """What an entry of a user's agenda asks for; the value begins the entry's name in the store."""

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
    """One entry of an agenda that is due.

    ``name``: the item; of a window ``category␀for_device`` (empty: all devices); of a delayed message its id; empty
    for what is to be forgotten. ``entry`` is the store's own name of it. ``item``: of a reminder, a push, a mail and of
    what follows a reminder (``FOLLOW``) the item, if it is live; of what left (``LEFT``), or a device hid (``HIDDEN``),
    the item as it was, with ``gone``: when, why and by whom; ``None`` both where it is forgotten. ``n``: index of the
    reminder. ``seq``: what caused a push or mail: the creation, or the reminder that it follows; of what left or was
    hidden, the event by which it did. Of an acknowledgement (``ACKED``) ``view`` is who showed what is above ``n``, up
    to ``seq``. Of a delivery that was sent or is dead (``SETTLED``) ``delivery`` is its key within the item.
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


@dataclass(frozen=True, slots=True)
class CompletedWork:
    """What became of a work. ``again_us``: it is moved to that time; with ``seq`` only where the user's position is
    another by now, else it goes. Without ``again_us`` it goes."""

    work: DueWork
    again_us: int | None = None
    seq: int | None = None


class Agenda(Protocol):
    """What is to be done at a time, by whichever scheduler comes first (architecture: "Time").

    ``claim`` → act → ``settle``. A claim is a lease: a scheduler that dies leaves the work to the next one when the
    lease is over, so every act must be safe to repeat.
    """

    async def next_due_times(self) -> list[int | None]:
        """For each partition, when its first user is due (µs): plain reads, cheap where nothing is."""
        ...

    async def claim(self, partition: int, now_us: int, lease_until_us: int, most: int) -> list[str]:
        """Up to ``most`` users whose work is due, the longest due first; nobody else gets them until the lease ends."""
        ...

    async def due_work(self, uid: str, now_us: int, most: int, skip: int = 0) -> list[DueWork]:
        """Up to ``most`` entries that are due, oldest first, but for the first ``skip``."""
        ...

    async def complete(
        self,
        uid: str,
        lease_until_us: int,
        done: Sequence[CompletedWork],
        postponed: Sequence[DueWork] = (),
        retry_us: int = 0,
    ) -> None:
        """Take what was done off the agenda (an entry that has moved since stays), and end the lease if it is ours.

        ``postponed``: what could not be done now. It stays as it is, and makes the user due at ``retry_us``; what
        else waits keeps its time.
        """
        ...

    async def category_items(self, uid: str, category: str, for_device: str | None) -> tuple[int, list[LiveItem]]:
        """The live items of exactly this category and ``for_device``, by (created, id), and the user's seq before they
        were read."""
        ...

    async def mailable(
        self, uid: str, item: str, is_wanted: Callable[[str], bool], most: int
    ) -> list[tuple[LiveItem, int | None]]:
        """``item``, if it is live and its category wanted, then the newest others of wanted categories: up to ``most``.

        Each with the time of its mail timer (µs), as long as that stands in the agenda.
        """
        ...

    async def delay(self, uid: str, message_id: str, document: bytes, not_before_us: int) -> bytes:
        """Keep a message until its time; returns what is kept under the id: the first content wins. Repeatable.

        Raises ``Problem`` ``state_full`` where too many wait.
        """
        ...

    async def delayed(self, uid: str, message_id: str) -> bytes | None:
        """The document of a delayed message that still waits."""
        ...

    async def cancel_delayed(self, uid: str, message_id: str) -> bool:
        """Whether it still waited."""
        ...


def acked(entry: bytes, at_us: int) -> DueWork:
    """An acknowledgement, as its entry says it: device, limits, from, to."""
    device, limits, since, until = entry[1:].decode().split("\0")
    view = View(device, unpack_category_filter(limits))
    return DueWork(WorkKind.ACKED, device, at_us, entry, None, int(since), int(until), None, view)


def settled(entry: bytes, at_us: int) -> DueWork:
    """A delivery that was sent or is dead, as its entry says it: item and key."""
    item, delivery = entry[1:].decode().split("\0")
    return DueWork(WorkKind.SETTLED, item, at_us, entry, delivery=delivery)


def too_many_delayed(limits: Limits) -> Problem:
    """The user has the most delayed messages allowed."""
    return Problem("state_full", f"At most {limits.delayed} delayed messages of a user may wait; cancel some first.")


class DeliveryQueueWriter(Protocol):
    """Where what is to leave the house is handed over: one stream a channel, read by the delivery service.

    An intent may come more than once (a scheduler died after it handed it over); its key tells that it is the same.
    """

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """Append to the streams of their channels; returns those whose stream is full: they were not appended.

        With ``at_us`` they wait beside their streams until then, and none is refused. Raises ``Unavailable``: then
        some may have been appended.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...
