"""The excess of a request is charged to the limit that it took from."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import httpx
import pytest

from gregor.core.limits import Limits
from gregor.core.rate_limit import MAX_MEASURED_NS, ExcessCost
from gregor.store.redis.store import RedisStore
from gregor_ingest.rate_limits import MAX_CONCURRENT
from gregor_ingest.request import SMALL_BODY_BYTES
from tests.support.api import NDJSON, NOW_S, Api, code_of
from tests.support.servers import open_client
from tests.support.wait import wait_until
from tests.unit.ingest.test_rate_limit_fields import limits_of

MS = 1_000_000
NOW_US = NOW_S * MS
STATE = "/v1/users/alice/state"
MESSAGES = "/v1/users/alice/messages"
DISMISSAL = {"system": "gregor", "body": {"dismiss": {"ids": ["x"]}}}
LONG = {"system": "kbfs", "body": "x" * 2_000}


async def left_after(api: Api, step_ms: int, method: str, path: str, **options: Any) -> tuple[httpx.Response, int]:
    """Send a request of a device whose steps take so much CPU time; return the answer, and what the limit has left."""
    api.clock.cpu_step_ns = step_ms * MS
    answer = await api.call(method, path, api.token(), **options)
    api.clock.cpu_step_ns = 0
    ((_, _, left, _),) = limits_of(answer).values()
    return answer, left


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", STATE, {}),
        ("GET", "/v1/users/alice/preferences", {}),
        ("GET", "/v1/users/alice/items/none", {}),
        ("GET", f"{STATE}?at=soon", {}),
        ("PUT", "/v1/users/alice/preferences", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/v1/tickets", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    ],
)
async def test_request_that_cost_more_is_charged_afterwards(api: Api, method: str, path: str, options: Any) -> None:
    _, light = await left_after(api, 0, method, path, **options)
    _, heavy = await left_after(api, 400, method, path, **options)
    _, next_one = await left_after(api, 0, method, path, **options)

    assert light == 499
    # A unit of requests is 2 ms; the request has at least one step.
    assert heavy <= 500 - 400 // 2
    assert next_one == heavy - 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/users/alice/devices/phone"),
        ("PATCH", "/v1/users/alice/devices/phone"),
        ("PUT", "/v1/users/alice/quiet-hours"),
        ("POST", "/v1/tickets"),
    ],
)
@pytest.mark.parametrize("excess", [0, 1])
async def test_body_that_describes_one_thing_is_small(api: Api, method: str, path: str, excess: int) -> None:
    """256 KiB of brackets take 60 ms to decode."""
    text = b"{" + b" " * (SMALL_BODY_BYTES - 2 + excess) + b"}"

    answer = await api.call(method, path, api.token(), content=text, headers={"Content-Type": "application/json"})

    assert (answer.status_code == 413) is bool(excess)


def test_fraction_of_a_unit_is_charged_at_random() -> None:
    """Otherwise almost a whole unit of each request would be free."""
    for draw, charged in ((0.0, 2), (0.49, 2), (0.51, 3), (0.99, 3)):
        costs = ExcessCost(lambda draw=draw: draw)
        while not costs.weight("alice", 10 * 2 * MS, 2 * MS, 0, NOW_US):
            pass  # the grace ends

        assert costs.weight("alice", 7 * MS, 2 * MS, 1, NOW_US) == charged
        assert costs.weight("alice", 1 * MS, 2 * MS, 1, NOW_US) == 0


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (MESSAGES, {"json": LONG}),
        (f"{MESSAGES}?dry_run=true", {"json": DISMISSAL}),
        ("/v1/messages", {"json": [{**DISMISSAL, "uid": "alice"}]}),
        ("/v1/messages", {"headers": NDJSON, "content": b"{}\n{}\n"}),
    ],
)
async def test_messages_that_cost_more_are_charged_afterwards(path: str, options: Any) -> None:
    async with Api(device_rate=0.001) as api:
        answer, _ = await left_after(api, 1_000, "POST", path, **options)
        after = await api.send("alice", DISMISSAL["body"], api.token())

    assert answer.status_code == 200
    assert code_of(after) == (429, "rate_limited")
    # A unit of messages is 5 ms, and 50 were there.
    assert int(after.headers["retry-after"]) >= (1_000 // 5 - 50) * 1_000


async def test_debt_delays_the_next_request() -> None:
    async with Api(device_request_rate=10, device_request_burst=20, user_request_rate=10) as api:
        token = api.token()
        answer, left = await left_after(api, 400, "GET", "/v1/users/alice/preferences")
        refused = await api.call("GET", "/v1/users/alice/preferences", token)
        (_, _, none, wait_s) = limits_of(refused)["requests"]
        assert (answer.status_code, left, code_of(refused)) == (200, 0, (429, "rate_limited"))
        assert (none, wait_s) == (0, int(refused.headers["retry-after"]))
        assert limits_of(answer)["requests"][3] == wait_s
        # At least 200 units, of which 20 were there: 18 s at 10 a second.
        assert wait_s >= 18

        api.clock.advance(wait_s - 1)
        assert (await api.call("GET", "/v1/users/alice/preferences", token)).status_code == 429
        api.clock.advance(1)
        assert (await api.call("GET", "/v1/users/alice/preferences", token)).status_code == 200


async def test_other_devices_of_the_user_are_charged_too() -> None:
    async with Api(user_request_rate=50, user_request_burst=500) as api:
        _, left = await left_after(api, 300, "GET", STATE)
        other = await api.call("GET", STATE, api.token(device="desk"))
        stranger = await api.call("GET", "/v1/users/bob/state", api.token("bob"))

    assert limits_of(other)["requests"][2] == left - 1
    assert limits_of(stranger)["requests"][2] == 499


async def test_grace_covers_a_small_excess(api: Api) -> None:
    """Garbage collection, a first request, or a slow machine costs a well-behaved device nothing."""
    api.clock.cpu_step_ns = 20 * MS
    left = [limits_of(await api.call("GET", STATE, api.token()))["requests"][2] for _ in range(15)]

    assert left[0] == 499
    assert left[-1] < left[-2] - 1


async def test_one_request_is_charged_at_most_two_seconds() -> None:
    async with Api(device_request_rate=1, device_request_burst=1, user_request_rate=1) as api:
        await left_after(api, 60_000, "GET", STATE)
        refused = await api.call("GET", STATE, api.token())

    assert int(refused.headers["retry-after"]) <= MAX_MEASURED_NS // (2 * MS) + 1


async def test_key_is_charged_if_it_has_a_rate(api: Api) -> None:
    limited = await api.make_key("read", rate=50)
    api.clock.cpu_step_ns = 300 * MS
    answer = await api.call("GET", STATE, limited)
    before = api.clock.cpu_ns()
    unlimited = await api.call("GET", STATE)

    assert limits_of(answer)["requests"][2] <= 500 - 300 // 2
    assert "ratelimit" not in unlimited.headers
    assert api.clock.cpu_ns() - before == 300 * MS  # it is not even measured


async def test_weight_that_was_charged_before_counts() -> None:
    """A list of 60 KB of delayed messages takes 8 units before its work, which cover 16 ms of it."""
    async with Api(device_request_rate=0.001) as api:
        for _ in range(60):
            await api.send("alice", "x" * 1_000, system="kbfs", not_before=NOW_S + 3_600)
        answers = [await left_after(api, step_ms, "GET", MESSAGES) for step_ms in (0, 4)]

    assert 499 - answers[0][1] >= 8
    assert answers[0][1] - answers[1][1] == 500 - answers[0][1]


async def test_timeline_of_an_item_is_measured_in_all_its_reads(api: Api) -> None:
    """The acknowledgements and deliveries of a user are read beside each other: 500 of them take 9 ms to decode."""
    await api.create("alice", "a")
    _, found = await left_after(api, 200, "GET", "/v1/users/alice/items/a")

    # One step of the request, one of each read, and one more of the request: 200 ms each
    assert found <= 500 - 4 * 200 // 2


async def test_concurrent_requests_of_a_device_take_turns(redis_server: str) -> None:
    """All of 100 requests at once would begin before the first is charged for its work."""
    async with open_client(redis_server) as connection:
        store = RedisStore(connection, Limits(), f"test-{secrets.token_hex(4)}", allow_oom=True)
        async with Api(store) as api:
            api.clock.cpu_step_ns = 500 * MS
            answers = await asyncio.gather(
                *(api.call("GET", "/v1/users/alice/preferences", api.token()) for _ in range(100))
            )

    served = sum(answer.status_code == 200 for answer in answers)
    assert 1 <= served <= MAX_CONCURRENT + 1
    assert {answer.status_code for answer in answers} == {200, 429}


async def test_responses_that_are_not_read_take_turns(api: Api) -> None:
    """A response may have 1 MiB. Without a bound, one token held hundreds of them in a process."""
    for n in range(8):
        await api.create("alice", f"i{n}", body="x" * 12_000)
    is_read, unread = asyncio.Event(), 0
    headers = [(b"host", b"gregor.test"), (b"authorization", f"Bearer {api.token()}".encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": STATE, "raw_path": STATE.encode()}
    scope |= {"query_string": b"", "headers": headers, "scheme": "http", "server": ("gregor.test", 80), "root_path": ""}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        # Like the server, this waits with the next part until the client has read the previous one.
        nonlocal unread
        if message["type"] == "http.response.body" and not message["body"]:
            unread += 1
            await is_read.wait()

    requests = [asyncio.create_task(api.app(dict(scope), receive, send)) for _ in range(3 * MAX_CONCURRENT)]
    await wait_until(lambda: unread == MAX_CONCURRENT, "eight responses are written")
    other = await api.call("GET", STATE, api.token(device="desk"))
    assert (unread, other.status_code) == (MAX_CONCURRENT, 200)
    is_read.set()
    await asyncio.gather(*requests)

    assert unread == 3 * MAX_CONCURRENT
