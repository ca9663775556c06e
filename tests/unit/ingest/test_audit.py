"""The audit trail: one event for each write of a service key, in the store and in the log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from gregor.cli.commands.audit import ACTS
from gregor.store.contract.store import Unavailable
from gregor.store.contract.suppressions import hash_of
from gregor.store.deleted_users import user_id_hash
from gregor.telemetry import redact
from gregor_ingest.audit import AUDITED_READS, AUDITED_SCOPES, READS_BY_POST
from tests.support.api import NOW_S, Api, code_of

NAMES = {
    "uid": "alice",
    "device": "phone",
    "id": "aa",
    "key": "nosuchkey123",
    "name": "user.joined",
    "webhook": "wh_none",
    "delivery": "bm9uZQ",
    "job": "flush-0000000000000000",
}
BODIES: dict[str, Any] = {
    "createKey": {"scopes": ["read"]},
    "putDevice": {},
    "putContact": {},
    "patchContact": {},
    "putPreferences": {},
    "patchPreferences": {},
    "putCategories": {"categories": {}},
    "createWebhook": {"url": "https://example.com/hook"},
    "sendMessage": {"system": "gregor", "body": {"flush": True}},
    "sendMessages": [{"uid": "alice", "system": "gregor", "body": {"flush": True}}],
    "suppressAddress": {"email": "alice@example.com"},
}


async def trail(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = await api.call("GET", "/v1/audit", params=query)
    assert answer.status_code == 200
    events: list[dict[str, Any]] = answer.json()["entries"]
    return events


async def writes(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the write operations of the audited scopes, from the OpenAPI document."""
    document = (await api.call("GET", "/openapi.json", "")).json()
    return [
        (method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for scheme in operation["security"]
        if method != "get" and path not in READS_BY_POST and AUDITED_SCOPES & set(scheme.get("serviceKey", ()))
    ]


async def test_every_write_of_the_audited_scopes_has_an_event(api: Api) -> None:
    found = await writes(api)
    assert len(found) >= 30

    for method, path, operation in found:
        before = await trail(api)
        body = BODIES.get(operation["operationId"], {})
        answer = await api.call(method, path.format(**NAMES), json=body)
        newest, *older = await trail(api)

        assert older == before, f"{method} {path} has not exactly one audit event"
        act = operation["operationId"]
        assert newest["act"] == ("flushUser" if act.startswith("sendMessage") else act)
        assert newest["outcome"] == ("ok" if answer.status_code < 400 else answer.json()["code"])
        assert newest["request_id"] == answer.headers["x-request-id"]
        assert newest["key"] == api.key[3:15]
        assert newest["client"] == "127.0.0.1"
        assert newest["at"] == NOW_S


async def test_command_line_knows_the_acts(api: Api) -> None:
    """`--act` refuses any other one."""
    document = (await api.call("GET", "/openapi.json", "")).json()
    exports = {document["paths"][path]["get"]["operationId"] for path in AUDITED_READS}
    found = {operation["operationId"] for _, _, operation in await writes(api)} | exports

    # Of the messages, only a reset has an event: that of its endpoint.
    assert set(ACTS) == {act for act in found if not act.startswith("sendMessage")}


async def test_reads_and_ordinary_messages_have_no_event(api: Api) -> None:
    await api.create("alice", "aa")
    await api.call("GET", "/v1/keys")
    await api.call("POST", "/v1/presence", json={"uids": ["alice"]})
    await api.call("PUT", "/v1/categories?dry_run=true", json={"categories": {}})

    assert await trail(api) == []


async def test_events_name_their_target_without_the_user_id(api: Api) -> None:
    made = (await api.call("POST", "/v1/keys", json={"scopes": ["read"]})).json()
    await api.call("PUT", "/v1/users/alice/devices/alice-phone", json={})
    await api.call("DELETE", "/v1/users/alice")

    deleted, device, created = await trail(api)

    assert created["target"] == {"created": made["id"], "scopes": "read"}
    assert device["target"] == {"uid": user_id_hash("alice"), "device": user_id_hash("alice-phone")}
    assert deleted["target"] == {"uid": user_id_hash("alice")}
    assert "alice" not in json.dumps([deleted, device, created])


async def test_event_of_a_new_key_has_its_scopes_and_limits(api: Api) -> None:
    limits = {"prefixes": ["user", "chat"], "systems": [""], "addresses": ["192.0.2.0/24", "198.51.100.7"], "rate": 5}
    document = {"scopes": ["read", "ingest"], "expires": NOW_S + 60, "name": "of alice", **limits}
    made = (await api.call("POST", "/v1/keys", json=document)).json()

    [created] = await trail(api)

    assert created["target"] == {
        "created": made["id"], "scopes": "ingest,read", "prefixes": "chat,user", "systems": '""',
        "addresses": "192.0.2.0/24,198.51.100.7/32", "rate": "5", "expires": str(NOW_S + 60),
    }  # fmt: skip


async def test_event_of_a_new_key_is_bounded_and_has_no_secret(api: Api) -> None:
    secret = f"gk_{'a' * 12}_{'b' * 43}"
    prefixes = [f"p{number}.{'x' * 40}" for number in range(20)]
    await api.call("POST", "/v1/keys", json={"scopes": ["read"], "prefixes": prefixes})
    await api.call("POST", "/v1/keys", json={"scopes": ["read"], "prefixes": [], "systems": [secret]})

    secretive, long = await trail(api)

    assert (len(long["target"]["prefixes"]), long["target"]["prefixes"][-1]) == (128, "…")
    assert (secretive["target"]["prefixes"], secretive["target"]["systems"]) == ("[]", "…")


async def test_events_name_the_device_and_the_address(api: Api) -> None:
    for body in ({"device": "phone"}, {}):
        await api.call("POST", "/v1/users/alice/revoke", json=body)
    await api.call("POST", "/v1/contact/suppressions", json={"email": "alice@example.com"})
    await api.call("DELETE", "/v1/contact/suppressions", json={"email": "alice@example.com"})

    released, suppressed, every, one = await trail(api)

    assert [each["target"]["device"] for each in (one, every)] == [user_id_hash("phone"), "*"]
    assert released["target"] == suppressed["target"] == {"address": hash_of("alice@example.com")}


async def test_device_tokens_have_no_events(api: Api) -> None:
    await api.call("PUT", "/v1/users/alice/devices/phone", api.token(), json={})
    await api.call("DELETE", "/v1/users/alice", api.token())

    assert await trail(api) == []


async def test_refused_key_is_logged_and_not_stored(api: Api) -> None:
    reader = await api.make_key("read")

    with capture_logs() as logs:
        assert code_of(await api.call("DELETE", "/v1/users/alice", reader)) == (403, "forbidden")
        assert code_of(await api.call("DELETE", "/v1/users/alice", reader[:-1] + "_")) == (401, "unauthorised")

    [event] = [line for line in logs if line["event"] == "audit"]
    assert (event["key_id"], event["act"], event["outcome"]) == (reader[3:15], "deleteUser", "forbidden")
    assert await trail(api) == []


async def test_flood_of_refused_writes_does_not_flood_the_log(api: Api) -> None:
    reader = await api.make_key("read")

    with capture_logs() as logs:
        for _ in range(300):
            assert code_of(await api.call("DELETE", "/v1/users/alice", reader)) == (403, "forbidden")
        api.clock.advance(1)
        await api.call("DELETE", "/v1/users/alice", reader)

    events = [line for line in logs if line["event"] == "audit"]
    assert len(events) < 150
    assert len(events) + sum(line["suppressed"] for line in events) == 301


async def test_refused_writes_take_from_the_rate_of_the_key(api: Api) -> None:
    answer = await api.call("POST", "/v1/keys", json={"scopes": ["ingest"], "rate": 1})
    limited = answer.json()["key"]

    burst = api.settings.limits.device_request_burst
    for _ in range(burst):
        assert code_of(await api.call("DELETE", "/v1/users/alice", limited)) == (403, "forbidden")
    assert code_of(await api.call("DELETE", "/v1/users/alice", limited)) == (429, "rate_limited")


async def test_writes_above_the_rate_of_a_key_displace_no_events(api: Api) -> None:
    answer = await api.call("POST", "/v1/keys", json={"scopes": ["devices"], "rate": 1})
    limited, burst = answer.json()["key"], api.settings.limits.device_request_burst

    with capture_logs() as logs:
        answers = [await api.call("DELETE", "/v1/users/alice/contact", limited) for _ in range(burst + 100)]

    assert [code_of(each) for each in answers[burst:]] == [(429, "rate_limited")] * 100
    assert len([line for line in logs if line["event"] == "audit"]) == burst
    assert len([event for event in await trail(api) if event["act"] == "deleteContact"]) <= burst


@pytest.mark.parametrize("device", ["phone", "z" * 60_000])
async def test_unchecked_key_has_no_event(device: str) -> None:
    async with Api(ingest_audience="devices") as api:
        with capture_logs() as logs:
            answer = await api.call("DELETE", f"/v1/users/alice/devices/{device}", f"gk_{'a' * 12}_{'A' * 43}")

        assert code_of(answer) == (403, "forbidden")
        assert [line for line in logs if line["event"] == "audit"] == []
        assert metric(api, "gregor_auth_failures_total", reason="key_not_accepted") == 1


async def test_invalid_query_has_its_own_outcome(api: Api) -> None:
    answer = await api.call("PUT", "/v1/categories/mail?dry_run=perhaps", json={})

    assert code_of(answer) == (422, "invalid")
    assert (await trail(api))[0]["outcome"] == "invalid"


async def test_event_in_the_store_names_no_user_by_its_request_id(api: Api) -> None:
    """The event outlives its user. The log has the id as it was sent, and so has the response."""
    with capture_logs() as lines:
        answer = await api.call("DELETE", "/v1/users/alice", headers={"X-Request-Id": "delete-alice-1"})

    assert answer.headers["x-request-id"] == "delete-alice-1"
    assert [line["request_id"] for line in lines if line["event"] == "audit"] == ["delete-alice-1"]
    assert (await trail(api))[0]["request_id"] == "delete-…-1"


async def test_long_targets_are_cut(api: Api) -> None:
    reader = await api.make_key("read")

    with capture_logs() as logs:
        answer = await api.call("DELETE", f"/v1/webhooks/{'z' * 60_000}", reader)

    assert code_of(answer) == (403, "forbidden")
    [event] = [line for line in logs if line["event"] == "audit"]
    assert event["target"] == {"webhook": "z" * 128}


async def test_event_is_in_the_log(api: Api) -> None:
    with capture_logs() as logs:
        await api.call("POST", "/v1/flush")

    [event] = [line for line in logs if line["event"] == "audit"]
    assert (event["key_id"], event["act"], event["outcome"]) == (api.key[3:15], "flushAll", "ok")


async def test_event_about_a_key_names_its_id_and_no_secret(api: Api) -> None:
    """Fields with the name of a secret are redacted in the log, but the id of a key is not secret."""
    other, reader = await api.make_key("read"), await api.make_key("read")
    key_id, secret = other[3:15], other[16:]

    with capture_logs() as logs:
        await api.call("POST", f"/v1/keys/{key_id}/rotate")
        await api.call("DELETE", f"/v1/keys/{key_id}")
        await api.call("DELETE", f"/v1/keys/{key_id}", reader)
        await api.call("DELETE", f"/v1/keys/{other}")
        await api.call("DELETE", f"/v1/keys/{other}", reader)
        await api.call("DELETE", f"/v1/keys/{secret}", reader)

    events = [redact(None, "info", line) for line in logs if line["event"] == "audit"]
    assert [event["target"] for event in events] == [{"key_id": key_id}] * 5 + [{"key_id": "…"}]
    assert secret not in str(events)
    assert [event["target"] for event in await trail(api)][:3] == [{"key": key_id}] * 3


async def test_write_succeeds_if_its_event_cannot_be_stored(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_event: bytes) -> None:
        raise Unavailable("connection lost")

    monkeypatch.setattr(api.store.access, "append_audit", fail)

    with capture_logs() as logs:
        assert (await api.call("POST", "/v1/flush")).status_code == 202

    assert "audit.not_stored" in [line["event"] for line in logs]


async def test_audit_trail_is_paged_newest_first(api: Api) -> None:
    for spread in range(5):
        await api.call("POST", "/v1/flush", headers={"X-Request-Id": f"r{spread}"}, json={"spread": spread})

    seen, path = [], "/v1/audit?limit=2"
    while path:
        answer = await api.call("GET", path)
        seen += [event["request_id"] for event in answer.json()["entries"]]
        path = answer.links["next"]["url"] if "next" in answer.links else ""

    assert seen == ["r4", "r3", "r2", "r1", "r0"]
    assert code_of(await api.call("GET", "/v1/audit?before=x")) == (422, "invalid")


async def test_audit_trail_needs_the_scope_admin(api: Api) -> None:
    others = await api.make_key("ingest", "read", "devices", "deliveries", "categories")

    assert code_of(await api.call("GET", "/v1/audit", others)) == (403, "forbidden")


# --- Metrics


def metric(api: Api, name: str, **labels: str) -> float:
    return api.app.state.context.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_failed_sign_ins_are_counted_by_reason(api: Api) -> None:
    expired, elsewhere = await api.make_key("read", expires_us=1), await api.make_key("read", addresses=["192.0.2.1"])
    old = api.token()
    await api.call("POST", "/v1/users/alice/revoke", json={"device": "phone"})
    late = api.token(device="laptop")

    async def reason_of(token: str, path: str = "/v1/users/alice/state") -> list[str]:
        reasons = ["missing", "key_invalid", "key_expired", "key_scope", "key_address"]
        reasons += ["token_invalid", "token_expired", "token_revoked", "token_device"]
        before = {each: metric(api, "gregor_auth_failures_total", reason=each) for each in reasons}
        await api.call("GET", path, token)
        return [each for each in reasons if metric(api, "gregor_auth_failures_total", reason=each) > before[each]]

    assert await reason_of("") == ["missing"]
    assert await reason_of("gk_x") == ["key_invalid"]
    assert await reason_of(expired) == ["key_expired"]
    assert await reason_of(elsewhere) == ["key_address"]
    assert await reason_of(await api.make_key("ingest")) == ["key_scope"]
    assert await reason_of("a.b.c") == ["token_invalid"]
    assert await reason_of(old) == ["token_revoked"]
    assert await reason_of(late, "/v1/keys") == ["token_device"]
    assert await reason_of(late) == []
    api.clock.advance(4_000)
    assert await reason_of(late) == ["token_expired"]


async def test_refused_origins_are_counted_and_logged_once(api: Api) -> None:
    with capture_logs() as logs:
        for n in range(3):
            await api.call("GET", "/healthz", headers={"Origin": f"https://evil{n}.example"})

    assert metric(api, "gregor_origins_refused_total") == 3
    assert [line["origin"] for line in logs if line["event"] == "origin.refused"] == ["https://evil0.example"]


async def test_reached_rate_limits_are_counted(api: Api) -> None:
    key = await api.make_key("ingest", rate=1)
    for _ in range(2):
        await api.send("alice", {"dismiss": {"ids": ["a"]}}, key)
        await api.call("GET", "/v1/users/alice/history", api.token())

    assert metric(api, "gregor_limits_reached_total", limit="messages") == 1
    assert metric(api, "gregor_limits_reached_total", limit="history") == 1
