"""Access rules: every endpoint with every scope and every kind of device token."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from starlette.routing import Route

from gregor.auth.device_tokens import mint
from gregor.core.times import date_text
from gregor_ingest.auth.rules import ACCESS_RULES, SCOPES, AccessRule, DeviceAccess
from tests.support.api import SECRET, Api, code_of
from tests.support.wait import wait_until

SECRET_OF_KEY_SET = "a secret of a key set, long enough"
KEY = {
    "kty": "oct",
    "kid": "new",
    "alg": "HS256",
    "k": base64.urlsafe_b64encode(SECRET_OF_KEY_SET.encode()).decode().rstrip("="),
}

ALICE = {
    "uid": "alice",
    "device": "phone",
    "id": "aa",
    "key": "nosuchkey123",
    "job": "nosuchjob",
    "name": "user.joined",
    "webhook": "wh_none",
    "delivery": "bm9uZQ",
}
BODIES: dict[str, Any] = {
    "/v1/users/{uid}/messages": {"system": "gregor", "body": {"dismiss": {"ids": ["aa"]}}},
    "/v1/messages": [],
    "/v1/presence": {"uids": ["alice"]},
    "/v1/keys": {"scopes": ["read"]},
    "/v1/users/{uid}/devices/{device}": {},
    "/v1/users/{uid}/contact": {},
    "/v1/contact/suppressions": {"email": "alice@example.com"},
    "/v1/users/{uid}/preferences": {},
    "/v1/users/{uid}/quiet-hours": {},
    "/v1/categories": {"categories": {}},
    "/v1/categories/rollback": {"version": 1},
}

# http.md, "Who may call", repeated by hand: endpoint, scopes, access of device tokens.
EXPECTED = {
    "POST /v1/users/{uid}/messages": ({"ingest", "admin"}, DeviceAccess.USER),
    "POST /v1/messages": ({"ingest", "admin"}, DeviceAccess.ANY),
    "GET /v1/users/{uid}/messages": ({"ingest"}, DeviceAccess.USER),
    "DELETE /v1/users/{uid}/messages/{id}": ({"ingest"}, DeviceAccess.USER),
    "GET /v1/users/{uid}/state": ({"read"}, DeviceAccess.VIEW),
    "GET /v1/users/{uid}/sync": ({"read"}, DeviceAccess.VIEW),
    "GET /v1/users/{uid}/items/{id}": ({"read"}, DeviceAccess.VIEW),
    "GET /v1/users/{uid}/history": ({"read"}, DeviceAccess.VIEW),
    "POST /v1/tickets": ({"read"}, DeviceAccess.ANY),
    "PUT /v1/users/{uid}/devices/{device}": ({"devices"}, DeviceAccess.DEVICE),
    "PATCH /v1/users/{uid}/devices/{device}": ({"devices"}, DeviceAccess.DEVICE),
    "GET /v1/users/{uid}/devices/{device}": ({"devices"}, DeviceAccess.DEVICE),
    "DELETE /v1/users/{uid}/devices/{device}": ({"devices"}, DeviceAccess.DEVICE),
    "GET /v1/users/{uid}/devices": ({"devices"}, DeviceAccess.NOTHING),
    "PUT /v1/users/{uid}/contact": ({"devices"}, DeviceAccess.NOTHING),
    "PATCH /v1/users/{uid}/contact": ({"devices"}, DeviceAccess.NOTHING),
    "GET /v1/users/{uid}/contact": ({"devices"}, DeviceAccess.NOTHING),
    "DELETE /v1/users/{uid}/contact": ({"devices"}, DeviceAccess.NOTHING),
    "PUT /v1/users/{uid}/preferences": ({"devices"}, DeviceAccess.USER),
    "PATCH /v1/users/{uid}/preferences": ({"devices"}, DeviceAccess.USER),
    "GET /v1/users/{uid}/preferences": ({"devices"}, DeviceAccess.USER),
    "PUT /v1/users/{uid}/quiet-hours": ({"devices"}, DeviceAccess.USER),
    "GET /v1/users/{uid}/quiet-hours": ({"devices"}, DeviceAccess.USER),
    "GET /v1/users/{uid}/deliveries": ({"deliveries"}, DeviceAccess.NOTHING),
    "GET /v1/deliveries/dead": ({"deliveries"}, DeviceAccess.NOTHING),
    "DELETE /v1/deliveries/dead": ({"deliveries"}, DeviceAccess.NOTHING),
    "POST /v1/deliveries/dead/{delivery}/replay": ({"deliveries"}, DeviceAccess.NOTHING),
    "DELETE /v1/deliveries/dead/{delivery}": ({"deliveries"}, DeviceAccess.NOTHING),
    "GET /v1/contact/suppressions": ({"deliveries"}, DeviceAccess.NOTHING),
    "POST /v1/contact/suppressions": ({"deliveries"}, DeviceAccess.NOTHING),
    "DELETE /v1/contact/suppressions": ({"deliveries"}, DeviceAccess.NOTHING),
    "POST /v1/presence": ({"devices"}, DeviceAccess.NOTHING),
    "POST /v1/users/{uid}/revoke": ({"devices"}, DeviceAccess.NOTHING),
    "GET /v1/categories": ({"categories"}, DeviceAccess.NOTHING),
    "PUT /v1/categories": ({"categories"}, DeviceAccess.NOTHING),
    "POST /v1/categories/rollback": ({"categories"}, DeviceAccess.NOTHING),
    "GET /v1/categories/{name}": ({"categories"}, DeviceAccess.NOTHING),
    "PUT /v1/categories/{name}": ({"categories"}, DeviceAccess.NOTHING),
    "DELETE /v1/categories/{name}": ({"categories"}, DeviceAccess.NOTHING),
    "POST /v1/categories/{name}/preview": ({"categories"}, DeviceAccess.NOTHING),
    "POST /v1/users/{uid}/flush": ({"admin"}, DeviceAccess.NOTHING),
    "POST /v1/flush": ({"admin"}, DeviceAccess.NOTHING),
    "POST /v1/broadcast": ({"broadcast", "admin"}, DeviceAccess.NOTHING),
    "POST /v1/jobs": ({"admin"}, DeviceAccess.NOTHING),
    "GET /v1/jobs": ({"broadcast", "admin"}, DeviceAccess.NOTHING),
    "GET /v1/jobs/{job}": ({"broadcast", "admin"}, DeviceAccess.NOTHING),
    "DELETE /v1/jobs/{job}": ({"broadcast", "admin"}, DeviceAccess.NOTHING),
    "GET /v1/upgrade": ({"admin"}, DeviceAccess.NOTHING),
    "POST /v1/upgrade/finish": ({"admin"}, DeviceAccess.NOTHING),
    "GET /v1/users/{uid}/export": ({"admin"}, DeviceAccess.NOTHING),
    "DELETE /v1/users/{uid}": ({"admin"}, DeviceAccess.NOTHING),
    "POST /v1/keys": ({"admin"}, DeviceAccess.NOTHING),
    "GET /v1/keys": ({"admin"}, DeviceAccess.NOTHING),
    "GET /v1/keys/{key}": ({"admin"}, DeviceAccess.NOTHING),
    "DELETE /v1/keys/{key}": ({"admin"}, DeviceAccess.NOTHING),
    "POST /v1/keys/{key}/rotate": ({"admin"}, DeviceAccess.NOTHING),
    "GET /v1/audit": ({"admin"}, DeviceAccess.NOTHING),
    "POST /v1/webhooks": ({"admin"}, DeviceAccess.NOTHING),
    "GET /v1/webhooks": ({"admin"}, DeviceAccess.NOTHING),
    "GET /v1/webhooks/{webhook}": ({"admin"}, DeviceAccess.NOTHING),
    "PATCH /v1/webhooks/{webhook}": ({"admin"}, DeviceAccess.NOTHING),
    "DELETE /v1/webhooks/{webhook}": ({"admin"}, DeviceAccess.NOTHING),
    "POST /v1/webhooks/{webhook}/rotate": ({"admin"}, DeviceAccess.NOTHING),
}
PAGES = {"/", "/docs", "/docs/assets/{name}", "/errors", "/favicon.ico", "/openapi.json", "/asyncapi.json"}
CLIENT = {"/client/manifest.json", "/client/{name}"}
OPEN = {"/healthz", "/readyz", "/metrics", "/v1/push/webpush", *PAGES, *CLIENT}
UNSUBSCRIBE = "/v1/unsubscribe/{token}"

every_rule = pytest.mark.parametrize("rule", ACCESS_RULES, ids=lambda rule: f"{rule.method} {rule.path}")


async def ask(api: Api, rule: AccessRule, token: str, **names: str) -> tuple[int, str]:
    body = BODIES.get(rule.path, {} if rule.method != "GET" else None)
    if rule.path == "/v1/tickets" and token.startswith("gk_"):
        body = {"uid": "alice", "observe": True}
    options = {} if body is None or rule.method == "DELETE" else {"json": body}
    answer = await api.call(rule.method, rule.path.format(**{**ALICE, **names}), token, **options)
    return answer.status_code, answer.json()["code"] if answer.status_code >= 400 else ""


def test_access_rules_match_the_documentation() -> None:
    assert {f"{rule.method} {rule.path}": (set(rule.scopes), rule.device_access) for rule in ACCESS_RULES} == EXPECTED


def test_every_route_has_a_rule_or_is_open(api: Api) -> None:
    routes = [route for route in api.app.routes if isinstance(route, Route)]
    served = {(method, route.path) for route in routes for method in (route.methods or set()) - {"HEAD"}}

    assert len(routes) == len(api.app.routes)

    assert served == {(rule.method, rule.path) for rule in ACCESS_RULES} | {("GET", path) for path in OPEN} | {
        (method, UNSUBSCRIBE) for method in ("GET", "POST")
    }


@every_rule
async def test_missing_or_unknown_token_is_401(api: Api, rule: AccessRule) -> None:
    for token in ("", "gk_aaaaaaaaaaaa_" + "b" * 43, "gk_", "no.jwt.here"):
        answer = await api.call(rule.method, rule.path.format(**ALICE), token)

        assert code_of(answer) == (401, "unauthorised")
        challenge = 'Bearer realm="gregor"' + (', error="invalid_token"' if token else "")
        assert answer.headers["www-authenticate"] == challenge


@every_rule
async def test_key_needs_the_scope_of_the_rule(api: Api, rule: AccessRule) -> None:
    for scope in rule.scopes - ({"admin"} if "ingest" in rule.scopes else set()):
        assert await ask(api, rule, await api.make_key(scope)) not in ((401, "unauthorised"), (403, "forbidden"))

    others = await api.make_key(*(set(SCOPES) - rule.scopes))

    assert await ask(api, rule, others) == (403, "forbidden")


@every_rule
async def test_device_token_may_use_its_own_user(api: Api, rule: AccessRule) -> None:
    status, code = await ask(api, rule, api.token())

    if rule.device_access is DeviceAccess.NOTHING:
        assert (status, code) == (403, "forbidden")
    else:
        assert code in ("", "not_found")


@every_rule
async def test_device_token_of_another_user_is_403(api: Api, rule: AccessRule) -> None:
    if "{uid}" in rule.path or rule.device_access is DeviceAccess.NOTHING:
        assert await ask(api, rule, api.token("mallory")) == (403, "forbidden")


@every_rule
async def test_device_token_of_another_device_is_403(api: Api, rule: AccessRule) -> None:
    other = api.token(device="laptop")
    if rule.device_access is DeviceAccess.DEVICE:
        assert await ask(api, rule, other) == (403, "forbidden")
    if rule.device_access is DeviceAccess.VIEW:
        answer = await api.call(rule.method, rule.path.format(**ALICE), other, params={"device": "phone"})
        assert code_of(answer) == (403, "forbidden")


async def test_device_token_cannot_name_another_sender(api: Api) -> None:
    body = {"dismiss": {"ids": ["aa"]}}

    assert code_of(await api.send("alice", body, api.token(), device="laptop")) == (403, "forbidden")
    assert (await api.send("alice", body, api.token(), device="phone")).status_code == 200


async def test_flush_needs_admin_other_messages_ingest(api: Api) -> None:
    ingest, admin = await api.make_key("ingest"), await api.make_key("admin")

    for token in (ingest, api.token()):
        assert code_of(await api.send("alice", {"flush": True}, token)) == (403, "forbidden")
    assert (await api.send("alice", {"flush": True}, admin)).status_code == 200
    assert code_of(await api.send("alice", {"dismiss": {"ids": ["a"]}}, admin)) == (403, "forbidden")


async def test_invalid_name_in_the_path_is_422(api: Api) -> None:
    assert code_of(await api.call("GET", "/v1/users/a%20b/state")) == (422, "invalid_id")
    assert code_of(await api.call("GET", "/v1/users/-a/state")) == (422, "invalid_id")
    assert code_of(await api.call("GET", "/v1/users/alice/items/*")) == (422, "invalid_id")
    assert code_of(await api.call("GET", f"/v1/users/{'a' * 129}/state")) == (422, "invalid_id")


async def test_devices_audience_has_only_device_routes() -> None:
    async with Api(ingest_audience="devices") as api:
        for rule in ACCESS_RULES:
            status, _ = await ask(api, rule, api.token())
            is_missing = rule.device_access is DeviceAccess.NOTHING
            assert (status in (404, 405)) == is_missing or rule.path.endswith("/{id}")


async def test_devices_audience_refuses_service_keys_and_hides_docs() -> None:
    async with Api(ingest_audience="devices") as api:
        for rule in ACCESS_RULES:
            if rule.device_access is not DeviceAccess.NOTHING:
                assert await ask(api, rule, api.key) == (403, "forbidden")
        for path in ("/", "/docs", "/openapi.json"):
            assert code_of(await api.call("GET", path, "")) == (404, "not_found")


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "bearer   "])
async def test_empty_token_is_explained(api: Api, header: str) -> None:
    answer = await api.call("GET", "/v1/users/alice/state", "", headers={"Authorization": header})

    assert code_of(answer) == (401, "unauthorised")
    assert answer.json()["detail"].startswith("The token is empty: ")


async def test_403_has_insufficient_scope_challenge(api: Api) -> None:
    reader = await api.make_key("read")

    answer = await api.send("alice", {"create": {"aa": {"category": "mail"}}}, reader)

    assert code_of(answer) == (403, "forbidden")
    assert answer.headers["www-authenticate"] == 'Bearer realm="gregor", error="insufficient_scope"'


async def test_revocation_covers_tokens_of_a_clock_ahead(api: Api) -> None:
    ahead = mint(SECRET, "alice", "phone", 3_600, now_us=api.clock.now_us() + 25_000_000)
    assert (await api.call("GET", "/v1/users/alice/state", ahead)).status_code == 200

    revoked = await api.call("POST", "/v1/users/alice/revoke", json={"device": "phone"})

    assert code_of(await api.call("GET", "/v1/users/alice/state", ahead)) == (401, "unauthorised")
    assert revoked.json()["issued_before"] == api.clock.now_us() / 1e6 + 30


async def test_deletion_of_a_user_covers_tokens_of_a_clock_ahead(api: Api) -> None:
    ahead = mint(SECRET, "alice", "phone", 3_600, now_us=api.clock.now_us() + 25_000_000)

    await api.call("DELETE", "/v1/users/alice")

    assert code_of(await api.send("alice", {"dismiss": {"ids": ["a"]}}, ahead)) == (401, "unauthorised")


async def test_revocation_up_to_now_keeps_a_token_issued_next(api: Api) -> None:
    now_s = api.clock.now_us() / 1e6
    await api.call("POST", "/v1/users/alice/revoke", json={"issued_before": now_s})
    api.clock.advance(0.001)

    assert (await api.call("GET", "/v1/users/alice/state", api.token())).status_code == 200


async def test_revoked_token_is_401(api: Api) -> None:
    old = api.token()
    revoked = await api.call("POST", "/v1/users/alice/revoke", json={"device": "phone"})
    api.clock.advance(31)

    answer = await api.call("GET", "/v1/users/alice/state", old)

    assert code_of(answer) == (401, "unauthorised")
    after = date_text(revoked.json()["issued_before"] * 1_000_000 + 999_999)
    detail = f"The device token was revoked. Sign in again for a token that is issued after {after}."
    assert answer.json()["detail"] == detail
    assert (await api.call("GET", "/v1/users/alice/state", api.token())).status_code == 200
    assert (await api.call("GET", "/v1/users/alice/state", api.token(device="laptop"))).status_code == 200


async def test_key_with_prefixes_is_limited_to_them(api: Api) -> None:
    limited = await api.make_key("ingest", "read", prefixes=["user"])
    await api.create("alice", "chat", "chat.message")

    inside = await api.send("alice", {"create": {"in": {"category": "user.joined"}}}, limited)
    outside = await api.send("alice", {"create": {"out": {"category": "users"}}}, limited)
    interval = {"dismiss": {"intervals": [{"category_prefix": "", "end": 1}]}}

    assert inside.json()["created"] == ["in"]
    assert code_of(outside) == (403, "category_not_allowed")
    assert code_of(await api.send("alice", interval, limited)) == (403, "category_not_allowed")
    assert list((await api.call("GET", "/v1/users/alice/state", limited)).json()["items"]) == ["in"]


async def test_device_token_reads_its_own_view(api: Api) -> None:
    await api.create("alice", "all")
    await api.create("alice", "mine", for_device="phone")
    await api.create("alice", "theirs", for_device="laptop")
    await api.create("alice", "other", "chat.message")

    async def seen(token: str, **query: str) -> set[str]:
        return set((await api.call("GET", "/v1/users/alice/state", token, params=query)).json()["items"])

    assert await seen(api.token()) == {"all", "mine", "other"}
    assert await seen(api.token(category_filter=["user"])) == {"all", "mine"}
    assert await seen(api.token(category_filter=["user"]), category_prefix="chat") == set()
    assert await seen(api.token(), device="phone") == {"all", "mine", "other"}
    assert await seen(api.key) == {"all", "mine", "theirs", "other"}
    assert await seen(api.key, device="laptop") == {"all", "theirs", "other"}


async def test_rate_limit_of_a_device_token(api: Api) -> None:
    token = api.token()
    body = {"dismiss": {"ids": ["aa"]}}
    statuses = [(await api.send("alice", body, token)).status_code for _ in range(51)]

    assert statuses == [200] * 50 + [429]
    refused = await api.send("alice", body, token)
    assert code_of(refused) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    api.clock.advance(0.1)
    assert (await api.send("alice", body, token)).status_code == 200
    assert (await api.send("alice", body, api.token(device="laptop"))).status_code == 200


def _heavy(count: int) -> dict[str, object]:
    reminders = [f"+{n}" for n in range(1, 17)]
    return {"create": {f"i{n}": {"category": "user.x", "times": {"remind_at": reminders}} for n in range(count)}}


async def test_expensive_messages_take_more_of_the_rate(api: Api) -> None:
    token, light = api.token(), {"dismiss": {"ids": ["aa"]}}
    assert (await api.send("alice", _heavy(29), token)).status_code == 200  # 1 + 29 × 17 / 10 = 50

    assert code_of(await api.send("alice", light, token)) == (429, "rate_limited")
    api.clock.advance(0.1)
    assert (await api.send("alice", light, token)).status_code == 200


async def test_message_heavier_than_the_burst_needs_the_full_burst(api: Api) -> None:
    """Its weight is 171."""
    token = api.token()
    assert (await api.send("alice", _heavy(100), token)).status_code == 200

    assert code_of(await api.send("alice", _heavy(100), token)) == (429, "rate_limited")
    api.clock.advance(17.1)
    assert (await api.send("alice", _heavy(100), token)).status_code == 200


async def test_devices_of_a_user_share_a_rate(api: Api) -> None:
    answers = [await api.send("alice", _heavy(29), api.token(device=f"d{n}")) for n in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert (await api.send("bob", _heavy(29), api.token("bob"))).status_code == 200


async def test_expensive_lines_take_more_of_the_rate(api: Api) -> None:
    key = await api.make_key("ingest", rate=50)
    lines = [{"uid": uid, "system": "gregor", "body": _heavy(29)} for uid in ("alice", "bob")]

    answer = await api.call("POST", "/v1/messages", key, json=lines)

    assert [line.get("problem", {}).get("code") for line in answer.json()] == [None, "rate_limited"]


async def test_rate_limit_of_a_key(api: Api) -> None:
    key = await api.make_key("ingest", rate=2)
    body = {"dismiss": {"ids": ["aa"]}}

    statuses = [(await api.send("alice", body, key)).status_code for _ in range(3)]

    assert statuses == [200, 200, 429]
    api.clock.advance(0.5)
    assert (await api.send("alice", body, key)).status_code == 200


async def test_rate_limit_of_history_reads(api: Api) -> None:
    path = "/v1/users/alice/history"

    assert (await api.call("GET", path, api.token())).status_code == 200
    assert code_of(await api.call("GET", path, api.token())) == (429, "rate_limited")
    assert [(await api.call("GET", path)).status_code for _ in range(5)] == [200] * 5


async def test_errors_contain_no_secret(api: Api) -> None:
    forged = api.key[:-1] + ("a" if api.key[-1] != "a" else "b")
    for token in (forged, "x" * 9_000, api.token("mallory"), api.token() + "x"):
        answer = await api.call("GET", "/v1/users/alice/state", token)

        assert token not in answer.text
        assert SECRET not in answer.text


async def test_token_of_a_key_that_is_not_loaded_yet_may_be_repeated(tmp_path: Path) -> None:
    """A stranger has used up the load of the key set: the answer says when the next one may start."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{**KEY, "kid": "old"}]}))
    async with Api(token_jwks=str(file)) as api:
        now_s = api.clock.now_us() // 1_000_000
        claims = {"sub": "alice", "device": "phone", "iat": now_s, "exp": now_s + 3_600}
        stranger = jwt.encode(claims, SECRET_OF_KEY_SET, "HS256", {"kid": "stranger"})
        await api.call("GET", "/v1/users/alice/state", stranger)
        file.write_text(json.dumps({"keys": [KEY]}))
        token = jwt.encode(claims, SECRET_OF_KEY_SET, "HS256", {"kid": "new"})

        refused = await api.call("GET", "/v1/users/alice/state", token)
        assert (refused.status_code, refused.headers["retry-after"]) == (401, "10")
        api.clock.advance(10)
        assert (await api.call("GET", "/v1/users/alice/state", token)).status_code == 200


async def test_ingest_without_requests_of_devices_loads_its_key_set(tmp_path: Path) -> None:
    """Otherwise the first token would be checked with keys that were removed hours ago."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [KEY]}))
    async with Api(token_jwks=str(file)) as api, api.app.router.lifespan_context(api.app):
        now_s = api.clock.now_us() // 1_000_000
        claims = {"sub": "alice", "device": "phone", "iat": now_s, "exp": now_s + 3_600}
        token = jwt.encode(claims, SECRET_OF_KEY_SET, "HS256", {"kid": "new"})
        assert (await api.call("GET", "/v1/users/alice/state", token)).status_code == 200
        file.write_text(json.dumps({"keys": []}))
        api.clock.advance(600)

        tokens = api.app.state.context.authorizer._tokens
        await wait_until(lambda: tokens.removals == 1, "the key set is loaded")
        assert (await api.call("GET", "/v1/users/alice/state", token)).status_code != 200
