"""L9 and L12 on a connection: a client asks for syncs while frames are on their way to it.

Session, send queue and client are those of the product. Frames wait in the queue, then on the line to the client, and
the store changes before it is read: a position may be old when its `resync` arrives.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.auth.device_tokens import Caller
from gregor.client.synchronizer import Synchronizer
from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.messages.encode import encode_sync
from gregor.core.messages.model import Sender
from gregor_gateway.connection.send_queue import NO_SEQ, EnqueueResult, SendQueue
from gregor_gateway.protocol.deadlines import SessionRules
from gregor_gateway.protocol.effects import ConfirmCursor, Effect, ReadSync, Send, SendLive, SendSync
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.protocol.session import Session, SessionState
from tests.property.conversations import Sent
from tests.property.world import UID, World
from tests.support.builders import SECOND_US, item, message

RULES = SessionRules(queue_bytes=1_000, welcomes=False)
"""The queue overflows after about five frames."""


@dataclass(frozen=True)
class Round:
    """A part of a run: messages, a resync, messages before the store is read, and frames that the client processes."""

    before: Sequence[str] = ()
    is_written: bool = True
    asks: str = ""
    during: Sequence[str] = ()
    taken: int = 0


@dataclass
class Line:
    """A phone on a connection. ``has_digests``: it computes digests, and asks for a full copy if one differs."""

    has_digests: bool
    prefixes: Prefixes
    world: World = field(default_factory=World)
    to_client: deque[dict[str, Any]] = field(default_factory=deque)
    reads: deque[ReadSync] = field(default_factory=deque)
    made: int = 0

    def __post_init__(self) -> None:
        self.view = View("phone", self.prefixes)
        self.client = Synchronizer(lambda: "m")
        self.queue = SendQueue(RULES.queue_bytes)
        self.session = Session(RULES, 0.0, "c1")
        self.session.admitted(Caller(UID, "phone", exp_us=0, category_filter=self.prefixes), 3_600.0, 0.0)
        self.session.greeted(Hello())

    @property
    def now(self) -> float:
        return self.world.now_us / SECOND_US

    def enqueue(self, frame: bytes, seq: int = NO_SEQ) -> None:
        if self.queue.put(frame, seq) is not EnqueueResult.QUEUED:
            self.session.fall_behind()

    def apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame):
                    self.enqueue(frame)
                case SendLive(seq, frame):
                    self.enqueue(frame, seq)
                case SendSync(tag, seq, frame):
                    self.queue.put_sync(frame, tag, seq)
                case ConfirmCursor(tag, seq):
                    self.queue.confirm_cursor(tag, seq)
                case ReadSync():
                    self.reads.append(effect)

    async def commit(self, change: str) -> None:
        """Let a backend create an item or dismiss the newest one, and send its frame."""
        match change:
            case "create":
                self.made += 1
                document = message({f"i{self.made}": item("user.joined")})
            case "dismiss":
                document = message(ids=[f"i{self.made}"])
            case _:
                document = message({"other": item("mail")})
        await self.world.send(Sent(Sender(), document))
        for announcement in self.world.announced():
            frame = announcement.frame(self.view)
            if frame is not None and self.session.deliver(announcement.seq, frame):
                self.enqueue(frame, announcement.seq)

    async def read(self) -> None:
        """Let the store answer the next read."""
        if self.reads:
            request = self.reads.popleft()
            answer = await self.world.sync(self.view, request.position.cursor, request.position.digest)
            self.apply(self.session.synced(request.serial, answer, encode_sync(answer, self.view)))

    def write(self) -> None:
        """Write the queue to the line."""
        while self.queue.entries is not None:
            self.to_client.extend(map(json.loads, self.queue.take(RULES.queue_bytes)))
        if self.session.state is SessionState.BEHIND:
            self.apply(self.session.catch_up(self.queue.written_tag, self.queue.written_seq))

    def take(self) -> None:
        """Let the client process the next frame."""
        if self.to_client:
            frame = self.to_client.popleft()
            if not self.has_digests:
                frame.pop("digest", None)
            self.say(self.client.receive(frame, self.world.now_us).send)

    def check(self, *, by_cursor: bool = True) -> None:
        """Let the client send the position of its copy, or only its digest."""
        position = self.client.position()
        if not self.has_digests:
            position.pop("digest", None)
        if not by_cursor:
            position.pop("cursor", None)
        self.say([{"resync": position}])

    def say(self, frames: Iterable[dict[str, Any]]) -> None:
        for frame in frames:
            self.apply(self.session.receive(json.dumps(frame).encode(), self.now))

    async def round(self, turn: Round) -> None:
        """Commit messages, let the client ask, commit others before the store is read, and let the client catch up."""
        self.world.now_us += 2 * SECOND_US
        for change in turn.before:
            await self.commit(change)
        if turn.is_written:
            self.write()
        if turn.asks:
            self.check(by_cursor=turn.asks == "from its cursor")
        for change in turn.during:
            await self.commit(change)
        await self.read()
        self.write()
        for _ in range(turn.taken):
            self.take()

    async def drain(self) -> None:
        """Let everything arrive, also the full copy that the client asks for if a digest differs."""
        while self.reads or self.queue.entries is not None or self.to_client or self.client.mirror.needs_full:
            await self.round(Round(taken=1))
            self.say(self.client.tick(self.world.now_us))


COMMITS = st.lists(st.sampled_from(("create", "dismiss", "create other")), max_size=2)
ROUNDS = st.lists(
    st.builds(
        Round,
        before=COMMITS,
        is_written=st.booleans(),
        asks=st.sampled_from(("", "from its cursor", "by its digest")),
        during=COMMITS,
        taken=st.integers(0, 4),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("prefixes", [None, ("user",)])
@example([Round(("create",), True, "from its cursor", ("dismiss",))])
@given(ROUNDS)
async def test_L12_resync_with_an_old_position_leads_to_the_view(
    has_digests: bool, prefixes: Prefixes, rounds: list[Round]
) -> None:
    line = Line(has_digests, prefixes)
    await line.commit("create")
    line.apply(line.session.joined(line.now))
    await line.drain()
    for each in rounds:
        await line.round(each)
    await line.drain()

    now = await line.world.look(line.view)
    assert dict(line.client.mirror.items) == {each.id: json.loads(each.json) for each in now.items}
