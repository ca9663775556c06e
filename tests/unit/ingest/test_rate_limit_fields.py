"""The response headers `RateLimit` and `RateLimit-Policy`, and the weights of reads."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.items.read_cost import listing_weight
from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.devices import DeviceSession
from tests.support.api import NDJSON, Api, code_of

POLICY = re.compile(r'"([a-z]+)";q=([0-9]+);w=([0-9]+)')
STATE = re.compile(r'"([a-z]+)";r=([0-9]+);t=([0-9]+)')
MESSAGE = {"system": "gregor", "body": {"dismiss": {"ids": ["x"]}}}


def heavy_message() -> dict[str, Any]:
    """Return a message with 100 items of 16 reminders each: its weight is 171."""
    times = {"remind_at": [f"+{n + 60}" for n in range(16)]}
    items = {f"i{n}": {"category": "mail", "times": times} for n in range(100)}
    return {"system": "gregor", "body": {"create": items}}


def limits_of(answer: httpx.Response) -> dict[str, tuple[int, int, int, int]]:
    """Return the limits of a response: name → q, w, r, t."""
    policies, states = POLICY.findall(answer.headers["ratelimit-policy"]), STATE.findall(answer.headers["ratelimit"])
    assert ", ".join(f'"{n}";q={q};w={w}' for n, q, w in policies) == answer.headers["ratelimit-policy"]
    assert ", ".join(f'"{n}";r={r};t={t}' for n, r, t in states) == answer.headers["ratelimit"]
    assert [name for name, *_ in policies] == [name for name, *_ in states]
    return {n: (int(q), int(w), int(r), int(t)) for (n, q, w), (_, r, t) in zip(policies, states, strict=True)}


async def test_message_shows_what_is_left_of_the_rate(api: Api) -> None:
    token = api.token()
    answers = [await api.send("alice", {"dismiss": {"ids": ["x"]}}, token) for _ in range(51)]

    assert limits_of(answers[0]) == {"messages": (50, 5, 49, 1)}
    assert limits_of(answers[49]) == {"messages": (50, 5, 0, 1)}
    assert code_of(answers[50]) == (429, "rate_limited")
    assert limits_of(answers[50]) == {"messages": (50, 5, 0, 1)}
    assert answers[50].headers["retry-after"] == "1"
    assert answers[50].json()["detail"].startswith('Too many messages: the rate limit "messages" is reached. Retry in ')


async def test_ticket_counts_as_two_requests(api: Api) -> None:
    answers = [await api.call("POST", "/v1/tickets", api.token(), json={}) for _ in range(2)]

    (burst, _, left, _), (_, _, left_after, _) = (limits_of(each)["requests"] for each in answers)
    assert (burst - left, left - left_after) == (2, 2)


async def test_other_devices_of_a_user_lower_what_is_left(api: Api) -> None:
    for device in "abcd":
        for _ in range(45):
            await api.send("alice", {"dismiss": {"ids": ["x"]}}, api.token(device=device))

    assert limits_of(await api.send("alice", {"dismiss": {"ids": ["x"]}}, api.token()))["messages"][:3] == (50, 5, 19)


@pytest.mark.parametrize(
    ("method", "path", "options", "names"),
    [
        ("GET", "/v1/users/alice/state", {}, ["requests"]),
        ("GET", "/v1/users/alice/state", {"headers": {"If-None-Match": "*"}}, ["requests"]),
        ("GET", "/v1/users/alice/sync", {}, ["requests"]),
        ("GET", "/v1/users/alice/history", {}, ["requests", "history"]),
        ("GET", "/v1/users/alice/items/none", {}, ["requests"]),
        ("POST", "/v1/tickets", {}, ["requests"]),
        ("PUT", "/v1/users/alice/devices/phone", {"json": {"platform": "ios"}}, ["requests"]),
        ("GET", "/v1/users/alice/preferences", {}, ["requests"]),
        ("POST", "/v1/messages", {"json": [{**MESSAGE, "uid": "alice"}]}, ["messages"]),
        ("POST", "/v1/messages", {"headers": NDJSON, "content": b"{}\n{}\n"}, ["messages"]),
        ("POST", "/v1/users/alice/messages", {"json": {}}, ["messages"]),
    ],
)
async def test_every_answer_of_a_limited_endpoint_has_the_fields(
    api: Api, method: str, path: str, options: Any, names: list[str]
) -> None:
    answer = await api.call(method, path, api.token(), **options)

    assert list(limits_of(answer)) == names
    assert all(r < q for q, _, r, _ in limits_of(answer).values())


async def test_key_has_fields_if_it_has_a_rate(api: Api) -> None:
    key = await api.make_key("ingest", "read", rate=2.5)

    assert limits_of(await api.send("alice", {}, key)) == {"messages": (3, 2, 2, 1)}
    assert limits_of(await api.call("GET", "/v1/users/alice/state", key)) == {"requests": (500, 200, 499, 1)}
    assert "ratelimit" not in (await api.call("GET", "/v1/users/alice/state")).headers


async def test_device_shares_no_bucket_with_a_key_of_its_name(api: Api) -> None:
    made, key = await api.store.access.create_key(("read",), None, 2.5, now_us=api.clock.now_us())
    token = api.token("key", made.id)
    assert limits_of(await api.call("GET", "/v1/users/key/state", token))["requests"][2] == 499

    assert limits_of(await api.call("GET", "/v1/users/key/state", key))["requests"][2] == 499


@pytest.mark.parametrize(("rate", "wait_s"), [(1, 171), (10, 17)])
async def test_heavy_message_of_a_key_uses_its_whole_weight(api: Api, rate: int, wait_s: int) -> None:
    """Above the burst, the limit goes into debt. Otherwise a key of rate 1 would pay 1 for a message of weight 171."""
    key = await api.make_key("ingest", rate=rate)

    answer = await api.call("POST", "/v1/users/alice/messages", key, json=heavy_message())
    assert answer.status_code == 200
    assert limits_of(answer)["messages"][2:] == (0, wait_s)
    refused = await api.send("bob", MESSAGE["body"], key)
    assert (code_of(refused), refused.headers["retry-after"]) == ((429, "rate_limited"), str(wait_s))
    api.clock.advance(wait_s - 1)
    assert code_of(await api.send("bob", MESSAGE["body"], key)) == (429, "rate_limited")
    api.clock.advance(1)
    assert (await api.send("bob", MESSAGE["body"], key)).status_code == 200


async def test_heavy_message_of_a_device_uses_its_whole_weight(api: Api) -> None:
    """100 items with 16 reminders each took 5 % of Redis, and those of four devices of a user 18 %."""
    answer = await api.call("POST", "/v1/users/alice/messages", api.token(), json=heavy_message())
    assert answer.status_code == 200
    assert limits_of(answer)["messages"][2:] == (0, 13)
    refused = await api.send("alice", MESSAGE["body"], api.token())
    assert (code_of(refused), refused.headers["retry-after"]) == ((429, "rate_limited"), "13")
    api.clock.advance(12.2)
    assert (await api.send("alice", MESSAGE["body"], api.token())).status_code == 200


async def test_heavy_line_of_a_device_uses_its_whole_weight(api: Api) -> None:
    lines = [{"uid": "alice", **heavy_message()}]

    first, second = [(await api.call("POST", "/v1/messages", api.token(), json=lines)) for _ in range(2)]

    assert "receipt" in first.json()[0]
    assert (code_of(second), second.headers["retry-after"]) == ((429, "rate_limited"), "13")


@pytest.mark.parametrize(("path", "form"), [("users/alice/messages", "%s"), ("messages", "[%s]")])
async def test_text_above_the_burst_leaves_a_debt(path: str, form: str) -> None:
    """A text of 200 KiB weighs 26, on its own and as a line of a batch."""
    async with Api(device_rate=1, device_burst=20) as api:
        uid = {"uid": "alice"} if path == "messages" else {}
        text = json.dumps({**uid, **MESSAGE}).replace("{", "{" + " " * 204_800, 1)
        kind = {"Content-Type": "application/json"}
        answer = await api.call("POST", f"/v1/{path}", api.token(), headers=kind, content=form % text)
        refused = await api.send("alice", MESSAGE["body"], api.token())

    assert answer.status_code == 200
    assert (code_of(refused), refused.headers["retry-after"]) == ((429, "rate_limited"), "7")


@pytest.mark.parametrize("padding", [0, 100_000, 240_000])
async def test_refused_message_is_accepted_after_its_wait(api: Api, padding: int) -> None:
    """The wait includes what the text takes again. Otherwise a client that waits is refused again and again."""
    items = heavy_message()["body"]["create"].items()
    new = {f"new{name}": {**item, "body": "x" * (padding // 100)} for name, item in items}
    long = {"system": "gregor", "body": {"create": new}}
    path, token, waits = "/v1/users/alice/messages", api.token(), []
    assert (await api.call("POST", path, token, json=heavy_message())).status_code == 200

    while (answer := await api.call("POST", path, token, json=long)).status_code == 429:
        waits.append(int(answer.headers["retry-after"]))
        api.clock.advance(waits[-1])
        assert len(waits) <= 3

    assert answer.status_code == 200


@pytest.mark.parametrize("order", [1, -1])
async def test_heavy_line_of_a_device_is_accepted_beside_others(api: Api, order: int) -> None:
    lines = [{"uid": "alice", **heavy_message()}, {"uid": "alice", **MESSAGE}, {"uid": "alice", **MESSAGE}]

    found = (await api.call("POST", "/v1/messages", api.token(), json=lines[::order])).json()

    assert ["receipt" in entry for entry in found] == [True] * 3


@pytest.mark.parametrize("count", [2, 12, 20])
async def test_only_the_first_heavy_line_of_a_batch_is_accepted(api: Api, count: int) -> None:
    lines = [{"uid": "alice", **heavy_message()}] * count

    found = (await api.call("POST", "/v1/messages", api.token(), json=lines)).json()

    assert ["receipt" in entry for entry in found] == [True] + [False] * (count - 1)


async def test_heavy_lines_of_a_key_use_their_whole_weight(api: Api) -> None:
    key = await api.make_key("ingest", rate=1)
    lines = [{"uid": uid, **heavy_message()} for uid in ("alice", "bob")]

    found = (await api.call("POST", "/v1/messages", key, json=lines)).json()

    assert ["receipt" in entry for entry in found] == [True, False]
    assert found[1]["problem"]["retry_after_ms"] == 171_000


async def test_requests_of_a_device_are_limited(api: Api) -> None:
    async with Api(device_request_rate=1, device_request_burst=3, user_request_rate=1, user_request_burst=4) as api:
        phone, desk = api.token(), api.token(device="desk")
        calls = [await api.call("GET", "/v1/users/alice/state", phone) for _ in range(4)]
        others = [await api.call("GET", "/v1/users/alice/quiet-hours", desk) for _ in range(2)]
        api.clock.advance(1)
        again = await api.call("GET", "/v1/users/alice/state", phone)
        stranger = await api.call("GET", "/v1/users/bob/state", api.token("bob"))

    assert [each.status_code for each in calls] == [200, 200, 200, 429]
    assert [each.status_code for each in others] == [200, 429]
    assert (again.status_code, stranger.status_code) == (200, 200)


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "limit"),
    [
        ("POST", "/v1/users/alice/messages?x=1", {}, 422, "messages"),
        ("POST", "/v1/users/alice/messages", {"headers": {"Content-Type": "text/plain"}}, 415, "messages"),
        ("POST", "/v1/messages?x=1", {}, 422, "messages"),
        ("POST", "/v1/messages", {"headers": {"Content-Type": "text/plain"}}, 415, "messages"),
        ("POST", "/v1/messages", {"headers": {"Idempotency-Key": "a"}}, 422, "messages"),
        ("GET", "/v1/users/alice/state?x=1", {}, 422, "requests"),
    ],
)
async def test_refused_requests_of_a_device_use_its_rate(
    method: str, path: str, options: Any, status: int, limit: str
) -> None:
    async with Api(device_burst=3, device_request_burst=3) as api:
        answers = [await api.call(method, path, api.token(), **options) for _ in range(4)]

    assert [each.status_code for each in answers] == [status] * 3 + [429]
    assert [limits_of(each)[limit][2] for each in answers] == [2, 1, 0, 0]


async def test_refused_token_takes_nothing_of_the_rate(api: Api) -> None:
    await api.call("POST", "/v1/users/alice/revoke", json={})
    answer = await api.call("GET", "/v1/users/alice/state", api.token())

    assert answer.status_code == 401
    assert "ratelimit" not in answer.headers


async def create_many(api: Api, category: str, count: int) -> None:
    for start in range(0, count, 100):
        new = {f"{category}{n}": {"category": category} for n in range(start, start + 100)}
        assert (await api.send("alice", {"create": new})).status_code == 200


async def test_large_reads_take_more_of_the_rate(api: Api) -> None:
    async def taken(path: str) -> int:
        api.clock.advance(60)
        return 500 - limits_of(await api.call("GET", f"/v1/users/alice/{path}", api.token()))["requests"][2]

    small = await taken("state")
    await create_many(api, "a", 1_000)
    dismissed = await api.send("alice", {"dismiss": {"intervals": [{"category": "a"}]}})
    assert dismissed.status_code == 200
    await create_many(api, "c", 500)
    at = api.clock.now_us() // 1_000_000

    assert small == 1
    assert await taken("state") == 1 + 1
    assert await taken("sync") == 1 + 1
    # a cursor from before the removals: all of them are read
    assert await taken("sync?cursor=000001-0") == 1 + 3
    assert await taken(f"state?at={at}") == 1 + 3
    assert await taken("history?limit=1") == 1 + 3
    assert await taken("state?render=en") > 1 + 1 + 500 // 20


async def test_reads_of_many_hidden_items_take_more_of_the_rate() -> None:
    """Redis reads the dismissals by single devices with their items: 10,000 take 2.3 ms."""
    async with Api(device_request_rate=0.001) as api:
        ids = [f"i{n}" for n in range(100)]
        await api.send("alice", {"create": {name: {"category": "a", "for_device": "*"} for name in ids}})
        for n in range(20):
            await api.send("alice", {"dismiss": {"ids": ids}}, api.token(device=f"d{n}"))
        left = [500]
        for path in ("state", "sync"):
            answer = await api.call("GET", f"/v1/users/alice/{path}", api.token())
            left.append(limits_of(answer)["requests"][2])

    assert [before - after for before, after in itertools.pairwise(left)] == [1 + 1, 1 + 1]


async def test_reads_of_many_bytes_take_more_of_the_rate() -> None:
    """50 items of 16 KB cost Redis 3 ms and ingest 10 ms, and weighed as much as an empty state."""
    async with Api(device_request_rate=0.001) as api:
        for n in range(50):
            await api.send("alice", {"create": {f"i{n}": {"category": "a", "body": "x" * 16_000}}})
        left = [500]
        for path in ("state", "sync", "state?category_prefix=b", "history?limit=1"):
            answer = await api.call("GET", f"/v1/users/alice/{path}", api.token())
            left.append(limits_of(answer)["requests"][2])

    assert [before - after for before, after in itertools.pairwise(left)] == [1 + 50 * 16_000 // 131_072] * 4


async def test_reads_over_the_rate_are_refused_before_the_work(api: Api) -> None:
    async with Api(device_request_rate=1, device_request_burst=12) as api:
        await create_many(api, "a", 300)
        first = await api.call("GET", "/v1/users/alice/state?render=en", api.token())
        second = await api.call("GET", "/v1/users/alice/state?render=en", api.token())

    assert (first.status_code, second.status_code) == (
        200,
        429,
    )
    assert int(second.headers["retry-after"]) == 1


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0.5, 50), burst=st.integers(1, 8), patience=st.lists(st.booleans(), min_size=1, max_size=30))
async def test_client_that_obeys_the_fields_is_never_refused(rate: float, burst: int, patience: list[bool]) -> None:
    """A client that sends at most `r` requests, or waits `t` seconds if `r` is 0, is never refused."""
    async with Api(device_rate=rate, device_burst=burst) as api:
        token, left = api.token(), burst
        for waits in patience:
            answer = await api.send("alice", {"dismiss": {"ids": ["x"]}}, token)
            (q, w, left, t) = limits_of(answer)["messages"]
            assert answer.status_code == 200
            assert (q, w) == (burst, max(1, math.ceil(burst / rate)))
            assert 0 <= left < q
            assert 0 < t <= w
            if waits or not left:
                api.clock.advance(t)


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0.5, 50), burst=st.integers(1, 8), extra=st.integers(1, 10))
async def test_refused_client_succeeds_after_retry_after(rate: float, burst: int, extra: int) -> None:
    async with Api(device_rate=rate, device_burst=burst) as api:
        token = api.token()
        answers = [await api.send("alice", {"dismiss": {"ids": ["x"]}}, token) for _ in range(burst + extra)]
        assert [each.status_code for each in answers] == [200] * burst + [429] * extra
        _, _, left, t = limits_of(answers[-1])["messages"]
        assert (left, t) == (0, int(answers[-1].headers["retry-after"]))
        api.clock.advance(t)
        assert (await api.send("alice", {"dismiss": {"ids": ["x"]}}, token)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "size", "weight"),
    [
        ("POST", "/v1/tickets", 16_384, 3),
        ("PUT", "/v1/users/alice/devices/phone", 16_384, 4),
        ("PATCH", "/v1/users/alice/devices/phone", 16_384, 4),
        ("PUT", "/v1/users/alice/preferences", 238_000, 30),
        ("PATCH", "/v1/users/alice/preferences", 238_000, 30),
        ("PUT", "/v1/users/alice/quiet-hours", 16_384, 3),
    ],
)
async def test_long_bodies_take_more_of_the_rate(method: str, path: str, size: int, weight: int) -> None:
    raw = b"[" + b'{"a":1,"a":1},' * ((size - 4) // 14) + b"{}]"
    async with Api(device_request_rate=0.001, device_request_burst=weight + 1) as api:
        first = await api.call(method, path, api.token(), content=raw, headers={"Content-Type": "application/json"})
        again = await api.call(method, path, api.token(), content=raw, headers={"Content-Type": "application/json"})
        by_key = await api.call(method, path, content=raw, headers={"Content-Type": "application/json"})

    assert limits_of(first)["requests"][2] == 1
    assert (first.json()["code"], again.json()["code"]) == ("malformed_json", "rate_limited")
    assert "ratelimit" not in by_key.headers


@pytest.mark.parametrize("path", ["/v1/deliveries/dead", "/v1/contact/suppressions"])
async def test_long_pages_of_operators_take_more(api: Api, path: str) -> None:
    key = await api.make_key("deliveries", rate=50)

    left = []
    for limit in (50, 1_000):
        api.clock.advance(60)
        left.append(limits_of(await api.call("GET", f"{path}?limit={limit}", key))["requests"][2])

    assert left[0] - left[1] == listing_weight(1_000) - listing_weight(50) > 10


async def test_long_lists_of_delayed_messages_take_more(api: Api) -> None:
    async def left() -> int:
        api.clock.advance(60)
        answer = await api.call("GET", "/v1/users/alice/messages", api.token())
        assert answer.status_code == 200
        return limits_of(answer)["requests"][2]

    empty = await left()
    later = api.clock.now_us() // 1_000_000 + 3_600
    for _ in range(100):
        await api.send("alice", "x" * 1_000, system="kbfs", not_before=later)
    stored = sum(len(raw) for raw in await api.store.agenda.list_delayed("alice"))

    assert empty == 499
    # 1 for each 50 messages, and 1 for each 8 KiB
    assert await left() == 499 - 100 // 50 - stored // 8_192


async def test_list_of_delayed_messages_over_the_rate_is_refused() -> None:
    async with Api(device_request_rate=0.001, device_request_burst=12) as api:
        later = api.clock.now_us() // 1_000_000 + 3_600
        for _ in range(60):
            await api.send("alice", "x" * 1_000, system="kbfs", not_before=later)
        answers = [await api.call("GET", "/v1/users/alice/messages", api.token()) for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 429]


@pytest.mark.parametrize("count", [1, 60])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/users/alice/messages"),
        ("DELETE", "/v1/users/alice/messages/m0"),
        ("DELETE", "/v1/users/alice/devices/phone"),
    ],
)
async def test_refused_request_reads_no_delayed_message(
    method: str, path: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading 1 MiB took ingest 130 MiB of memory if a token over its rate repeated that."""
    read: list[str] = []
    async with Api(device_request_rate=0.001, device_request_burst=3) as api:
        later = api.clock.now_us() // 1_000_000 + 3_600
        for _ in range(2):
            await api.call("GET", "/v1/users/alice/state", api.token())
        for n in range(count):
            await api.send("alice", "x" * 10_000, system="kbfs", not_before=later, id=f"m{n}")
        agenda = api.store.agenda
        for name in ("list_delayed", "delayed"):
            monkeypatch.setattr(agenda, name, lambda *_, name=name: read.append(name))
        answer = await api.call(method, path, api.token())

    assert code_of(answer) == (429, "rate_limited")
    assert read == []


