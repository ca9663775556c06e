"""SSE, tickets and posted frames on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gregor.auth.device_tokens import mint
from gregor.core.items.sync import View
from gregor.core.messages.model import Commit, Receipt
from gregor.core.rate_limit import request_buckets
from gregor.store.contract.access import Ticket
from gregor.store.contract.devices import DeviceSession
from gregor.store.gateways import NO_GATEWAY
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.sessions.presence import LEASE_US
from gregor_gateway.transports.post_frames import MAX_CONCURRENT
from tests.support.stream_device import StreamDevice
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import NOW_US, AskWithoutReading, Gateway, UnavailableStore, settle, ticket

JSON_TYPE = {"Content-Type": "application/json"}


def auth(gateway: Gateway, device: str = "phone") -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.token(device=device)}"}


async def test_stream_events_have_positions(gateway: Gateway, streams: str) -> None:
    await gateway.create("aa")
    async with StreamDevice(streams, headers=auth(gateway)) as stream:
        sync = await stream.until('"sync"')
        await gateway.create("bb")
        await stream.until('"bb"')
        now_ms = gateway.clock.now_us() // 1_000

        assert stream.events[0] == (
            None,
            {"welcome": {"expires_in": 3600, "ping": 25, "max_frame": 2**20, "uncounted": [], "now": now_ms}},
        )
        assert [event_id for event_id, _ in stream.events[1:]] == [sync["cursor"], stream.mirror.cursor]
        assert stream.answer_headers["Content-Type"].startswith("text/event-stream")
        assert stream.answer_headers["X-Accel-Buffering"] == "no"
        assert stream.retry_ms is not None
        assert 1_000 <= stream.retry_ms <= 5_000


async def test_each_event_of_a_run_has_a_position(gateway: Gateway, streams: str) -> None:
    await gateway.create("aa")
    async with StreamDevice(streams, headers=auth(gateway)) as stream:
        sync = await stream.until('"sync"')
        await gateway.create("bb")
        await gateway.create("cc")
        await stream.until('"cc"')

        tag, _, seq = sync["cursor"].partition("-")
        assert [event_id for event_id, _ in stream.events[2:]] == [f"{tag}-{int(seq) + 1}", f"{tag}-{int(seq) + 2}"]


async def test_first_event_has_the_new_epoch(gateway: Gateway, streams: str, api: httpx.AsyncClient) -> None:
    copy = (await api.get("/v1/poll")).json()
    async with StreamDevice(streams, headers=auth(gateway)) as device:
        await device.until("full")
        polling = asyncio.create_task(api.get("/v1/poll", params={"cursor": copy["cursor"], "wait": "10"}))
        await wait_until(lambda: len(gateway.context.hub.channels["alice"].subscribers) == 2, "the poll waits")
        await gateway.create("aa")
        announced = await device.until("create")

        answer = (await polling).json()
        assert [frame["cursor"] for frame in answer["frames"]] == [answer["cursor"]]
        assert device.events[-1] == (answer["cursor"], announced) and announced["cursor"] == answer["cursor"]


async def test_stream_resumes_after_last_event_id(gateway: Gateway, streams: str) -> None:
    await gateway.create("aa", body="x" * 200)
    async with StreamDevice(streams, headers=auth(gateway)) as stream:
        cursor = (await stream.until('"sync"'))["cursor"]
    await gateway.create("bb")

    async with StreamDevice(streams, {"cursor": "void-1"}, auth(gateway) | {"Last-Event-ID": cursor}) as stream:
        sync = await stream.until('"sync"')

    assert (sync["sync"], list(sync["body"]["create"])) == ("delta", ["bb"])


async def test_stream_of_a_forgotten_device_resumes_with_a_full_copy(gateway: Gateway, streams: str) -> None:
    await gateway.create("each", for_device="*")
    await gateway.create("own", for_device="phone")
    async with StreamDevice(streams, headers=auth(gateway)) as stream:
        await stream.until('"sync"')
        await gateway.send({"dismiss": {"ids": ["each"]}}, device="phone")
        await stream.until('"each"')
        await gateway.store.devices.forget_device("alice", "phone", NOW_US, b"abc")
        await stream.until('"close"')
        cursor = [event_id for event_id, _ in stream.events if event_id is not None][-1]

    async with StreamDevice(streams, headers=auth(gateway) | {"Last-Event-ID": cursor}) as stream:
        sync = await stream.until('"sync"')

    assert (sync["sync"], list(sync["body"]["create"])) == ("full", ["each"])


async def test_disconnected_stream_is_removed(gateway: Gateway, streams: str) -> None:
    async with StreamDevice(streams, headers=auth(gateway)) as stream:
        await stream.until('"sync"')
        assert gateway.context.hub.channels

    await wait_until(lambda: not gateway.context.hub.channels, "the room is empty")


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ({}, {}, 401),
        ({"token": "x"}, {}, 401),
        ({"ticket": "none"}, {}, 401),
        ({}, {"Authorization": "Bearer nonsense"}, 401),
        ({}, {"Authorization": "Basic x"}, 401),
        ({}, {"Authorization": "Bearer gk_a_b"}, 403),
        ({}, {"Origin": "https://evil.example"}, 403),
    ],
)
async def test_stream_refusals_are_problems(
    streams: str, query: dict[str, str], headers: dict[str, str], status: int
) -> None:
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        answer = await client.get("/v1/stream", params=query, headers=headers)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("www-authenticate" in answer.headers) == (answer.json()["code"] in ("unauthorised", "forbidden"))


async def test_revoked_token_gets_no_stream(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.store.devices.revoke("alice", None, gateway.clock.now_us() + 1, gateway.clock.now_us())

    assert (await api.get("/v1/stream")).status_code == 401
    assert (await api.post("/v1/frames?session=x", json={"ack": 1})).status_code == 401


async def test_ticket_is_spent_and_replaced_in_welcome(gateway: Gateway, streams: str) -> None:
    text = await ticket(gateway, prefixes=("mail",), systems=())
    await gateway.create("aa", category="mail")
    await gateway.create("bb", category="web")
    async with StreamDevice(streams, {"ticket": text}) as stream:
        await stream.until('"sync"')
        following = stream.frames[0]["welcome"]["ticket"]
        assert list(stream.mirror.items) == ["aa"]
    async with StreamDevice(streams, {"ticket": text}) as spent, StreamDevice(streams, {"ticket": following}) as second:
        assert (spent.status, second.status) == (401, 200)


async def test_ticket_expires_with_its_token(gateway: Gateway, streams: str) -> None:
    claims = {"exp": gateway.clock.now_us() / 1e6 + 100, "iat": 0, "cats": None, "systems": None}
    async with StreamDevice(streams, {"ticket": await ticket(gateway, claims=claims)}) as stream:
        await stream.until('"sync"')
        gateway.pass_time(126)
        await stream.until("4004")


async def test_observer_stream_has_no_presence_and_no_end(gateway: Gateway, streams: str) -> None:
    await gateway.create("own", for_device="phone")
    key, _ = await gateway.store.access.create_key(["read"])
    text = await ticket(gateway, observe=True, claims={"key": key.id, "cats": None})
    house_ticket = Ticket("alice", "", True, None, None, {"key": key.id, "cats": None})
    backend = await gateway.store.access.create_ticket(house_ticket, gateway.clock.now_us(), 30_000_000)
    async with (
        StreamDevice(streams, {"ticket": text}) as at_phone,
        StreamDevice(streams, {"ticket": backend}) as at_all,
    ):
        for stream in (at_phone, at_all):
            await stream.until('"sync"')
            assert list(stream.mirror.items) == ["own"]
            assert "expires_in" not in stream.frames[0]["welcome"]
            assert "ticket" in stream.frames[0]["welcome"]
        (found,) = await gateway.store.devices.presence(["alice"], gateway.clock.now_us())
        assert not found.online
        assert await gateway.store.devices.list_devices("alice", gateway.clock.now_us()) == {}


async def test_deleted_key_invalidates_its_tickets(gateway: Gateway, streams: str) -> None:
    """This includes the next ticket of an open stream; otherwise its observer could reconnect forever."""
    key, _ = await gateway.store.access.create_key(["read"])
    texts = [await ticket(gateway, observe=True, claims={"key": key.id, "cats": None}) for _ in range(2)]
    async with StreamDevice(streams, {"ticket": texts[0]}) as stream:
        await stream.until('"sync"')
        following = stream.frames[0]["welcome"]["ticket"]
    await gateway.store.access.delete_key(key.id)

    for text in (texts[1], following):
        async with StreamDevice(streams, {"ticket": text}) as refused:
            assert refused.status == 401


async def test_cookie_authenticates_reads_only(gateway: Gateway, streams: str) -> None:
    cookie = {"Cookie": f"other=1; gregor_token={gateway.token()}", "Origin": "http://localhost:3000"}
    async with httpx.AsyncClient(base_url=streams, headers=cookie, trust_env=False) as client:
        poll = await client.get("/v1/poll", params={"wait": 0})
        posted = await client.post("/v1/frames?session=x", json={"ack": 1})

    assert (poll.status_code, posted.status_code) == (200, 401)
    assert poll.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert poll.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize(
    ("headers", "query", "reason"),
    [
        ({}, "", "missing"),
        ({"Authorization": "Bearer x.y.z"}, "", "token_invalid"),
        ({"Authorization": "Bearer gk_abc_def"}, "", "key_scope"),
        ({}, f"?ticket={'t' * 43}", "ticket_invalid"),
    ],
)
async def test_failed_sign_in_of_a_stream_is_counted(
    gateway: Gateway, streams: str, headers: dict[str, str], query: str, reason: str
) -> None:
    async with httpx.AsyncClient(base_url=streams, headers=headers, trust_env=False) as client:
        with capture_logs() as logs:
            assert (await client.get(f"/v1/stream{query}")).status_code in (401, 403)
            assert (await client.get(f"/v1/poll{query}")).status_code in (401, 403)

    assert gateway.context.metrics.auth_failures.labels(reason)._value.get() == 2
    assert [line["operation"] for line in logs if line["event"] == "request.refused"] == ["stream", "poll"]


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/poll"])
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({}, {"Authorization": "Bearer x.y.z"}),
        (
            {},
            {
                "Authorization": "Bearer "
                + mint("another secret of thirty-two bytes", "alice", "phone", 60, now_us=NOW_US)
            },
        ),
        ({}, {"Cookie": "gregor_token=x.y.z", "Sec-Fetch-Site": "same-origin"}),
        ({"ticket": "none"}, {}),
        ({"ticket": "x" * 42}, {}),
    ],
)
async def test_unknown_credentials_cost_no_store_command(
    gateway: Gateway, streams: str, path: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    gateway.store._access = UnavailableStore()  # type: ignore[assignment]
    gateway.store._devices = UnavailableStore()  # type: ignore[assignment]
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        answer = await client.get(path, params=query, headers=headers)

    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/poll"])
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({}, {}),
        ({}, {"Authorization": "Bearer x.y.z"}),
        ({}, {"Cookie": "gregor_token=x.y.z", "Sec-Fetch-Site": "same-origin"}),
        ({"ticket": "none"}, {}),
    ],
)
async def test_filters_are_parsed_only_for_a_known_caller(
    streams: str, path: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        answer = await client.get(path, params={**query, "category_prefix": "no prefix"}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")


async def test_invalid_query_does_not_spend_the_ticket(gateway: Gateway, streams: str) -> None:
    text = await ticket(gateway)
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        refused = await client.get("/v1/poll", params={"ticket": text, "session": "no name"})
        accepted = await client.get("/v1/poll", params={"ticket": text, "session": "name", "wait": "0"})

    assert refused.headers["content-type"] == "application/problem+json"
    assert (refused.status_code, accepted.status_code) == (422, 200)


async def test_invalid_query_of_a_token_is_refused(api: httpx.AsyncClient) -> None:
    for path in ("/v1/stream", "/v1/poll"):
        assert (await api.get(path, params={"session": "no name"})).status_code == 422


async def test_stream_over_the_rate_of_joins_reads_nothing(gateway: Gateway, api: httpx.AsyncClient) -> None:
    """An ``EventSource`` reconnects only after a 200, so the close is an event."""
    gateway.context.join_rates.charge("alice", "phone", 200, gateway.context.timers.now)
    gateway.context.join_rates.charge("alice", "phone", 199, gateway.context.timers.now)
    gateway.store._access = UnavailableStore()  # type: ignore[assignment]
    gateway.store._devices = UnavailableStore()  # type: ignore[assignment]

    answer = await api.get("/v1/stream")

    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    retry, event = answer.text.removesuffix("\n\n").split("\n\n")
    assert int(retry.removeprefix("retry: ")) >= 20_000
    close = json.loads(event.removeprefix("data: "))["close"]
    assert close["code"] == 4009
    assert close["reason"].startswith("retry_after_ms=")


async def test_ticket_of_a_stream_over_the_rate_of_joins_stays_valid(gateway: Gateway, streams: str) -> None:
    """The browser repeats the request of an ``EventSource`` with the same ticket."""
    text = await ticket(gateway)
    gateway.context.join_rates.charge("alice", "phone", 200, gateway.context.timers.now)
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        refused = await client.get("/v1/stream", params={"ticket": text})
    gateway.pass_time(1)
    async with StreamDevice(streams, {"ticket": text}) as stream:
        await stream.until('"sync"')

    assert (refused.status_code, refused.headers["connection"]) == (200, "close")
    assert '"code":4009' in refused.text
    assert "welcome" not in refused.text


async def test_unread_rest_of_a_closed_stream_counts_for_its_device(
    gateway: Gateway, ask_without_reading: AskWithoutReading
) -> None:
    await gateway.create(*(f"i{n}" for n in range(60)), body="x" * 15_000)
    unread = gateway.context.unread_responses
    opened = await ask_without_reading("/v1/stream")
    await wait_until(lambda: "alice" in gateway.context.hub.channels, "the stream")
    await settle()
    assert unread.count("alice", "phone") == 0  # it is a connection of the device

    for subscriber in list(gateway.context.hub.channels["alice"].subscribers):
        subscriber.close(4002)
    await settle()
    assert unread.count("alice", "phone") == 1
    opened.close()
    await wait_until(lambda: unread.count("alice", "phone") == 0, "the end of the connection")


async def test_posted_frames_are_answered_and_delivered(gateway: Gateway, streams: str, api: httpx.AsyncClient) -> None:
    await gateway.create("old")
    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        frames = [
            {"ref": 1, "system": "gregor", "body": {"create": {"aa": {"category": "mail"}}}},
            {"ref": 2, "system": "gregor", "body": {"flush": True}},
            {"ack": 1},
            {"foreground": True},
            {"nonsense": 1},
            {"ref": 3, "hello": {}},
            {"resync": True},
            {"ref": 4, "resync": True},
            "x",
        ]
        answer = await api.post("/v1/frames?session=one", json=frames)
        await stream.until('"aa"')
        await wait_until(lambda: sum("sync" in frame for frame in stream.frames) == 2, "the resync")
        (presence,) = await gateway.store.devices.presence(["alice"], gateway.clock.now_us())
    answers = [(entry.get("ref"), entry.get("problem", {}).get("code")) for entry in answer.json()]
    assert answers == [
        (1, None),
        (2, "forbidden"),
        (None, "unknown_field"),
        (3, "invalid"),
        (4, "rate_limited"),
        (None, "invalid"),
    ]
    assert answer.json()[0]["receipt"]["created"] == ["aa"]
    assert await gateway.store.devices.acknowledged("alice") == {View("phone"): 1}
    assert presence.foreground


@pytest.mark.parametrize("is_here", [True, False])
async def test_limited_token_acknowledges_only_its_categories(gateway: Gateway, streams: str, is_here: bool) -> None:
    """Otherwise pushes and mails of categories that it may not see would be withheld."""
    await gateway.create("aa")
    limited = {"Authorization": f"Bearer {gateway.token(category_filter=['mail'])}"}
    if is_here:
        device = await gateway.connect(hello=Hello(session="one"))
        assert device.connection.session.view == View("phone")
    else:
        session = DeviceSession("one", "c9", "another gateway", gateway.clock.now_us())
        await gateway.store.devices.open_session("alice", "phone", session, gateway.clock.now_us(), LEASE_US)
    async with httpx.AsyncClient(base_url=streams, headers=limited, trust_env=False) as client:
        answer = await client.post("/v1/frames?session=one", json={"ack": 1})
    await settle()

    assert answer.status_code == 200
    assert await gateway.store.devices.acknowledged("alice") == {View("phone", ("mail",)): 1}


async def test_single_frame_may_be_posted(gateway: Gateway, streams: str, api: httpx.AsyncClient) -> None:
    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        answer = await api.post("/v1/frames?session=one", json={"token": gateway.token()})
        assert (answer.status_code, answer.json()) == (200, [])
        assert (await stream.until('"token"'))["token"]["expires_in"] == 3600
        bad = await api.post("/v1/frames?session=one", json={"ref": 1, "token": "x"})
        assert bad.json()[0]["problem"]["code"] == "unauthorised"


async def test_split_of_posted_frames_stops_at_the_limit(api: httpx.AsyncClient) -> None:
    """The text behind the first frame above the limit is not read: it may be wrong."""
    body = b"[" + b"1," * 1_001 + b"}"

    answer = await api.post("/v1/frames?session=one", content=body, headers=JSON_TYPE)

    assert (answer.status_code, answer.json()["code"]) == (422, "too_many")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"12345678901234567890", "number_out_of_range"),
        (b'{"a":1,"a":1}', "malformed_json"),
        (b"[" * 100 + b"]" * 100, "malformed_json"),
        (b'"\\ud83d"', "malformed_json"),
        (b'"%s"' % (b"x" * 300_000), "message_too_large"),
    ],
)
async def test_refused_posted_frame_spares_the_others(
    gateway: Gateway, streams: str, api: httpx.AsyncClient, content: bytes, code: str
) -> None:
    """A client sends its outbox in one request: a message that is never accepted must not block later ones (L11)."""
    create = b'{"ref":%d,"system":"gregor","body":{"create":{"%s":{"category":"mail","body":%s}}}}'
    body = b" [ %s , %s ] " % (create % (1, b"aa", content), create % (2, b"bb", b"[ 1 ]"))
    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        answer = await api.post("/v1/frames?session=one", content=body, headers=JSON_TYPE)

    refused, accepted = answer.json()
    assert (refused["ref"], refused["problem"]["code"]) == (1, code)
    assert (accepted["ref"], accepted["receipt"]["created"]) == (2, ["bb"])


async def test_long_posted_frame_is_not_decoded(gateway: Gateway, streams: str, api: httpx.AsyncClient) -> None:
    """Its keys repeat, which would be another problem."""
    long = b'{"ref":1,"a":1,"a":1,"pad":"%s"}' % (b"x" * 300_000)
    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        body = b'[%s,{"ref":2,"system":"gregor","body":{"create":{"aa":{"category":"mail"}}}}]' % long
        answer = await api.post("/v1/frames?session=one", content=body, headers=JSON_TYPE)

    refused, accepted = answer.json()
    assert refused["problem"]["code"] == "message_too_large"
    assert accepted["receipt"]["created"] == ["aa"]


async def test_posted_frames_are_charged_by_their_length(
    gateway: Gateway, streams: str, api: httpx.AsyncClient
) -> None:
    async def spent(body: bytes) -> int:
        before, after = [
            await api.post("/v1/frames?session=x", content=content, headers=JSON_TYPE)
            for content in (b'{"ack":1}', body)
        ]
        left_before, left_after = (
            int(each.headers["ratelimit"].split("r=")[1].split(";")[0]) for each in (before, after)
        )
        return left_before - left_after

    assert await spent(b'{"ack":1}') == 1
    assert await spent(b'{"ack":1%s}' % (b" " * 200_000)) == 25
    assert await spent(b"[%s]" % b",".join([b'{"ack":1}'] * 1_000)) == 1 + 200


async def test_malformed_posted_frames_are_charged_by_length(gateway: Gateway, api: httpx.AsyncClient) -> None:
    """Splitting 1 MiB takes up to 0.1 s, also if it fails."""
    buckets = request_buckets("alice", "phone", gateway.context.limits)

    async def left() -> int:
        return (await gateway.store.access.take_all("alice", buckets, 1, gateway.clock.now_us())).remaining

    before = await left()
    answer = await api.post("/v1/frames?session=x", content=b"[[%s1]x" % (b"1," * 100_000), headers=JSON_TYPE)

    assert answer.status_code == 400
    assert before - await left() == 25 + 1


@pytest.mark.parametrize("body", [b'{"ack":1}', b"[1"])
async def test_posted_frames_are_charged_for_cpu_time(
    gateway: Gateway, streams: str, api: httpx.AsyncClient, body: bytes
) -> None:
    buckets = request_buckets("alice", "phone", gateway.context.limits)
    now_us = gateway.clock.now_us()
    gateway.clock.cpu_step_ns = 400_000_000
    await api.post("/v1/frames?session=x", content=body, headers=JSON_TYPE)

    # A unit is 2 ms; the request has at least one step.
    left = (await gateway.store.access.take_all("alice", buckets, 1, now_us)).remaining
    assert left <= 500 - 400 // 2


async def test_posts_of_a_device_take_turns(gateway: Gateway, streams: str, api: httpx.AsyncClient) -> None:
    """Each body of 1 MiB that arrives slowly stays in memory."""
    release = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"ack":1'
        await release.wait()
        yield b"}"

    def post(content: Any, device: str = "phone") -> asyncio.Task[httpx.Response]:
        headers = JSON_TYPE | auth(gateway, device)
        return asyncio.ensure_future(api.post("/v1/frames?session=x", content=content, headers=headers))

    held = [post(slow()) for _ in range(MAX_CONCURRENT)]
    await wait_until(lambda: gateway.context.metrics.in_flight == MAX_CONCURRENT, "the slow posts")
    await settle()
    waiting = post(b'{"ack":1}')
    # No device has a session here.
    assert (await post(b'{"ack":1}', "desk")).status_code == 404
    assert not waiting.done()
    release.set()

    assert {(await each).status_code for each in (*held, waiting)} == {404}


async def test_frames_for_another_gateway_are_forwarded(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("aa")
    received: list[bytes] = []

    class Ear:
        def receive(self, payload: bytes) -> None:
            received.append(payload)

        def lost(self) -> None:
            raise AssertionError

        def gap(self, *, same_server: bool) -> None:
            raise AssertionError

    await settle()
    await gateway.feed.subscribe(gateway.store.channel_of("alice"), Ear())
    elsewhere = DeviceSession("far", "c9", "another gateway", gateway.clock.now_us())
    await gateway.store.devices.open_session("alice", "phone", elsewhere, gateway.clock.now_us(), LEASE_US)

    answer = await api.post("/v1/frames?session=far", json=[{"ack": 99}, {"foreground": True}, {"resync": True}])
    await settle()

    (presence,) = await gateway.store.devices.presence(["alice"], gateway.clock.now_us())
    assert (answer.status_code, answer.json()) == (200, [])
    issued_us = gateway.clock.now_us()  # the age of the token that sent them
    assert received == [
        b'K{"frames":{"session":"far","device":"phone","frames":[{"foreground":true},{"resync":true}],"issued_us":%d}}'
        % issued_us
    ]
    assert presence.foreground
    assert await gateway.store.devices.acknowledged("alice") == {View("phone"): 1}


async def test_acks_of_one_request_are_one(gateway: Gateway, api: httpx.AsyncClient) -> None:
    """A request may hold 1,000 of them, for the rate of 200 requests. The highest is stored."""
    for name in ("aa", "bb", "cc"):
        await gateway.create(name)
    elsewhere = DeviceSession("far", "c9", "another gateway", gateway.clock.now_us())
    await gateway.store.devices.open_session("alice", "phone", elsewhere, gateway.clock.now_us(), LEASE_US)

    answer = await api.post("/v1/frames?session=far", json=[{"ack": 1}, {"ack": 3}, {"foreground": True}, {"ack": 2}])

    assert (answer.status_code, answer.json()) == (200, [])
    assert [each.until for each in await gateway.store.devices.acknowledgements("alice")] == [3]


@pytest.mark.parametrize("holder", [NO_GATEWAY, "another gateway"])
async def test_presence_of_one_request_is_stored_once(
    gateway: Gateway, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, holder: str
) -> None:
    """A request may hold 1,000 reports, for the rate of 200 requests. The last one is stored."""
    devices, clock = gateway.store.devices, gateway.clock
    session = DeviceSession("far", "c9", holder, clock.now_us())
    await devices.open_session("alice", "phone", session, clock.now_us(), LEASE_US)
    renew, stored = devices.renew_sessions, list[bool]()

    async def record(entries: Sequence[tuple[str, str, DeviceSession]], *more: Any, **rules: Any) -> None:
        stored.extend(entry.foreground for _, _, entry in entries)
        await renew(entries, *more, **rules)

    monkeypatch.setattr(devices, "renew_sessions", record)
    frames = [{"foreground": False}, {"foreground": True}, {"ack": 1}]
    answer = await api.post("/v1/frames?session=far", json=frames * 3)

    assert (answer.status_code, answer.json(), stored) == (200, [], [True])


@pytest.mark.parametrize("holder", [NO_GATEWAY, "another gateway"])
async def test_revoked_token_is_not_present_after_its_posted_frames(
    gateway: Gateway, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, holder: str
) -> None:
    """The revocation closes the session between the last check of the token and the report."""
    devices, clock = gateway.store.devices, gateway.clock
    await gateway.store.gateways.renew("another gateway", clock.now_us())
    session = DeviceSession("far", "c9", holder, clock.now_us(), issued_us=clock.now_us())
    await devices.open_session("alice", "phone", session, clock.now_us(), LEASE_US)
    renew = devices.renew_sessions

    async def renew_after_revocation(*asked: Any, **rules: Any) -> None:
        await devices.revoke("alice", "phone", clock.now_us(), clock.now_us())
        await devices.close_session("alice", "phone", session, clock.now_us())
        await renew(*asked, **rules)

    monkeypatch.setattr(devices, "renew_sessions", renew_after_revocation)
    await api.post("/v1/frames?session=far", json={"foreground": True})

    (presence,) = await devices.presence(["alice"], clock.now_us())
    assert (presence.online, presence.foreground) == (False, False)


@pytest.mark.parametrize("value", [True, False])
async def test_posted_presence_does_not_reopen_a_closed_session(
    gateway: Gateway, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, value: bool
) -> None:
    """The stream ends at another gateway after the request has read its session. No gateway would close it again."""
    devices, clock = gateway.store.devices, gateway.clock
    await gateway.store.gateways.renew("another gateway", clock.now_us())
    session = DeviceSession("far", "c9", "another gateway", clock.now_us())
    await devices.open_session("alice", "phone", session, clock.now_us(), LEASE_US)
    read = devices.session

    async def read_before_the_close(*asked: Any) -> DeviceSession | None:
        found = await read(*asked)
        await devices.close_session("alice", "phone", session, clock.now_us())
        return found

    monkeypatch.setattr(devices, "session", read_before_the_close)
    answer = await api.post("/v1/frames?session=far", json={"foreground": value})

    (presence,) = await devices.presence(["alice"], clock.now_us())
    assert (answer.status_code, answer.json()) == (200, [])
    assert (presence.online, presence.foreground) == (False, False)


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/v1/frames?session=none", {"json": {"ack": 1}}, 404),
        ("/v1/frames", {"json": {"ack": 1}}, 422),
        ("/v1/frames?session=a%20b", {"json": {"ack": 1}}, 422),
        ("/v1/frames?session=one", {"content": "{"}, 400),
        ("/v1/frames?session=one", {"content": '[{"ack":1},{"ack":]'}, 400),
        ("/v1/frames?session=one", {"content": '["\\ud83d"{"ack":1}]'}, 400),
        ("/v1/frames?session=one", {"content": '["\\ud83d"]]'}, 400),
        ("/v1/frames?session=one", {"content": '["\\ud83d",' + "1," * 1_001 + "1]"}, 422),
        ("/v1/frames?session=one", {"content": "{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("/v1/frames?session=one", {"content": b"x" * (2**20 + 1)}, 413),
        ("/v1/frames?session=one", {"json": [{"ack": 1}] * 1_001}, 422),
    ],
)
async def test_unreadable_posted_frames_are_refused(
    api: httpx.AsyncClient, path: str, options: dict[str, Any], status: int
) -> None:
    assert (await api.post(path, **options)).status_code == status


async def test_stream_port_has_probes(gateway: Gateway, api: httpx.AsyncClient) -> None:
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/docs", 404)):
        assert (await api.get(path)).status_code == status
    for method, path in (("HEAD", "/v1/stream"), ("HEAD", "/v1/poll"), ("POST", "/v1/poll"), ("PUT", "/v1/stream")):
        refused = await api.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, OPTIONS")
    assert (await api.options("/v1/poll")).headers["allow"] == "GET, OPTIONS"
    assert (await api.post("/healthz")).headers["allow"] == "GET, HEAD, OPTIONS"
    gateway.context.readiness.stopping = gateway.context.readiness.draining = True
    assert (await api.get("/v1/stream")).status_code == 503
    assert (await api.get("/readyz")).status_code == 503


async def test_slow_consumer_of_a_stream_gets_one_sync(gateway: Gateway, streams: str) -> None:
    await gateway.create("aa")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(streams.rpartition(":")[2]), limit=1)
    writer.write(
        f"GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: {auth(gateway)['Authorization']}\r\n\r\n".encode()
    )
    await wait_until(lambda: gateway.context.hub.channels, "the stream is there")
    for number in range(600):
        await gateway.create(f"i{number}", body="x" * 15_000)
        await gateway.dismiss(f"i{number}")
        await settle(3)

    assert gateway.context.metrics.overflows._value.get() == 1
    writer.close()
    del reader


async def test_websocket_path_names_the_other_port(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/connect", headers={"Connection": "Upgrade", "Upgrade": "websocket"})

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "GREGOR_GATEWAY_PORT" in answer.json()["detail"]


async def test_posted_ack_is_limited_to_the_categories_of_its_token(
    gateway: Gateway, streams: str, api: httpx.AsyncClient
) -> None:
    """The session sees every category; the token of the request only some of them."""
    await gateway.create("aa")
    limited = {"Authorization": f"Bearer {gateway.token(category_filter=['mail'])}"}
    elsewhere = DeviceSession("far", "c9", "another gateway", gateway.clock.now_us())
    await gateway.store.devices.open_session("alice", "phone", elsewhere, gateway.clock.now_us(), LEASE_US)

    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        for session in ("one", "far"):
            answer = await api.post(f"/v1/frames?session={session}", json={"ack": 1}, headers=limited)
            assert (answer.status_code, answer.json()) == (200, [])
        await settle()

        assert await gateway.store.devices.acknowledged("alice") == {View("phone", ("mail",)): 1}


async def test_limited_token_cannot_set_the_foreground_of_a_wider_session(
    gateway: Gateway, streams: str, api: httpx.AsyncClient
) -> None:
    limited = {"Authorization": f"Bearer {gateway.token(category_filter=['mail'])}"}
    elsewhere = DeviceSession("far", "c9", "another gateway", gateway.clock.now_us())
    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        await gateway.store.devices.open_session("alice", "phone", elsewhere, gateway.clock.now_us(), LEASE_US)

        for session in ("one", "far"):
            answer = await api.post(
                f"/v1/frames?session={session}", json={"ref": 1, "foreground": True}, headers=limited
            )
            assert answer.json()[0]["problem"]["code"] == "forbidden"
        await settle()
        (presence,) = await gateway.store.devices.presence(["alice"], gateway.clock.now_us())

    assert not presence.foreground


async def test_posted_message_is_limited_to_the_systems_of_its_token(
    gateway: Gateway, streams: str, api: httpx.AsyncClient
) -> None:
    limited = {"Authorization": f"Bearer {gateway.token(systems=['chat'])}"}
    frames = [{"ref": 1, "system": "bank", "body": 1}, {"ref": 2, "system": "chat", "body": 1}]

    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        answer = await api.post("/v1/frames?session=one", json=frames, headers=limited)
        external = await stream.until('"chat"')

    refused, done = answer.json()
    assert refused["problem"]["code"] == "forbidden"
    assert "receipt" in done
    assert external["device"] == "phone"


async def open_session_elsewhere(gateway: Gateway) -> DeviceSession:
    """Open a session of alice's phone at another gateway, and return it."""
    now_us = gateway.clock.now_us()
    session = DeviceSession("one", "c9", "another gateway", now_us)
    await gateway.store.devices.open_session("alice", "phone", session, now_us, LEASE_US)
    return session


