"""Devices: registration, merge patches, masked tokens, presence and revocation."""

from typing import Any

import pytest

from gregor.store.contract.devices import DeviceSession, Registration
from tests.support.api import NOW_S, Api, code_of

PHONE = "/v1/users/alice/devices/phone"
APNS = {
    "provider": "apns",
    "token": "740f4707bebcf74f9b7c25d48e3358945f6aa01d",
    "topic": "com.example",
    "sandbox": True,
}
SHOWN = {
    "platform": "ios",
    "push": {**APNS, "token": "…a01d"},
    "locale": "en-GB",
    "online": False,
    "foreground": False,
    "last_seen": None,
}
SENT = {"platform": "ios", "push": APNS, "locale": "en-GB"}


P256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
COMPRESSED = "Ai" + P256DH[2:44]


def web(endpoint: str, p256dh: str = P256DH, auth: str = AUTH) -> dict[str, Any]:
    keys = {"p256dh": p256dh, "auth": auth}
    return {"push": {"provider": "webpush", "token": {"endpoint": endpoint, "keys": keys}}}


async def test_device_is_registered_masked_and_forgotten(api: Api) -> None:
    token = api.token()
    assert code_of(await api.call("GET", PHONE, token)) == (404, "not_found")

    assert (await api.call("PUT", PHONE, token, json=SENT)).json() == SHOWN
    assert (await api.call("GET", PHONE, token)).json() == SHOWN
    assert (await api.call("GET", "/v1/users/alice/devices")).json() == {"devices": {"phone": SHOWN}}

    for _ in range(2):
        gone = await api.call("DELETE", PHONE, token)
        assert (gone.status_code, gone.content) == (204, b"")
    assert (await api.call("GET", "/v1/users/alice/devices")).json() == {"devices": {}}


async def test_revocation_removes_the_push_token_that_a_stolen_token_registered(api: Api) -> None:
    await api.call("PUT", PHONE, api.token(), json=SENT)
    await api.call("PUT", "/v1/users/alice/devices/desk", json={"push": {**APNS, "token": "ab12"}})

    await api.call("POST", "/v1/users/alice/revoke", json={})

    devices = (await api.call("GET", "/v1/users/alice/devices")).json()["devices"]
    assert devices["phone"] == {**SHOWN, "push": None}
    assert devices["desk"]["push"] is not None


async def test_put_replaces_and_patch_merges_a_device(api: Api) -> None:
    await api.call("PUT", PHONE, json=SENT)

    patched = await api.call("PATCH", PHONE, json={"locale": "it", "push": {"sandbox": False}})
    assert patched.json() == {**SHOWN, "locale": "it", "push": {**APNS, "token": "…a01d", "sandbox": False}}

    kind = {"Content-Type": "application/merge-patch+json"}
    cleared = await api.call("PATCH", PHONE, content=b'{"push":null}', headers=kind)
    assert cleared.json() == {**SHOWN, "locale": "it", "push": None}

    replaced = await api.call("PUT", PHONE, json={"platform": "web"})
    assert replaced.json() == {**SHOWN, "platform": "web", "push": None, "locale": None}


async def test_patch_registers_an_unknown_device(api: Api) -> None:
    assert (await api.call("PATCH", PHONE, json={"platform": "ios"})).json()["platform"] == "ios"


async def test_masked_token_keeps_the_stored_one(api: Api) -> None:
    await api.call("PUT", PHONE, json=SENT)
    shown = (await api.call("GET", PHONE)).json()

    assert (await api.call("PUT", PHONE, json={**shown, "locale": "fr"})).json() == {**SHOWN, "locale": "fr"}
    kept = await api.store.devices.device("alice", "phone", api.clock.now_us())
    assert kept is not None and kept[0].push is not None and kept[0].push["token"] == APNS["token"]

    part = {"push": {"token": shown["push"]["token"], "topic": "org.example.beta"}}
    assert (await api.call("PATCH", PHONE, json=part)).json()["push"]["topic"] == "org.example.beta"
    kept = await api.store.devices.device("alice", "phone", api.clock.now_us())
    assert kept is not None and kept[0].push is not None and kept[0].push["token"] == APNS["token"]

    other = {**shown, "push": {**shown["push"], "token": "…ffff"}}
    assert code_of(await api.call("PATCH", PHONE, json={"push": {"token": "…ffff"}})) == (422, "invalid")
    assert code_of(await api.call("PATCH", PHONE, json={"push": {**part["push"], "provider": "fcm"}})) == (
        422,
        "invalid",
    )
    assert code_of(await api.call("PUT", PHONE, json=other)) == (422, "invalid")
    assert code_of(await api.call("PUT", "/v1/users/alice/devices/new", json=shown)) == (422, "invalid")