async def test_cancelling_a_long_message_takes_more_of_the_rate() -> None:
    """Another device may not cancel it, so the same request could decode it again and again."""
    async with Api(device_request_rate=0.001, device_request_burst=12) as api:
        later = api.clock.now_us() // 1_000_000 + 3_600
        await api.send("alice", "x" * 80_000, api.token(device="desk"), system="kbfs", not_before=later, id="long")
        path = "/v1/users/alice/messages/long"
        answers = [await api.call("DELETE", path, api.token()) for _ in range(2)]

    assert [code_of(each) for each in answers] == [(404, "not_found"), (429, "rate_limited")]
    assert limits_of(answers[0])["requests"][2] == 12 - 1 - 80_000 // 8_192


@pytest.mark.parametrize(("method", "cats"), [("PATCH", None), ("PATCH", ["d"]), ("PUT", ["d"])])
async def test_changing_long_preferences_takes_more_of_the_rate(method: str, cats: list[str] | None) -> None:
    """A request of 60 bytes made Redis read, compare and write 159 KB, 50 times a second for each token."""
    path = "/v1/users/alice/preferences"
    full = {f"c{n}.{'x' * 120}": {"push": True, "email": False} for n in range(1_000)}
    async with Api(device_request_rate=0.001, device_request_burst=25) as api:
        await api.call("PUT", path, json=full)
        stored = await api.store.contacts.preferences_bytes("alice")
        token = api.token(category_filter=cats)
        answers = [await api.call(method, path, token, json={}) for _ in range(2)]

    assert [answers[0].status_code, code_of(answers[1])] == [200, (429, "rate_limited")]
    assert limits_of(answers[0])["requests"][2] == 25 - 1 - stored // 8_192


