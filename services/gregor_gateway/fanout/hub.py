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
from gregor_gateway.connection.write_scheduler import WriteScheduler
from gregor_gateway.protocol.hello import Position
from gregor_gateway.runtime.timer_wheel import TimerWheel

from .reconciler import Reconciler
from .revocation import RevocationChecker
from .sequence_tracker import Continuity, SequenceTracker
from .subscriber import Subscriber
from .sync_reader import SyncReader

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


class ViewGroup:
    """Connections of one user that see the same: the same frames go to all of them.

    ``is_unnamed``: the user's epoch was made by a commit that they did not see, so their cursors are void.
    """

    __slots__ = ("is_unnamed", "locale", "subscribers", "systems", "view")

    def __init__(self, view: View, systems: Prefixes, locale: str | None) -> None:
        self.view = view
        self.systems = systems
        self.locale = locale
        self.is_unnamed = False
        self.subscribers: list[Subscriber] = []


class UserChannel:
    """One user's connections here. A receiver of the user's channel.

    ``is_plain``: all may be told by the short way, for none wants words, and all have a cursor of the epoch.
    """

    __slots__ = ("_hub", "_tracker", "_untold", "_untold_bytes", "flushes_all", "groups", "is_plain", "uid", "waiting")

    def __init__(self, hub: Hub, uid: str) -> None:
        self._hub = hub
        self.uid = uid
        self._tracker = SequenceTracker()
        self._untold: list[bytes] = []
        self._untold_bytes = 0
        self.groups: list[ViewGroup] = []
        self.waiting: set[Subscriber] = set()
        self.flushes_all = False
        self.is_plain = True

    @property
    def subscribers(self) -> list[Subscriber]:
        """All connections."""
        return [subscriber for group in self.groups for subscriber in group.subscribers]

    @property
    def tracker(self) -> SequenceTracker:
        """What is known of the user's history, and was told: all that came is in it."""
        self.process_pending()
        return self._tracker

    def receive(self, payload: bytes) -> None:
        """One publication, an announcement or a control: it is told with the next sweep."""
        if not self._untold:
            self._hub.write_scheduler.expect(self)
        self._untold.append(payload)
        self._untold_bytes += len(payload)
        if self._untold_bytes > UNTOLD_BYTES:
            self.process_pending()

    def process_pending(self) -> None:
        """Take what was published since the last time."""
        if self._untold:
            untold, self._untold, self._untold_bytes = self._untold, [], 0
            self._hub.hear(self, self._tracker, untold)

    def gap(self) -> None:
        """The subscription was broken, and stands again."""
        self._hub.reconciler.ask(self, is_sure=True)
        self._hub.revocation_checker.ask(self)

    def tick(self, now: float) -> None:
        """Time to compare with the store."""
        self._hub.reconciler.due(self)

    def add(self, subscriber: Subscriber, view: View, systems: Prefixes, locale: str | None = None) -> None:
        """Put a connection into the group of its view."""
        for group in self.groups:
            if group.view == view and group.systems == systems and group.locale == locale:
                break
        else:
            # The same view object for all: an announcement keeps the frames that it made by view.
            same = next((group.view for group in self.groups if group.view == view), view)
            group = ViewGroup(same, systems, locale)
            self.groups.append(group)
            self.look()
        group.subscribers.append(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Take a connection out, wherever it is."""
        for group in self.groups:
            if subscriber in group.subscribers:
                group.subscribers.remove(subscriber)
        self.groups = [group for group in self.groups if group.subscribers]
        self.waiting.discard(subscriber)
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
        timers: TimerWheel,
        write_scheduler: WriteScheduler,
        metrics: Metrics,
        sync_reader: SyncReader,
        revocation_checker: RevocationChecker,
        compare_interval_s: float = 30.0,
    ) -> None:
        self._store = store
        self._feed = feed
        self._timers = timers
        self.write_scheduler = write_scheduler
        self._gaps = metrics.gaps
        self.sync_reader = sync_reader
        self.revocation_checker = revocation_checker
        self.channels: dict[str, UserChannel] = {}
        self.reconciler = Reconciler(self, store, timers, compare_interval_s)

    async def enter(
        self, uid: str, subscriber: Subscriber, view: View, systems: Prefixes, locale: str | None = None
    ) -> UserChannel:
        """Hear the user's channel from now on. Returns when that is certain; ``Unavailable`` where it cannot be."""
        channel = self.channels.get(uid)
        if channel is None:
            channel = self.channels[uid] = UserChannel(self, uid)
            self.reconciler.begin(channel)
        channel.add(subscriber, view, systems, locale)
        try:
            async with asyncio.timeout(SUBSCRIBED_S):
                await self._feed.subscribe(self._store.channel_of(uid), channel)
        except (TimeoutError, RedisUnavailable) as error:
            self.leave(channel, subscriber)
            raise Unavailable("the user's channel cannot be heard") from error
        except BaseException:
            self.leave(channel, subscriber)
            raise
        return channel

    def leave(self, channel: UserChannel, subscriber: Subscriber) -> None:
        """A connection is gone; with the last one goes the room."""
        channel.remove(subscriber)
        if not channel.groups and self.channels.get(channel.uid) is channel:
            del self.channels[channel.uid]
            self._feed.unsubscribe(self._store.channel_of(channel.uid), channel)

    def hear(self, channel: UserChannel, tracker: SequenceTracker, payloads: Sequence[bytes]) -> None:
        """What was published on a user's channel, in order. Plain creations in a row are one run."""
        run: list[CreationFrame] = []
        for payload in payloads:
            try:
                plain = decode_fast(payload)
                if plain is not None and channel.is_plain and tracker.advance_fast(plain):
                    run.append(plain)
                    continue
                if run:
                    self._deliver_run(channel, run)
                    run = []
                self._take(channel, payload)
            except Exception as error:
                # Whatever is wrong with it, those behind it must be told.
                log.warning("A publication cannot be taken; comparing with the store.", exc_info=error)
                self.reconciler.ask(channel, is_sure=True)
        if run:
            self._deliver_run(channel, run)

    def _take(self, channel: UserChannel, payload: bytes) -> None:
        if payload[:1] == b"C":
            self._announce(channel, decode_announcement(payload))
        elif payload[:1] == b"K":
            self._control(channel, payload[1:])

    def _announce(self, channel: UserChannel, announcement: Announcement) -> None:
        continuity = channel.tracker.classify(announcement)
        if continuity is Continuity.LATE:
            self.reconciler.ask(channel)
            return
        if continuity is not Continuity.NEXT:
            self.repair(channel, continuity, "gap" if continuity is Continuity.GAP else "fork")
        channel.tracker.advance(announcement)
        self._deliver(channel, announcement)
        if announcement.kind is AnnouncementKind.RESET:
            self._flush(channel, announcement)
        if channel.waiting:
            self._release(channel, announcement.seq)

    def _deliver_run(self, channel: UserChannel, run: list[CreationFrame]) -> None:
        """The hot path of the process: creations for all devices."""
        for group in channel.groups:
            category_filter = group.view.category_filter
            seen = (
                run
                if category_filter is None
                else [plain for plain in run if is_allowed(category_filter, plain.category)]
            )
            if not seen:
                continue
            writes = size = 0
            for subscriber in group.subscribers:
                try:
                    written = subscriber.deliver_run(seen)
                except Exception as error:
                    # The fault of one must not silence the others.
                    log.error("A connection could not be written to.", exc_info=error)
                    continue
                if written:
                    writes += 1
                    size += written
            self.write_scheduler.wrote(writes, writes * len(seen), size)
        if channel.waiting:
            self._release(channel, run[-1].seq)

    def _release(self, channel: UserChannel, seq: int) -> None:
        for subscriber in tuple(channel.waiting):
            subscriber.release_receipts(seq)

    def _deliver(self, channel: UserChannel, announcement: Announcement) -> None:
        seq = announcement.seq
        for group in channel.groups:
            told = announcement.with_cursor() if group.is_unnamed else announcement
            frame = self._frame_of(told, group, channel.uid)
            if told.is_new_epoch:
                group.is_unnamed = frame is None
            if frame is None:
                continue
            if told.is_new_epoch:
                for subscriber in group.subscribers:
                    subscriber.epoch_changed(told.epoch)
            for subscriber in group.subscribers:
                subscriber.deliver(seq, frame)
        if announcement.is_new_epoch or not channel.is_plain:
            channel.look()

    def _frame_of(self, announcement: Announcement, group: ViewGroup, uid: str) -> bytes | None:
        """What this group is told: a change of its view; or, where one of its device sent the message, that it was."""
        view, system = group.view, announcement.system
        frame = announcement.frame(view)
        if frame is not None and (not system or is_allowed(group.systems, system)):
            locale = group.locale
            return frame if locale is None else self.sync_reader.words.beside(frame, announcement, view, locale, uid)
        is_own = announcement.sender and announcement.sender == view.device
        return announcement.empty_frame(view) if is_own else None

    def announce_counting(self) -> None:
        """Other items count in the badge now: tell everybody, within a part of a second."""
        for channel in tuple(self.channels.values()):
            for subscriber in channel.subscribers:
                self._timers.after(self.sync_reader.jitter(0.0, RECOUNTED_S), subscriber.counting_changed)

    def repair(self, channel: UserChannel, continuity: Continuity, found: str) -> None:
        """Something was missed: what leads from what is known (``GAP``), or full copies (``FORK``), for everybody."""
        self._gaps.labels(found).inc()
        for subscriber in channel.subscribers:
            subscriber.resync(None if continuity is Continuity.GAP else Position(), channel.tracker.seq)

    def _flush(self, channel: UserChannel, announcement: Announcement) -> None:
        spread_s = 0 if channel.flushes_all else announcement.spread_s
        channel.flushes_all = False
        for subscriber in channel.subscribers:
            subscriber.resync_within(spread_s, announcement.seq)

    def expect(self, channel: UserChannel, seq: int) -> None:
        """A commit of ours made this seq: if its announcement does not come, look for it."""
        if seq > channel.tracker.seq:
            self._timers.after(PATIENCE_S, partial(self._look_for, channel, seq))

    def _look_for(self, channel: UserChannel, seq: int) -> None:
        if seq > channel.tracker.seq:
            self.reconciler.ask(channel, is_sure=True)

    def _control(self, channel: UserChannel, text: bytes) -> None:
        document = msgspec.json.decode(text)
        close = document.get("close")
        revoke = document.get("revoke")
        if revoke is not None:
            close = {"device": revoke["device"], "code": CloseCode.REVOKED, "before_us": revoke["issued_before_us"]}
        if close is not None:
            for subscriber in _meant(channel.subscribers, close):
                subscriber.close(close["code"])
        posted = document.get("frames")
        if posted is not None:
            for subscriber in _meant(channel.subscribers, posted):
                for frame in posted["frames"]:
                    subscriber.receive_document(frame)


def _meant(subscribers: Iterable[Subscriber], control: dict[str, object]) -> list[Subscriber]:
    """The connections that a control speaks of: those that fit every member of it."""
    before_us = control.get("before_us")
    return [
        subscriber
        for subscriber in subscribers
        if control.get("device") in (None, subscriber.device)
        and control.get("session") in (None, subscriber.session_name)
        and control.get("connection") in (None, subscriber.name)
        and (not isinstance(before_us, int) or subscriber.issued_us <= before_us)
    ]


class ResetAllReceiver:
    """The receiver of the channel on which a flush of all users is told (semantics.md L14)."""

    def __init__(self, hub: Hub, timers: TimerWheel, sync_reader: SyncReader) -> None:
        self._hub = hub
        self._timers = timers
        self._sync_reader = sync_reader

    def receive(self, payload: bytes) -> None:
        """Have each user that is connected here flushed within the spread: the read of a sync commits it."""
        if payload[:1] != b"F":
            return
        spread_s = int.from_bytes(payload[3:5], "big")
        for channel in tuple(self._hub.channels.values()):
            channel.flushes_all = True
            self._timers.after(spread_s * self._sync_reader.jitter(0.0, 1.0), partial(self._sync_reader.touch, channel))

    def gap(self) -> None:
        """A flush of all may have been missed: one that was committed shows in the comparison, by the epoch."""
        for channel in tuple(self._hub.channels.values()):
            self._timers.after(self._sync_reader.jitter(0.0, MISSED_S), partial(self._sync_reader.touch, channel))
