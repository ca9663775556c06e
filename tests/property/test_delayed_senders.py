"""Law L2 for delayed messages: a repeat is recognized, from whichever sender, and does what its sender was promised.

The promise of an accepted message: at its time it is committed with the limits of its sender, unless that sender may no
longer send. Keys are deleted and tokens revoked while messages wait, and senders repeat messages while schedulers run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.messages.delayed import MOST_KEYS, decode_delayed_header
from gregor.core.messages.model import Sender
from gregor.core.messages.parse import parse_message
from gregor.core.rate_limit import RateLimiter
from gregor.metrics.process import Metrics
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.store import Store
from gregor.submission import Submitter
from gregor_scheduler.handlers.dispatch import DueHandlers
from tests.property.test_cancelled_messages import Interleaved
from tests.support.builders import BACKEND, LIMITS, NOW, NOW_US, SECOND_US, Document, creating, ids_of, item, message
from tests.support.store_backends import FACTORIES
from tests.unit.scheduler.conftest import build

UID, ID, DUE = "alice", "m", NOW + 60
CONTENTS: Final[dict[str, Document]] = {
    "dismiss": message(ids=["i-x", "i-y"], message_id=ID) | {"not_before": DUE},
    "create": message({"new-x": item("x")}, message_id=ID) | {"not_before": DUE},
}


@dataclass(frozen=True)
class Caller:
    """A service key, or a token of a device (issued at ``issued_s``), and its limits."""

    name: str
    device: str = ""
    issued_s: int = 0
    limits: Prefixes = None

    @property
    def sender(self) -> Sender:
        return Sender(self.device, self.limits)


# A backend may send as a device: then a key and tokens send the same message.
CALLERS: Final = (
    *(Caller(name) for name in "ABCDE"),
    Caller("L", limits=("x",)),
    Caller("M", limits=("x",)),
    Caller("P", "phone"),
    Caller("t1", "phone", 1),
    Caller("t2", "phone", 2),
    Caller("t2-x", "phone", 2, ("x",)),
    Caller("t3", "phone", 3),
)


@dataclass(frozen=True)
class Sent:
    """An accepted message."""

    caller: Caller
    content: str

    @property
    def fact(self) -> object:
        """What distinguishes the message: two with the same fact are one message."""
        limits = self.caller.limits if self.content == "dismiss" else None
        return self.caller.device, self.content, limits

    @property
    def effect(self) -> set[str]:
        """The live items that its commit adds (``+``) and removes (``-``)."""
        if self.content == "create":
            return {"+new-x"}
        return {"-i-x", "-i-y"} if self.caller.limits is None else {"-i-x"}


@dataclass
class World:
    """A user with a delayed message, and its senders."""

    store: Store
    submitter: Submitter
    keys: dict[str, str]
    deleted: set[str] = field(default_factory=set)
    revoked_s: int = 0
    waiting: list[Sent] = field(default_factory=list)
    """The accepted sends of the message that waits, one of each sender, in their order."""
    promises: list[Sent] = field(default_factory=list)
    is_checked: bool = True
    """Whether each answer is compared with what waits: not while a scheduler runs."""

    def has_rights(self, caller: Caller) -> bool:
        if caller.issued_s:
            return caller.issued_s > self.revoked_s
        return caller.name not in self.deleted

    async def act(self, action: tuple[str, Any]) -> None:
        what, about = action
        match what:
            case "send":
                caller, content = about
                if self.has_rights(caller):
                    await self.send(Sent(caller, content))
            case "delete":
                self.deleted.add(about.name)
                await self.store.access.delete_key(self.keys.get(about.name, ""))
            case "revoke":
                self.revoked_s = max(self.revoked_s, about)
                await self.store.devices.revoke(UID, "phone", self.revoked_s * SECOND_US, NOW_US)

    async def send(self, sent: Sent) -> None:
        caller, document = sent.caller, CONTENTS[sent.content]
        parsed = parse_message(dict(document), LIMITS)
        key_id, issued_us = self.keys.get(caller.name, ""), caller.issued_s * SECOND_US
        try:
            await self.submitter.submit(UID, parsed, document, caller.sender, View(), key_id, issued_us)
        except Problem as problem:
            assert problem.code == "id_reused"
            if self.is_checked:
                self.check_refusal(sent)
        else:
            self.promises.append(sent)
            if self.is_checked:
                self.note(sent)

    def check_refusal(self, sent: Sent) -> None:
        """A message is refused only for another one that waits, and that a sender with rights has sent."""
        assert self.waiting
        assert sent.fact != self.waiting[0].fact
        assert any(self.has_rights(each.caller) for each in self.remembered())

    def note(self, sent: Sent) -> None:
        if not self.waiting or self.waiting[0].fact != sent.fact:
            assert not any(self.has_rights(each.caller) for each in self.remembered()), "an accepted message was lost"
            self.waiting = []
        if sent.caller.name not in [each.caller.name for each in self.waiting]:
            self.waiting.append(sent)

    def remembered(self) -> list[Sent]:
        """The senders that the store has to remember: the last keys, and all tokens."""
        keys = [each for each in self.waiting if not each.caller.issued_s]
        return keys[-MOST_KEYS:] + [each for each in self.waiting if each.caller.issued_s]

    def expected(self) -> set[str]:
        """The effect of what waits now."""
        if any(self.has_rights(each.caller) for each in self.remembered()):
            return self.waiting[0].effect
        return set()


async def make_submitter(store: Store) -> Submitter:
    categories = CategoryRegistry(store)
    await categories.refresh()
    return Submitter(store, categories, ManualClock(NOW_US), LIMITS, Metrics(), 30)


async def make_world(store: Store) -> World:
    submitter = await make_submitter(store)
    for category in ("x", "y"):
        await store.users.commit(UID, creating(f"i-{category}", category=category))
    names = [caller.name for caller in CALLERS if not caller.issued_s]
    return World(store, submitter, {name: (await store.access.create_key(["ingest"]))[0].id for name in names})


async def run_scheduler(world: World, actions: list[tuple[str, Any]]) -> None:
    """Execute the due work, with an action before each call of the scheduler, until nothing is due."""

    async def turn(call: Callable[[], Awaitable[Any]]) -> Any:
        if actions:
            await world.act(actions.pop(0))
        return await call()

    seen: Any = Interleaved(world.store, turn)
    handlers = DueHandlers(replace((await build()).context, store=seen), RateLimiter(1e9, 1))
    while works := await world.store.agenda.due_work(UID, NOW_US + 61 * SECOND_US, 9):
        outcome = await handlers.handle(UID, works, NOW_US)
        await seen.agenda.complete(UID, NOW_US, outcome.completed)


async def effect(store: Store) -> set[str]:
    live = set(ids_of(await store.users.state(UID, BACKEND, NOW_US)))
    before = {"i-x", "i-y"}
    return {f"+{name}" for name in live - before} | {f"-{name}" for name in before - live}


SENDS = st.tuples(st.just("send"), st.tuples(st.sampled_from(CALLERS), st.sampled_from(sorted(CONTENTS))))
LOSSES = st.tuples(st.just("delete"), st.sampled_from([each for each in CALLERS if not each.issued_s])) | st.tuples(
    st.just("revoke"), st.integers(1, 3)
)
BY_NAME: Final = {caller.name: caller for caller in CALLERS}


def send(name: str, content: str = "dismiss") -> tuple[str, Any]:
    return "send", (BY_NAME[name], content)


def delete(name: str) -> tuple[str, Any]:
    return "delete", BY_NAME[name]


STORES = pytest.mark.parametrize("backend", ["memory", pytest.param("redis", marks=pytest.mark.redis)])


@STORES
@given(st.lists(SENDS | SENDS | LOSSES, max_size=12))
@example([send("A"), send("B"), delete("A")])
@example([send("A"), delete("A"), send("B")])
@example([send("t1"), ("revoke", 1), send("t2")])
@example([send("t1"), send("P"), ("revoke", 3)])
@example([send("P"), send("t3"), delete("P")])
@example([send("L"), send("A")])
@example([send("L"), delete("L"), send("A")])
@example([send("L", "create"), send("A", "create"), delete("L")])
@example([send("A"), delete("A"), send("B", "create")])
@example([*map(send, "ABCDE"), *map(delete, "BCDE")])
async def test_L2_delayed_message_is_committed_for_any_sender_with_rights(
    backend: str, actions: list[tuple[str, Any]]
) -> None:
    async with FACTORIES[backend](LIMITS) as made:
        world = await make_world(made.store)
        for action in actions:
            await world.act(action)
        await run_scheduler(world, [])

        assert await effect(made.store) == world.expected()
        assert await made.store.agenda.list_delayed(UID) == []


# At most as many keys of one message as are remembered.
FEW: Final = [each for each in CALLERS if each.issued_s or each.name in "ABCL"]
FEW_SENDS = st.tuples(st.just("send"), st.tuples(st.sampled_from(FEW), st.sampled_from(sorted(CONTENTS))))
NOTHING: Final[tuple[str, Any]] = ("nothing", None)


@STORES
@given(st.lists(FEW_SENDS | LOSSES, max_size=6), st.lists(st.just(NOTHING) | FEW_SENDS, max_size=12))
@example([send("A"), delete("A")], [NOTHING, send("B")])
@example([send("A"), delete("A")], [NOTHING, NOTHING, send("B")])
@example([send("A"), delete("A")], [*[NOTHING] * 3, send("B")])
@example([send("A"), delete("A")], [*[NOTHING] * 4, send("B")])
@example([send("A"), delete("A")], [*[NOTHING] * 5, send("B")])
@example([send("L"), delete("L")], [*[NOTHING] * 3, send("A")])
async def test_L2_repeat_while_a_scheduler_runs_is_committed(
    backend: str, before: list[tuple[str, Any]], during: list[tuple[str, Any]]
) -> None:
    async with FACTORIES[backend](LIMITS) as made:
        world = await make_world(made.store)
        for action in before:
            await world.act(action)
        world.is_checked = False
        await run_scheduler(world, list(during))

        kept = [each.effect for each in world.promises if world.has_rights(each.caller)]
        assert await effect(made.store) >= set[str]().union(*kept)
        assert await made.store.agenda.list_delayed(UID) == []


# ---- room for others: messages that would be dropped

MANY: Final = 3
KEYS_AND_TOKENS: Final = [each for each in CALLERS if each.limits is None and each.name != "P"]
NAMED_SENDS = st.tuples(
    st.just("send"), st.tuples(st.sampled_from(KEYS_AND_TOKENS), st.sampled_from([f"m{each}" for each in range(MANY)]))
)


@dataclass
class Room:
    """A user with the most delayed messages, and the senders of each."""

    world: World
    sent: dict[str, list[Sent]] = field(default_factory=dict)

    async def act(self, action: tuple[str, Any]) -> None:
        what, about = action
        if what != "send":
            await self.world.act(action)
            return
        caller, name = about
        if not self.world.has_rights(caller):
            return
        try:
            await send_as(self.world, caller, name)
        except Problem as problem:
            assert problem.code in ("id_reused", "state_full")
        else:
            self.sent.setdefault(name, []).append(Sent(caller, name))

    def kept(self) -> set[str]:
        """The messages with a sender that still may send."""
        return {name for name, sent in self.sent.items() if any(self.world.has_rights(each.caller) for each in sent)}


async def send_as(world: World, caller: Caller, name: str) -> None:
    document = message({f"new-{name}": item("x")}, message_id=name) | {"not_before": DUE}
    parsed = parse_message(dict(document), SMALL)
    key_id, issued_us = world.keys.get(caller.name, ""), caller.issued_s * SECOND_US
    await world.submitter.submit(UID, parsed, document, caller.sender, View(), key_id, issued_us)


SMALL: Final = replace(LIMITS, delayed=MANY)


@STORES
@given(st.lists(NAMED_SENDS | NAMED_SENDS | LOSSES, max_size=12), st.lists(st.just(NOTHING) | NAMED_SENDS, max_size=12))
@example([("send", (BY_NAME["A"], "m0")), ("send", (BY_NAME["A"], "m1")), ("send", (BY_NAME["B"], "m2"))], [])
@example(
    [*(("send", (BY_NAME["A"], f"m{each}")) for each in range(MANY)), delete("A")],
    [*[NOTHING] * 5, ("send", (BY_NAME["B"], "m0"))],
)
@example(
    [*(("send", (BY_NAME["t1"], f"m{each}")) for each in range(MANY)), ("revoke", 1)],
    [*[NOTHING] * 5, ("send", (BY_NAME["t2"], "m1"))],
)
async def test_only_messages_without_a_sender_with_rights_make_room(
    backend: str, before: list[tuple[str, Any]], during: list[tuple[str, Any]]
) -> None:
    """A backend sends one message more than fits, while senders repeat those that wait."""
    async with FACTORIES[backend](SMALL) as made:
        world = await make_world(made.store)
        room = Room(world)
        for action in before:
            await room.act(action)
        kept_before, actions = room.kept(), list(during)

        async def turn(call: Callable[[], Awaitable[Any]]) -> Any:
            if actions:
                await room.act(actions.pop(0))
            return await call()

        seen: Any = Interleaved(made.store, turn)
        submitter, is_accepted = await make_submitter(seen), True
        try:
            await send_as(replace(world, submitter=submitter), Caller("new"), "new")
        except Problem as problem:
            assert problem.code == "state_full"
            is_accepted = False

        waiting = {decode_delayed_header(raw).id for raw in await made.store.agenda.list_delayed(UID)}
        assert waiting >= room.kept(), "a message of a sender with rights is gone"
        assert waiting - {"new"} <= set(room.sent)
        assert is_accepted == ("new" in waiting)
        if not during:
            assert is_accepted == (len(kept_before) < MANY)
