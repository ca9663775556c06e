"""Timelines: the events of an item and of its deliveries, as each reader sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gregor.core.items.sync import HistoryEntry, Removal, View
from gregor.core.messages.model import RemovalReason
from gregor.core.notify.intents import EMAIL, FRAME, WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import (
    MAX_REPLAYS,
    DeliveryAttempt,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryReplay,
    DeliveryState,
    DeliveryWait,
)
from gregor.core.notify.timeline import Acknowledgement, build_timeline

SECOND_US = 1_000_000
BACKEND, PHONE, TABLET = View(), View("phone"), View("tablet")
SENT = (DeliveryAttempt(12 * SECOND_US, "200", "id-1"),)
REPLAYED = (DeliveryAttempt(12 * SECOND_US, "400"), DeliveryAttempt(21 * SECOND_US, "200"))
UNKNOWN = (DeliveryAttempt(12 * SECOND_US, "unknown"),)


def entry(gone: Removal | None = None, for_device: str | None = None) -> HistoryEntry:
    """Return an item of category ``news``, created at 1 s with seq 5."""
    shown = {"body": None, "category": "news", "for_device": for_device, "times": {"created": 1}}
    return HistoryEntry("a", "news", SECOND_US, 5, json.dumps(shown).encode(), gone)


def delivery(
    state: DeliveryState,
    attempts: tuple[DeliveryAttempt, ...] = (),
    *,
    device: str = "phone",
    channel: str = "apns",
    kind: IntentKind = IntentKind.ITEM,
    n: int = 0,
    **history: Any,
) -> DeliveryRecord:
    """Return a delivery that was planned at 11 s."""
    told = DeliveryHistory(11 * SECOND_US, 5, attempts=attempts, **history)
    return DeliveryRecord(Intent("alice", "a", kind, channel, device, n), state, len(attempts), 0, told)


def words(
    told: list[DeliveryRecord], shown: list[Acknowledgement] | None = None, view: View = BACKEND, **of_entry: Any
) -> list[str]:
    """Return each event as text: its second, kind, channel, device and reason."""
    events = [json.loads(event.json()) for event in build_timeline(entry(**of_entry), told, shown or [], view)]
    members = ("at", "event", "channel", "device", "detail")
    return [" ".join(str(event[name]) for name in members if event.get(name) is not None) for event in events]


def acked(view: View, since: int, until: int, at_s: int) -> Acknowledgement:
    return Acknowledgement(view, since, until, at_s * SECOND_US)


def test_delivery_event_has_channel_and_result() -> None:
    [_, planned, sent] = build_timeline(entry(), [delivery(DeliveryState.SENT, SENT)], [], BACKEND)

    where = {"channel": "apns", "device": "phone", "n": 0, "intent": "item"}
    assert json.loads(planned.json()) == {"at": 11, "event": "planned", **where}
    assert json.loads(sent.json()) == {"at": 12, "event": "sent", **where, "detail": "200"}


def test_timeline_of_a_withdrawn_push() -> None:
    waits = (DeliveryWait(12 * SECOND_US, "quiet_hours", 20 * SECOND_US),)
    attempts = (
        DeliveryAttempt(20 * SECOND_US, "503"),
        DeliveryAttempt(21 * SECOND_US, "unknown"),
        DeliveryAttempt(25 * SECOND_US, "200"),
    )
    push = delivery(DeliveryState.WITHDRAWN, attempts, waits=waits)
    taken = (DeliveryAttempt(31 * SECOND_US, "429"), DeliveryAttempt(32 * SECOND_US, "200"))
    back = delivery(DeliveryState.SENT, taken, kind=IntentKind.WITHDRAW)

    assert words([push, back], gone=Removal(30 * SECOND_US, RemovalReason.INTERVAL, "tablet", 9)) == [
        "1 created",
        "11 planned apns phone",
        "12 waiting apns phone quiet_hours",
        "20 retry apns phone 503",
        "21 retry apns phone unknown",
        "25 sent apns phone 200",
        "30 dismissed tablet interval",
        "31 retry apns phone 429",
        "32 withdrawn apns phone 200",
    ]


def test_waiting_event_has_its_end() -> None:
    waits = (DeliveryWait(12 * SECOND_US, "quiet_hours", 20_500_000),)
    [*_, waiting] = build_timeline(entry(), [delivery(DeliveryState.WAITING, waits=waits)], [], BACKEND)

    assert json.loads(waiting.json())["until"] == 20.5


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (delivery(DeliveryState.CANCELLED, reason="present"), ["11 cancelled apns phone present"]),
        (
            delivery(DeliveryState.CANCELLED, reason="acked", since_us=13 * SECOND_US),
            ["11 planned apns phone", "13 cancelled apns phone acked"],
        ),
        (
            delivery(
                DeliveryState.CANCELLED,
                (DeliveryAttempt(12 * SECOND_US, "429"),),
                reason="dismissed",
                since_us=13 * SECOND_US,
            ),
            ["11 planned apns phone", "12 retry apns phone 429", "13 cancelled apns phone dismissed"],
        ),
        (
            delivery(DeliveryState.DEAD, (DeliveryAttempt(12 * SECOND_US, "400"),), since_us=12 * SECOND_US),
            ["11 planned apns phone", "12 dead apns phone 400"],
        ),
        (
            delivery(
                DeliveryState.DEAD, (DeliveryAttempt(12 * SECOND_US, "503"),), reason="budget", since_us=12 * SECOND_US
            ),
            ["11 planned apns phone", "12 dead apns phone budget"],
        ),
        (
            delivery(
                DeliveryState.DEAD, (DeliveryAttempt(12 * SECOND_US, "503"),), reason="failed", since_us=13 * SECOND_US
            ),
            ["11 planned apns phone", "12 retry apns phone 503", "13 dead apns phone failed"],
        ),
        (
            delivery(DeliveryState.UNKNOWN, UNKNOWN, next_us=15 * SECOND_US),
            ["11 planned apns phone", "12 retry apns phone unknown"],
        ),
        (
            delivery(DeliveryState.UNKNOWN, (*UNKNOWN, DeliveryAttempt(13 * SECOND_US, "unknown"))),
            ["11 planned apns phone", "12 retry apns phone unknown", "13 sent apns phone unknown"],
        ),
        (
            delivery(
                DeliveryState.SENT,
                (DeliveryAttempt(12 * SECOND_US, "unknown"),),
                since_us=13 * SECOND_US,
                device="",
                channel=EMAIL,
            ),
            ["11 planned email", "12 retry email unknown", "13 sent email"],
        ),
        (
            delivery(DeliveryState.CANCELLED, kind=IntentKind.WITHDRAW, reason="budget", since_us=13 * SECOND_US),
            ["13 cancelled apns phone budget"],
        ),
        (
            delivery(DeliveryState.SENT, REPLAYED, replays=(DeliveryReplay(12 * SECOND_US, "400", 20 * SECOND_US),)),
            ["11 planned apns phone", "12 dead apns phone 400", "20 planned apns phone", "21 sent apns phone 200"],
        ),
        (
            delivery(
                DeliveryState.DEAD,
                (
                    DeliveryAttempt(12 * SECOND_US, "503"),
                    DeliveryAttempt(22 * SECOND_US, "503"),
                    DeliveryAttempt(31 * SECOND_US, "400"),
                ),
                replays=(
                    DeliveryReplay(13 * SECOND_US, "budget", 20 * SECOND_US),
                    DeliveryReplay(22 * SECOND_US, "device_gone", 30 * SECOND_US),
                ),
                since_us=31 * SECOND_US,
            ),
            [
                *("11 planned apns phone", "12 retry apns phone 503", "13 dead apns phone budget"),
                *("20 planned apns phone", "22 dead apns phone device_gone"),
                *("30 planned apns phone", "31 dead apns phone 400"),
            ],
        ),
        (delivery(DeliveryState.PLANNED, kind=IntentKind.WITHDRAW), []),
        (delivery(DeliveryState.SENT, SENT, kind=IntentKind.EVENT, channel=WEBHOOK), []),
    ],
)
def test_each_end_of_a_delivery_has_its_reason(told: DeliveryRecord, expected: list[str]) -> None:
    assert words([told]) == ["1 created", *expected]


def test_fired_reminder_and_its_acknowledgement() -> None:
    fired = DeliveryRecord(
        Intent("alice", "a", IntentKind.REMIND, FRAME, "", 1),
        DeliveryState.SENT,
        0,
        0,
        DeliveryHistory(20 * SECOND_US, 9),
    )
    shown = [acked(PHONE, 0, 7, 3), acked(PHONE, 7, 9, 25)]

    events = [json.loads(event.json()) for event in build_timeline(entry(), [fired], shown, BACKEND)]

    assert events[1:] == [
        {"at": 3, "event": "acked", "device": "phone", "n": 0},
        {"at": 20, "event": "reminded", "n": 1},
        {"at": 25, "event": "acked", "device": "phone", "n": 1},
    ]


def test_ack_counts_once_for_items_in_the_view() -> None:
    shown = [
        acked(PHONE, 0, 4, 2),  # before the item came
        acked(View("phone", ("mail",)), 0, 9, 3),  # a view without it
        acked(TABLET, 4, 6, 4),
        acked(View("tablet", ("news",)), 0, 6, 5),  # shown again
        acked(PHONE, 4, 5, 6),
    ]

    assert words([], shown) == ["1 created", "4 acked tablet", "6 acked phone"]
    assert words([], shown, for_device="phone") == ["1 created", "6 acked phone"]


def test_ack_after_removal_is_ignored() -> None:
    gone = Removal(4 * SECOND_US, RemovalReason.DISMISSED, None, 6)

    assert words([], [acked(PHONE, 0, 9, 4)], gone=gone) == ["1 created", "4 dismissed dismissed"]


def test_device_sees_its_own_pushes_and_emails() -> None:
    told = [
        delivery(DeliveryState.SENT, SENT),
        delivery(DeliveryState.SENT, SENT, device="tablet"),
        delivery(DeliveryState.CANCELLED, device="", channel=EMAIL, reason="acked"),
    ]
    shown = [acked(PHONE, 0, 5, 3), acked(TABLET, 0, 5, 4)]

    assert words(told, shown, PHONE) == [
        "1 created",
        "3 acked phone",
        "11 planned apns phone",
        "11 cancelled email acked",
        "12 sent apns phone 200",
    ]
    assert "tablet" not in " ".join(words(told, shown, PHONE))
    assert words(told, shown, View("laptop")) == ["1 created", "11 cancelled email acked"]


def test_causes_precede_effects_of_the_same_time() -> None:
    at_once = delivery(DeliveryState.CANCELLED, reason="expired", since_us=30 * SECOND_US)

    assert words([at_once], gone=Removal(30 * SECOND_US, RemovalReason.EXPIRED, None, 9))[-2:] == [
        "30 expired",
        "30 cancelled apns phone expired",
    ]


def test_repeated_replays_keep_the_newest() -> None:
    history = DeliveryHistory(0, 5)
    for second in range(1, 2 * MAX_REPLAYS + 1):
        history = history.ended("budget", second * SECOND_US).replayed(second * SECOND_US + 1)

    newest = range(MAX_REPLAYS + 1, 2 * MAX_REPLAYS + 1)
    assert [each.dead_us for each in history.replays] == [second * SECOND_US for second in newest]
    assert {each.why for each in history.replays} == {"budget"}
    assert history.begun_us == history.replays[-1].at_us
