"""A scheduler that dies at any step: whoever comes after it brings about the same, and announces nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.rate_limit import RateLimiter
from gregor.store.contract.devices import Registration
from gregor_scheduler.delivery_publisher import HandOver
from gregor_scheduler.due_loop import Drain
from gregor_scheduler.handlers.dispatch import Acts
from tests.support.builders import BACKEND, DAY_US, NOW_US, SECOND_US, item, message
from tests.unit.scheduler.conftest import LEASE_US, House, build, opening

TYPES = {
    "told": {"title": "A word", "push": {"after": "10s"}, "email": {"after": "20s"}},
    "fold": {"title": "A thing", "aggregate": {"window": "30s", "at_least": 3}},
}
DOORS = ("users", "agenda", "devices")


class Died(BaseException):
    """What no code of the scheduler catches."""


class Life:
    """So many calls of the store and the streams, until the scheduler dies: before the last is done, or after."""

    def __init__(self, calls: int, *, is_done: bool) -> None:
        self.left = calls
        self._is_done = is_done

    def of(self, thing: Any) -> Any:
        """`thing`, each call of which may be the last."""
        return _Mortal(thing, self)

    async def spend(self, call: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left < 0 or (self.left == 0 and not self._is_done):
            raise Died
        result = await call()
        if self.left == 0:
            raise Died
        return result


class _Mortal:
    def __init__(self, thing: Any, life: Life) -> None:
        self._thing = thing
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found):
            return self._life.of(found) if name in DOORS else found
        return lambda *args, **kwargs: self._life.spend(lambda: found(*args, **kwargs))


def scheduler(house: House, life: Life) -> Drain:
    """Another scheduler of the same house, which lives so long."""
    store = life.of(house.store)
    handover = HandOver(opening(life.of(house.deliveries)), house.clock.monotonic)
    parts = replace(house.parts, store=store, handover=handover)
    return Drain(store.agenda, Acts(parts, RateLimiter(1e9, 1_000_000)), house.clock, house.figures, LEASE_US)


async def much_to_do() -> House:
    """A house in which all kinds of things are due at one moment, later than each of them."""
    house = await build(TYPES)
    devices = house.store.devices
    await devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "t"}), NOW_US)
    await house.create("old")
    await house.dismiss("old")
    house.clock.advance(40 * DAY_US / SECOND_US)
    await devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "t"}), now_us(house))
    await house.create("a", category="told", remind_at=["+5", "+25"])
    await house.create("b", category="told", remind_at=["+5"], expires="+15")
    await house.create("c", "d", "e", category="fold")
    await house.create("f", remind_at=["+1", "+2", "+3"])
    later = DelayedMessage(message({"late": item()}, message_id="m"), Sender())
    await house.store.agenda.delay("alice", "m", later.encode(), now_us(house) + SECOND_US)
    house.told()
    house.clock.advance(35)
    return house


def now_us(house: House) -> int:
    return house.clock.now_us()


async def outcome(house: House) -> dict[str, Any]:
    """What came of it all: what was announced how often, what was handed over, what is left."""
    entries = await house.store.users.history("alice", BACKEND, None, 100, now_us(house))
    return {
        "announced": Counter(
            (told.kind, told.reason, told.remind_at_us, entry.id) for told in house.told() for entry in told.entries
        ),
        "handed over": set(house.handed()),
        "live": await house.live(),
        "gone": {entry.id: entry.gone and entry.gone.reason for entry in entries},
        "devices": set(await house.store.devices.devices("alice", now_us(house))),
        "agenda": [work.entry for work in await house.store.agenda.due_work("alice", now_us(house), 99)],
    }


async def steps() -> int:
    """How many calls a scheduler makes that does all of it."""
    house, life = await much_to_do(), Life(1_000_000, is_done=True)
    await scheduler(house, life).run_due()
    return 1_000_000 - life.left


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_whoever_comes_after_a_scheduler_that_died_at_any_step_brings_about_the_same(is_done: bool) -> None:
    house = await much_to_do()
    await house.drain.run_due()
    expected = await outcome(house)
    assert max(expected["announced"].values()) == 1 and len(expected["announced"]) == 11
    assert len(expected["handed over"]) >= 3
    count = await steps()
    assert count > 30

    for number in range(1, count + 1):
        house = await much_to_do()
        with pytest.raises(Died):
            await scheduler(house, Life(number, is_done=is_done)).run_due()
        house.clock.advance(LEASE_US / SECOND_US)
        await house.drain.run_due()

        assert await outcome(house) == expected, f"died at step {number} of {count}"
