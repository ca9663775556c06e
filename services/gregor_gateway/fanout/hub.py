"""What moves: from the channels of users to their connections (semantics.md L12, architecture.md §5).

Each user that is connected here has a room: one subscription, one track of its history, its connections in groups that
see the same. What is published is taken with the next sweep of the flusher, all that came for a user in one go: an
announcement is decoded once, and framed once a view. What the track finds missing is read from the store, once for all
that lack the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog

from gregor.core.close_codes import CloseCode
from gregor.core.ids import Prefixes, is_allowed
from gregor.core.items.announcement import (
    Announcement,
    AnnouncementKind,
    CreationFrame,
    decode_announcement,
    decode_fast,
)
from gregor.core.items.sync import View
from gregor.redis.connection import RedisUnavailable
from gregor.redis.pubsub import PubSub
from gregor.store.contract.store import Store, Unavailable
from gregor.telemetry import Metrics
from gregor_gateway.connection.write_scheduler import Flusher
from gregor_gateway.protocol.hello import Position
from gregor_gateway.runtime.timer_wheel import Wheel

from .reconciler import Comparison
from .revocation import Standing
from .sequence_tracker import Track, Verdict
from .subscriber import Member
from .sync_reader import Reads

log = structlog.get_logger(__name__)

SUBSCRIBED_S: Final = 5.0
"""How long a subscription may take before the device is sent away to try again."""
PATIENCE_S: Final = 1.0
"""How long the announcement of a commit that we made ourselves may be under way before we look for it."""

UNTOLD_BYTES: Final = 65_536
"""What may be published for a user before it is taken without waiting for the next sweep."""

RECOUNTED_S: Final = 0.5
"""Over how long all connections are told of another count."""

MISSED_S: Final = 30.0
"""Over how long all users are looked at where the channel of flushes of all had a gap."""


class Group:
    """Connections of one user that see the same: the same frames go to all of them.

    ``is_unnamed``: the user's epoch was made by a commit that they did not see, so their cursors are void.
    """

    __slots__ = ("is_unnamed", "locale", "members", "systems", "view")

    def __init__(self, view: View, systems: Prefixes, locale: str | None) -> None:
        self.view = view
        self.systems = systems
        self.locale = locale
        self.is_unnamed = False
        self.members: list[Member] = []


class Room:
    """One user's connections here. A receiver of the user's channel.

    ``is_plain``: all may be told by the short way, for none wants words, and all have a cursor of the epoch.
    """

    __slots__ = ("_hub", "_track", "_untold", "_untold_bytes", "flushes_all", "groups", "is_plain", "uid", "waiting")

    def __init__(self, hub: Hub, uid: str) -> None:
        self._hub = hub
        self.uid = uid
        self._track = Track()
        self._untold: list[bytes] = []
        self._untold_bytes = 0
        self.groups: list[Group] = []
        self.waiting: set[Member] = set()
        self.flushes_all = False
        self.is_plain = True

    @property
    def members(self) -> list[Member]:
        """All connections."""
        return [member for group in self.groups for member in group.members]

    @property
    def track(self) -> Track:
        """What is known of the user's history, and was told: all that came is in it."""
        self.tell()
        return self._track

    def receive(self, payload: bytes) -> None:
        """One publication, an announcement or a control: it is told with the next sweep."""
        if not self._untold:
            self._hub.flusher.expect(self)
        self._untold.append(payload)
        self._untold_bytes += len(payload)
        if self._untold_bytes > UNTOLD_BYTES:
            self.tell()

    def tell(self) -> None:
        """Take what was published since the last time."""
        if self._untold:
            untold, self._untold, self._untold_bytes = self._untold, [], 0
            self._hub.hear(self, self._track, untold)

    def gap(self) -> None:
        """The subscription was broken, and stands again."""
        self._hub.comparison.ask(self, is_sure=True)
        self._hub.standing.ask(self)

    def tick(self, now: float) -> None:
        """Time to compare with the store."""
        self._hub.comparison.due(self)

    def add(self, member: Member, view: View, systems: Prefixes, locale: str | None = None) -> None:
        """Put a connection into the group of its view."""
        for group in self.groups:
            if group.view == view and group.systems == systems and group.locale == locale:
                break
        else:
            # The same view object for all: an announcement keeps the frames that it made by view.
            same = next((group.view for group in self.groups if group.view == view), view)
            group = Group(same, systems, locale)
            self.groups.append(group)
            self.look()
        group.members.append(member)

    def remove(self, member: Member) -> None:
        """Take a connection out, wherever it is."""
        for group in self.groups:
            if member in group.members:
                group.members.remove(member)
        self.groups = [group for group in self.groups if group.members]
        self.waiting.discard(member)
        self.look()

    def look(self) -> None:
        """See whether the short way is good for all groups."""
        self.is_plain = all(group.locale is None and not group.is_unnamed for group in self.groups)


