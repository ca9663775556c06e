"""The table endpoint × restriction of the documentation: it equals the code, and each of its cells holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gregor.store.service_keys import LIMITABLE_SCOPES
from gregor_ingest.auth.rules import ACCESS_RULES, CATEGORIES, AccessRule, DeviceAccess
from tests.support.access_table import APPLIED, PAGE, REFUSED, RESTRICTIONS, cell, with_current_table
from tests.support.api import NOW_S, Api

NAMES = {
    "uid": "alice",
    "device": "phone",
    "id": "out",
    "key": "nosuchkey123",
    "job": "nosuchjob",
    "name": "user.joined",
    "webhook": "wh_none",
    "delivery": "bm9uZQ",
}
MESSAGES = "/v1/users/alice/messages"
OUTSIDE = {"system": "gregor", "body": {"create": {"out": {"category": "security"}}}}
FOREIGN = {"system": "bank", "body": 1}

Check = Callable[[Api, str], Awaitable[bool]]
"""Returns whether a restricted caller is kept from what is outside of its limits."""


def test_access_table_equals_the_rules() -> None:
    text = PAGE.read_text("utf-8")

    assert "<!-- access: generated -->" in text
    assert with_current_table(text) == text, "run: python -m tests.support.access_table"


def test_every_endpoint_of_limited_keys_applies_prefixes() -> None:
    assert all(CATEGORIES in rule.limits for rule in ACCESS_RULES if rule.scopes & LIMITABLE_SCOPES)


# --- What is outside of the limits


async def _send(api: Api, token: str, message: dict[str, Any]) -> bool:
    return (await api.call("POST", MESSAGES, token, json=message)).status_code == 403


async def _send_batch(api: Api, token: str, message: dict[str, Any]) -> bool:
    answer = await api.call("POST", "/v1/messages", token, json=[{"uid": "alice", **message}])
    return answer.json()[0]["problem"]["code"] in ("forbidden", "category_not_allowed")


async def _cancel(api: Api, token: str, message: dict[str, Any]) -> bool:
    sent = await api.call("POST", MESSAGES, json={**message, "id": "m1", "not_before": NOW_S + 60})
    assert sent.status_code == 200
    return (await api.call("DELETE", f"{MESSAGES}/m1", token)).status_code == 404


async def _list(api: Api, token: str, message: dict[str, Any]) -> bool:
    sent = await api.call("POST", MESSAGES, json={**message, "id": "m1", "not_before": NOW_S + 60})
    assert sent.status_code == 200
    answer = await api.call("GET", MESSAGES, token)
    return answer.status_code == 200 and "m1" not in answer.text


async def _read(api: Api, token: str, path: str) -> bool:
    """Only the item inside of the limits is read."""
    await api.create("alice", "in", "user.joined")
    await api.create("alice", "out", "security")
    answer = await api.call("GET", path, token)
    return answer.status_code == 404 or ('"in"' in answer.text and '"out"' not in answer.text)


async def _read_item(api: Api, token: str) -> bool:
    is_hidden = await _read(api, token, "/v1/users/alice/items/out")
    return is_hidden and (await api.call("GET", "/v1/users/alice/items/in", token)).status_code == 200


async def _sync_systems(api: Api, token: str) -> bool:
    cursor = (await api.call("GET", "/v1/users/alice/sync", token)).json()["cursor"].partition("-")[0] + "-0"
    for system in ("bank", "chat"):
        await api.call("POST", MESSAGES, json={"system": system, "body": 1})
    answer = await api.call("GET", "/v1/users/alice/sync", token, params={"cursor": cursor})
    return [message["system"] for message in answer.json()["external"]] == ["chat"]


async def _ticket(api: Api, token: str) -> Any:
    body = {"uid": "alice", "observe": True} if token.startswith("gk_") else {}
    answer = await api.call("POST", "/v1/tickets", token, json=body)
    return await api.store.access.redeem_ticket(answer.json()["ticket"], api.clock.now_us())


async def _ticket_prefixes(api: Api, token: str) -> bool:
    return bool((await _ticket(api, token)).prefixes == ("user",))


async def _ticket_systems(api: Api, token: str) -> bool:
    return bool((await _ticket(api, token)).systems == ("chat",))


async def _read_preferences(api: Api, token: str) -> bool:
    await api.call("PUT", "/v1/users/alice/preferences", json={"security": {"push": True}, "user": {"push": True}})
    return list((await api.call("GET", "/v1/users/alice/preferences", token)).json()) == ["user"]


def _change_preferences(method: str) -> Check:
    async def check(api: Api, token: str) -> bool:
        answer = await api.call(method, "/v1/users/alice/preferences", token, json={"security": {"push": False}})
        return answer.status_code == 403

    return check


async def _change_quiet_hours(api: Api, token: str) -> bool:
    answer = await api.call("PUT", "/v1/users/alice/quiet-hours", token, json={"timezone": "Europe/Rome"})
    return answer.status_code == 403


async def _forget_device(api: Api, token: str, message: dict[str, Any]) -> bool:
    """The item for the device, and its delayed message, stay."""
    await api.create("alice", "own", "security", for_device="phone")
    sent = await api.call("POST", MESSAGES, api.token(), json={**message, "id": "m1", "not_before": NOW_S + 60})
    assert sent.status_code == 200
    assert (await api.call("DELETE", "/v1/users/alice/devices/phone", token)).status_code == 204
    stays = "own" in (await api.call("GET", "/v1/users/alice/state")).text or message is FOREIGN
    return stays and "m1" in (await api.call("GET", MESSAGES)).text


def _register_push(method: str) -> Check:
    async def check(api: Api, token: str) -> bool:
        push = {"provider": "apns", "token": "ab12"}
        await api.call(method, "/v1/users/alice/devices/phone", token, json={"push": push})
        found = await api.store.devices.device("alice", "phone", api.clock.now_us())
        return found is not None and found[0].push_filter == ("user",)

    return check


CATEGORY_CHECKS: dict[str, Check] = {
    "POST /v1/users/{uid}/messages": lambda api, token: _send(api, token, OUTSIDE),
    "POST /v1/messages": lambda api, token: _send_batch(api, token, OUTSIDE),
    "GET /v1/users/{uid}/messages": lambda api, token: _list(api, token, OUTSIDE),
    "DELETE /v1/users/{uid}/messages/{id}": lambda api, token: _cancel(api, token, OUTSIDE),
    "GET /v1/users/{uid}/state": lambda api, token: _read(api, token, "/v1/users/alice/state"),
    "GET /v1/users/{uid}/sync": lambda api, token: _read(api, token, "/v1/users/alice/sync"),
    "GET /v1/users/{uid}/history": lambda api, token: _read(api, token, "/v1/users/alice/history"),
    "GET /v1/users/{uid}/items/{id}": _read_item,
    "POST /v1/tickets": _ticket_prefixes,
    "PUT /v1/users/{uid}/devices/{device}": _register_push("PUT"),
    "PATCH /v1/users/{uid}/devices/{device}": _register_push("PATCH"),
    "DELETE /v1/users/{uid}/devices/{device}": lambda api, token: _forget_device(api, token, OUTSIDE),
    "GET /v1/users/{uid}/preferences": _read_preferences,
    "PUT /v1/users/{uid}/preferences": _change_preferences("PUT"),
    "PATCH /v1/users/{uid}/preferences": _change_preferences("PATCH"),
    "PUT /v1/users/{uid}/quiet-hours": _change_quiet_hours,
}
SYSTEM_CHECKS: dict[str, Check] = {
    "DELETE /v1/users/{uid}/devices/{device}": lambda api, token: _forget_device(api, token, FOREIGN),
    "POST /v1/users/{uid}/messages": lambda api, token: _send(api, token, FOREIGN),
    "POST /v1/messages": lambda api, token: _send_batch(api, token, FOREIGN),
    "GET /v1/users/{uid}/messages": lambda api, token: _list(api, token, FOREIGN),
    "DELETE /v1/users/{uid}/messages/{id}": lambda api, token: _cancel(api, token, FOREIGN),
    "GET /v1/users/{uid}/sync": _sync_systems,
    "POST /v1/tickets": _ticket_systems,
}


async def _restricted(api: Api, restriction: str) -> str:
    """Return a key or token with the restriction: to the categories below `user`, or to the system `chat`."""
    if restriction == "prefixes of a key":
        return await api.make_key(*LIMITABLE_SCOPES, prefixes=["user"])
    if restriction == "systems of a key":
        return await api.make_key(*LIMITABLE_SCOPES, systems=["chat"])
    if restriction == "cats of a token":
        return api.token(category_filter=["user"])
    return api.token(systems=["chat"])


@pytest.mark.parametrize("restriction", RESTRICTIONS)
@pytest.mark.parametrize("rule", ACCESS_RULES, ids=lambda rule: f"{rule.method} {rule.path}")
async def test_restriction_holds_on_endpoint(api: Api, rule: AccessRule, restriction: str) -> None:
    endpoint, token = f"{rule.method} {rule.path}", await _restricted(api, restriction)
    meaning = cell(rule, restriction)

    if meaning == APPLIED:
        checks = SYSTEM_CHECKS if restriction.startswith("systems") else CATEGORY_CHECKS
        assert await checks[endpoint](api, token), f"{endpoint} does not apply the {restriction}"
        return
    answer = await api.call(rule.method, rule.path.format(**NAMES), token, json={})
    is_refused = meaning == REFUSED or ("token" in restriction and rule.device_access is DeviceAccess.NOTHING)
    assert (answer.status_code == 403) == is_refused
