"""Deliveries of a user over HTTP."""

from dataclasses import replace

import pytest

from gregor.core.notify.intents import EMAIL, FRAME, Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.core.notify.webhook_events import (
    Webhook,
    WebhookEvent,
    WebhookEventType,
    webhook_and_call_id,
    webhook_intents,
)
from tests.support.api import NOW_S, Api, code_of
from tests.support.builders import creating

NOW_US = NOW_S * 1_000_000
PHONE = Intent("alice", "a", IntentKind.REMIND, "apns", "phone", n=2, seq=7, at_us=NOW_US)
PATH = "/v1/users/alice/deliveries"


@pytest.fixture(autouse=True)
async def users(api: Api) -> None:
    """Users with state: the ledger accepts deliveries only for these."""
    for uid in ("alice", "bob"):
        await api.store.users.commit(uid, creating("a", "b"))


async def test_delivery_has_state_and_attempts(api: Api) -> None:
    ledger = api.store.ledger
    await ledger.plan([PHONE], DeliveryState.PLANNED, None, NOW_US)
    claim = await ledger.claim(PHONE, "", NOW_US, NOW_US + 1)
    assert isinstance(claim, Claim)
    history = DeliveryHistory(
        NOW_US, 7, next_us=NOW_US + 1_500_000, attempts=(DeliveryAttempt(NOW_US, "503", None, "Shutdown"),)
    )
    await ledger.record_outcome(claim.delivery, "", DeliveryState.RETRY, history)

    [entry] = (await api.call("GET", PATH, await api.make_key("deliveries"))).json()["entries"]

    assert entry.pop("id")
    assert entry == {
        "item": "a",
        "intent": "remind",
        "channel": "apns",
        "device": "phone",
        "state": "retry",
        "reason": None,
        "n": 2,
        "next": NOW_S + 1.5,
        "attempts": [{"at": NOW_S, "status": "503", "provider_id": None, "detail": "Shutdown"}],
    }


async def test_deliveries_are_listed_newest_item_first(api: Api) -> None:
    mail = replace(PHONE, item="b", channel=EMAIL, device="")
    await api.store.ledger.plan([PHONE], DeliveryState.CANCELLED, "acked", NOW_US)
    await api.store.ledger.plan([mail], DeliveryState.CANCELLED, "present", NOW_US + 1)
    await api.store.ledger.plan([replace(PHONE, uid="bob")], DeliveryState.PLANNED, None, NOW_US)

    key = await api.make_key("deliveries")
    every = (await api.call("GET", PATH, key)).json()["entries"]
    one = (await api.call("GET", PATH, key, params={"item": "a"})).json()["entries"]

    assert [(entry["item"], entry["device"], entry["reason"]) for entry in every] == [
        ("b", None, "present"),
        ("a", "phone", "acked"),
    ]
    assert one == every[1:]
    assert len({entry["id"] for entry in every}) == 2
    assert (await api.call("GET", "/v1/users/carol/deliveries", key)).json() == {"entries": []}


async def test_webhook_delivery_has_its_webhook_id(api: Api) -> None:
    webhook = Webhook("wh_a", "https://a.example/", (("whsec_A", None),))
    [intent] = webhook_intents(
        [WebhookEvent(WebhookEventType.ACKED, "alice", "a", "news", NOW_US, 7, NOW_US)], [webhook], NOW_US
    )
    await api.store.ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)

    [entry] = (await api.call("GET", PATH, await api.make_key("deliveries"))).json()["entries"]

    assert (entry["intent"], entry["channel"], entry["device"], entry["state"]) == ("event", "webhook", None, "planned")
    assert (entry["webhook"], entry["webhook_id"]) == webhook_and_call_id(intent)


async def test_fired_reminder_is_not_a_delivery(api: Api) -> None:
    await api.store.ledger.plan([replace(PHONE, channel=FRAME, device="")], DeliveryState.SENT, None, NOW_US)

    assert (await api.call("GET", PATH, await api.make_key("deliveries"))).json() == {"entries": []}


async def test_invalid_item_in_the_query_is_refused(api: Api) -> None:
    key = await api.make_key("deliveries")

    assert code_of(await api.call("GET", PATH, key, params={"item": "a/b"})) == (422, "invalid_id")