@pytest.mark.parametrize(
    ("document", "expected", "pointer"),
    [
        ({"platform": "amiga"}, (422, "invalid"), "/platform"),
        ({"plattform": "ios"}, (422, "unknown_field"), "/plattform"),
        ({"push": {"provider": "pigeon", "token": "x"}}, (422, "invalid"), "/push/provider"),
        ({"push": {"token": "x"}}, (422, "missing_field"), "/push/provider"),
        ({"push": {"provider": "fcm"}}, (422, "missing_field"), "/push/token"),
        ({"push": {"provider": "fcm", "token": ""}}, (422, "invalid"), "/push/token"),
        ({"push": {"provider": "fcm", "token": 7}}, (422, "invalid"), "/push/token"),
        ({"push": {"provider": "fcm", "token": "x", "sandbox": "no"}}, (422, "invalid"), "/push/sandbox"),
        ({"push": {"provider": "webpush", "token": "x"}}, (422, "invalid"), "/push/token"),
        ({"locale": "not a locale"}, (422, "invalid"), "/locale"),
        ([], (422, "invalid"), ""),
    ],
)
async def test_invalid_registration_has_a_pointer(
    api: Api, document: Any, expected: tuple[int, str], pointer: str
) -> None:
    answer = await api.call("PUT", PHONE, json=document)

    assert code_of(answer) == expected
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/fcm/send/x",
        "https://updates.push.services.mozilla.com:443/wpush/v2/x",
        "https://web.push.apple.com/x",
        "https://db5p.notify.windows.com/w/?token=x",
    ],
)
async def test_known_web_push_endpoint_is_accepted(api: Api, endpoint: str) -> None:
    answer = await api.call("PUT", PHONE, json=web(endpoint))

    assert answer.status_code == 200
    assert answer.json()["push"]["token"] == "…" + endpoint[-4:]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://fcm.googleapis.com/x",
        "https://fcm.googleapis.com:8443/x",
        "https://fcm.googleapis.com.evil.example/x",
        "https://evil.example/fcm.googleapis.com",
        "https://evilfcm.googleapis.com/x",
        "https://push.apple.com/x",
        "https://user@fcm.googleapis.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://fcm.googleapis.com:x/",
        "https://fcm.googleapis.com./x",
        "https://fcm.googleapis.com.:443/x",
        "https://fcm.googleapis.com\n.evil.example/x",
        "//fcm.googleapis.com/x",
        "nonsense",
    ],
)
async def test_other_web_push_endpoints_are_refused(api: Api, endpoint: str) -> None:
    answer = await api.call("PUT", PHONE, json=web(endpoint))

    assert code_of(answer) == (422, "push_endpoint_not_allowed")
    [error] = answer.json()["errors"]
    assert error["pointer"] == "/push/token/endpoint"
    assert "without a trailing dot" in error["detail"]


@pytest.mark.parametrize(
    ("push", "pointer"),
    [
        ({**APNS, "topic": "not printable"}, "/push/topic"),
        ({**APNS, "topic": "x" * 256}, "/push/topic"),
        ({**APNS, "token": "a" * 513}, "/push/token"),
        ({**APNS, "token": "\U0001f600" * 64}, "/push/token"),
        ({**APNS, "token": "740f 4707"}, "/push/token"),
        (web("https://fcm.googleapis.com/x", p256dh="x")["push"], "/push/token/keys"),
        (web("https://fcm.googleapis.com/x", p256dh=COMPRESSED)["push"], "/push/token/keys"),
        (web("https://fcm.googleapis.com/x", p256dh="B" + 86 * "A")["push"], "/push/token/keys"),
        (web("https://fcm.googleapis.com/x", auth="tBH")["push"], "/push/token/keys"),
    ],
)
async def test_push_registration_that_can_never_work_is_refused(api: Api, push: dict[str, Any], pointer: str) -> None:
    for answer in (
        await api.call("PUT", PHONE, json={"push": push}),
        await api.call("PATCH", PHONE, json={"push": push}),
    ):
        assert code_of(answer) == (422, "invalid")
        assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("token", ["ab12" * 16, "AB12" * 128, "apns-token-1", "a_b:c.d~e"])
