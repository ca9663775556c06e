"""Fan-out of one user's announcements to all connections of this user in the process (semantics.md L12).

Publications of one event-loop iteration are processed together. An announcement is decoded once, and its frame is built
once for each view. If the sequence has a gap or a fork, every connection is resynchronised from the store.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import structlog
from prometheus_client import Counter

from gregor.core.close_codes import CloseCode
from gregor.core.formats import UnknownFormat
from gregor.core.ids import Prefixes, is_allowed
from gregor.core.items.announcement import (
    Announcement,
    AnnouncementKind,
    CreationFrame,
    decode_announcement,
    decode_fast,
)
from gregor.core.items.sync import View
from gregor.tracing import names
from gregor.tracing.tracer import TRACING_OFF, SpanKind, Tracer
from gregor_gateway.protocol.hello import VOID_POSITION
from gregor_gateway.runtime.timer_wheel import TimerWheel
from gregor_gateway.runtime.write_scheduler import WriteScheduler

from .batch import Batcher
from .rendering import ItemRendering, LiveTexts
from .sequence_tracker import Continuity, SequenceTracker
from .subscriber import Subscriber

log = structlog.get_logger(__name__)

MAX_PENDING_BYTES: Final = 65_536
"""Publications of one user that may wait for the end of the event-loop iteration; more are processed at once."""
MAX_FAST_CONNECTIONS: Final = 64
"""Connections to which ``_deliver_fast`` writes at once, in about 1 ms."""
ARRIVAL_TIMEOUT_S: Final = 1.0
"""How long the announcement of a commit made by this process may take before the store is compared."""
# The hook: a control message may have numbers of a client (see `gregor.core.json_text`).
_decode_control: Final = msgspec.json.Decoder(float_hook=float).decode


class ViewGroup:
    """Connections of one user that see the same view: every frame is built once for all of them.

    ``lacks_epoch``: a commit that this view does not see created the user's epoch, so the cursors are still void.
    """

    __slots__ = ("lacks_epoch", "locale", "subscribers", "systems", "view")

    def __init__(self, view: View, systems: Prefixes, locale: str | None) -> None:
        self.view = view
        self.systems = systems
        self.locale = locale
        self.lacks_epoch = False
        self.subscribers: list[Subscriber] = []


@dataclass(frozen=True, slots=True)
class ChannelServices:
    """The objects that all channels of a process share: one reference a user instead of eight."""

    scheduler: WriteScheduler
    timers: TimerWheel
    rendering: ItemRendering
    reconciliations: Batcher[UserChannel]
    revocation_checks: Batcher[UserChannel]
    gaps: Counter
    compare_interval_s: float = 30.0
    jitter: Callable[[float, float], float] = random.uniform
    tracer: Tracer = TRACING_OFF


class _ArrivalWait:
    """A wait for the announcements up to a seq."""

    def __init__(self, seq: int) -> None:
        self._seq = seq
        self.has_arrived: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def release_receipts(self, seq: int) -> None:
        """End the wait if ``seq`` is reached; see ``Subscriber.release_receipts``."""
        if seq >= self._seq and not self.has_arrived.done():
            self.has_arrived.set_result(True)

    def give_up(self) -> None:
        """End the wait without the announcements."""
        if not self.has_arrived.done():
            self.has_arrived.set_result(False)


class UserChannel:
    """All connections of one user in this process. It is the receiver of the user's pub/sub channel.

    ``tracker``: the position up to which publications were processed. ``waiting``: connections with receipts that wait
    for their seq, and copies that wait for external messages. ``is_reset_announced``: a reset of all users reached this
    user, so its full copies need no further spread.
    """

    __slots__ = (
        "_can_go_fast",
        "_pending",
        "_pending_bytes",
        "_services",
        "groups",
        "is_reset_announced",
        "tracker",
        "uid",
        "waiting",
    )

    def __init__(self, services: ChannelServices, uid: str) -> None:
        self._services = services
        self.uid = uid
        self.tracker = SequenceTracker()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.groups: list[ViewGroup] = []
        self.waiting: set[Subscriber | _ArrivalWait] = set()
        self.is_reset_announced = False
        self._can_go_fast = True

    # ---- subscribers

    @property
    def subscribers(self) -> list[Subscriber]:
        """All connections of the user."""
        return [subscriber for group in self.groups for subscriber in group.subscribers]

    def add(self, subscriber: Subscriber, view: View, systems: Prefixes, locale: str | None = None) -> None:
        """Add a connection to the group of its view."""
        for group in self.groups:
            if group.view == view and group.systems == systems and group.locale == locale:
                break
        else:
            # All groups of equal views share one view object: an announcement caches its frames by view.
            same = next((group.view for group in self.groups if group.view == view), view)
            group = ViewGroup(same, systems, locale)
            self.groups.append(group)
        group.subscribers.append(subscriber)
        self._update_fast_path()

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a connection."""
        for group in self.groups:
            if subscriber in group.subscribers:
                group.subscribers.remove(subscriber)
        self.groups = [group for group in self.groups if group.subscribers]
        self.waiting.discard(subscriber)
        self._update_fast_path()

    def _update_fast_path(self) -> None:
        """Allow ``_deliver_fast`` for few connections, if no group wants rendered texts or lacks the cursor."""
        is_small = sum(len(group.subscribers) for group in self.groups) <= MAX_FAST_CONNECTIONS
        self._can_go_fast = is_small and all(group.locale is None and not group.lacks_epoch for group in self.groups)

    # ---- publications

    def receive(self, payload: bytes) -> None:
        """Queue one publication; it is processed at the end of this event-loop iteration."""
        if not self._pending:
            self._services.scheduler.add_channel(self)
        self._pending.append(payload)
        self._pending_bytes += len(payload)
        # A slow loop must not collect publications without a bound.
        if self._pending_bytes > MAX_PENDING_BYTES:
            self.process_pending()

    def process_pending(self) -> SequenceTracker:
        """Process the queued publications, then return the tracker, which covers all of them now."""
        if self._pending:
            pending, self._pending, self._pending_bytes = self._pending, [], 0
            self._process(pending)
        return self.tracker

    def lost(self) -> None:
        """Doubt the position until the subscription is back: the store may be another server already."""
        self.process_pending().interrupt()

    def gap(self, *, same_server: bool) -> None:
        """Compare with the store and check for revocations: publications may have been missed."""
        self.process_pending().resume(same_server=same_server)
        self.reconcile(is_certain=True)
        self._services.revocation_checks.add(self)

    def tick(self, now: float) -> None:
        """Compare with the store, and schedule the next comparison while the user is connected."""
        if self.groups:
            services = self._services
            self.tracker.mark()
            self.reconcile()
            services.timers.at(now + services.compare_interval_s * services.jitter(0.9, 1.1), self)

    def reconcile(self, *, is_certain: bool = False) -> None:
        """Compare with the store soon. ``is_certain``: no announcement can be in flight, so repair at once."""
        self._services.reconciliations.add(self, flag=is_certain)

    def expect(self, seq: int) -> None:
        """Compare with the store if the announcement of this seq, committed by this process, does not arrive."""
        if seq > self.process_pending().seq:
            self._services.timers.after(ARRIVAL_TIMEOUT_S, partial(self._check_arrival, seq))

    async def arrival(self, seq: int) -> bool:
        """Wait until the announcements up to ``seq`` are processed; return False if one of them does not arrive."""
        arrival = _ArrivalWait(seq)
        self.waiting.add(arrival)
        self._services.timers.after(ARRIVAL_TIMEOUT_S, arrival.give_up)
        try:
            return await arrival.has_arrived
        finally:
            self.waiting.discard(arrival)

    def _check_arrival(self, seq: int) -> None:
        if seq > self.process_pending().seq:
            self.reconcile(is_certain=True)

    def _process(self, payloads: Sequence[bytes]) -> None:
        """Deliver publications in order. Consecutive creations that qualify are delivered as one run."""
        tracker = self.tracker
        run: list[CreationFrame] = []
        for payload in payloads:
            try:
                creation = decode_fast(payload)
                if creation is not None and self._can_go_fast and tracker.advance_fast(creation):
                    run.append(creation)
                    continue
                if run:
                    self._deliver_fast(run)
                    run = []
                if payload[:1] == b"C":
                    self._announce(decode_announcement(payload))
                elif payload[:1] == b"K":
                    self._control(payload[1:])
                else:
                    raise UnknownFormat("publication", payload[0] if payload else 0)
            except Exception as error:
                # A publication that cannot be read must not stop the ones behind it.
                log.warning("publication.unreadable", uid=self.uid, exc_info=error)
                self.reconcile(is_certain=True)
        if run:
            self._deliver_fast(run)

    # ---- delivery

    def _announce(self, announcement: Announcement) -> None:
        """Classify an announcement, repair a gap or fork, and deliver it."""
        if announcement.trace:
            self._trace(announcement.trace)
        continuity = self.tracker.classify(announcement)
        if continuity is Continuity.LATE:
            self.reconcile()
            return
        if continuity is not Continuity.NEXT:
            self.repair(continuity, "gap" if continuity is Continuity.GAP else "fork")
        self.tracker.advance(announcement)
        self._deliver(announcement)
        if announcement.kind is AnnouncementKind.RESET:
            self._resync_after_reset(announcement)
        self.release_receipts(announcement.seq)

    def _trace(self, context: bytes) -> None:
        """Record the fan-out of a sampled message, from here until its frames are written."""
        span = self._services.tracer.resume_packed(context, names.FANOUT, SpanKind.CONSUMER)
        if span is not None:
            span.attributes[names.CONNECTIONS] = len(self.subscribers)
            self._services.scheduler.after_sweep(span.end)

    def _deliver_fast(self, run: list[CreationFrame]) -> None:
        """Fan out a run of creations that every device gets. Hot path.

        General twin: ``_deliver``. Benchmark: ``fanout`` (bursts), 3.2 instead of 6 µs a delivery. Equality of both:
        ``tests/unit/gateway/test_fanout_runs.py``. It can go if it saves less than a fifth of the CPU of ``fanout``.
        """
        for group in self.groups:
            prefixes = group.view.category_filter
            seen = run if prefixes is None else [each for each in run if is_allowed(prefixes, each.category)]
            if not seen:
                continue
            writes = size = 0
            for subscriber in group.subscribers:
                try:
                    written = subscriber.deliver_fast(seen)
                except Exception as error:
                    # One broken connection must not stop the delivery to the others.
                    log.error("connection.write_failed", uid=self.uid, exc_info=error)
                    continue
                if written:
                    writes += 1
                    size += written
            self._services.scheduler.count(writes, writes * len(seen), size)
        self.release_receipts(run[-1].seq)

    def _deliver(self, announcement: Announcement) -> None:
        seq, texts = announcement.seq, None
        for group in self.groups:
            sent = announcement.with_cursor() if group.lacks_epoch else announcement
            frame = self._frame_of(sent, group)
            if sent.is_new_epoch:
                group.lacks_epoch = frame is None
            if frame is not None and group.locale is not None:
                texts = texts or self._services.rendering.of_announcement(announcement, self.uid)
                owes = any(subscriber.owes_cpu for subscriber in group.subscribers[:1])
                frame = texts.add_to_frame(frame, group.view, group.locale, may_render=not owes)
                if frame is None:
                    for subscriber in group.subscribers:
                        subscriber.sync_texts(seq - 1)
            if frame is None:
                continue
            # The cursor of the first frame carries the new epoch to the client.
            if sent.is_new_epoch:
                for subscriber in group.subscribers:
                    subscriber.epoch_changed(sent.epoch)
            for subscriber in group.subscribers:
                subscriber.deliver(seq, frame)
        if texts is not None:
            self._charge(texts)
        if announcement.is_new_epoch or not self._can_go_fast:
            self._update_fast_path()

    def _charge(self, texts: LiveTexts) -> None:
        """Charge the devices that want texts for the CPU time of one announcement, in equal parts."""
        devices = {group.view.device: group.subscribers[0] for group in self.groups if group.locale}
        for subscriber in devices.values():
            subscriber.charge_cpu(texts.used_ns // len(devices))

    def _frame_of(self, announcement: Announcement, group: ViewGroup) -> bytes | None:
        """Return the frame of a group: the change of its view, or an empty change if its device sent the message."""
        view, system = group.view, announcement.system
        frame = announcement.frame(view)
        if frame is not None and (not system or is_allowed(group.systems, system)):
            return frame
        is_own = announcement.sender and announcement.sender == view.device
        return announcement.empty_frame(view) if is_own else None

    def _resync_after_reset(self, announcement: Announcement) -> None:
        spread_s = 0 if self.is_reset_announced else announcement.spread_s
        self.is_reset_announced = False
        for subscriber in self.subscribers:
            subscriber.resync_within(spread_s, announcement.seq)

    def release_receipts(self, seq: int) -> None:
        """Release the receipts that wait for announcements up to ``seq``."""
        if self.waiting:
            for subscriber in tuple(self.waiting):
                subscriber.release_receipts(seq)

    def repair(self, continuity: Continuity, found_by: str) -> None:
        """Resynchronise every connection: with a delta after a ``GAP``, with a full copy after a ``FORK``."""
        self._services.gaps.labels(found_by).inc()
        # After a gap the copies are valid, only old; after a fork no cursor can be trusted.
        position = None if continuity is Continuity.GAP else VOID_POSITION
        for subscriber in self.subscribers:
            subscriber.resync(position, self.tracker.seq)

    # ---- control messages

    def _control(self, text: bytes) -> None:
        """Carry out a control message: close connections, or pass on frames that were posted to another gateway."""
        document = _decode_control(text)
        close = document.get("close")
        revoke = document.get("revoke")
        if revoke is not None:
            close = {"device": revoke["device"], "code": CloseCode.REVOKED, "before_us": revoke["issued_before_us"]}
        if close is not None:
            for subscriber in _matching(self.subscribers, close):
                subscriber.close(close["code"])
        posted = document.get("frames")
        if posted is not None:
            for subscriber in _matching(self.subscribers, posted):
                # An observer of the device may have chosen the same session name.
                if subscriber.observes:
                    continue
                # A gateway of an earlier release does not send the age of the token.
                issued_us = posted.get("issued_us", subscriber.issued_us)
                for frame in posted["frames"]:
                    subscriber.receive_document(frame, issued_us)


def _matching(subscribers: Iterable[Subscriber], control: dict[str, object]) -> list[Subscriber]:
    """Return the connections that match every member of a control message."""
    before_us = control.get("before_us")
    return [
        subscriber
        for subscriber in subscribers
        if control.get("device") in (None, subscriber.device)
        and control.get("session") in (None, subscriber.session_name)
        and control.get("connection") in (None, subscriber.name)
        and (not isinstance(before_us, int) or subscriber.issued_us <= before_us)
    ]
