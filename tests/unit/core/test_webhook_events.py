"""Webhook events: subscriptions, bodies and ids."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.ids import is_name
from gregor.core.notify.intents import WEBHOOK, IntentKind
from gregor.core.notify.webhook_events import (
    DeliveryReport,
    Webhook,
    WebhookEvent,
    WebhookEventType,
    webhook_and_call_id,
    webhook_intents,
)

NOW_US = 1_457_056_447_250_000
ALL = Webhook("wh_all", "https://a.example/", (("whsec_A", None),))
GONE = WebhookEvent(
    WebhookEventType.DISMISSED, "alice", "aa", "user.joined", NOW_US, 7, NOW_US, device="phone", reason="dismissed"
)
SENT = replace(GONE, type=WebhookEventType.SENT, reason=None, report=DeliveryReport("apns", "item", 0, 1, "200"))


def test_the_body_is_type_timestamp_and_data() -> None:
    assert json.loads(GONE.body()) == {
        "type": "item.dismissed",
        "timestamp": "2016-03-04T01:54:07.250000Z",
        "data": {
            "uid": "alice",
            "id": "aa",
            "category": "user.joined",
            "for_device": None,
            "device": "phone",
            "reason": "dismissed",
            "seq": 7,
        },
    }


def test_body_of_a_delivery_event() -> None:
    data = json.loads(SENT.body())["data"]

    assert {name: data[name] for name in ("channel", "intent", "n", "status")} == {
        "channel": "apns",
        "intent": "item",
        "n": 0,
        "status": "200",
    }


def test_each_interested_webhook_gets_one_intent() -> None:
    webhooks = [
        ALL,
        replace(ALL, id="wh_acks", events=("item.acked",)),
        replace(ALL, id="wh_user", events=("item.acked", "item.dismissed"), prefixes=("mail", "user")),
        replace(ALL, id="wh_users", prefixes=("users", "user.joined.late")),
        replace(ALL, id="wh_off", disabled_us=1),
    ]

    intents = webhook_intents([GONE], webhooks, NOW_US + 5)

    assert [webhook_and_call_id(intent)[0] for intent in intents] == ["wh_all", "wh_user"]
    for intent in intents:
        assert (intent.uid, intent.item, intent.kind, intent.channel) == ("alice", "aa", IntentKind.EVENT, WEBHOOK)
        assert (intent.seq, intent.at_us, intent.event) == (7, NOW_US + 5, GONE.body())
        assert is_name(intent.device.replace("_", "-"))  # no slash, which parts the names in the ledger


def test_unknown_category_goes_to_unfiltered_webhooks() -> None:
    unknown = replace(GONE, category=None)

    assert [
        webhook_and_call_id(intent)[0]
        for intent in webhook_intents([unknown], [ALL, replace(ALL, prefixes=("user",))], 0)
    ] == ["wh_all"]


@pytest.mark.parametrize(
    "other",
    [
        replace(GONE, type=WebhookEventType.EXPIRED),
        replace(GONE, uid="bob"),
        replace(GONE, item="bb"),
        replace(GONE, device="tablet"),
        replace(GONE, device=None),
        replace(GONE, seq=8),
        replace(GONE, cause_us=NOW_US + 1),  # of a user who was deleted and created again
        SENT,
        replace(SENT, report=DeliveryReport("apns", "remind", 0, 1, "200")),
        replace(SENT, report=DeliveryReport("apns", "item", 0, 2, "200")),
    ],
)
def test_different_events_have_different_ids(other: WebhookEvent) -> None:
    assert other.key_for("wh_a") != GONE.key_for("wh_a")
    assert other.key_for("wh_a") != other.key_for("wh_b")


@given(st.integers(0, NOW_US * 2), st.sampled_from([None, "user.joined"]))
def test_repeated_event_keeps_its_id(at_us: int, category: str | None) -> None:
    again = replace(GONE, at_us=at_us, category=category, for_device="phone")

    assert again.key_for("wh_a") == GONE.key_for("wh_a")


@given(st.integers(0, NOW_US * 2), st.integers(0, NOW_US * 2))
def test_events_of_different_times_have_different_keys(first_us: int, second_us: int) -> None:
    first, second = replace(GONE, cause_us=first_us), replace(GONE, cause_us=second_us)

    assert (first.key_for("wh_a") == second.key_for("wh_a")) == (first_us == second_us)
    assert first.earlier_key_for("wh_a") == second.earlier_key_for("wh_a") != first.key_for("wh_a")


def test_earlier_key_is_that_of_earlier_releases() -> None:
    """The scheduler finds an event that an earlier release planned by this key."""
    assert GONE.earlier_key_for("wh_a") == "gjjpsszdnduzbz47w2zyqbf4"
    assert SENT.earlier_key_for("wh_a") == "p64fhjyailg57f2yt5z4ydwm"


def test_secrets_sign_until_they_expire() -> None:
    rotated = replace(ALL, secrets=(("whsec_NEW", None), ("whsec_OLD", NOW_US)))

    assert rotated.signing(NOW_US - 1) == ("whsec_NEW", "whsec_OLD")
    assert rotated.signing(NOW_US) == ("whsec_NEW",)
    assert "whsec" not in repr(rotated) and "a.example" not in repr(rotated)
