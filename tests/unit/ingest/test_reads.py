"""Reads of state, sync, items and history: views, conditional requests, pagination."""

from typing import Any

import pytest

from gregor.core.items.digest import digest_items
from gregor.core.items.sync import View
from gregor.core.json_text import canonical_json
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from tests.support.api import NOW_S, Api, code_of

STATE = "/v1/users/alice/state"
SYNC = "/v1/users/alice/sync"
HISTORY = "/v1/users/alice/history"


def proof(items: dict[str, Any]) -> str:
    return digest_items((item_id, canonical_json(item)) for item_id, item in items.items()).hex()


async def test_digest_is_of_the_returned_items(api: Api) -> None:
    await api.create("alice", "aa", body={"n": 1.5, "é": [None, True]})
    await api.create("alice", "bb", "user.left")
    await api.create("alice", "cc", "users")

    await api.create("alice", "dd", "user.left.early")

    for query in ("", "?category_prefix=user", "?category=user.left", "?category_prefix=user.&category_prefix=users"):
        document = (await api.call("GET", STATE + query)).json()
        assert document["digest"] == proof(document["items"])


async def test_category_filter_matches_whole_segments(api: Api) -> None:
    for item_id, category in (("aa", "user"), ("bb", "user.joined"), ("cc", "users")):
        await api.create("alice", item_id, category)

    async def seen(query: str) -> set[str]:
        return set((await api.call("GET", STATE + query)).json()["items"])

    assert await seen("?category=user") == {"aa"}
    assert await seen("?category_prefix=user") == {"aa", "bb"}
    assert await seen("?category_prefix=") == {"aa", "bb", "cc"}
    assert await seen("?category_prefix=users&category_prefix=user.joined") == {"bb", "cc"}
    assert await seen("?category_prefix=users&category=user") == set()


async def test_items_are_ordered_by_created_then_id(api: Api) -> None:
    for item_id, created in (("b", 1457056000), ("a", 1457056000), ("z", 1457055000.5)):
        await api.create("alice", item_id, times={"created": created})

    assert list((await api.call("GET", STATE)).json()["items"]) == ["z", "a", "b"]


async def test_unchanged_state_is_304(api: Api) -> None:
    await api.create("alice", "aa")
    first = await api.call("GET", STATE)
    etag = first.headers["etag"]
    assert etag == f'W/"{first.json()["digest"]}"'
    assert first.headers["gregor-cursor"] == first.json()["cursor"]
    assert first.headers["cache-control"] == "private, no-cache"

    for known in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
        again = await api.call("GET", STATE, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["gregor-cursor"] == first.json()["cursor"]
        assert again.headers["cache-control"] == "private, no-cache"

    for unknown in ('"x"', "W/x", etag.replace("W/", "").strip('"')):
        assert (await api.call("GET", STATE, headers={"If-None-Match": unknown})).status_code == 200


async def test_head_is_get_without_body(api: Api) -> None:
    answer = await api.call("HEAD", STATE)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"].startswith('W/"')
    assert code_of(await api.call("GET", STATE, "")) == (401, "unauthorised")
    assert (await api.call("HEAD", STATE, "")).status_code == 401


async def test_state_at_a_time_has_no_cursor(api: Api) -> None:
    await api.create("alice", "aa", times={"created": NOW_S - 100})
    api.clock.advance(10)
    await api.send("alice", {"dismiss": {"ids": ["aa"]}})

    past = await api.call("GET", STATE, params={"at": f"{NOW_S + 5}.25"})
    now = await api.call("GET", STATE, params={"at": str(NOW_S + 10)})

    assert set(past.json()) == {"digest", "items"}
    assert list(past.json()["items"]) == ["aa"]
    assert past.json()["digest"] == proof(past.json()["items"])
    assert "etag" not in past.headers and "gregor-cursor" not in past.headers
    assert now.json()["items"] == {}


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (str(NOW_S + 1), (422, "time_out_of_range")),
        (str(NOW_S - 30 * 86_400 - 1), (422, "time_out_of_range")),
        ("8589934592", (422, "time_out_of_range")),
        ("yesterday", (422, "invalid")),
        ("-1", (422, "time_out_of_range")),
        ("-0.5", (422, "time_out_of_range")),
        ("99999999999999999999", (422, "time_out_of_range")),
        ("1e9", (422, "invalid")),
        ("nan", (422, "invalid")),
        ("", (422, "invalid")),
    ],
)
async def test_invalid_at_is_refused(api: Api, at: str, expected: tuple[int, str]) -> None:
    assert code_of(await api.call("GET", STATE, params={"at": at})) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("categry=user", (422, "unknown_field")),
        ("category=a&category=b", (422, "unknown_field")),
        ("device=a&device=b", (422, "unknown_field")),
        ("not_before=1", (422, "unknown_field")),
        ("render=a b", (422, "invalid")),
        ("category=a..b", (422, "invalid_id")),
        ("category=", (422, "invalid_id")),
        ("category_prefix=a b", (422, "invalid_id")),
        ("device=*", (422, "invalid_id")),
        ("device=", (422, "invalid_id")),
    ],
)
async def test_unknown_read_parameter_is_refused(api: Api, query: str, expected: tuple[int, str]) -> None:
    assert code_of(await api.call("GET", f"{STATE}?{query}")) == expected