async def test_forgetting_a_device_is_charged_for_its_work() -> None:
    """It compares all live items and decodes the delayed messages: a device could repeat that without end."""
    async with Api(device_request_rate=0.001) as api:
        path = "/v1/users/alice/devices/phone"
        small = await api.call("DELETE", path, api.token())
        await create_many(api, "a", 1_000)
        many_items = await api.call("DELETE", path, api.token())
        later = api.clock.now_us() // 1_000_000 + 3_600
        for _ in range(60):
            await api.send("alice", "x" * 1_000, system="kbfs", not_before=later)
        much_delayed = await api.call("DELETE", path, api.token())
        left = [limits_of(each)["requests"][2] for each in (small, many_items, much_delayed)]

    assert [500 - left[0], left[0] - left[1]] == [1, 1 + 1_000 // 200 + 1]  # 1,000 short items have 64 KiB
    assert left[1] - left[2] > 1 + 1_000 // 200 + 60_000 // 8_192


async def test_forgetting_a_device_is_charged_for_bytes_and_dismissals() -> None:
    """It reads each item with its body, and with the dismissals of other devices."""
    async with Api(device_request_rate=0.001) as api:
        path, body = "/v1/users/alice/devices/phone", "x" * 6_000
        ids = [f"i{n}" for n in range(100)]
        for at in range(0, 100, 20):
            new = {each: {"category": "news", "for_device": "*", "body": body} for each in ids[at : at + 20]}
            assert (await api.send("alice", {"create": new})).status_code == 200
        long_bodies = await api.call("DELETE", path, api.token())
        for n in range(26):
            dismissed = await api.send("alice", {"dismiss": {"ids": ids}}, api.token(device=f"d{n}"))
            assert dismissed.status_code == 200
        hidden = await api.call("DELETE", path, api.token())
        left = [limits_of(each)["requests"][2] for each in (long_bodies, hidden)]

    assert 500 - left[0] == 1 + 100 * 6_000 // 65_536
    assert left[0] - left[1] == 1 + 100 * 6_000 // 65_536 + 2_600 // 2_500


async def test_forgetting_over_the_rate_forgets_nothing() -> None:
    path = "/v1/users/alice/devices/phone"
    async with Api(device_request_rate=0.001, device_request_burst=5) as api:
        await create_many(api, "a", 1_000)
        registered = await api.call("PUT", path, api.token(), json={"platform": "ios"})
        refused = await api.call("DELETE", path, api.token())
        kept = await api.call("GET", path)

    assert (registered.status_code, code_of(refused), kept.status_code) == (200, (429, "rate_limited"), 200)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_displacing_a_device_is_charged_for_its_work(method: str) -> None:
    """It forgets another device. Tokens of more than 64 devices could repeat that at the rate of their user."""

    async def register(device: str) -> httpx.Response:
        path = f"/v1/users/alice/devices/{device}"
        return await api.call(method, path, api.token(device=device), json={"platform": "ios"})

    async with Api(device_request_rate=0.001, user_request_rate=0.001, max_devices=2) as api:
        await create_many(api, "a", 1_000)
        for session in range(8):
            opened = DeviceSession(f"s{session}", f"c{session}", "", api.clock.now_us())
            await api.store.devices.open_session("alice", "x", opened, api.clock.now_us(), SECOND_US)
        left = [limits_of(await register(device))["requests"][2] for device in ("x", "y", "y", "z")]

    assert [500 - each for each in left[:2]] == [2, 2]
    assert 500 - left[2] == 2 + 2
    assert 500 - left[3] == 2 + 4 + 8 // 8 + 1_000 // 200 + 1  # 1,000 short items have 64 KiB


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_displacing_over_the_rate_of_a_user_removes_no_device(method: str) -> None:
    rate, burst = 0.001, 13
    async with Api(
        device_request_rate=rate,
        device_request_burst=burst,
        user_request_rate=rate,
        user_request_burst=29,
        max_devices=2,
    ) as api:
        await create_many(api, "a", 1_000)
        answers = [
            await api.call(method, f"/v1/users/alice/devices/d{n}", api.token(device=f"d{n}"), json={"platform": "ios"})
            for n in range(5)
        ]
        known = (await api.call("GET", "/v1/users/alice/devices")).json()["devices"]

    assert [each.status_code for each in answers] == [200, 200, 200, 200, 429]
    assert list(known) == ["d2", "d3"]


async def plan_pushes(api: Api, count: int) -> None:
    await api.send("alice", {"create": {"a": {"category": "news"}}})
    pushes = [Intent("alice", f"i{n}", IntentKind.ITEM, "apns", "phone", seq=1, at_us=1) for n in range(count)]
    await api.store.ledger.plan(pushes, DeliveryState.PLANNED, None, api.clock.now_us())


async def test_quiet_hours_are_charged_for_their_work() -> None:
    """A change reads all deliveries, and those that wait are decided again: a device could repeat that without end."""
    path = "/v1/users/alice/quiet-hours"
    async with Api(device_request_rate=0.001) as api:
        empty = await api.call("PUT", path, api.token(), json={"timezone": "UTC"})
        await plan_pushes(api, 100)
        many = await api.call("PUT", path, api.token(), json={"timezone": "UTC"})
        left = [limits_of(each)["requests"][2] for each in (empty, many)]

    assert [500 - left[0], left[0] - left[1]] == [1, 1 + 100 // 5]


async def test_quiet_hours_are_charged_for_each_delivery() -> None:
    """An item with 16 reminders has 17 deliveries on each of 64 devices."""
    path = "/v1/users/alice/quiet-hours"
    async with Api(device_request_rate=0.001) as api:
        await plan_pushes(api, 1)
        intents = [Intent("alice", "i0", IntentKind.REMIND, "apns", f"d{n}", seq=n) for n in range(1_000)]
        await api.store.ledger.plan(intents, DeliveryState.PLANNED, None, api.clock.now_us())
        answer = await api.call("PUT", path, api.token(), json={"timezone": "UTC"})

    assert 500 - limits_of(answer)["requests"][2] == 1 + 1_000 // 500


async def test_quiet_hours_over_the_rate_are_kept() -> None:
    path = "/v1/users/alice/quiet-hours"
    async with Api(device_request_rate=0.001, device_request_burst=5) as api:
        stored = await api.call("PUT", path, api.token(), json={"timezone": "Europe/Rome"})
        await plan_pushes(api, 100)
        refused = await api.call("PUT", path, api.token(), json={})
        kept = await api.call("GET", path)

    assert (stored.status_code, code_of(refused)) == (200, (429, "rate_limited"))
    assert kept.json() == {"timezone": "Europe/Rome"}
