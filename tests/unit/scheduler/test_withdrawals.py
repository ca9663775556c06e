"""A removed item: pending notifications are cancelled, sent pushes are withdrawn (semantics.md L15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replace_story

from gregor.core.messages.model import Sender
from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.core.notify.ledger import MAX_ATTEMPTS, Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.reference.store import MemoryQueueWriter
from gregor.reference.store.ledger import MemoryLedger
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Unavailable
from gregor_scheduler.handlers.withdrawals import COALESCE_US
from tests.support.builders import DAY_US, NOW_US, SECOND_US, interval, message
from tests.unit.scheduler.conftest import SchedulerHarness, build

PUSHES = {"news": {"title": "News", "push": {"after": "10s"}, "email": {"after": "60s"}}}
WITHDRAW = IntentKind.WITHDRAW


class FailingRemovals(MemoryQueueWriter):
    """A delivery queue whose first removal fails."""

    has_failed = False

    async def remove_waiting(self, intents: Sequence[Intent]) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise Unavailable("the queue is unavailable")
        await super().remove_waiting(intents)


@pytest.fixture
async def harness() -> SchedulerHarness:
    """Alice has a phone and a tablet with push."""
    return await build_with_devices()


async def build_with_devices(queue: MemoryQueueWriter | None = None) -> SchedulerHarness:
    made = await build(PUSHES, queue=queue)
    await made.store.devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US)
    await made.store.devices.put_device("alice", "tablet", Registration(push={"provider": "fcm", "token": "2"}), NOW_US)
    return made


async def pushed(harness: SchedulerHarness, item: str = "a", **fields: Any) -> list[Intent]:
    """Create an item and return its pushes after they were published."""
    await harness.create(item, **fields)
    await harness.advance(10)
    intents = [intent for intent in harness.queue.intents if intent.channel != EMAIL]
    harness.published()
    return intents


async def set_state(harness: SchedulerHarness, intent: Intent, state: DeliveryState, lease_s: float = 30) -> None:
    """Bring a delivery into a state, as a delivery worker does."""
    ledger, now_us = harness.store.ledger, harness.clock.now_us()
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


async def states(harness: SchedulerHarness, item: str = "a") -> dict[str, tuple[DeliveryState, str | None]]:
    """Return state and reason of each delivery, by kind and device."""
    found = await harness.store.ledger.of_item("alice", item)
    return {f"{each.intent.kind.value} {each.intent.device}": (each.state, each.history.reason) for each in found}


@pytest.mark.parametrize(
    "state", [DeliveryState.PLANNED, DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.UNKNOWN]
)
@pytest.mark.parametrize(("way", "reason"), [("dismiss", "dismissed"), ("sweep", "dismissed"), ("expire", "expired")])
async def test_pending_deliveries_are_cancelled(
    harness: SchedulerHarness, state: DeliveryState, way: str, reason: str
) -> None:
    for intent in await pushed(harness, expires="+30"):
        await set_state(harness, intent, state)

    if way == "expire":
        await harness.advance(20)
    else:
        await harness.submit(
            message(ids=["a"] if way == "dismiss" else (), intervals=[interval("news")] * (way == "sweep"))
        )
        await harness.advance(0.1)

    assert await states(harness) == {
        "item phone": (DeliveryState.CANCELLED, reason),
        "item tablet": (DeliveryState.CANCELLED, reason),
    }
    assert harness.published() == []


@pytest.mark.parametrize("is_covered", [False, True])
async def test_dismissal_removes_waiting_entries_from_the_queue(harness: SchedulerHarness, is_covered: bool) -> None:
    """The wait for quiet hours takes up to a day. A later message may have covered the delivery meanwhile."""
    ledger, queue, tomorrow_us = harness.store.ledger, harness.queue, harness.clock.now_us() + DAY_US
    [phone, tablet], others = await pushed(harness), await pushed(harness, "b")
    for intent in (phone, tablet, *others):
        claim = await ledger.claim(intent, "", harness.clock.now_us(), tomorrow_us)
        assert isinstance(claim, Claim)
        history = claim.delivery.history.waiting("quiet_hours", harness.clock.now_us(), tomorrow_us)
        await ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, history, counts=False)
        await queue.enqueue([intent], tomorrow_us)
        if is_covered:
            early = await ledger.claim(intent, "", harness.clock.now_us(), tomorrow_us, is_early=True)
            assert isinstance(early, Claim)
            over = history.ended("muted", NOW_US)
            await ledger.record_outcome(early.delivery, "", DeliveryState.CANCELLED, over, counts=False)

    await harness.dismiss("a")
    await harness.advance(0.1)

    assert list(queue.delayed) == others


async def test_removal_from_the_queue_is_repeated_after_a_failure() -> None:
    """The first attempt has cancelled the deliveries, so their state no longer says that they waited."""
    queue = FailingRemovals()
    harness = await build_with_devices(queue)
    for intent in await pushed(harness):
        await set_state(harness, intent, DeliveryState.RETRY)
        await queue.enqueue([intent], harness.clock.now_us() + DAY_US)

    await harness.dismiss("a")
    await harness.advance(40)

    assert queue.has_failed and not queue.delayed


async def test_push_that_is_decided_again_keeps_its_time(harness: SchedulerHarness) -> None:
    """Otherwise it could wait twice in the queue, and a dismissal would find only the entry with the recorded time."""
    await harness.create("a")
    await harness.advance(5)
    planned = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 0, 1, harness.clock.now_us())
    await harness.store.ledger.plan([planned], DeliveryState.PLANNED, None, planned.at_us)

    await harness.advance(5)

    phone, tablet = harness.queue.intents
    assert (phone, tablet.at_us) == (planned, harness.clock.now_us())


async def test_sent_push_is_withdrawn(harness: SchedulerHarness) -> None:
    phone, tablet = await pushed(harness)
    await set_state(harness, phone, DeliveryState.SENT)
    await set_state(harness, tablet, DeliveryState.DEAD)

    await harness.dismiss("a")
    await harness.advance(0.1)

    [withdrawal] = harness.queue.intents
    assert withdrawal == Intent("alice", "a", WITHDRAW, "apns", "phone", 0, 2, harness.clock.now_us())
    assert harness.queue.delayed[withdrawal] == harness.clock.now_us() + COALESCE_US
    assert await states(harness) == {
        "item phone": (DeliveryState.SENT, None),
        "item tablet": (DeliveryState.DEAD, None),
        "withdraw phone": (DeliveryState.PLANNED, None),
    }


async def crash_during(harness: SchedulerHarness, intent: Intent) -> None:
    """A worker claims a delivery and dies; the next one finds the item acknowledged."""
    ledger = harness.store.ledger
    await set_state(harness, intent, DeliveryState.CLAIMED, lease_s=0)
    now_us = harness.clock.now_us()
    claim = await ledger.claim(intent, "", now_us, now_us + 30 * SECOND_US)
    assert isinstance(claim, Claim)
    history = claim.delivery.history.ended("acked", now_us)
    assert await ledger.record_outcome(claim.delivery, "", DeliveryState.CANCELLED, history, counts=False)


async def record_attempts(harness: SchedulerHarness, intent: Intent, state: DeliveryState, statuses: list[str]) -> None:
    """Record attempts with these statuses, then the final state."""
    ledger, history, counts = harness.store.ledger, DeliveryHistory(intent.at_us, intent.seq), True
    for status in [*statuses, None]:
        now_us = harness.clock.now_us()
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
async def test_push_with_unknown_outcome_is_withdrawn(harness: SchedulerHarness, state: DeliveryState) -> None:
    phone, tablet = await pushed(harness)
    await record_attempts(harness, phone, state, ["unknown", "503"])
    await record_attempts(harness, tablet, state, ["503", "429"])

    await harness.dismiss("a")
    await harness.advance(0.1)

    assert harness.published() == ["withdraw a apns phone"]


async def test_push_of_a_dead_worker_is_withdrawn(harness: SchedulerHarness) -> None:
    phone, _ = await pushed(harness)
    await crash_during(harness, phone)

    await harness.dismiss("a")
    await harness.advance(0.1)

    assert harness.published() == ["withdraw a apns phone"]


@pytest.mark.parametrize(("last", "expected"), [("503", []), ("unknown", ["withdraw a apns phone"])])
async def test_dropped_attempts_still_count_as_unknown(
    harness: SchedulerHarness, last: str, expected: list[str]
) -> None:
    phone, _ = await pushed(harness)
    await record_attempts(harness, phone, DeliveryState.CANCELLED, [last, *["503"] * (MAX_ATTEMPTS + 5)])

    await harness.dismiss("a")
    await harness.advance(0.1)

    assert harness.published() == expected


async def test_unknown_push_is_withdrawn_once(harness: SchedulerHarness) -> None:
    phone, tablet = await pushed(harness)
    await crash_during(harness, phone)
    await set_state(harness, tablet, DeliveryState.CLAIMED)  # a claimed delivery makes the scheduler check again
    await harness.dismiss("a")
    await harness.advance(0.1)
    assert harness.published() == ["withdraw a apns phone"]

    await set_state(harness, replace(phone, kind=WITHDRAW), DeliveryState.SENT)
    await harness.advance(60)

    assert harness.published() == []


class ClaimingLedger(MemoryLedger):
    """A ledger in which a worker claims each delivery just before it is cancelled."""

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


async def test_push_claimed_before_cancel_is_rechecked(harness: SchedulerHarness) -> None:
    await pushed(harness, for_device="phone")
    ledger = harness.store._ledger = ClaimingLedger(harness.store._ledger)  # type: ignore[attr-defined]
    await harness.dismiss("a")
    await harness.advance(0.1)
    assert harness.published() == []

    history = ledger.taken.delivery.history.attempted(DeliveryAttempt(harness.clock.now_us(), "200"))
    assert await ledger.record_outcome(ledger.taken.delivery, "", DeliveryState.SENT, history)
    await harness.advance(1)

    assert harness.published() == ["withdraw a apns phone"]


@pytest.mark.parametrize("is_claimed_meanwhile", [False, True])
async def test_dismissal_keeps_the_queue_entry_of_a_claimed_push(
    harness: SchedulerHarness, is_claimed_meanwhile: bool
) -> None:
    """After a failure of the store, a worker puts a claimed push back. Only this entry ends the claim."""
    [phone] = await pushed(harness, for_device="phone")
    if is_claimed_meanwhile:
        harness.store._ledger = ClaimingLedger(harness.store._ledger)  # type: ignore[attr-defined]
    else:
        await set_state(harness, phone, DeliveryState.CLAIMED)
    await harness.queue.enqueue([phone], harness.clock.now_us() + 2 * SECOND_US)

    await harness.dismiss("a")
    await harness.advance(0.1)

    assert list(harness.queue.delayed) == [phone]


async def test_one_withdrawal_covers_all_pushes_of_an_item(harness: SchedulerHarness) -> None:
    [phone, _] = await pushed(harness)
    await set_state(harness, phone, DeliveryState.SENT)
    await set_state(harness, replace(phone, kind=IntentKind.REMIND, n=3), DeliveryState.SENT)
    await set_state(harness, replace(phone, channel=EMAIL, device=""), DeliveryState.SENT)

    await harness.dismiss("a")
    await harness.advance(0.1)

    assert harness.published() == ["withdraw a apns phone"]


@pytest.mark.parametrize("for_device", [None, "*"])
async def test_dismissing_device_gets_no_withdrawal(harness: SchedulerHarness, for_device: str | None) -> None:
    for intent in await pushed(harness, for_device=for_device):
        await set_state(harness, intent, DeliveryState.SENT)

    await harness.submit(message(ids=["a"]), Sender("phone"))
    await harness.advance(0.1)

    assert harness.published() == (["withdraw a fcm tablet"] if for_device is None else [])
    if for_device == "*":
        await harness.dismiss("a")
        await harness.advance(0.1)
        assert harness.published() == ["withdraw a fcm tablet"]


async def test_push_in_flight_is_rechecked_until_final(harness: SchedulerHarness) -> None:
    phone, tablet = await pushed(harness)
    await set_state(harness, phone, DeliveryState.SENT)
    await set_state(harness, tablet, DeliveryState.CLAIMED)

    await harness.dismiss("a")
    await harness.advance(0.1)
    assert harness.published() == ["withdraw a apns phone"]
    await record_outcome(harness, tablet, DeliveryState.SENT)
    await set_state(harness, replace(phone, kind=WITHDRAW), DeliveryState.SENT)
    await harness.advance(1)

    assert harness.published() == ["withdraw a fcm tablet"]
    await set_state(harness, replace(tablet, kind=WITHDRAW), DeliveryState.SENT)
    await harness.advance(3_600)
    assert harness.published() == []
    assert (await states(harness))["item phone"][0] is DeliveryState.WITHDRAWN


async def record_outcome(harness: SchedulerHarness, intent: Intent, state: DeliveryState) -> None:
    """Record the outcome of the claimed delivery."""
    [claimed] = [
        each for each in await harness.store.ledger.of_item("alice", intent.item) if each.state is DeliveryState.CLAIMED
    ]
    history = DeliveryHistory(intent.at_us, intent.seq, attempts=(DeliveryAttempt(harness.clock.now_us(), "200"),))
    assert await harness.store.ledger.record_outcome(claimed, "", state, history)


async def test_rechecks_become_rare(harness: SchedulerHarness) -> None:
    [phone, _] = await pushed(harness)
    await set_state(harness, phone, DeliveryState.CLAIMED)
    await harness.dismiss("a")
    looks = harness.metrics.timers.labels("left", "done")

    await harness.advance(3_600, 0.5)
    assert 10 < looks._value.get() < 40
    await set_state(harness, phone, DeliveryState.CANCELLED)
    await harness.advance(3_600)
    looked = looks._value.get()
    await harness.advance(3_600)
    assert looks._value.get() == looked


async def test_withdrawal_waits_for_a_reminder_in_flight(harness: SchedulerHarness) -> None:
    """The provider may process a withdrawal before the reminder, and answer it later: both are then recorded as sent.

    Nothing would withdraw the reminder again.
    """
    phone, tablet = await pushed(harness)
    for intent in (phone, tablet):
        await set_state(harness, intent, DeliveryState.SENT)
    await set_state(harness, replace(phone, kind=IntentKind.REMIND), DeliveryState.CLAIMED)

    await harness.dismiss("a")
    await harness.advance(0.1)
    assert harness.published() == ["withdraw a fcm tablet"]
    await record_outcome(harness, replace(phone, kind=IntentKind.REMIND), DeliveryState.SENT)
    await harness.advance(1)

    assert "withdraw a apns phone" in harness.published()


async def test_withdrawal_does_not_wait_for_a_dead_worker(harness: SchedulerHarness) -> None:
    """The worker of a claimed reminder died. A retry may come late, or never if its queue entry is lost."""
    phone, _ = await pushed(harness)
    await set_state(harness, phone, DeliveryState.SENT)
    await set_state(harness, replace(phone, kind=IntentKind.REMIND), DeliveryState.CLAIMED, lease_s=30)
    await harness.advance(20)
    harness.published()
    await harness.dismiss("a")
    await harness.advance(5)
    assert harness.published() == []

    await harness.advance(20)

    assert "withdraw a apns phone" in harness.published()


async def test_push_after_a_withdrawal_is_withdrawn_again(harness: SchedulerHarness) -> None:
    """An older scheduler has withdrawn the first push while the reminder was in flight."""
    phone, _ = await pushed(harness)
    await set_state(harness, phone, DeliveryState.SENT)
    await set_state(harness, replace(phone, kind=IntentKind.REMIND), DeliveryState.CLAIMED)
    await set_state(harness, replace(phone, kind=WITHDRAW), DeliveryState.SENT)
    await harness.dismiss("a")
    await harness.advance(0.1)
    assert harness.published() == []

    await record_outcome(harness, replace(phone, kind=IntentKind.REMIND), DeliveryState.SENT)
    await harness.advance(1)

    [again] = harness.queue.intents
    assert (again.kind, again.n) == (WITHDRAW, 1)


async def test_summary_withdraws_aggregated_pushes() -> None:
    folding = {"title": "{{ count }}", "push": {"after": "10s"}, "aggregate": {"window": "20s", "at_least": 2}}
    harness = await build({"news": folding})
    await harness.store.devices.put_device(
        "alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US
    )
    await harness.create("a", "b")
    await harness.advance(10)
    for intent in harness.queue.intents:
        await set_state(harness, intent, DeliveryState.SENT)
    harness.published()

    await harness.advance(10)

    assert harness.published() == ["withdraw a apns phone", "withdraw b apns phone"]


async def test_unpublished_withdrawal_is_published_again(harness: SchedulerHarness) -> None:
    """The scheduler died between ledger and queue; the same key is published again."""
    [phone, _] = await pushed(harness)
    await set_state(harness, phone, DeliveryState.SENT)
    await harness.dismiss("a")
    await harness.store.ledger.plan(
        [replace(phone, kind=WITHDRAW, seq=2)], DeliveryState.PLANNED, None, harness.clock.now_us()
    )

    await harness.advance(1)

    assert harness.published() == ["withdraw a apns phone"]


@pytest.mark.parametrize(
    "state",
    [DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.CLAIMED, DeliveryState.CANCELLED, DeliveryState.DEAD],
)
async def test_withdrawal_in_progress_is_not_repeated(harness: SchedulerHarness, state: DeliveryState) -> None:
    [phone, _] = await pushed(harness)
    await set_state(harness, phone, DeliveryState.SENT)
    await set_state(harness, replace(phone, kind=WITHDRAW), state)

    await harness.dismiss("a")
    await harness.advance(1)

    assert harness.published() == []


async def test_dismissal_before_push_delay_needs_nothing(harness: SchedulerHarness) -> None:
    await harness.create("a")
    await harness.advance(5)

    await harness.dismiss("a")
    await harness.advance(100)

    assert harness.published() == []
    assert await states(harness) == {}
