"""The periodic comparison with the store: what announcements did not tell is found here (semantics.md L12)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from gregor.store.contract.store import Store, Unavailable
from gregor_gateway.runtime.timer_wheel import Wheel

from .batch import Turns
from .sequence_tracker import Mark, Verdict

if TYPE_CHECKING:
    from .hub import Hub, Room

log = structlog.get_logger(__name__)

AT_ONCE: Final = 500
"""Users a call: one pipelined read each, so that one call takes a few milliseconds of the store."""
SECOND_LOOK_S: Final = 1.0
"""An announcement may be under way when the store is asked: what is missing then is looked at again."""


class Comparison:
    """Asks the store for the positions of rooms, many at a time, and has mended what differs."""

    def __init__(self, hub: Hub, store: Store, wheel: Wheel, interval_s: float) -> None:
        self._hub = hub
        self._store = store
        self._wheel = wheel
        self._interval_s = interval_s
        self._turns = Turns(hub.reads.background, AT_ONCE, self._compare)

    def begin(self, room: Room) -> None:
        """A new room: compare it now and then. The first time soon: until then a fork could not be told."""
        self._wheel.at(self._wheel.now + self._hub.reads.jitter(0.5, 1.5), room)

    def due(self, room: Room) -> None:
        """The time of a room has come, if it is still there."""
        if self._hub.rooms.get(room.uid) is room:
            self.ask(room)
            self._wheel.at(self._wheel.now + self._interval_s * self._hub.reads.jitter(0.9, 1.1), room)

    def ask(self, room: Room, *, is_sure: bool = False) -> None:
        """Compare soon. ``is_sure``: an announcement cannot be under way any more."""
        self._turns.want(room, is_sure=is_sure)

    async def _compare(self, rooms: dict[Room, bool]) -> None:
        """``rooms``: of each, whether what differs is mended at once."""
        known = [(room, room.track.mark) for room in rooms]
        asked = [(room, mark) for room, mark in known if mark is not None and room.groups]
        if not asked:
            return
        try:
            heads = await self._store.users.heads([room.uid for room, _ in asked])
        except Unavailable:
            for room, _ in asked:
                self._wheel.after(SECOND_LOOK_S, partial(self.ask, room, is_sure=rooms[room]))
            return
        for (room, then), head in zip(asked, heads, strict=True):
            self._judge(room, then, Mark.of(head), rooms[room])

    def _judge(self, room: Room, then: Mark, there: Mark, is_sure: bool) -> None:
        verdict = room.track.compare(there, then)
        if verdict is Verdict.SAME:
            return
        is_behind = verdict is Verdict.GAP or there.epoch != then.epoch
        if is_behind and not is_sure:
            self._wheel.after(SECOND_LOOK_S, partial(self._look_for, room, there))
            return
        self._hub.mend(room, verdict, "compare")
        room.track.mark = there
        for member in tuple(room.waiting):
            member.release(there.seq)

    def _look_for(self, room: Room, missed: Mark) -> None:
        """Ask again where this is not known yet. What is under way by now is not what was missed: a sync in its place
        would swallow the reminders among it."""
        if not room.track.has(missed):
            self.ask(room, is_sure=True)
