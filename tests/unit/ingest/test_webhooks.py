"""Webhooks over HTTP: create, list, change, rotate, delete; and which URLs are refused."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.core.notify.webhook_signature import decode_secret
from tests.support.api import NOW_S, Api, code_of

URL = "https://example.com/gregor?team=1"


async def make(api: Api, **document: Any) -> dict[str, Any]:
    answer = await api.call("POST", "/v1/webhooks", json={"url": URL, **document})
    assert answer.status_code == 201, answer.json()
    assert answer.headers["cache-control"] == "no-store"
    made: dict[str, Any] = answer.json()
    return made


async def test_webhook_is_created_listed_and_deleted(api: Api) -> None:
    made = await make(api, events=["item.expired", "item.acked", "item.acked"], category_prefix="user.", name="CRM")
    shown = {name: value for name, value in made.items() if name != "secret"}

    assert len(decode_secret(made["secret"])) == 32
    assert shown == {
        "id": made["id"], "url": URL, "events": ["item.acked", "item.expired"], "category_prefix": ["user"],
        "name": "CRM", "created": NOW_S, "enabled": True, "disabled": None,
    }  # fmt: skip
    assert (await api.call("GET", "/v1/webhooks")).json() == {"webhooks": [shown]}
    assert (await api.call("GET", f"/v1/webhooks/{made['id']}")).json() == shown
    for _ in range(2):
        assert (await api.call("DELETE", f"/v1/webhooks/{made['id']}")).status_code == 204
    assert (await api.call("GET", "/v1/webhooks")).json() == {"webhooks": []}
    assert code_of(await api.call("GET", f"/v1/webhooks/{made['id']}")) == (404, "not_found")


async def test_webhook_gets_all_events_by_default(api: Api) -> None:
    made = await make(api)

    assert (made["events"], made["category_prefix"]) == (None, None)
    assert (await make(api, category_prefix=["mail", "", "user"]))["category_prefix"] is None
    assert (await make(api, category_prefix=["user.joined", "user", "mail"]))["category_prefix"] == ["mail", "user"]


async def test_new_webhook_is_active_at_once(api: Api) -> None:
    made = await make(api, events=["item.dismissed"])
    noted = api.store.recorded_events.removals
    await api.call("PATCH", f"/v1/webhooks/{made['id']}", json={"events": ["delivery.dead"]})
    changed = api.store.recorded_events.removals
    await api.call("PATCH", f"/v1/webhooks/{made['id']}", json={"events": None})
    await api.call("DELETE", f"/v1/webhooks/{made['id']}")

    assert (noted, changed, api.store.recorded_events.removals) == (True, False, False)


async def test_webhook_patch_keeps_the_secret(api: Api) -> None:
    made = await make(api, events=["item.acked"], category_prefix="user", name="CRM")
    path = f"/v1/webhooks/{made['id']}"
    kind = {"Content-Type": "application/merge-patch+json"}

    moved = await api.call("PATCH", path, content=b'{"url":"https://other.example/"}', headers=kind)
    cleared = await api.call("PATCH", path, json={"events": None, "category_prefix": None, "name": None})
    off = await api.call("PATCH", path, json={"enabled": False})
    on = await api.call("PATCH", path, json={"enabled": True})

    assert moved.json() == {**(await api.call("GET", path)).json(), **_of(made), "url": "https://other.example/"}
    assert (cleared.json()["events"], cleared.json()["category_prefix"], cleared.json()["name"]) == (None, None, None)
    assert (off.json()["enabled"], off.json()["disabled"]) == (False, {"at": NOW_S, "reason": None})
    assert (on.json()["enabled"], on.json()["disabled"]) == (True, None)
    _, [kept] = await api.store.webhooks.all()
    assert kept.secrets == ((made["secret"], None),)
    assert kept.enabled_us is not None and kept.enabled_us // 1_000_000 == NOW_S
    assert code_of(await api.call("PATCH", "/v1/webhooks/wh_none", json={"name": "x"})) == (404, "not_found")


def _of(made: dict[str, Any]) -> dict[str, Any]:
    return {name: made[name] for name in ("events", "category_prefix", "name")}


async def test_rotated_webhook_secret_overlaps_for_a_day(api: Api) -> None:
    made = await make(api)

    rotated = await api.call("POST", f"/v1/webhooks/{made['id']}/rotate")

    assert rotated.headers["cache-control"] == "no-store"
    assert rotated.json() == {**made, "secret": rotated.json()["secret"]}
    _, [kept] = await api.store.webhooks.all()
    assert kept.signing(api.clock.now_us()) == (rotated.json()["secret"], made["secret"])
    api.clock.advance(24 * 3_600)
    assert kept.signing(api.clock.now_us()) == (rotated.json()["secret"],)
    assert code_of(await api.call("POST", "/v1/webhooks/wh_none/rotate")) == (404, "not_found")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https:///path",
        "https://user:secret@example.com/",
        "https://example.com/#part",
        "https://exa mple.com/",
        "https://127.0.0.1/",
        "https://127.1.2.3:8443/x",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://0/",
        "https://10.0.0.8/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[fd00::1]/",
        "https://[::ffff:10.0.0.8]/",
        "https://[64:ff9b::a00:8]/",
        "https://localhost/",
        "https://app.localhost./",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
    ],
)
async def test_private_webhook_url_is_refused(api: Api, url: str) -> None:
    made = await make(api)
    answers = [
        await api.call("POST", "/v1/webhooks", json={"url": url}),
        await api.call("PATCH", f"/v1/webhooks/{made['id']}", json={"url": url}),
    ]

    for answer in answers:
        assert code_of(answer) == (422, "invalid")
        assert answer.json()["errors"][0]["pointer"] == "/url"
    assert (await api.call("GET", f"/v1/webhooks/{made['id']}")).json()["url"] == URL


async def test_loopback_webhook_url_in_development() -> None:
    async with Api(webhook_loopback=True) as api:
        assert (await make(api, url="http://127.0.0.1:9000/hook"))["url"] == "http://127.0.0.1:9000/hook"
        answer = await api.call("POST", "/v1/webhooks", json={"url": "https://10.0.0.8/"})
        assert code_of(answer) == (422, "invalid")


@pytest.mark.parametrize(
    ("document", "expected", "pointer"),
    [
        ({}, (422, "missing_field"), "/url"),
        ({"url": URL, "urls": 1}, (422, "unknown_field"), "/urls"),
        ({"url": 7}, (422, "invalid"), "/url"),
        ({"url": "https://example.com/" + "x" * 2_048}, (422, "invalid"), "/url"),
        ({"url": URL, "events": []}, (422, "invalid"), "/events"),
        ({"url": URL, "events": ["item.born"]}, (422, "invalid"), "/events"),
        ({"url": URL, "category_prefix": "a b"}, (422, "invalid_id"), "/category_prefix"),
        ({"url": URL, "name": "x" * 201}, (422, "invalid"), "/name"),
    ],
)
async def test_invalid_webhook_has_a_pointer(
    api: Api, document: dict[str, Any], expected: tuple[int, str], pointer: str
) -> None:
    answer = await api.call("POST", "/v1/webhooks", json=document)

    assert code_of(answer) == expected
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_webhooks_need_the_admin_scope(api: Api) -> None:
    for scope in ("ingest", "read", "devices", "deliveries", "categories"):
        key = await api.make_key(scope)
        assert code_of(await api.call("GET", "/v1/webhooks", key)) == (403, "forbidden")
    assert code_of(await api.call("POST", "/v1/webhooks", api.token(), json={"url": URL})) == (403, "forbidden")
    assert code_of(await api.call("GET", "/v1/webhooks", "")) == (401, "unauthorised")


async def test_new_webhook_has_a_location(api: Api) -> None:
    made = await api.call("POST", "/v1/webhooks", json={"url": "https://example.com/"})

    assert made.headers["location"] == f"/v1/webhooks/{made.json()['id']}"
    assert (await api.call("GET", made.headers["location"])).json()["url"] == "https://example.com/"


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "-.example"])
async def test_webhook_with_a_malformed_host_name_is_refused(api: Api, host: str) -> None:
    answer = await api.call("POST", "/v1/webhooks", json={"url": f"https://{host}/"})

    assert code_of(answer) == (422, "invalid")
    assert "is not a valid host name" in answer.text
