"""One run of commands on two stores: equal receipts, results and announcements in each step.

The memory store is the specification; any difference is an error in one of the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.sync import Cursor, Delta, Full, SyncResult, Unchanged, View, cursor_for
from gregor.core.messages.model import Commit
from gregor.store.contract.store import Store
from gregor.store.redis.store import RedisStore
from tests.property.conversations import IDS, SENDERS, VIEWS, Sent, World, updates, worlds
from tests.support.builders import DAY_US, HOUR_US, LIMITS, NOW_US, RESET, SECOND_US, SEED, external
from tests.support.receipts import untimed
from tests.support.replica import view_of
from tests.support.resets import reset_all_users
from tests.support.store_backends import FACTORIES, Factory, StoreUnderTest, marks_of

UID = "alice"
SMALL = replace(
    LIMITS,
    live=6,
    tombstones=4,
    device_dismissals=3,
    spans=6,
    spans_per_prefix=3,
    skipped=5,
    message_ids=3,
    external_count=2,
)
T = TypeVar("T")


class Twins(RuleBasedStateMachine):
    """Commands on the memory store and on the store called ``name``."""

    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._twins = [self._run(self._open(FACTORIES[name])) for name in ("memory", self.name)]
        self._heard = [self._run(twin.record(UID)) for twin in self._twins]
        self._now_us = NOW_US
        self._world: World = {}
        self._sent: list[Sent] = []
        self._cursors: list[tuple[View, Cursor]] = []

    async def _open(self, factory: Factory) -> StoreUnderTest:
        twin = await self._stack.enter_async_context(factory(SMALL))
        if isinstance(twin.store, RedisStore):
            await twin.store.prepare()  # as every process does: a script that has to be loaded first is late
        return twin

    def teardown(self) -> None:
        """Close both stores."""
        self._run(self._stack.aclose())
        self._runner.close()

    def _run(self, what: Awaitable[T]) -> T:
        async def wait() -> T:
            return await what

        return self._runner.run(wait())

    def _both(self, ask: Callable[[Store], Awaitable[Any]], seen: Callable[[Any], Any] = lambda value: value) -> Any:
        """Run a command on both stores and return their result, or problem, which must be equal."""
        expected, actual = (self._run(_outcome(ask(twin.store))) for twin in self._twins)
        assert untimed(seen(actual)) == untimed(seen(expected))
        return expected

    def _commit(self, commit: Commit) -> None:
        self._both(lambda store: store.users.commit(UID, commit))

    @initialize(world=worlds(is_explicit=False, expires=True))
    def begin(self, world: World) -> None:
        """Choose one world for all messages of the run, so that they interact."""
        self._world = world

    @rule(data=st.data(), message_id=st.sampled_from((None, None, None, "m1", "m2")))
    def send(self, data: st.DataObject, message_id: str | None) -> None:
        """Send a message that creates and dismisses."""
        sent = data.draw(updates(self._world, is_explicit=False))
        self._sent.append(Sent(sent.sender, sent.document | ({"id": message_id} if message_id else {})))
        self._commit(self._sent[-1].at(self._now_us))

    @precondition(lambda self: self._sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """Send an earlier message again."""
        self._commit(data.draw(st.sampled_from(self._sent)).at(self._now_us))

    @rule(data=st.data(), count=st.integers(2, 5))
    def send_many(self, data: st.DataObject, count: int) -> None:
        """Send the messages of a batch, in order."""
        others = st.sampled_from((external(1), RESET)).map(lambda document: Sent(SENDERS[0], document))
        kinds = st.one_of(updates(self._world, is_explicit=False), others)
        sent = [data.draw(kinds) for _ in range(count)]
        self._sent += sent
        batch = [(UID, each.at(self._now_us)) for each in sent]
        self._both(
            lambda store: store.users.commit_many(batch),
            lambda results: [each.code if isinstance(each, Problem) else each for each in results],
        )

    @rule(system=st.sampled_from(("kbfs", "kbfs.favorites")), message_id=st.sampled_from((None, "m1")))
    def send_external(self, system: str, message_id: str | None) -> None:
        """Send a message of another system."""
        self._commit(Sent(SENDERS[0], external({"n": 1}, system, message_id)).at(self._now_us))

    @rule()
    def flush(self) -> None:
        """Start a new epoch of the user."""
        self._commit(Sent(SENDERS[0], RESET).at(self._now_us))

    @rule()
    def reset_all_users(self) -> None:
        """Start a new epoch of all users."""
        self._both(lambda store: reset_all_users(store, 30))

    @rule(device=st.sampled_from(("phone", "laptop")), limits=st.sampled_from((None, None, ("user",), ())))
    def forget_device(self, device: str, limits: Prefixes) -> None:
        """Forget a device, perhaps by a caller that is limited to some categories."""
        self._both(lambda store: store.devices.forget_device(UID, device, self._now_us, SEED, limits))

    @rule()
    def delete_user(self) -> None:
        """Delete the user."""
        self._both(lambda store: store.users.delete_user(UID, self._now_us))
        self._cursors.clear()

    @rule(wait_us=st.sampled_from((1, SECOND_US, 20 * SECOND_US, HOUR_US, 8 * DAY_US, 31 * DAY_US)))
    def wait(self, wait_us: int) -> None:
        """Let time pass."""
        self._now_us += wait_us

    @rule()
    def collect(self) -> None:
        """Delete everything beyond its retention."""
        self._both(lambda store: store.users.collect(UID, self._now_us))

    @rule(view=st.sampled_from(VIEWS))
    def look(self, view: View) -> None:
        """Read a view: same items, seq and digest."""
        full = self._both(lambda store: store.users.state(UID, view, self._now_us), _seen)
        self._cursors.append((view, cursor_for(full.epoch, view, full.seq)))

    @precondition(lambda self: self._cursors)
    @rule(data=st.data(), has_digest=st.booleans(), systems=st.sampled_from((None, ("kbfs.favorites",))))
    def sync(self, data: st.DataObject, has_digest: bool, systems: tuple[str, ...] | None) -> None:
        """Sync from a cursor of any age."""
        view, cursor = data.draw(st.sampled_from(self._cursors))
        digest = bytes(32) if has_digest else None

        def seen(answer: SyncResult) -> Any:
            # The digest of a filtered view costs a sum over its items: who does not ask for it need not pay.
            is_spared = isinstance(answer, Unchanged) and view.category_filter is not None
            return _seen(replace(answer, digest=b"") if is_spared else answer)

        self._both(lambda store: store.users.sync(UID, view, cursor, digest, self._now_us, systems), seen)

    @rule(view=st.sampled_from(VIEWS), back_us=st.sampled_from((0, 1, SECOND_US, HOUR_US, 9 * DAY_US)))
    def read_state_at(self, view: View, back_us: int) -> None:
        """Read a view at an earlier time."""
        self._both(lambda store: store.users.state_at(UID, view, self._now_us - back_us, self._now_us), _seen)

    @rule(view=st.sampled_from(VIEWS), limit=st.integers(1, 4), item_id=st.sampled_from(IDS))
    def read_history(self, view: View, limit: int, item_id: str) -> None:
        """Read the history page by page, and one item of it."""
        before: tuple[int, str] | None = None
        while page := self._page(view, before, limit):
            before = (page[-1].seq, page[-1].id)
        self._both(lambda store: store.users.item(UID, item_id, view, self._now_us))

    def _page(self, view: View, before: tuple[int, str] | None, limit: int) -> Any:
        return self._both(lambda store: store.users.history(UID, view, before, limit, self._now_us))

    @invariant()
    def heads_are_equal(self) -> None:
        """Compare position and digest, without a commit before."""
        self._both(lambda store: store.users.heads([UID]))

    @invariant()
    def announcements_are_equal(self) -> None:
        """Compare all announcements and controls, byte for byte."""
        law, other = self._heard
        self._run(asyncio.sleep(0))
        self._run(other.first(len(law.payloads)))
        assert other.payloads == law.payloads


async def _outcome(asked: Awaitable[Any]) -> Any:
    try:
        return await asked
    except Problem as problem:
        return problem.code


def _seen(answer: SyncResult) -> Any:
    """Return a result without the order of creations, which a store may choose."""
    match answer:
        case Full():
            return (
                Full,
                answer.epoch,
                answer.digest,
                answer.seq,
                view_of(answer.items),
                answer.external,
                answer.external_gap,
            )
        case Delta():
            return replace(answer, create=()), view_of(answer.create)
        case Unchanged():
            return answer


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in FACTORIES if name != "memory"])
def test_every_store_equals_the_specification(name: str) -> None:
    """A failure prints the shortest run of commands with a difference."""
    machine = type(f"Twins_{name}", (Twins,), {"name": name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=settings().max_examples // 10, stateful_step_count=30, report_multiple_bugs=False
        ),
    )