async def test_frames_of_a_revoked_token_are_refused(gateway: Gateway, streams: str) -> None:
    """The token is revoked while the body arrives, between two polls: no gateway has a connection to close."""
    now_us, store = gateway.clock.now_us(), gateway.store
    await open_session_elsewhere(gateway)
    body, url = b'{"message":{"system":"app","body":1}}', httpx.URL(streams)
    head = f"POST /v1/frames?session=one HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {gateway.token()}\r\n"
    reader, writer = await asyncio.open_connection(url.host, url.port)

    writer.write(f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    assert b" 100 " in await reader.readuntil(b"\r\n\r\n")  # the server waits for the body
    await store.devices.revoke("alice", "phone", now_us, now_us)
    gateway.clock.advance(1)
    writer.write(body)

    assert b" 401 " in await reader.readline()
    writer.close()


async def test_frames_behind_a_revocation_are_refused(
    gateway: Gateway, streams: str, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is revoked while the frames of a body are handled."""
    now_us, store = gateway.clock.now_us(), gateway.store
    session = await open_session_elsewhere(gateway)
    commit = store.users.commit

    async def commit_slowly(uid: str, message: Commit) -> Receipt:
        receipt = await commit(uid, message)
        await store.devices.revoke("alice", "phone", now_us, now_us)
        gateway.clock.advance(1)
        return receipt

    monkeypatch.setattr(store.users, "commit", commit_slowly)
    message = {"system": "gregor", "body": {"create": {"aa": {"category": "user.joined"}}}}
    late = {"system": "gregor", "body": {"create": {"bb": {"category": "user.joined"}}}}
    frames = [{"ref": 1, **message}, {"ref": 2, **late}, {"ack": 1}, {"foreground": True}]

    answers = (await api.post("/v1/frames?session=one", json=frames)).json()

    assert [each.get("ref") for each in answers] == [1, 2, None, None]
    assert [each.get("problem", {}).get("code") for each in answers] == [None, *["unauthorised"] * 3]
    assert [item.id for item in (await store.users.state("alice", View(), now_us)).items] == ["aa"]
    assert await store.devices.acknowledged("alice") == {}
    assert await gateway.context.store.devices.session("alice", "phone", "one", now_us) == session


async def test_frame_that_was_planned_before_a_deletion_is_refused(
    gateway: Gateway, streams: str, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway stalls between the check of the token and the commit, for longer than the deletion of the user."""
    now_us, store = gateway.clock.now_us(), gateway.store
    await open_session_elsewhere(gateway)
    commit = store.users.commit

    async def commit_late(uid: str, message: Commit) -> Receipt:
        await store.users.delete_user("alice", now_us)
        return await commit(uid, message)

    monkeypatch.setattr(store.users, "commit", commit_late)
    message = {"system": "gregor", "body": {"create": {"aa": {"category": "user.joined"}}}}

    (answer,) = (await api.post("/v1/frames?session=one", json=[{"ref": 1, **message}])).json()

    assert (answer["ref"], answer["problem"]["code"]) == (1, "unauthorised")
    assert await store.users.heads(["alice"]) == [None]


async def test_posted_frames_count_as_requests(gateway: Gateway, streams: str, api: httpx.AsyncClient) -> None:
    async with StreamDevice(streams, {"session": "one"}, auth(gateway)) as stream:
        await stream.until('"sync"')
        one = await api.post("/v1/frames?session=one", json={"ack": 0})
        many = await api.post("/v1/frames?session=one", json=[{"ack": 0}] * 1_000)
        bucket = request_buckets("alice", "phone", gateway.context.limits)
        rest = int(many.headers["ratelimit"].split("r=")[1].split(";")[0])
        await gateway.store.access.take_all("alice", bucket, rest, gateway.clock.now_us())
        over = await api.post("/v1/frames?session=one", json={"ack": 0})

    assert one.headers["ratelimit-policy"] == '"requests";q=500;w=10'
    assert one.headers["ratelimit"] == '"requests";r=499;t=1'
    assert rest == 499 - 1 - 200
    assert (over.status_code, over.json()["code"], over.headers["retry-after"]) == (429, "rate_limited", "1")
    assert over.headers["ratelimit"] == '"requests";r=0;t=1'
    exposition = gateway.context.metrics.exposition().decode()
    assert 'gregor_limits_reached_total{limit="requests"} 1.0' in exposition


async def test_poll_shows_what_is_left_of_the_joins(gateway: Gateway, api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/poll?wait=0")

    assert answer.headers["ratelimit-policy"] == '"joins";q=200;w=20'
    assert answer.headers["ratelimit"] == '"joins";r=199;t=1'