class Hub:
    """All rooms of a process."""

    def __init__(
        self,
        store: Store,
        feed: PubSub,
        wheel: Wheel,
        flusher: Flusher,
        metrics: Metrics,
        reads: Reads,
        standing: Standing,
        compare_interval_s: float = 30.0,
    ) -> None:
        self._store = store
        self._feed = feed
        self._wheel = wheel
        self.flusher = flusher
        self._gaps = metrics.gaps
        self.reads = reads
        self.standing = standing
        self.rooms: dict[str, Room] = {}
        self.comparison = Comparison(self, store, wheel, compare_interval_s)

    async def enter(self, uid: str, member: Member, view: View, systems: Prefixes, locale: str | None = None) -> Room:
        """Hear the user's channel from now on. Returns when that is certain; ``Unavailable`` where it cannot be."""
        room = self.rooms.get(uid)
        if room is None:
            room = self.rooms[uid] = Room(self, uid)
            self.comparison.begin(room)
        room.add(member, view, systems, locale)
        try:
            async with asyncio.timeout(SUBSCRIBED_S):
                await self._feed.subscribe(self._store.channel_of(uid), room)
        except (TimeoutError, RedisUnavailable) as error:
            self.leave(room, member)
            raise Unavailable("the user's channel cannot be heard") from error
        except BaseException:
            self.leave(room, member)
            raise
        return room

    def leave(self, room: Room, member: Member) -> None:
        """A connection is gone; with the last one goes the room."""
        room.remove(member)
        if not room.groups and self.rooms.get(room.uid) is room:
            del self.rooms[room.uid]
            self._feed.unsubscribe(self._store.channel_of(room.uid), room)

    def hear(self, room: Room, track: Track, payloads: Sequence[bytes]) -> None:
        """What was published on a user's channel, in order. Plain creations in a row are one run."""
        run: list[CreationFrame] = []
        for payload in payloads:
            try:
                plain = decode_fast(payload)
                if plain is not None and room.is_plain and track.steps(plain):
                    run.append(plain)
                    continue
                if run:
                    self._deliver_run(room, run)
                    run = []
                self._take(room, payload)
            except Exception as error:
                # Whatever is wrong with it, those behind it must be told.
                log.warning("A publication cannot be taken; comparing with the store.", exc_info=error)
                self.comparison.ask(room, is_sure=True)
        if run:
            self._deliver_run(room, run)

    def _take(self, room: Room, payload: bytes) -> None:
        if payload[:1] == b"C":
            self._announce(room, decode_announcement(payload))
        elif payload[:1] == b"K":
            self._control(room, payload[1:])

    def _announce(self, room: Room, announcement: Announcement) -> None:
        verdict = room.track.judge(announcement)
        if verdict is Verdict.LATE:
            self.comparison.ask(room)
            return
        if verdict is not Verdict.NEXT:
            self.mend(room, verdict, "gap" if verdict is Verdict.GAP else "fork")
        room.track.follow(announcement)
        self._deliver(room, announcement)
        if announcement.kind is AnnouncementKind.RESET:
            self._flush(room, announcement)
        if room.waiting:
            self._release(room, announcement.seq)

    def _deliver_run(self, room: Room, run: list[CreationFrame]) -> None:
        """The hot path of the process: creations for all devices."""
        for group in room.groups:
            category_filter = group.view.category_filter
            seen = (
                run
                if category_filter is None
                else [plain for plain in run if is_allowed(category_filter, plain.category)]
            )
            if not seen:
                continue
            writes = size = 0
            for member in group.members:
                try:
                    written = member.deliver_run(seen)
                except Exception as error:
                    # The fault of one must not silence the others.
                    log.error("A connection could not be written to.", exc_info=error)
                    continue
                if written:
                    writes += 1
                    size += written
            self.flusher.wrote(writes, writes * len(seen), size)
        if room.waiting:
            self._release(room, run[-1].seq)

    def _release(self, room: Room, seq: int) -> None:
        for member in tuple(room.waiting):
            member.release(seq)

    def _deliver(self, room: Room, announcement: Announcement) -> None:
        seq = announcement.seq
        for group in room.groups:
            told = announcement.with_cursor() if group.is_unnamed else announcement
            frame = self._frame_of(told, group, room.uid)
            if told.is_new_epoch:
                group.is_unnamed = frame is None
            if frame is None:
                continue
            if told.is_new_epoch:
                for member in group.members:
                    member.renamed(told.epoch)
            for member in group.members:
                member.deliver(seq, frame)
        if announcement.is_new_epoch or not room.is_plain:
            room.look()

    def _frame_of(self, announcement: Announcement, group: Group, uid: str) -> bytes | None:
        """What this group is told: a change of its view; or, where one of its device sent the message, that it was."""
        view, system = group.view, announcement.system
        frame = announcement.frame(view)
        if frame is not None and (not system or is_allowed(group.systems, system)):
            locale = group.locale
            return frame if locale is None else self.reads.words.beside(frame, announcement, view, locale, uid)
        is_own = announcement.sender and announcement.sender == view.device
        return announcement.empty_frame(view) if is_own else None

    def recount(self) -> None:
        """Other items count in the badge now: tell everybody, within a part of a second."""
        for room in tuple(self.rooms.values()):
            for member in room.members:
                self._wheel.after(self.reads.jitter(0.0, RECOUNTED_S), member.recounted)

    def mend(self, room: Room, verdict: Verdict, found: str) -> None:
        """Something was missed: what leads from what is known (``GAP``), or full copies (``FORK``), for everybody."""
        self._gaps.labels(found).inc()
        for member in room.members:
            member.demand(None if verdict is Verdict.GAP else Position(), room.track.seq)

    def _flush(self, room: Room, announcement: Announcement) -> None:
        spread_s = 0 if room.flushes_all else announcement.spread_s
        room.flushes_all = False
        for member in room.members:
            member.copy_within(spread_s, announcement.seq)

    def expect(self, room: Room, seq: int) -> None:
        """A commit of ours made this seq: if its announcement does not come, look for it."""
        if seq > room.track.seq:
            self._wheel.after(PATIENCE_S, partial(self._look_for, room, seq))

    def _look_for(self, room: Room, seq: int) -> None:
        if seq > room.track.seq:
            self.comparison.ask(room, is_sure=True)

    def _control(self, room: Room, text: bytes) -> None:
        document = msgspec.json.decode(text)
        close = document.get("close")
        revoke = document.get("revoke")
        if revoke is not None:
            close = {"device": revoke["device"], "code": CloseCode.REVOKED, "before_us": revoke["issued_before_us"]}
        if close is not None:
            for member in _meant(room.members, close):
                member.shut(close["code"])
        posted = document.get("frames")
        if posted is not None:
            for member in _meant(room.members, posted):
                for frame in posted["frames"]:
                    member.receive_document(frame)


