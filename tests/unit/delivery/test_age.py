"""The age of a delivery, from which alerts conclude that pushes are late: waits that its user causes do not count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor.core.notify.contact import parse_contact
from gregor.core.notify.ledger import MAIL_BUDGET, push_budget
from gregor_delivery.age import was_held_up
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.verdict import Retry, Verdict
from gregor_delivery.decide.push import BADGE_PACE, PushDecider
from tests.support.builders import NOW_US, SECOND_US
from tests.unit.delivery.harness import DeliveryHarness

LATE_S = 30.0


def count_late(harness: DeliveryHarness) -> tuple[int, int]:
    """Return the observed answers of the provider, and those that were late."""
    samples = {
        (each.name.rpartition("_")[2], each.labels.get("le")): int(each.value)
        for metric in harness.context.metrics.age_seconds.collect()
        for each in metric.samples
    }
    count = samples.get(("count", None), 0)
    return count, count - samples.get(("bucket", str(LATE_S)), 0)


async def finish(harness: DeliveryHarness, item: str) -> None:
    """Attempt the push of an item at the times at which it is due, until it is finished."""
    again_us = await attempt(harness.context, (await harness.entry(item)).intent)
    while again_us is not None:
        harness.clock.advance(max(0, again_us - harness.clock.now_us()) / SECOND_US)
        again_us = await attempt(harness.context, (await harness.entry(item)).intent)


async def test_quiet_hours_do_not_make_a_push_late(harness: DeliveryHarness) -> None:
    """A device may set its own quiet hours: with 1,000 pushes an hour, one token raised an alert for all."""
    await harness.store.contacts.put_contact("alice", parse_contact({"quiet_hours": {"from": "22:00", "to": "07:00"}}))
    await harness.create("a")

    await finish(harness, "a")

    assert harness.clock.now_us() - NOW_US > 8 * 3_600 * SECOND_US
    assert (len(harness.provider.pushes), count_late(harness)) == (1, (0, 0))


async def test_budget_of_a_user_does_not_make_a_push_late(harness: DeliveryHarness) -> None:
    harness.context = replace(
        harness.context, decider=PushDecider(harness.store, harness.registry, None, push_budget(1))
    )
    for item in "ab":
        await harness.create(item)

    for item in "ab":
        await finish(harness, item)

    assert harness.clock.now_us() - NOW_US >= 3_600 * SECOND_US
    assert (len(harness.provider.pushes), count_late(harness)) == (2, (1, 0))


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        ([], (1, 0)),
        ([Retry(300, "429", "of this device")], (1, 0)),
        ([Retry(300, "429", "of this device"), Retry(300, "421", "of this device")], (1, 0)),
        ([Retry(300, "503", "down"), Retry(300, "429", "of this device")], (2, 1)),
        ([Retry(300, "503", "down")], (2, 1)),
        ([Retry(300, None, "unreachable")], (2, 1)),
    ],
)
async def test_only_failures_of_the_provider_make_a_push_late(
    harness: DeliveryHarness, verdicts: list[Verdict], counts: tuple[int, int]
) -> None:
    """Each answer is observed until one throttles the device."""
    harness.provider.verdicts = list(verdicts)
    await harness.create("a")

    await finish(harness, "a")

    assert len(harness.provider.pushes) == len(verdicts) + 1
    assert count_late(harness) == counts


@pytest.mark.parametrize(
    ("reason", "is_own"), [("receiver_down", False), ("receiver_busy", False), (BADGE_PACE, True), (MAIL_BUDGET, True)]
)
async def test_waits_for_a_shared_receiver_count(harness: DeliveryHarness, reason: str, is_own: bool) -> None:
    await harness.create("a")
    history = (await harness.entry("a")).history

    assert was_held_up(history.waiting(reason, NOW_US, NOW_US + 600 * SECOND_US)) is is_own
