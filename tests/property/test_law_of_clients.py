"""L11, one way: a device on a connection that breaks at any moment, and a store with another writer.

Outbox and mirror are the client's own. The connection between them and the store delivers frames in order. When it
breaks, frames in both directions are lost.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gregor.client.changes import Item
from gregor.client.messages import Message, creation, dismissal
from gregor.client.mirror import Mirror
from gregor.client.outbox import Completed, Outbox
from gregor.core.errors import Problem
from gregor.core.items.sync import Full, View, parse_cursor
from gregor.core.limits import Limits
from gregor.core.messages.encode import encode_receipt, encode_sync
from gregor.core.messages.model import Sender
from tests.property.conversations import Sent
from tests.property.world import UID, World
from tests.support.builders import RESET, SECOND_US, item, message
from tests.support.builders import planned as planned_at

VIEW = View("phone")
PHONE = Sender("phone")
CATEGORIES = ("user", "user.joined")
IDS = ("a", "b", "c", "d", "e", "f")
MAX_ROUNDS = 5
"""Rounds in which everything is sent on a stable connection: one is enough if nothing blocks."""
FEW = Limits(live=2)
"""Limits so low that the store rejects some messages for good."""


def items_of(full: Full) -> dict[str, Item]:
    return {each.id: json.loads(each.json) for each in full.items}


@dataclass
class Device:
    """A phone: its outbox, its copy, and its connection to the store."""

    world: World = field(default_factory=lambda: World(FEW))
    mirror: Mirror = field(default_factory=Mirror)
    line_there: deque[dict[str, Any]] = field(default_factory=deque)
    line_back: deque[dict[str, Any]] = field(default_factory=deque)
    settled: list[Completed] = field(default_factory=list)
    truth: dict[int, dict[str, Item]] = field(default_factory=lambda: {0: {}})
    """The view at each seq."""

    def __post_init__(self) -> None:
        numbers = itertools.count(1)
        self.outbox = Outbox(lambda: f"m{next(numbers)}")

    def put(self, said: Message) -> None:
        self.outbox.put(said, self.mirror.items, self.world.now_us)

    def pump(self) -> None:
        self.line_there.extend(self.outbox.sendable(self.world.now_us))

    async def arrive(self) -> None:
        """Let the store process the device's next frame; receipt or problem follows the frame of its seq."""
        if not self.line_there:
            return
        frame = self.line_there.popleft()
        said = {name: value for name, value in frame.items() if name != "ref"}
        try:
            receipt = await self.world.commit(planned_at(said, PHONE, self.world.now_us, FEW))
        except Problem as problem:
            self.line_back.append({"ref": frame["ref"], "problem": {"code": problem.code, "status": problem.status}})
            return
        await self.announce(is_ours=True)
        answer = json.loads(encode_receipt(receipt, VIEW, False))
        self.line_back.append({"ref": frame["ref"], "receipt": answer})

    async def other(self, sent: Sent) -> None:
        """Let the other writer commit a message."""
        try:
            await self.world.commit(planned_at(sent.document, sent.sender, self.world.now_us, FEW))
        except Problem:
            return
        await self.announce()

    async def announce(self, *, is_ours: bool = False) -> None:
        """Send frames as a gateway makes them; the sender of a message always gets its frame."""
        full = await self.world.look(VIEW)
        self.truth[full.seq] = items_of(full)
        for announcement in self.world.announced():
            frame = announcement.frame(VIEW) or (announcement.empty_frame(VIEW) if is_ours else None)
            if frame is not None:
                self.line_back.append(json.loads(frame))

    def take(self) -> None:
        """Let the device read the next frame."""
        if not self.line_back:
            return
        frame = self.line_back.popleft()
        if "ref" in frame:
            self.settled += self.outbox.answered(frame, self.mirror.seq, self.world.now_us)
        else:
            self.mirror.apply(frame)
            self.settled += self.outbox.reached(self.mirror.seq)

    async def reconnect(self) -> None:
        """Break the connection, losing its frames, and connect again with a sync object."""
        self.line_there.clear()
        self.line_back.clear()
        self.world.announced()
        self.outbox.reconnected()
        cursor = parse_cursor(self.mirror.cursor) if self.mirror.cursor else None
        digest = bytes.fromhex(self.mirror.digest) if cursor is not None else None
        answer = await self.world.sync(VIEW, cursor, digest)
        self.mirror.apply(json.loads(encode_sync(answer, VIEW)))
        self.settled += self.outbox.reached(self.mirror.seq)

    async def drain(self) -> None:
        """Keep the connection until everything is sent and read."""
        await self.reconnect()
        for _ in range(MAX_ROUNDS):
            self.world.now_us += SECOND_US
            self.pump()
            while self.line_there or self.line_back:
                await self.arrive()
                self.take()
        while self.line_back:
            self.take()


