"""Dead letters over HTTP: list, replay, purge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryState, encode_delivery_id
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
PATH = "/v1/deliveries/dead"


@pytest.fixture(autouse=True)
async def users(api: Api) -> None:
    """Users with state: the ledger accepts deliveries only for these."""
    for uid in ("alice", "bob"):
        await api.store.users.commit(uid, creating("a", "b"))


async def make_dead_letter(api: Api, intent: Intent, reason: str | None = None) -> str:
    """Make a dead letter at the present time; returns its id."""
    ledger, now_us = api.store.ledger, api.clock.now_us()
    await ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)
    claim = await ledger.claim(intent, "", now_us, now_us + 1)
    assert isinstance(claim, Claim)
    history = claim.delivery.history
    refused = (*history.attempts, DeliveryAttempt(now_us, "400", None, "BadTopic"))
    ended = replace_story(history, refused).ended(reason, now_us)
    await ledger.record_outcome(claim.delivery, "", DeliveryState.DEAD, ended)
    return encode_delivery_id(intent)


def replace_story(history: Any, attempts: tuple[DeliveryAttempt, ...]) -> Any:
    return type(history)(history.planned_us, history.seq, attempts=attempts, event=history.event)


async def call(api: Api, method: str, path: str = "", **options: Any) -> httpx.Response:
    return await api.call(method, PATH + path, await api.make_key("deliveries"), **options)


async def listed(api: Api, **params: Any) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = (await call(api, "GET", params=params)).json()["entries"]
    return entries


async def test_dead_letter_has_uid_time_and_delivery(api: Api) -> None:
    api.clock.advance(1.5)
    name = await make_dead_letter(api, PHONE)

    [entry] = await listed(api)

    assert entry == {
        "uid": "alice",
        "id": name,
        "item": "a",
        "intent": "remind",
        "channel": "apns",
        "device": "phone",
        "state": "dead",
        "reason": None,
        "n": 2,
        "next": None,
        "attempts": [{"at": NOW_S + 1.5, "status": "400", "provider_id": None, "detail": "BadTopic"}],
        "at": NOW_S + 1.5,
    }
    of_user = await api.call("GET", "/v1/users/alice/deliveries")
    assert of_user.json() == {"entries": [{field: entry[field] for field in entry if field not in ("uid", "at")}]}


async def test_dead_webhook_call_names_the_webhook(api: Api) -> None:
    webhook = Webhook("wh_a", "https://a.example/", (("whsec_A", None),))
    [intent] = webhook_intents(
        [WebhookEvent(WebhookEventType.ACKED, "alice", "a", "news", NOW_US, 7, NOW_US)], [webhook], NOW_US
    )
    await make_dead_letter(api, intent, "budget")

    [entry] = await listed(api, channel="webhook")

    assert (entry["webhook"], entry["webhook_id"]) == webhook_and_call_id(intent)
    assert (entry["device"], entry["reason"]) == (None, "budget")


async def test_pagination_of_dead_letters_keeps_the_channel(api: Api) -> None:
    names = []
    for n in range(5):
        names.append(await make_dead_letter(api, replace(PHONE, n=n)))
        await make_dead_letter(api, replace(PHONE, uid="bob", channel="fcm", n=n))
        api.clock.advance(n % 2)

    seen, path = [], "?channel=apns&limit=2"
    while path:
        answer = await call(api, "GET", path)
        seen += [entry["id"] for entry in answer.json()["entries"]]
        path = answer.links["next"]["url"].removeprefix(PATH) if "next" in answer.links else ""

    assert seen == list(reversed(names))
    assert len(await listed(api)) == 10


async def test_before_limits_list_and_purge(api: Api) -> None:
    old = await make_dead_letter(api, PHONE)
    api.clock.advance(0.5)
    new = await make_dead_letter(api, replace(PHONE, device="tablet"))
    before = {"before": f"{NOW_S}.5"}

    assert [entry["id"] for entry in await listed(api, **before)] == [old]
    assert (await call(api, "DELETE", params=before)).json() == {"purged": 1}
    assert [entry["id"] for entry in await listed(api)] == [new]
    assert (await call(api, "DELETE", params={"channel": "fcm"})).json() == {"purged": 0}
    assert (await call(api, "DELETE")).json() == {"purged": 1}
    assert await listed(api) == []
    states = {each["state"] for each in (await api.call("GET", "/v1/users/alice/deliveries")).json()["entries"]}
    assert states == {"dead"}


async def test_dead_letter_is_replayed_once(api: Api) -> None:
    name = await make_dead_letter(api, PHONE)

    done = await call(api, "POST", f"/{name}/replay")

    assert (done.status_code, done.json()) == (202, {"id": name})
    assert code_of(await call(api, "POST", f"/{name}/replay")) == (404, "not_found")
    assert await listed(api) == []
    [entry] = (await api.call("GET", "/v1/users/alice/deliveries")).json()["entries"]
    assert (entry["state"], entry["reason"], len(entry["attempts"])) == ("planned", None, 1)


async def test_purge_of_a_dead_letter_is_idempotent(api: Api) -> None:
    long = Intent("u" * 128, "i" * 128, IntentKind.ITEM, "fcm", "d" * 128, at_us=NOW_US)
    await api.store.users.commit(long.uid, creating("a"))
    name, other = await make_dead_letter(api, long), await make_dead_letter(api, PHONE)

    for _ in range(2):
        assert (await call(api, "DELETE", f"/{name}")).status_code == 204
    assert [entry["id"] for entry in await listed(api)] == [other]


@pytest.mark.parametrize(
    "name", ["nope", "YQ", "a.b", encode_delivery_id(PHONE), encode_delivery_id(PHONE) + "=", "%C3%A9", "A" * 999]
)
async def test_unknown_dead_letter_is_404(api: Api, name: str) -> None:
    assert code_of(await call(api, "POST", f"/{name}/replay")) == (404, "not_found")
    assert (await call(api, "DELETE", f"/{name}")).status_code == 204


@pytest.mark.parametrize(
    ("method", "params", "refusal"),
    [
        ("GET", {"channel": "pigeon"}, "invalid"),
        ("GET", {"before": "x"}, "invalid"),
        ("GET", {"before": "1_x"}, "invalid"),
        ("GET", {"before": "99999999999"}, "time_out_of_range"),
        ("GET", {"limit": 0}, "invalid"),
        ("GET", {"uid": "alice"}, "unknown_field"),
        ("DELETE", {"channel": ""}, "invalid"),
        ("DELETE", {"before": "yesterday"}, "invalid"),
        ("DELETE", {"before": "1_YQ"}, "invalid"),
        ("DELETE", {"chanel": "apns"}, "unknown_field"),
    ],
)
async def test_invalid_query_purges_nothing(api: Api, method: str, params: dict[str, Any], refusal: str) -> None:
    await make_dead_letter(api, PHONE)

    assert code_of(await call(api, method, params=params)) == (422, refusal)
    assert len(await listed(api)) == 1


async def test_dead_letters_need_the_deliveries_scope(api: Api) -> None:
    for token in (api.token(), await api.make_key("ingest", "read", "devices")):
        for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", "/x"), ("POST", "/x/replay")):
            assert code_of(await api.call(method, PATH + path, token)) == (403, "forbidden")
