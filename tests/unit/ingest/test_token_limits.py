"""The limits of device tokens: ``cats`` and ``systems`` hold for sending, preferences and cancelling."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.core.ids import Prefixes
from tests.support.api import NOW_S, Api, code_of

LATER = NOW_S + 3_600
PREFERENCES = "/v1/users/alice/preferences"
MESSAGES = "/v1/users/alice/messages"
SYNC = "/v1/users/alice/sync"


async def external(api: Api, system: str, token: str | None, **members: Any) -> Any:
    return await api.call("POST", MESSAGES, token, json={"system": system, "body": {"a": 1}, **members})


async def cancel(api: Api, message_id: str, token: str) -> int:
    return (await api.call("DELETE", f"{MESSAGES}/{message_id}", token)).status_code


# --- External messages


async def test_device_sends_messages_of_its_systems_only(api: Api) -> None:
    limited = api.token(systems=["chat"])

    assert (await external(api, "chat.typing", limited)).status_code == 200
    assert code_of(await external(api, "bank", limited)) == (403, "forbidden")
    assert code_of(await external(api, "chat", api.token(systems=[]))) == (403, "forbidden")
    assert (await external(api, "bank", api.token())).status_code == 200


async def test_device_delays_messages_of_its_systems_only(api: Api) -> None:
    assert code_of(await external(api, "bank", api.token(systems=["chat"]), not_before=LATER)) == (403, "forbidden")


async def test_external_message_of_a_device_names_the_device(api: Api) -> None:
    await external(api, "chat", api.token(device="laptop"))
    await external(api, "chat", None)
    cursor = (await api.call("GET", SYNC)).json()["cursor"].partition("-")[0] + "-0"

    answer = (await api.call("GET", SYNC, params={"cursor": cursor})).json()

    assert answer["external"] == [
        {"system": "chat", "seq": 1, "body": {"a": 1}, "device": "laptop"},
        {"system": "chat", "seq": 2, "body": {"a": 1}},
    ]


# --- Preferences


async def test_device_reads_the_preferences_of_its_categories(api: Api) -> None:
    stored = {"*": {"push": True}, "security": {"push": True}, "user.joined": {"push": False}}
    await api.call("PUT", PREFERENCES, json=stored)

    assert (await api.call("GET", PREFERENCES, api.token(category_filter=["user"]))).json() == {
        "user.joined": {"push": False}
    }
    assert (await api.call("GET", PREFERENCES, api.token())).json() == stored


async def test_limited_tokens_cannot_exceed_the_preferences_of_a_user(api: Api) -> None:
    """Each token replaces only those below its prefixes, so several tokens could store 1,000 each."""
    answers = [
        await api.call(
            "PUT", PREFERENCES, api.token(category_filter=[name]), json={f"{name}.{n}": {} for n in range(600)}
        )
        for name in "ab"
    ]

    assert [each.status_code for each in answers] == [200, 422]
    assert code_of(answers[1]) == (422, "too_many")
    assert len((await api.call("GET", PREFERENCES)).json()) == 600


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("prefix", ["*", "security", "use", "users"])
async def test_device_cannot_change_preferences_of_others_categories(api: Api, method: str, prefix: str) -> None:
    token = api.token(category_filter=["user"])

    answer = await api.call(method, PREFERENCES, token, json={prefix: {"push": False}})

    assert code_of(answer) == (403, "category_not_allowed")
    assert answer.json()["errors"][0]["pointer"] == f"/{prefix}"
    assert (await api.call("GET", PREFERENCES)).json() == {}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_device_changes_only_preferences_of_its_categories(api: Api, method: str) -> None:
    token = api.token(category_filter=["user"])
    await api.call("PUT", PREFERENCES, json={"security": {"push": True}, "user.joined": {"push": True}})

    answer = await api.call(method, PREFERENCES, token, json={"user.joined": {"push": False}})

    assert answer.json() == {"user.joined": {"push": False}}
    assert (await api.call("GET", PREFERENCES)).json() == {"security": {"push": True}, "user.joined": {"push": False}}


# --- Push registrations

PHONE = "/v1/users/alice/devices/phone"
APNS = {"provider": "apns", "token": "740f4707", "topic": "com.example", "sandbox": False}


async def push_filter(api: Api) -> Prefixes:
    found = await api.store.devices.device("alice", "phone", api.clock.now_us())
    assert found is not None
    return found[0].push_filter


async def test_push_token_has_the_limits_of_the_token_that_registers_it(api: Api) -> None:
    for token, expected in ((api.token(category_filter=["shop"]), ("shop",)), (api.token(), None), (None, None)):
        for method in ("PUT", "PATCH"):
            await api.call("DELETE", PHONE)
            assert (await api.call(method, PHONE, token, json={"push": APNS})).status_code == 200
            assert await push_filter(api) == expected


@pytest.mark.parametrize("limits", [(None, ["shop"]), (["shop"], None)], ids=["narrower", "wider"])
async def test_request_without_the_push_token_keeps_its_limits(
    api: Api, limits: tuple[list[str] | None, list[str] | None]
) -> None:
    first, second = (api.token(category_filter=each) for each in limits)
    await api.call("PUT", PHONE, first, json={"push": APNS})
    before, masked = await push_filter(api), {**APNS, "token": "…4707"}

    for method, document in (
        ("PATCH", {"locale": "it"}),
        ("PATCH", {"push": {"sandbox": True}}),
        ("PATCH", {"push": masked}),
        ("PUT", {"push": masked}),
    ):
        assert (await api.call(method, PHONE, second, json=document)).status_code == 200
        assert await push_filter(api) == before
    await api.call("PUT", PHONE, second, json={"push": APNS})
    assert await push_filter(api) != before


# --- Delayed messages


@pytest.mark.parametrize(
    ("message", "limits"),
    [
        ({"system": "bank", "body": 1}, {"systems": ["chat"]}),
        ({"system": "gregor", "body": {"create": {"a": {"category": "mail"}}}}, {"category_filter": ["user"]}),
        (
            {"system": "gregor", "body": {"dismiss": {"intervals": [{"category": "security.alert"}]}}},
            {"category_filter": ["user"]},
        ),
        ({"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}}, {"category_filter": ["user"]}),
        ({"system": "gregor", "body": {"create": {"a": {"category": "user", "for_device": "tablet"}}}}, {}),
        ({"system": "gregor", "body": {"create": {"a": {"category": "official"}}}}, {}),
        ({"system": "gregor", "body": {"flush": True}}, {}),
    ],
    ids=["system", "category", "interval", "ids", "for another device", "devices may not create", "reset"],
)
async def test_device_cannot_cancel_a_message_that_it_could_not_send(
    api: Api, message: dict[str, Any], limits: dict[str, Any]
) -> None:
    await api.call("PUT", "/v1/categories", json={"categories": {"official": {"devices_may_create": False}}})
    sent = await api.call("POST", MESSAGES, json={**message, "id": "m1", "not_before": LATER})
    assert sent.status_code == 200

    assert await cancel(api, "m1", api.token(**limits)) == 404
    assert await cancel(api, "m1", api.key) == 204


async def test_device_cannot_cancel_the_message_of_another_device(api: Api) -> None:
    body = {"create": {"a": {"category": "user"}}}
    await api.send("alice", body, api.token(device="tablet"), id="m1", not_before=LATER)

    assert await cancel(api, "m1", api.token()) == 404
    assert await cancel(api, "m1", api.token(device="tablet")) == 204


async def test_device_cancels_its_own_dismissal(api: Api) -> None:
    limited = api.token(category_filter=["user"])
    await api.send("alice", {"dismiss": {"ids": ["a"]}}, limited, id="m1", not_before=LATER)

    assert await cancel(api, "m1", limited) == 204


async def test_only_an_admin_key_cancels_a_reset(api: Api) -> None:
    await api.send("alice", {"flush": True}, id="m1", not_before=LATER)

    assert await cancel(api, "m1", await api.make_key("ingest")) == 404
    assert await cancel(api, "m1", await api.make_key("ingest", "admin")) == 204


# --- Categories of backends


async def test_devices_may_not_create_in_a_category_of_backends(api: Api) -> None:
    entries = {"official": {"devices_may_create": False}, "official.open": {"devices_may_create": True}}
    await api.call("PUT", "/v1/categories", json={"categories": entries})

    async def create(category: str, token: str | None = None, **members: Any) -> Any:
        return await api.send("alice", {"create": {"a": {"category": category}}}, token, **members)

    refused = await create("official.news", api.token())
    assert code_of(refused) == (403, "category_not_allowed")
    assert "devices_may_create" in refused.json()["errors"][0]["detail"]
    assert (await create("official.open", api.token())).status_code == 200
    assert code_of(await create("official", device="phone")) == (403, "category_not_allowed")
    assert (await create("official")).status_code == 200