SAID = st.one_of(
    st.builds(creation, st.sampled_from(IDS), st.sampled_from(CATEGORIES)),
    st.builds(lambda one: dismissal([one]), st.sampled_from(IDS)),
    st.builds(lambda category: dismissal(category=category), st.sampled_from(CATEGORIES)),
)
OTHERS = st.one_of(
    st.builds(
        lambda id_, category: Sent(Sender(), message({id_: item(category)})),
        st.sampled_from(("x", "y", "z", *IDS)),
        st.sampled_from(CATEGORIES),
    ),
    st.builds(lambda id_: Sent(Sender(), message(ids=[id_])), st.sampled_from(("x", "y", *IDS))),
    st.just(Sent(Sender(), RESET | {"id": "flush"})),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), SAID),
        st.tuples(st.just("say"), SAID),
        st.tuples(st.just("other"), OTHERS),
        *(st.tuples(st.just(name), st.none()) for name in ("pump", "arrive", "take", "take", "reconnect")),
    ),
    min_size=5,
    max_size=40,
)


async def step(device: Device, name: str, what: Any) -> None:
    device.world.now_us += SECOND_US
    match name:
        case "put":
            device.put(what)
        case "say":
            device.put(what)
            device.pump()
            await device.arrive()
        case "other":
            await device.other(what)
        case "pump":
            device.pump()
        case "arrive":
            await device.arrive()
        case "take":
            device.take()
        case _:
            await device.reconnect()


@given(STEPS)
async def test_L11_copy_follows_the_server(steps: list[tuple[str, Any]]) -> None:
    device = Device()
    await device.reconnect()
    put = 0
    for name, what in steps:
        waiting = len(device.outbox)
        await step(device, name, what)
        put += name in ("put", "say")

        # what the device says shows in the overlay; its copy is always one that the server had
        assert dict(device.mirror.items) == device.truth[device.mirror.seq]
        if name == "reconnect":
            assert len(device.outbox) <= waiting and dict(device.mirror.items) == items_of(
                await device.world.look(VIEW)
            )
    await device.drain()

    assert sorted(each.ref for each in device.settled) == list(range(1, put + 1))
    now = items_of(await device.world.look(VIEW))
    assert dict(device.mirror.items) == now
    assert device.outbox.overlay(now) == now
    assert device.mirror.digest == (await device.world.look(VIEW)).digest.hex()


@given(STEPS)
async def test_L11_accepted_messages_take_effect(
    steps: list[tuple[str, Any]],
) -> None:
    """The store knows each accepted creation by its id. A rejected message is reported, and blocks no other."""
    device = Device()
    put: dict[int, Message] = {}
    await device.reconnect()
    for name, what in steps:
        await step(device, name, what)
        if name in ("put", "say"):
            put[len(put) + 1] = what
    await device.drain()

    for each in device.settled:
        assert (each.receipt is None) != (each.problem is None)
        assert each.problem is None or each.problem["code"] == "state_full"
        for id_ in put[each.ref]["body"].get("create", {}) if each.receipt is not None else ():
            known = await device.world.store.users.item(UID, id_, View(), device.world.now_us)
            assert known is not None