def _meant(members: Iterable[Member], control: dict[str, object]) -> list[Member]:
    """The connections that a control speaks of: those that fit every member of it."""
    before_us = control.get("before_us")
    return [
        member
        for member in members
        if control.get("device") in (None, member.device)
        and control.get("session") in (None, member.session_name)
        and control.get("connection") in (None, member.name)
        and (not isinstance(before_us, int) or member.issued_us <= before_us)
    ]


class FlushOfAll:
    """The receiver of the channel on which a flush of all users is told (semantics.md L14)."""

    def __init__(self, hub: Hub, wheel: Wheel, reads: Reads) -> None:
        self._hub = hub
        self._wheel = wheel
        self._reads = reads

    def receive(self, payload: bytes) -> None:
        """Have each user that is connected here flushed within the spread: the read of a sync commits it."""
        if payload[:1] != b"F":
            return
        spread_s = int.from_bytes(payload[3:5], "big")
        for room in tuple(self._hub.rooms.values()):
            room.flushes_all = True
            self._wheel.after(spread_s * self._reads.jitter(0.0, 1.0), partial(self._reads.touch, room))

    def gap(self) -> None:
        """A flush of all may have been missed: one that was committed shows in the comparison, by the epoch."""
        for room in tuple(self._hub.rooms.values()):
            self._wheel.after(self._reads.jitter(0.0, MISSED_S), partial(self._reads.touch, room))
