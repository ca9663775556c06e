"""What follows when an item leaves: what would be told is cancelled, what was told is taken back (semantics.md L15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replace_story

from gregor.core.messages.model import Sender
from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.core.notify.ledger import MAX_ATTEMPTS, Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.reference.store.ledger import MemoryLedger
from gregor.store.contract.devices import Registration
from gregor_scheduler.handlers.withdrawals import GATHER_US
from tests.support.builders import NOW_US, SECOND_US, interval, message
from tests.unit.scheduler.conftest import House, build

PUSHES = {"news": {"title": "News", "push": {"after": "10s"}, "email": {"after": "60s"}}}
WITHDRAW = IntentKind.WITHDRAW


@pytest.fixture
async def house() -> House:
    """Alice has two phones with push, and an item that was there long enough to be told of."""
    made = await build(PUSHES)
    await made.store.devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US)
    await made.store.devices.put_device("alice", "tablet", Registration(push={"provider": "fcm", "token": "2"}), NOW_US)
    return made


async def pushed(house: House, item: str = "a", **fields: Any) -> list[Intent]:
    """An item whose pushes were handed over."""
    await house.create(item, **fields)
    await house.pass_time(10)
    intents = [intent for intent in house.deliveries.intents if intent.channel != EMAIL]
    house.handed()
    return intents


async def bring(house: House, intent: Intent, state: DeliveryState, lease_s: float = 30) -> None:
    """What a worker of the delivery service makes of an intent."""
    ledger, now_us = house.store.ledger, house.clock.now_us()
    await ledger.plan([intent], DeliveryState.PLANNED, None, intent.at_us)
    if state is DeliveryState.PLANNED:
        return
    claim = await ledger.claim(intent, "", now_us, now_us + round(lease_s * SECOND_US))
    assert isinstance(claim, Claim)
    if state is not DeliveryState.CLAIMED:
        next_us = (
            now_us + SECOND_US if state in (DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.UNKNOWN) else None
        )
        history = DeliveryHistory(intent.at_us, intent.seq, next_us=next_us, attempts=(DeliveryAttempt(now_us, "200"),))
        await ledger.record_outcome(claim.delivery, "", state, history)


async def stands(house: House, item: str = "a") -> dict[str, tuple[DeliveryState, str | None]]:
    """Kind and device to where the delivery stands, and why."""
    found = await house.store.ledger.of_item("alice", item)
    return {f"{each.intent.kind.value} {each.intent.device}": (each.state, each.history.reason) for each in found}


@pytest.mark.parametrize(
    "state", [DeliveryState.PLANNED, DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.UNKNOWN]
)
@pytest.mark.parametrize(("way", "reason"), [("dismiss", "dismissed"), ("sweep", "dismissed"), ("expire", "expired")])
async def test_what_would_be_told_of_it_is_cancelled(house: House, state: DeliveryState, way: str, reason: str) -> None:
    for intent in await pushed(house, expires="+30"):
        await bring(house, intent, state)

    if way == "expire":
        await house.pass_time(20)
    else:
        await house.say(message(ids=["a"] if way == "dismiss" else (), intervals=[interval("news")] * (way == "sweep")))
        await house.pass_time(0.1)

    assert await stands(house) == {
        "item phone": (DeliveryState.CANCELLED, reason),
        "item tablet": (DeliveryState.CANCELLED, reason),
    }
    assert house.handed() == []


async def test_what_was_sent_is_withdrawn_from_the_devices_that_got_it(house: House) -> None:
    phone, tablet = await pushed(house)
    await bring(house, phone, DeliveryState.SENT)
    await bring(house, tablet, DeliveryState.DEAD)

    await house.dismiss("a")
    await house.pass_time(0.1)

    [withdrawal] = house.deliveries.intents
    assert withdrawal == Intent("alice", "a", WITHDRAW, "apns", "phone", 0, 2, house.clock.now_us())
    assert house.deliveries.later[withdrawal] == house.clock.now_us() + GATHER_US
    assert await stands(house) == {
        "item phone": (DeliveryState.SENT, None),
        "item tablet": (DeliveryState.DEAD, None),
        "withdraw phone": (DeliveryState.PLANNED, None),
    }


async def died_over(house: House, intent: Intent) -> None:
    """A worker took it and was heard of no more; the next one finds the item gone, or acknowledged."""
    ledger = house.store.ledger
    await bring(house, intent, DeliveryState.CLAIMED, lease_s=0)
    now_us = house.clock.now_us()
    claim = await ledger.claim(intent, "", now_us, now_us + 30 * SECOND_US)
    assert isinstance(claim, Claim)
    history = claim.delivery.history.ended("acked", now_us)
    assert await ledger.record_outcome(claim.delivery, "", DeliveryState.CANCELLED, history, counts=False)


async def left_unknown(house: House, intent: Intent, state: DeliveryState, statuses: list[str]) -> None:
    """The provider was called, with these answers; then it came to this."""
    ledger, history, counts = house.store.ledger, DeliveryHistory(intent.at_us, intent.seq), True
    for status in [*statuses, None]:
        now_us = house.clock.now_us()
        claim = await ledger.claim(intent, "", now_us, now_us + 30 * SECOND_US, is_early=True)
        assert isinstance(claim, Claim)
        if status is None:
            history, counts = history.ended("acked", now_us), False
        else:
            history = replace_story(history.attempted(DeliveryAttempt(now_us, status)), next_us=now_us)
        await ledger.record_outcome(
            claim.delivery, "", DeliveryState.RETRY if counts else state, history, counts=counts
        )


@pytest.mark.parametrize("state", [DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.UNKNOWN])
async def test_what_may_have_arrived_is_withdrawn_whatever_became_of_it(house: House, state: DeliveryState) -> None:
    phone, tablet = await pushed(house)
    await left_unknown(house, phone, state, ["unknown", "503"])
    await left_unknown(house, tablet, state, ["503", "429"])

    await house.dismiss("a")
    await house.pass_time(0.1)

    assert house.handed() == ["withdraw a apns phone"]


async def test_what_a_worker_died_over_may_have_arrived_too(house: House) -> None:
    phone, _ = await pushed(house)
    await died_over(house, phone)

    await house.dismiss("a")
    await house.pass_time(0.1)

    assert house.handed() == ["withdraw a apns phone"]


@pytest.mark.parametrize(("last", "handed"), [("503", []), ("unknown", ["withdraw a apns phone"])])
async def test_attempts_that_are_kept_no_more_still_say_whether_it_may_have_arrived(
    house: House, last: str, handed: list[str]
) -> None:
    phone, _ = await pushed(house)
    await left_unknown(house, phone, DeliveryState.CANCELLED, [last, *["503"] * (MAX_ATTEMPTS + 5)])

    await house.dismiss("a")
    await house.pass_time(0.1)

    assert house.handed() == handed


async def test_what_may_have_arrived_is_withdrawn_once(house: House) -> None:
    phone, tablet = await pushed(house)
    await died_over(house, phone)
    await bring(house, tablet, DeliveryState.CLAIMED)  # for its sake the scheduler looks again
    await house.dismiss("a")
    await house.pass_time(0.1)
    assert house.handed() == ["withdraw a apns phone"]

    await bring(house, replace(phone, kind=WITHDRAW), DeliveryState.SENT)
    await house.pass_time(60)

    assert house.handed() == []


class Meanwhile(MemoryLedger):
    """A ledger in which a worker, who saw the item live, takes its push just before it is cancelled."""

    def __init__(self, other: MemoryLedger) -> None:
        self.__dict__.update(other.__dict__)

    async def move(
        self,
        intent: Intent,
        sources: Sequence[DeliveryState],
        state: DeliveryState,
        history: DeliveryHistory | None = None,
    ) -> bool:
        now_us = history.last_us if history is not None else 0
        claim = await self.claim(intent, "", now_us, now_us + 30 * SECOND_US)
        if isinstance(claim, Claim):
            self.taken = claim
        return await super().move(intent, sources, state, history)


async def test_what_is_taken_to_be_sent_just_before_it_is_cancelled_is_looked_at_again(house: House) -> None:
    await pushed(house, for_device="phone")
    ledger = house.store._ledger = Meanwhile(house.store._ledger)  # type: ignore[attr-defined]
    await house.dismiss("a")
    await house.pass_time(0.1)
    assert house.handed() == []

    history = ledger.taken.delivery.history.attempted(DeliveryAttempt(house.clock.now_us(), "200"))
    assert await ledger.record_outcome(ledger.taken.delivery, "", DeliveryState.SENT, history)
    await house.pass_time(1)

    assert house.handed() == ["withdraw a apns phone"]


async def test_one_withdrawal_takes_back_all_that_was_sent_of_it(house: House) -> None:
    [phone, _] = await pushed(house)
    await bring(house, phone, DeliveryState.SENT)
    await bring(house, replace(phone, kind=IntentKind.REMIND, n=3), DeliveryState.SENT)
    await bring(house, replace(phone, channel=EMAIL, device=""), DeliveryState.SENT)

    await house.dismiss("a")
    await house.pass_time(0.1)

    assert house.handed() == ["withdraw a apns phone"]


@pytest.mark.parametrize("for_device", [None, "*"])
async def test_the_device_that_dismissed_it_is_not_woken_for_it(house: House, for_device: str | None) -> None:
    for intent in await pushed(house, for_device=for_device):
        await bring(house, intent, DeliveryState.SENT)

    await house.say(message(ids=["a"]), Sender("phone"))
    await house.pass_time(0.1)

    assert house.handed() == (["withdraw a fcm tablet"] if for_device is None else [])
    if for_device == "*":
        await house.dismiss("a")
        await house.pass_time(0.1)
        assert house.handed() == ["withdraw a fcm tablet"]


async def test_what_is_being_sent_is_looked_at_again_until_it_is_known(house: House) -> None:
    phone, tablet = await pushed(house)
    await bring(house, phone, DeliveryState.SENT)
    await bring(house, tablet, DeliveryState.CLAIMED)

    await house.dismiss("a")
    await house.pass_time(0.1)
    assert house.handed() == ["withdraw a apns phone"]
    await bring_end(house, tablet, DeliveryState.SENT)
    await bring(house, replace(phone, kind=WITHDRAW), DeliveryState.SENT)
    await house.pass_time(1)

    assert house.handed() == ["withdraw a fcm tablet"]
    await bring(house, replace(tablet, kind=WITHDRAW), DeliveryState.SENT)
    await house.pass_time(3_600)
    assert house.handed() == []
    assert (await stands(house))["item phone"][0] is DeliveryState.WITHDRAWN


async def bring_end(house: House, intent: Intent, state: DeliveryState) -> None:
    """The end of what is claimed."""
    [claimed] = [
        each for each in await house.store.ledger.of_item("alice", intent.item) if each.state is DeliveryState.CLAIMED
    ]
    history = DeliveryHistory(intent.at_us, intent.seq, attempts=(DeliveryAttempt(house.clock.now_us(), "200"),))
    assert await house.store.ledger.record_outcome(claimed, "", state, history)


async def test_looks_at_what_somebody_died_over_become_rare(house: House) -> None:
    [phone, _] = await pushed(house)
    await bring(house, phone, DeliveryState.CLAIMED)
    await house.dismiss("a")
    looks = house.figures.timers.labels("left", "done")

    await house.pass_time(3_600, 0.5)
    assert 10 < looks._value.get() < 40
    await bring(house, phone, DeliveryState.CANCELLED)
    await house.pass_time(3_600)
    looked = looks._value.get()
    await house.pass_time(3_600)
    assert looks._value.get() == looked


async def test_a_push_that_arrived_after_its_withdrawal_is_withdrawn_too(house: House) -> None:
    phone, _ = await pushed(house)
    await bring(house, phone, DeliveryState.SENT)
    await bring(house, replace(phone, kind=IntentKind.REMIND), DeliveryState.CLAIMED)
    await house.dismiss("a")
    await house.pass_time(0.1)
    await bring(house, replace(phone, kind=WITHDRAW), DeliveryState.SENT)
    assert house.handed() == ["withdraw a apns phone"]

    await bring_end(house, replace(phone, kind=IntentKind.REMIND), DeliveryState.SENT)
    await house.pass_time(1)

    [again] = house.deliveries.intents
    assert (again.kind, again.n) == (WITHDRAW, 1)


async def test_a_summary_withdraws_what_it_takes_the_place_of() -> None:
    folding = {"title": "{{ count }}", "push": {"after": "10s"}, "aggregate": {"window": "20s", "at_least": 2}}
    house = await build({"news": folding})
    await house.store.devices.put_device(
        "alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US
    )
    await house.create("a", "b")
    await house.pass_time(10)
    for intent in house.deliveries.intents:
        await bring(house, intent, DeliveryState.SENT)
    house.handed()

    await house.pass_time(10)

    assert house.handed() == ["withdraw a apns phone", "withdraw b apns phone"]


async def test_a_scheduler_that_died_in_between_leaves_it_to_the_next(house: House) -> None:
    """The ledger had it, the queue had not: it is handed over again, under the same key."""
    [phone, _] = await pushed(house)
    await bring(house, phone, DeliveryState.SENT)
    await house.dismiss("a")
    await house.store.ledger.plan(
        [replace(phone, kind=WITHDRAW, seq=2)], DeliveryState.PLANNED, None, house.clock.now_us()
    )

    await house.pass_time(1)

    assert house.handed() == ["withdraw a apns phone"]


@pytest.mark.parametrize(
    "state",
    [DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.CLAIMED, DeliveryState.CANCELLED, DeliveryState.DEAD],
)
async def test_a_withdrawal_that_the_delivery_service_has_is_left_to_it(house: House, state: DeliveryState) -> None:
    [phone, _] = await pushed(house)
    await bring(house, phone, DeliveryState.SENT)
    await bring(house, replace(phone, kind=WITHDRAW), state)

    await house.dismiss("a")
    await house.pass_time(1)

    assert house.handed() == []


async def test_an_item_that_is_dismissed_before_anybody_was_told_asks_for_nothing(house: House) -> None:
    await house.create("a")
    await house.pass_time(5)

    await house.dismiss("a")
    await house.pass_time(100)

    assert house.handed() == []
    assert await stands(house) == {}
