"""A store, the clock of the sender, and all announcements: the world of the laws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from gregor.core.items.announcement import Announcement, AnnouncementKind, decode_announcement
from gregor.core.items.sync import Cursor, Full, SyncResult, View
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Receipt
from gregor.reference.store import MemoryStore
from tests.property.conversations import Sent
from tests.support.builders import DAY_US, LIMITS, NOW_US, SECOND_US, SEED, Document, ids_of
from tests.support.replica import Replica

UID = "alice"


@dataclass
class World:
    """One user of a fresh store."""

    limits: Limits = LIMITS
    now_us: int = NOW_US
    payloads: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.limits, self)

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Record an announcement; the store calls it."""
        self.payloads.append(payload)

    def announced(self) -> list[Announcement]:
        """Return the announcements since the last call."""
        announcements = [decode_announcement(payload) for payload in self.payloads if payload[:1] == b"C"]
        self.payloads.clear()
        return announcements

    async def send(self, sent: Sent) -> Receipt:
        """Commit one message now."""
        return await self.commit(sent.at(self.now_us))

    async def commit(self, commit: Commit) -> Receipt:
        """Commit a planned message."""
        return await self.store.users.commit(UID, commit)

    async def look(self, view: View) -> Full:
        """Return a view now."""
        return await self.store.users.state(UID, view, self.now_us)

    async def live_in(self, view: View) -> set[str]:
        """Return the ids of a view now."""
        return set(ids_of(await self.look(view)))

    async def sync(self, view: View, cursor: Cursor | None, digest: bytes | None = None) -> SyncResult:
        """Return the sync result for a copy of the view."""
        return await self.store.users.sync(UID, view, cursor, digest, self.now_us)

    async def disturb(self, data: st.DataObject) -> None:
        """Cause an event that is not a message."""
        match data.draw(st.sampled_from(("nothing", "wait", "collect", "forget"))):
            case "wait":
                self.now_us += data.draw(st.sampled_from((20 * SECOND_US, 31 * DAY_US)))
            case "collect":
                await self.store.users.collect(UID, self.now_us)
            case "forget":
                device = data.draw(st.sampled_from(("phone", "laptop")))
                await self.store.devices.forget_device(UID, device, self.now_us, SEED)

    async def apply_announcement(self, replica: Replica, announcement: Announcement) -> None:
        """Apply an announcement to a connected client, as a gateway does for its view."""
        frame = announcement.frame(replica.view)
        if announcement.kind is AnnouncementKind.RESET:
            replica.apply(await self.sync(replica.view, replica.cursor))
        elif announcement.kind is AnnouncementKind.UPDATE and frame is not None:
            replica.receive(frame)


async def after(messages: Iterable[Sent], world: World | None = None) -> World:
    """Return the world after these messages, all sent at one time."""
    world = world or World()
    for sent in messages:
        await world.send(sent)
    return world


def only(part: str, sent: Sent) -> Sent:
    """Return the message without its other part: ``create`` or ``dismiss``."""
    body: Document = {"create": {}, "dismiss": {"ids": [], "intervals": []}}
    return Sent(sent.sender, sent.document | {"body": body | {part: sent.document["body"][part]}})


def is_valid_without(sent: Sent) -> bool:
    """Return whether a message without its other part is still valid."""
    body = sent.document["body"]
    return bool(body["create"] or body["dismiss"]["ids"] or body["dismiss"]["intervals"])
