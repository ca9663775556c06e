"""A delayed message is cancelled or committed, never both, however its scheduler and its sender interleave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.rate_limit import RateLimiter
from gregor.store.contract.store import Store
from gregor_scheduler.handlers.dispatch import DueHandlers
from tests.support.builders import BACKEND, LIMITS, NOW_US, SECOND_US, ids_of, item, message
from tests.support.store_backends import FACTORIES
from tests.unit.scheduler.conftest import build

UID, ID = "alice", "m"
STORE_PARTS = ("users", "agenda", "access", "devices")


class Crashed(BaseException):
    """A crash of the scheduler."""


@dataclass
class Sending:
    """The sender of messages under one id, each of which creates another item, all for the same time."""

    store: Store
    accepted: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    async def act(self, action: str) -> None:
        if action == "send":
            name = f"i{len(self.accepted)}"
            document = DelayedMessage(message({name: item()}, message_id=ID), Sender()).encode()
            if await self.store.agenda.delay(UID, ID, document, NOW_US) == document:
                self.accepted.append(name)
        elif action == "cancel" and await self.store.agenda.cancel_delayed(UID, ID):
            self.cancelled.add(self.accepted[-1])


class Interleaved:
    """A store that does the next action before each call of the scheduler, or after it."""

    def __init__(self, thing: Any, turn: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]) -> None:
        self._thing = thing
        self._turn = turn

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found):
            return Interleaved(found, self._turn) if name in STORE_PARTS else found
        return lambda *args, **kwargs: self._turn(lambda: found(*args, **kwargs))


async def run_scheduler(store: Any, sending: Sending, actions: list[str]) -> None:
    """Execute the due work of the user, with the actions in between, until nothing is due."""

    async def turn(call: Callable[[], Awaitable[Any]]) -> Any:
        action = actions.pop(0) if actions else ""
        if action == "crash":
            raise Crashed
        await sending.act(action)
        result = await call()
        if action == "crash after":
            raise Crashed
        return result

    seen = Interleaved(store, turn)
    handlers = DueHandlers(replace((await build()).context, store=seen), RateLimiter(1e9, 1))
    while works := await seen.agenda.due_work(UID, NOW_US + SECOND_US, 9):
        outcome = await handlers.handle(UID, works, NOW_US)
        assert not outcome.postponed
        await seen.agenda.complete(UID, NOW_US, outcome.completed)


async def check(store: Store, actions: list[str]) -> None:
    sending = Sending(store)
    await sending.act("send")
    while True:
        try:
            await run_scheduler(store, sending, actions)
            break
        except Crashed:
            continue
    live = ids_of(await store.users.state(UID, BACKEND, NOW_US))
    assert not sending.cancelled.intersection(live)
    kept = [name for name in sending.accepted if name not in sending.cancelled]
    # A message under an id that was committed before is refused when it is due.
    assert live[:1] == kept[:1] and set(live) <= set(kept)
    assert await store.agenda.list_delayed(UID) == []


ACTIONS = st.lists(st.sampled_from(["", "", "cancel", "cancel", "send", "crash", "crash after"]), max_size=14)


@pytest.mark.parametrize("backend", ["memory", pytest.param("redis", marks=pytest.mark.redis)])
@given(actions=ACTIONS)
@example(actions=["", "", "cancel"])
@example(actions=["", "", "", "", "crash", "cancel"])
async def test_cancelled_message_is_not_committed(backend: str, actions: list[str]) -> None:
    async with FACTORIES[backend](LIMITS) as made:
        await check(made.store, actions)
