"""The limits of service keys: category prefixes, systems, expiry and addresses hold on every endpoint."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.store.contract.access import ServiceKey
from tests.support.api import NOW_S, Api, code_of
from tests.unit.ingest.test_rate_limit_fields import limits_of

LATER = NOW_S + 3_600
SYNC = "/v1/users/alice/sync"


async def key_with(api: Api, **document: Any) -> str:
    answer = await api.call("POST", "/v1/keys", json=document)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


async def send_external(api: Api, system: str, token: str | None = None, **members: Any) -> Any:
    message = {"system": system, "body": {"code": 1}, **members}
    return await api.call("POST", "/v1/users/alice/messages", token, json=message)


async def heard(api: Api, token: str) -> list[str]:
    cursor = (await api.call("GET", SYNC, token)).json()["cursor"].partition("-")[0] + "-0"
    answer = (await api.call("GET", SYNC, token, params={"cursor": cursor})).json()
    return [message["system"] for message in answer.get("external", ())]


# --- Prefixes and systems


@pytest.mark.parametrize("scope", ["admin", "devices", "deliveries", "categories"])
@pytest.mark.parametrize("limit", ["prefixes", "systems"])
async def test_key_with_a_limit_cannot_have_a_scope_that_ignores_it(api: Api, scope: str, limit: str) -> None:
    answer = await api.call("POST", "/v1/keys", json={"scopes": ["read", scope], limit: ["user"]})

    assert code_of(answer) == (422, "contradictory")
    [error] = answer.json()["errors"]
    assert error["pointer"] == f"/{limit}"
    assert scope in error["detail"] and f"Remove {limit}" in error["detail"]


async def test_key_with_the_prefix_of_everything_may_have_every_scope(api: Api) -> None:
    assert await key_with(api, scopes=["admin", "read"], prefixes=[""], systems=[""])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/users/alice/deliveries"),
        ("GET", "/v1/deliveries/dead"),
        ("DELETE", "/v1/deliveries/dead"),
        ("POST", "/v1/deliveries/dead/bm9uZQ/replay"),
        ("DELETE", "/v1/deliveries/dead/bm9uZQ"),
        ("GET", "/v1/users/alice/devices"),
        ("POST", "/v1/keys"),
        ("POST", "/v1/users/alice/flush"),
        ("PUT", "/v1/categories"),
    ],
)
async def test_stored_key_with_prefixes_cannot_use_unlimited_endpoints(api: Api, method: str, path: str) -> None:
    """Keys from before the check at creation."""
    token = await api.make_key("read", "ingest", "admin", "devices", "deliveries", "categories")
    await _rewrite(api, token, prefixes=("user",))

    answer = await api.call(method, path, token, json={"scopes": ["admin"]})

    assert code_of(answer) == (403, "forbidden")
    assert "with prefixes" in answer.json()["detail"]


async def _rewrite(api: Api, token: str, **changes: Any) -> None:
    keys: dict[str, ServiceKey] = api.store.access._keys  # type: ignore[attr-defined]  # as an older release stored it
    from dataclasses import replace

    keys[token[3:15]] = replace(keys[token[3:15]], **changes)
    api.app.state.context.authorizer.invalidate_keys()


async def test_key_with_prefixes_gets_no_external_messages(api: Api) -> None:
    limited = await key_with(api, scopes=["read", "ingest"], prefixes=["user"])
    await send_external(api, "bank.otp")

    assert await heard(api, limited) == []
    assert code_of(await send_external(api, "bank.otp", limited)) == (403, "forbidden")


@pytest.mark.parametrize(("path", "extra"), [("/v1/keys", {"scopes": ["read"]}), ("/v1/tickets", {"uid": "alice"})])
async def test_invalid_system_is_not_called_a_category(api: Api, path: str, extra: dict[str, Any]) -> None:
    answer = await api.call("POST", path, json={**extra, "systems": ["a b"]})

    assert code_of(answer) == (422, "invalid_id")
    detail = 'A system has dotted segments, such as kbfs.favorites, or is "" for all.'
    assert answer.json()["errors"] == [{"pointer": "/systems/0", "detail": detail}]


async def test_systems_of_a_key_hold_for_reading_and_sending(api: Api) -> None:
    limited = await key_with(api, scopes=["read", "ingest"], systems=["chat"])
    await send_external(api, "bank.otp")

    sent, refused = await send_external(api, "chat.typing", limited), await send_external(api, "bank.otp", limited)

    assert sent.status_code == 200
    assert code_of(refused) == (403, "forbidden")
    assert refused.json()["errors"][0]["pointer"] == "/system"
    assert await heard(api, limited) == ["chat.typing"]


async def test_systems_of_a_key_hold_for_batches(api: Api) -> None:
    limited = await key_with(api, scopes=["ingest"], systems=["chat"])

    answer = await api.call("POST", "/v1/messages", limited, json=[{"uid": "alice", "system": "bank.otp", "body": 1}])

    assert answer.json()[0]["problem"]["code"] == "forbidden"


async def test_key_with_prefixes_and_all_systems(api: Api) -> None:
    key = await key_with(api, scopes=["read"], prefixes=["user"], systems=[""])
    await send_external(api, "bank.otp")

    assert await heard(api, key) == ["bank.otp"]


async def test_observer_ticket_has_the_systems_of_its_key(api: Api) -> None:
    limited = await key_with(api, scopes=["read"], systems=["chat"])

    for systems, expected in ((None, ("chat",)), (["bank"], ()), (["chat.typing"], ("chat.typing",))):
        document = {"uid": "alice", "observe": True, "systems": systems}
        answer = await api.call("POST", "/v1/tickets", limited, json=document)
        ticket = await api.store.access.redeem_ticket(answer.json()["ticket"], api.clock.now_us())
        assert ticket is not None and ticket.systems == expected


async def test_dry_run_shows_deliveries_only_with_the_scope_devices(api: Api) -> None:
    await api.call("PUT", "/v1/categories", json={"categories": {"user": {"title": "t", "push": {}}}})
    message = {"system": "gregor", "body": {"create": {"a": {"category": "user"}}}}

    async def planned(*scopes: str) -> dict[str, Any]:
        token = await api.make_key(*scopes)
        answer = await api.call("POST", "/v1/users/alice/messages?dry_run=true", token, json=message)
        document: dict[str, Any] = answer.json()
        return document

    assert (await planned("ingest", "devices"))["deliveries"]
    limited = await planned("ingest")
    assert limited["deliveries"] == []
    assert limited["warnings"] == ["deliveries is empty: the service key lacks the scope devices."]


# --- Expiry, last use, addresses


async def test_expired_key_is_401_and_says_so(api: Api) -> None:
    key = await key_with(api, scopes=["read"], expires=LATER)
    assert (await api.call("GET", SYNC, key)).status_code == 200

    api.clock.advance(3_600)

    answer = await api.call("GET", SYNC, key)
    assert code_of(answer) == (401, "unauthorised")
    assert "expired" in answer.json()["detail"]


async def test_key_cannot_expire_in_the_past(api: Api) -> None:
    answer = await api.call("POST", "/v1/keys", json={"scopes": ["read"], "expires": NOW_S})

    assert code_of(answer) == (422, "invalid")
    assert answer.json()["errors"][0]["pointer"] == "/expires"


async def test_last_use_of_a_key_is_shown_to_the_minute(api: Api) -> None:
    key = await key_with(api, scopes=["read"])

    async def last_used() -> Any:
        return (await api.call("GET", f"/v1/keys/{key[3:15]}")).json()["last_used"]

    assert await last_used() is None
    await api.call("GET", SYNC, key)
    assert await last_used() == NOW_S
    api.clock.advance(59)
    await api.call("GET", SYNC, key)
    assert await last_used() == NOW_S
    api.clock.advance(1)
    await api.call("GET", SYNC, key)
    assert await last_used() == NOW_S + 60


async def test_key_is_refused_from_other_addresses() -> None:
    async with Api(trusted_proxies="127.0.0.1") as api:
        key = await key_with(api, scopes=["read"], addresses=["192.0.2.0/24", "2001:db8::/32"])

        async def status(address: str) -> int:
            return (await api.call("GET", SYNC, key, headers={"X-Forwarded-For": address})).status_code

        assert [await status(each) for each in ("192.0.2.7", "2001:db8::1")] == [200, 200]
        assert [await status(each) for each in ("192.0.3.7", "2001:db9::1")] == [403, 403]
        refused = await api.call("GET", SYNC, key)
        assert code_of(refused) == (403, "forbidden")
        assert "addresses" in refused.json()["detail"]


async def test_requests_from_other_addresses_leave_the_key_alone() -> None:
    """Such requests neither take from the rate of the key, nor count as a use by its backend."""
    async with Api(trusted_proxies="127.0.0.1", device_request_burst=5) as api:
        key = await key_with(api, scopes=["read"], rate=1, addresses=["192.0.2.0/24"])

        async def ask(address: str, path: str = SYNC) -> httpx.Response:
            return await api.call("GET", path, key, headers={"X-Forwarded-For": address})

        async def last_used() -> Any:
            return (await api.call("GET", f"/v1/keys/{key[3:15]}")).json()["last_used"]

        assert (await ask("192.0.3.7")).status_code == 403
        assert await last_used() is None
        before = limits_of(await ask("192.0.2.7"))["requests"][2]
        assert await last_used() == NOW_S
        api.clock.advance(0.2)
        foreign = [(await ask("192.0.3.7", path)).status_code for path in (SYNC, "/v1/keys") for _ in range(9)]
        after = limits_of(await ask("192.0.2.7"))["requests"][2]

    assert set(foreign) == {403}
    assert before - after == 1


async def test_forwarded_address_counts_only_from_a_trusted_proxy(api: Api) -> None:
    key = await key_with(api, scopes=["read"], addresses=["192.0.2.0/24"])

    answer = await api.call("GET", SYNC, key, headers={"X-Forwarded-For": "192.0.2.7"})

    assert code_of(answer) == (403, "forbidden")
    assert "You come from 127.0.0.1," in answer.json()["detail"]


@pytest.mark.parametrize("addresses", [[], ["192.0.2.1/24"], ["example.com"], [1]])
async def test_invalid_addresses_of_a_key_are_refused(api: Api, addresses: list[Any]) -> None:
    answer = await api.call("POST", "/v1/keys", json={"scopes": ["read"], "addresses": addresses})

    assert code_of(answer) == (422, "invalid")


async def test_expiry_of_the_own_key_is_a_date_in_the_error(api: Api) -> None:
    admin = await key_with(api, scopes=["admin"], expires=1_796_134_600.093)

    answer = await api.call("POST", "/v1/keys", admin, json={"scopes": ["read"]})

    assert "The key of this request expires at 2026-12-01 14:16:40 UTC." in answer.json()["detail"]


async def test_key_cannot_create_one_that_may_do_more() -> None:
    async with Api(trusted_proxies="127.0.0.1") as api:
        admin = await key_with(api, scopes=["admin"], rate=50, expires=LATER, addresses=["192.0.2.0/24"])

        async def ask(**document: Any) -> Any:
            headers = {"X-Forwarded-For": "192.0.2.7"}
            return await api.call("POST", "/v1/keys", admin, headers, json={"scopes": ["read"], "rate": 50} | document)

        for document, pointer in (
            ({"rate": None, "expires": LATER, "addresses": ["192.0.2.0/25"]}, "/rate"),
            ({"rate": 50.5, "expires": LATER, "addresses": ["192.0.2.0/25"]}, "/rate"),
            ({"addresses": ["192.0.2.0/25"]}, "/expires"),
            ({"addresses": ["192.0.2.0/25"], "expires": LATER + 1}, "/expires"),
            ({"expires": LATER}, "/addresses"),
            ({"expires": LATER, "addresses": ["192.0.0.0/16"]}, "/addresses"),
            ({"expires": LATER, "addresses": ["2001:db8::/32"]}, "/addresses"),
        ):
            answer = await ask(**document)
            assert code_of(answer) == (403, "forbidden")
            assert answer.json()["errors"][0]["pointer"] == pointer
        assert (await ask(expires=LATER, addresses=["192.0.2.0/25"])).status_code == 201


async def test_key_cannot_rotate_one_that_may_do_more() -> None:
    """The answer has the new secret, so it would be another way to a stronger key."""
    async with Api(trusted_proxies="127.0.0.1") as api:
        limits = {"rate": 50, "expires": LATER, "addresses": ["192.0.2.0/24"]}
        admin = await key_with(api, scopes=["admin"], **limits)
        others = [
            await key_with(api, scopes=["admin"], **one)
            for one in ({}, {"rate": 50}, {"rate": 50, "expires": LATER}, limits)
        ]

        async def ask(key: str) -> Any:
            return await api.call("POST", f"/v1/keys/{key[3:15]}/rotate", admin, {"X-Forwarded-For": "192.0.2.7"})

        answers = [await ask(key) for key in (*others, admin)]
        unknown = await ask("gk_aaaaaaaaaaaa")

    assert [answer.status_code for answer in answers] == [403, 403, 403, 200, 200]
    reasons = ("rate of 50", "expires", "192.0.2.0/24")
    assert all(reason in answer.json()["detail"] for reason, answer in zip(reasons, answers, strict=False))
    assert code_of(unknown) == (404, "not_found")


# --- Ids of delayed messages


@pytest.mark.parametrize("limit", [{"systems": ["chat"]}, {"prefixes": ["user"]}, {"systems": ["chat"], "rate": 100}])
@pytest.mark.parametrize("length", [1, 7_000])
async def test_key_learns_nothing_of_delayed_messages_that_it_could_not_send(
    api: Api, limit: dict[str, Any], length: int
) -> None:
    limited = await key_with(api, scopes=["ingest", "read"], **limit)
    body = {"create": {"a": {"category": "mail", "body": "x" * length}}}
    for message in ({"system": "bank", "body": "x" * length}, {"system": "gregor", "body": body}):
        members = {**message, "id": f"m-{message['system']}", "not_before": LATER}
        assert (await api.call("POST", "/v1/users/alice/messages", json=members)).status_code == 200

    answers = [
        await api.call("DELETE", f"/v1/users/alice/messages/{name}", limited)
        for name in ("m-bank", "m-gregor", "m-none")
    ]

    own = ["m-gregor"] if "prefixes" not in limit else ["m-bank"]  # a limit of systems does not limit categories
    refused = [
        answer for answer, name in zip(answers, ("m-bank", "m-gregor", "m-none"), strict=True) if name not in own
    ]
    assert [code_of(answer) for answer in refused] == [(404, "not_found")] * 2
    bodies = [{**answer.json(), "request_id": "", "instance": ""} for answer in refused]
    assert bodies[0] == bodies[1]
    fields = [{name for name in answer.headers if name != "x-request-id"} for answer in refused]
    assert fields[0] == fields[1]
    assert (await api.call("GET", "/v1/users/alice/messages", limited)).json() == {"messages": []}


@pytest.mark.parametrize("limit", [{"systems": ["chat"]}, {"prefixes": ["user"]}])
async def test_limited_key_cannot_cancel_a_message_above_the_present_limits(api: Api, limit: dict[str, Any]) -> None:
    """Such a message cannot be parsed, so its rights are unknown: only an unlimited key cancels it."""
    document = {"system": "bank", "id": "m1", "not_before": LATER, "body": "x", "unknown": "member"}
    await api.store.agenda.delay("alice", "m1", DelayedMessage(document, Sender()).encode(), LATER * 1_000_000)
    limited = await key_with(api, scopes=["ingest"], **limit)

    assert code_of(await api.call("DELETE", "/v1/users/alice/messages/m1", limited)) == (404, "not_found")
    assert (await api.call("DELETE", "/v1/users/alice/messages/m1")).status_code == 204