async def test_apns_token_of_printable_ascii_is_accepted(api: Api, token: str) -> None:
    assert (await api.call("PUT", PHONE, json={"push": {**APNS, "token": token}})).status_code == 200


async def test_topic_of_fcm_is_not_checked(api: Api) -> None:
    push = {"provider": "fcm", "token": "t" * 4_096, "topic": "any topic"}

    assert (await api.call("PUT", PHONE, json={"push": push})).status_code == 200


@pytest.mark.parametrize("change", [{"topic": "not printable"}, {"token": "\U0001f600" * 4_000}])
async def test_invalid_push_registration_of_an_earlier_release_can_be_kept(api: Api, change: dict[str, str]) -> None:
    push = {**APNS, **change}
    await api.store.devices.put_device("alice", "phone", Registration("ios", push, "en"), api.clock.now_us())

    answer = await api.call("PATCH", PHONE, json={"locale": "it"})

    assert (answer.status_code, answer.json()["locale"]) == (200, "it")


async def test_web_push_hosts_are_a_setting() -> None:
    async with Api(webpush_hosts=("push.example",)) as api:
        assert (await api.call("PUT", PHONE, json=web("https://push.example/x"))).status_code == 200
        answer = await api.call("PUT", PHONE, json=web("https://fcm.googleapis.com/x"))
        assert code_of(answer) == (422, "push_endpoint_not_allowed")


async def test_presence_of_many_users(api: Api) -> None:
    now_us = api.clock.now_us()
    session = DeviceSession("tab", "c1", "gateway", now_us, foreground=True)
    await api.store.devices.ensure_device("alice", "phone", now_us)
    await api.store.devices.open_session("alice", "phone", session, now_us, 60_000_000)

    answer = await api.call("POST", "/v1/presence", json={"uids": ["alice", "nobody"]})

    assert answer.json() == {
        "alice": {"online": True, "foreground": True, "last_seen": NOW_S},
        "nobody": {"online": False, "foreground": False, "last_seen": None},
    }


async def test_presence_of_no_users_is_empty(api: Api) -> None:
    assert (await api.call("POST", "/v1/presence", json={"uids": []})).json() == {}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"uids": ["u"] * 1_001}, (422, "too_many")),
        ({"uids": ["a b"]}, (422, "invalid_id")),
        ({"uids": "alice"}, (422, "invalid")),
        ({}, (422, "missing_field")),
    ],
)
async def test_invalid_presence_query_is_refused(api: Api, document: Any, expected: tuple[int, str]) -> None:
    assert code_of(await api.call("POST", "/v1/presence", json=document)) == expected


async def test_revocation_returns_what_is_revoked(api: Api) -> None:
    path = "/v1/users/alice/revoke"

    assert (await api.call("POST", path)).json() == {"device": None, "issued_before": NOW_S + 30}
    assert (await api.call("POST", path, json={"device": None, "issued_before": None})).status_code == 200
    named = await api.call("POST", path, json={"device": "phone", "issued_before": 5.5})
    assert named.json() == {"device": "phone", "issued_before": 5.5}
    assert code_of(await api.call("POST", path, json={"issued_before": -1})) == (422, "time_out_of_range")
    assert code_of(await api.call("POST", path, json={"issued_before": "now"})) == (422, "invalid")
    assert code_of(await api.call("POST", path, json={"device": "*"})) == (422, "invalid_id")


async def test_65th_device_replaces_an_offline_one() -> None:
    async with Api(max_devices=2) as api:
        for name in ("one", "two", "three"):
            assert (await api.call("PUT", f"/v1/users/alice/devices/{name}", json={})).status_code == 200
            api.clock.advance(1)

        assert len((await api.call("GET", "/v1/users/alice/devices")).json()["devices"]) == 2