async def test_unknown_parameter_names_the_known_ones(api: Api) -> None:
    answer = await api.call("GET", "/v1/audit?limt=5")
    none = await api.call("GET", "/v1/keys?limit=5")

    assert answer.json()["detail"] == "Unknown query parameter 'limt'. The known ones are before, limit."
    assert none.json()["detail"] == "Unknown query parameter 'limit'. This request has none."


async def test_sync_brings_a_copy_up_to_date(api: Api) -> None:
    token = api.token()
    await api.create("alice", "aa", body="x" * 500)
    copy = (await api.call("GET", SYNC, token)).json()

    same = await api.call("GET", SYNC, token, params={"cursor": copy["cursor"], "digest": copy["digest"]})
    assert same.json() == {"system": "gregor", "sync": "unchanged", "seq": 1, "cursor": copy["cursor"]}
    assert len(same.content) <= 100

    await api.create("alice", "bb")
    delta = (await api.call("GET", SYNC, token, params={"cursor": copy["cursor"]})).json()
    assert (delta["sync"], list(delta["body"]["create"])) == ("delta", ["bb"])

    wrong = (await api.call("GET", SYNC, token, params={"cursor": delta["cursor"], "digest": "0" * 64})).json()
    assert (wrong["sync"], set(wrong["body"]["create"])) == ("full", {"aa", "bb"})


async def test_foreign_cursor_gets_a_full_copy(api: Api) -> None:
    await api.create("alice", "aa")
    other = (await api.call("GET", SYNC, api.token(device="laptop"))).json()["cursor"]

    for cursor in (other, "nonsense", "", "zzzzzz-1", other.replace("-1", "-9")):
        answer = (await api.call("GET", SYNC, api.token(), params={"cursor": cursor})).json()
        assert answer["sync"] == "full"


@pytest.mark.parametrize("path", ["state", "sync", "history", "items/aa"])
async def test_filter_has_up_to_100_prefixes(api: Api, path: str) -> None:
    """Each item of a view is compared with all of them."""

    async def code(count: int) -> str | None:
        query = "&".join(f"category_prefix=a{n}" for n in range(count))
        answer = await api.call("GET", f"/v1/users/alice/{path}?{query}")
        return answer.json().get("code")

    assert await code(101) == "too_many"
    assert await code(100) in (None, "not_found")


async def test_cursor_of_exact_category_is_invalid_for_sync(api: Api) -> None:
    await api.create("alice", "aa", "user")
    await api.create("alice", "bb", "user.joined")
    cursor = (await api.call("GET", STATE, params={"category": "user"})).json()["cursor"]

    answer = await api.call("GET", SYNC, params={"category_prefix": "user", "cursor": cursor})

    assert answer.json()["sync"] == "full"


async def test_digest_parameter_is_validated(api: Api) -> None:
    for digest in ("", "0" * 63, "g" * 64):
        assert code_of(await api.call("GET", SYNC, params={"digest": digest})) == (422, "invalid")


async def test_key_gets_messages_of_every_system(api: Api) -> None:
    for system in ("kbfs.favorites", "chat"):
        await api.call("POST", "/v1/users/alice/messages", json={"system": system, "body": 1})
    cursor = (await api.call("GET", SYNC)).json()["cursor"].partition("-")[0] + "-0"

    answer = (await api.call("GET", SYNC, params={"cursor": cursor})).json()

    assert [message["system"] for message in answer["external"]] == ["kbfs.favorites", "chat"]


async def test_device_gets_messages_of_its_systems(api: Api) -> None:
    token = api.token(systems=["kbfs"])
    cursor = (await api.call("GET", SYNC, token)).json()["cursor"]
    for system in ("kbfs.favorites", "kbfs2", "chat"):
        await api.call("POST", "/v1/users/alice/messages", json={"system": system, "body": 1})
    start = (await api.call("GET", SYNC, token)).json()["cursor"].partition("-")[0] + "-0"
    assert cursor != start

    answer = (await api.call("GET", SYNC, token, params={"cursor": start})).json()

    assert [message["system"] for message in answer["external"]] == ["kbfs.favorites"]


async def test_item_has_its_timeline(api: Api) -> None:
    await api.create("alice", "aa", times={"created": 1457056447})
    live = (await api.call("GET", "/v1/users/alice/items/aa", api.token())).json()
    api.clock.advance(0.25)
    await api.send("alice", {"dismiss": {"ids": ["aa"]}}, api.token())
    gone = (await api.call("GET", "/v1/users/alice/items/aa", api.token())).json()

    assert (live["id"], live["seq"], live["gone"]) == ("aa", 1, None)
    assert live["timeline"] == [{"at": 1457056447, "event": "created"}]
    assert gone["item"] == live["item"]
    assert gone["gone"] == {"at": NOW_S + 0.25, "reason": "dismissed", "device": "phone", "seq": 2}
    assert [event["event"] for event in gone["timeline"]] == ["created", "dismissed"]


async def test_timeline_is_limited_to_the_view(api: Api) -> None:
    await api.create("alice", "aa")
    now_us = api.clock.now_us()
    for device, channel in (("phone", "apns"), ("tablet", "fcm"), ("", "email")):
        intent = Intent("alice", "aa", IntentKind.ITEM, channel, device, seq=1, at_us=now_us)
        await api.store.ledger.plan([intent], DeliveryState.CANCELLED, "present", now_us)
        await api.store.devices.acknowledge("alice", View(device or "laptop"), 1, now_us)

    async def seen(token: str | None = None, **params: str) -> list[str]:
        item = (await api.call("GET", "/v1/users/alice/items/aa", token, params=params)).json()
        return sorted(f"{event['event']} {event['device']}" for event in item["timeline"] if "device" in event)

    own = ["acked phone", "cancelled None", "cancelled phone"]
    assert await seen(api.token()) == own == await seen(device="phone")
    assert await seen() == sorted([*own, "acked laptop", "acked tablet", "cancelled tablet"])


async def test_item_outside_the_view_is_404(api: Api) -> None:
    await api.create("alice", "aa", for_device="laptop")

    assert code_of(await api.call("GET", "/v1/users/alice/items/aa", api.token())) == (404, "not_found")
    assert code_of(await api.call("GET", "/v1/users/alice/items/zz")) == (404, "not_found")
    assert (await api.call("GET", "/v1/users/alice/items/aa", api.token(device="laptop"))).status_code == 200
    limited = api.token(device="laptop", category_filter=["chat"])
    assert code_of(await api.call("GET", "/v1/users/alice/items/aa", limited)) == (404, "not_found")


async def test_pagination_of_history_is_newest_first(api: Api) -> None:
    for n in range(5):
        await api.create("alice", f"i{n}")
    await api.send("alice", {"dismiss": {"ids": ["i1"]}})
    found: list[str] = []
    path = f"{HISTORY}?limit=2&category_prefix=user"
    pages = 0

    while path:
        page = await api.call("GET", path)
        found += [entry["id"] for entry in page.json()["entries"]]
        link = page.headers.get("link", "")
        assert not link or link.endswith('>; rel="next"')
        path = link.partition("<")[2].partition(">")[0]
        assert path == "" or path.startswith("/v1/users/alice/history?")
        pages += 1

    assert found == ["i4", "i3", "i2", "i1", "i0"]
    assert pages == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "before=x", "before=1", "before=1.a b"])
async def test_invalid_page_is_refused(api: Api, query: str) -> None:
    assert code_of(await api.call("GET", f"{HISTORY}?{query}")) == (422, "invalid")
