"""Long poll on a real server."""

from __future__ import annotations

import asyncio
from typing import Never

import httpx
import pytest

from gregor.core.close_codes import CloseCode
from gregor.core.ids import Prefixes
from gregor.core.rate_limit import request_buckets
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable
from gregor_gateway.connection.connection import DeviceConnection
from gregor_gateway.sessions.device_rates import JOIN_BURST, JOINS_A_SECOND
from gregor_gateway.sessions.presence import LEASE_US
from gregor_gateway.transports.http_app import StreamServer
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import AskWithoutReading, Gateway, UnavailableStore, open_gateway, settle, ticket


def auth_header(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_poll_without_cursor_gets_a_full_copy(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("aa")

    answer = (await api.get("/v1/poll")).json()

    assert list(answer) == ["frames", "cursor", "uncounted", "now"]
    assert [frame["sync"] for frame in answer["frames"]] == ["full"]
    assert answer["cursor"] == answer["frames"][0]["cursor"]
    assert answer["uncounted"] == []
    assert answer["now"] == gateway.clock.now_us() // 1_000


async def test_current_poll_waits_for_the_next_frame(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("aa")
    cursor = (await api.get("/v1/poll")).json()["cursor"]

    waiting = asyncio.create_task(api.get("/v1/poll", params={"cursor": cursor, "wait": 30}))
    await wait_until(lambda: gateway.context.hub.channels, "the poll is there")
    await settle()
    await gateway.create("bb")
    answer = (await waiting).json()

    assert [list(frame["body"]["create"]) for frame in answer["frames"]] == [["bb"]]
    assert answer["cursor"] == f"{cursor.partition('-')[0]}-2"
    nothing = (await api.get("/v1/poll", params={"cursor": answer["cursor"], "wait": 0})).json()
    assert (nothing["frames"], nothing["cursor"]) == ([], answer["cursor"])


async def test_poll_names_no_category_outside_of_the_limits_of_its_token(gateway: Gateway, streams: str) -> None:
    """Also a refused poll, by a token or a ticket."""
    entries = {name: {"counts_in_badge": False} for name in ("secret", "news.sport")}
    await gateway.store.categories.apply(entries, gateway.clock.now_us())
    await gateway.context.registry.refresh()
    limited = {"Authorization": f"Bearer {gateway.token(category_filter=['news'])}"}
    claims = {"exp": gateway.clock.now_us() / 1e6 + 60, "iat": gateway.clock.now_us() / 1e6, "cats": ["news"]}
    query = {"ticket": await ticket(gateway, claims=claims)}
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        answers = [await client.get("/v1/poll", headers=limited)]
        gateway.context.join_rates.charge("alice", "phone", 200, gateway.context.timers.now)
        answers += [await client.get("/v1/poll", headers=limited), await client.get("/v1/poll", params=query)]

    assert [each.json()["uncounted"] for each in answers] == [["news.sport"]] * 3
    assert ["close" in str(each.json()["frames"]) for each in answers] == [False, True, True]


async def test_poll_has_uncounted_and_rendered_texts(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("aa")
    assert (await api.get("/v1/poll")).json()["uncounted"] == []
    entries = {"user.joined": {"title": "{{ id }}", "counts_in_badge": False}}
    await gateway.store.categories.apply(entries, gateway.clock.now_us())
    await gateway.context.registry.refresh()

    answer = (await api.get("/v1/poll", params={"render": "it"})).json()

    assert answer["uncounted"] == ["user.joined"]
    assert answer["frames"][0]["rendered"] == {"aa": {"title": "aa", "text": None, "link": None}}


async def test_poll_with_old_cursor_answers_at_once(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("aa", body="x" * 200)
    cursor = (await api.get("/v1/poll")).json()["cursor"]
    await gateway.create("bb")

    delta = (await api.get("/v1/poll", params={"cursor": cursor, "wait": 30})).json()
    void = (await api.get("/v1/poll", params={"cursor": "nonsense", "wait": 30})).json()

    assert [frame["sync"] for frame in delta["frames"] + void["frames"]] == ["delta", "full"]


@pytest.mark.parametrize("wait", ["56", "55.1", "-1", "x", "1e1", ""])
async def test_poll_waits_at_most_55_seconds(api: httpx.AsyncClient, wait: str) -> None:
    assert (await api.get("/v1/poll", params={"wait": wait})).status_code == 422


async def test_poll_may_wait_a_fraction_of_a_second(api: httpx.AsyncClient) -> None:
    copy = (await api.get("/v1/poll", params={"wait": "0"})).json()

    answer = await api.get("/v1/poll", params={"wait": "0.05", "cursor": copy["cursor"]})

    assert (answer.status_code, answer.json()["frames"]) == (200, [])


async def test_refresh_does_not_end_polls_of_the_last_minute(gateway: Gateway, api: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {gateway.token(lives_s=30)}"}
    cursor = (await api.get("/v1/poll", headers=headers)).json()["cursor"]

    waiting = asyncio.create_task(api.get("/v1/poll", params={"cursor": cursor, "wait": 30}, headers=headers))
    await wait_until(lambda: gateway.context.hub.channels, "the poll is there")
    await settle()
    gateway.pass_time(1)
    await settle()
    await gateway.create("aa")

    said = [next(iter(frame)) for frame in (await waiting).json()["frames"]]
    assert said == ["refresh", "system"]


async def test_poll_without_foreground_keeps_it(gateway: Gateway, api: httpx.AsyncClient) -> None:
    async def is_foreground() -> bool:
        return (await gateway.store.devices.presence(["alice"], gateway.clock.now_us()))[0].foreground

    query = {"wait": "0", "session": "one"}
    await api.get("/v1/poll", params=query)
    assert not await is_foreground()
    await api.post("/v1/frames?session=one", json={"foreground": True})
    await api.get("/v1/poll", params=query)
    assert await is_foreground()
    await api.get("/v1/poll", params=query | {"foreground": "false"})
    assert not await is_foreground()


async def test_poll_keeps_the_foreground_of_an_equal_or_wider_session_only(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    """Otherwise a token limited to some categories could suppress the pushes of others."""

    async def filters_after(*polls: tuple[str, str | None]) -> tuple[Prefixes, ...]:
        for token, foreground in polls:
            query = {"wait": "0", "session": "one"} | ({"foreground": foreground} if foreground else {})
            assert (await api.get("/v1/poll", params=query, headers=auth_header(token))).status_code == 200
        found = await gateway.store.devices.device("alice", "phone", gateway.clock.now_us())
        assert found is not None
        return found[1].foreground_filters

    limited, other, wide = (gateway.token(category_filter=each) for each in (["mail"], ["news"], None))

    assert await filters_after((limited, "true"), (limited, None)) == (("mail",),)
    assert await filters_after((limited, "true"), (wide, None)) == ()
    assert await filters_after((limited, "true"), (other, None)) == ()
    assert await filters_after((wide, "true"), (limited, None)) == (("mail",),)
    assert await filters_after((wide, "true"), (wide, None)) == (None,)


@pytest.mark.parametrize("how", ["poll", "post between two polls", "post to a poll", "post to another gateway"])
async def test_kept_foreground_ends_with_the_token_that_set_it(
    gateway: Gateway, api: httpx.AsyncClient, how: str
) -> None:
    """The session has a newer token, which the revocation does not cover."""
    devices, clock, query = gateway.store.devices, gateway.clock, {"wait": "0", "session": "one"}
    former = auth_header(gateway.token())
    revoked_us = clock.now_us()
    gateway.pass_time(1)
    newer = auth_header(gateway.token())
    if how == "poll":
        await api.get("/v1/poll", params=query | {"foreground": "true"}, headers=former)
    elif how == "post between two polls":
        await api.get("/v1/poll", params=query, headers=newer)
        await api.post("/v1/frames?session=one", json={"foreground": True}, headers=former)
    else:
        cursor = (await api.get("/v1/poll", params=query, headers=newer)).json()["cursor"]
        waiting = asyncio.create_task(
            api.get("/v1/poll", params=query | {"wait": "20", "cursor": cursor}, headers=newer)
        )
        await wait_until(lambda: gateway.context.hub.channels, "the poll is there")
        await settle()
        if how == "post to a poll":
            await api.post("/v1/frames?session=one", json={"foreground": True}, headers=former)
        else:
            posted = {"session": "one", "device": "phone", "frames": [{"foreground": True}], "issued_us": revoked_us}
            await devices.publish_control("alice", {"frames": posted})
        await settle()
        await gateway.create("aa")
        await waiting

    await api.get("/v1/poll", params=query, headers=newer)
    (before,) = await devices.presence(["alice"], clock.now_us())
    await devices.revoke("alice", None, revoked_us, clock.now_us())
    await api.get("/v1/poll", params=query, headers=newer)
    (after,) = await devices.presence(["alice"], clock.now_us())

    assert (before.online, before.foreground) == (True, True)
    assert (after.online, after.foreground) == (True, False)


async def test_poll_keeps_no_foreground_of_a_revoked_token(gateway: Gateway, api: httpx.AsyncClient) -> None:
    """A gateway that was cut off from Redis has not closed its session."""
    devices, revoked_us = gateway.store.devices, gateway.clock.now_us()
    held = DeviceSession("one", "c9", "another gateway", revoked_us, foreground=True, issued_us=revoked_us)
    gateway.pass_time(1)
    await devices.open_session("alice", "phone", held, gateway.clock.now_us(), LEASE_US)
    await devices.revoke("alice", None, revoked_us, gateway.clock.now_us())

    newer = auth_header(gateway.token())
    await api.get("/v1/poll", params={"wait": "0", "session": "one"}, headers=newer)

    (presence,) = await devices.presence(["alice"], gateway.clock.now_us())
    assert (presence.online, presence.foreground) == (True, False)


async def test_device_is_present_between_two_polls(gateway: Gateway, api: httpx.AsyncClient) -> None:
    async def is_online() -> bool:
        return (await gateway.store.devices.presence(["alice"], gateway.clock.now_us()))[0].online

    await api.get("/v1/poll", params={"wait": 0})
    await settle()
    assert not await is_online()
    await api.get("/v1/poll", params={"wait": 0, "session": "one"})
    await settle()
    assert await is_online()
    await api.get("/v1/poll", params={"wait": 0, "session": "one"})
    gateway.clock.advance(61)
    assert not await is_online()


@pytest.mark.parametrize("is_parked", [True, False])
async def test_revoked_token_is_not_present_after_its_poll(
    gateway: Gateway, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, is_parked: bool
) -> None:
    """Its device would count as in the foreground, which suppresses e-mails, until the lease of a minute ends."""
    devices, clock = gateway.store.devices, gateway.clock
    park = gateway.context.presence.park

    async def revoke() -> None:
        await devices.revoke("alice", None, clock.now_us(), clock.now_us())

    async def park_after_revocation(connection: DeviceConnection) -> None:
        await revoke()
        await park(connection)

    if not is_parked:
        monkeypatch.setattr(gateway.context.presence, "park", park_after_revocation)
    await api.get("/v1/poll", params={"wait": 0, "session": "one", "foreground": "true"})
    if is_parked:
        assert (await devices.presence(["alice"], clock.now_us()))[0].foreground
        await revoke()

    assert not (await devices.presence(["alice"], clock.now_us()))[0].online
    # A newer token of the device is present.
    clock.advance(1)
    newer = {"Authorization": f"Bearer {gateway.token()}"}
    if is_parked:
        await api.get("/v1/poll", params={"wait": 0, "session": "one"}, headers=newer)
        assert (await devices.presence(["alice"], clock.now_us()))[0].online


async def test_poll_of_a_revoked_token_gets_no_new_ticket(gateway: Gateway, streams: str) -> None:
    """Otherwise a client could go on with it until the token expires: each poll would be the first of its ticket."""
    query = {"wait": "0", "ticket": await ticket(gateway)}
    now_us = gateway.clock.now_us()
    await gateway.store.devices.revoke("alice", None, now_us, now_us)
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        closed = (await client.get("/v1/poll", params=query)).json()
        again = await client.get("/v1/poll", params=query)

    assert closed["frames"][-1]["close"]["code"] == CloseCode.REVOKED
    assert "ticket" not in closed
    assert again.status_code == 410


async def test_frame_during_a_response_goes_to_the_next_poll(
    gateway: Gateway, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.create("aa")
    rest = gateway.context.presence.park

    async def rest_while_something_comes(connection: DeviceConnection) -> None:
        connection.transport.write([b'{"seq":2}'])
        await rest(connection)

    monkeypatch.setattr(gateway.context.presence, "park", rest_while_something_comes)
    answer = (await api.get("/v1/poll", params={"wait": 0, "session": "one"})).json()

    assert [frame["seq"] for frame in answer["frames"]] == [1]
    assert answer["cursor"].endswith("-1")


async def test_closed_poll_keeps_the_clients_cursor(
    gateway: Gateway, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.create("aa")
    cursor = (await api.get("/v1/poll")).json()["cursor"]

    async def away(*_: object, **__: object) -> Never:
        raise Unavailable("down")

    monkeypatch.setattr(gateway.store.users, "sync", away)
    known = (await api.get("/v1/poll", params={"cursor": cursor})).json()
    void = (await api.get("/v1/poll", params={"cursor": "nonsense"})).json()
    new = (await api.get("/v1/poll")).json()

    assert [frame["close"]["code"] for frame in known["frames"]] == [4006]
    assert known["cursor"] == cursor
    assert "cursor" not in void
    assert "cursor" not in new


async def test_poll_of_a_forgotten_device_keeps_a_void_cursor(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("each", for_device="*")
    await gateway.create("own", for_device="phone")
    await gateway.send({"dismiss": {"ids": ["each"]}}, device="phone")
    cursor = (await api.get("/v1/poll")).json()["cursor"]
    waiting = asyncio.create_task(api.get("/v1/poll", params={"cursor": cursor, "wait": 30}))
    await wait_until(lambda: gateway.context.hub.channels, "the poll is there")
    await settle()

    await gateway.store.devices.forget_device("alice", "phone", gateway.clock.now_us(), b"abc")
    answer = (await waiting).json()
    following = (await api.get("/v1/poll", params={"cursor": answer["cursor"]})).json()

    assert [frame["close"]["code"] for frame in answer["frames"]] == [4003]
    assert [(frame["sync"], list(frame["body"]["create"])) for frame in following["frames"]] == [("full", ["each"])]


async def test_poll_over_the_rate_of_joins_reads_nothing(gateway: Gateway, api: httpx.AsyncClient) -> None:
    """Refused polls are as frequent as the client likes, so they must cost Redis nothing."""
    cursor = (await api.get("/v1/poll")).json()["cursor"]
    gateway.context.join_rates.charge("alice", "phone", 200, gateway.context.timers.now)
    gateway.store._access = UnavailableStore()  # type: ignore[assignment]
    gateway.store._devices = UnavailableStore()  # type: ignore[assignment]

    answer = await api.get("/v1/poll", params={"cursor": cursor})

    close = answer.json()["frames"][0]["close"]
    assert (answer.status_code, close["code"], answer.json()["cursor"]) == (200, 4009, cursor)
    assert close["reason"].startswith("retry_after_ms=")
    assert answer.headers["connection"] == "close"
    assert "r=0;t=1" in answer.headers["ratelimit"]


async def test_ticket_of_a_poll_over_the_rate_of_joins_stays_valid(gateway: Gateway, streams: str) -> None:
    """A next ticket for each refused poll would cost Redis more than the poll."""
    query = {"ticket": await ticket(gateway), "wait": "0"}
    gateway.context.join_rates.charge("alice", "phone", 200, gateway.context.timers.now)
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        refused = [await client.get("/v1/poll", params=query) for _ in range(3)]
        gateway.pass_time(1)
        accepted = (await client.get("/v1/poll", params=query)).json()
        spent = await client.get("/v1/poll", params=query)

    assert [each.json()["frames"][0]["close"]["code"] for each in refused] == [4009] * 3
    assert not any("ticket" in each.json() for each in refused)
    assert {each.headers["connection"] for each in refused} == {"close"}
    assert [frame["sync"] for frame in accepted["frames"]] == ["full"]
    assert accepted["ticket"] != query["ticket"]
    assert spent.status_code == 401


async def test_observers_of_a_limited_key_poll_at_its_rate(gateway: Gateway, streams: str) -> None:
    """Also those of other users: each next ticket lives for an hour, so the key never asks ingest again."""
    key, _ = await gateway.store.access.create_key(["read"], rate=1, now_us=gateway.clock.now_us())
    texts = [await ticket(gateway, observe=True, claims={"key": key.id, "rate": key.rate}) for _ in range(2)]

    async with httpx.AsyncClient(trust_env=False) as client:
        first = await client.get(f"{streams}/v1/poll", params={"ticket": texts[0], "wait": "0"})
        for uid in ("bob", "carol", "dave"):
            gateway.context.join_rates.charge(uid, f"key/{key.id}", JOIN_BURST, gateway.context.timers.now)
        second = await client.get(f"{streams}/v1/poll", params={"ticket": texts[1], "wait": "0"})

    assert [frame["sync"] for frame in first.json()["frames"]] == ["full"]
    assert [frame["close"]["code"] for frame in second.json()["frames"]] == [4009]


async def test_poll_that_may_displace_no_device_gets_the_next_ticket(gateway: Gateway, streams: str) -> None:
    """It is refused after its ticket was spent."""
    now_us = gateway.clock.now_us()
    for number in range(gateway.context.limits.devices):
        await gateway.store.devices.ensure_device("alice", f"d{number:02}", now_us)
    buckets = request_buckets("alice", "phone", gateway.context.limits)[1:]
    await gateway.store.access.take_all("alice", buckets, buckets[0].burst, now_us)
    query = {"ticket": await ticket(gateway), "wait": "0"}
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        refused = (await client.get("/v1/poll", params=query)).json()
        gateway.pass_time(1)
        accepted = (await client.get("/v1/poll", params=query | {"ticket": refused["ticket"]})).json()

    [close] = [frame["close"] for frame in refused["frames"]]
    assert (close["code"], close["reason"][:15]) == (4009, "retry_after_ms=")
    assert [frame["sync"] for frame in accepted["frames"]] == ["full"]


async def test_poll_tickets_renew_each_other_at_the_rate_of_joins(gateway: Gateway, streams: str) -> None:
    polls, query = JOIN_BURST + 50, {"ticket": await ticket(gateway), "wait": "0"}
    answers = []
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        for _ in range(polls):
            answer = (await client.get("/v1/poll", params=query)).json()
            query |= {"ticket": answer["ticket"], "cursor": answer["cursor"]}
            answers.append(answer["frames"])
            gateway.pass_time(1 / JOINS_A_SECOND)

    assert answers[1:] == [[]] * (polls - 1)


async def test_unread_copies_of_a_device_are_bounded(
    gateway: Gateway, streams: str, api: httpx.AsyncClient, ask_without_reading: AskWithoutReading
) -> None:
    """A poll is a connection of its device only until its response is written."""
    await gateway.create(*(f"i{n}" for n in range(60)), body="x" * 15_000)
    text = await ticket(gateway)

    unread = [await ask_without_reading("/v1/poll?wait=0") for _ in range(8)]
    over = [await api.get("/v1/poll", params={"wait": "0", "ticket": text}) for _ in range(2)]
    stream = await api.get("/v1/stream")
    other = await api.get("/v1/poll", headers={"Authorization": f"Bearer {gateway.token(device='desk')}"})
    unread[0].close()
    await wait_until(lambda: gateway.context.unread_responses.count("alice", "phone") == 7, "the end of one")
    accepted = await api.get("/v1/poll", params={"wait": "0"})

    assert [each.json()["frames"][0].get("close", {}).get("code") for each in over] == [4009] * 2
    assert '"code":4009' in stream.text
    exposition = gateway.context.metrics.exposition().decode()
    assert 'gregor_limits_reached_total{limit="unread"} 3.0' in exposition
    assert 'gregor_limits_reached_total{limit="joins"}' not in exposition
    assert [each.json()["frames"][0].get("sync") for each in (other, accepted)] == ["full"] * 2


@pytest.mark.parametrize("has_ticket", [False, True])
async def test_concurrent_polls_share_the_joins_that_are_left(gateway: Gateway, streams: str, has_ticket: bool) -> None:
    """A check without taking a join would admit all polls that arrive before one of them joins."""
    queries = [{"wait": "0"} | ({"ticket": await ticket(gateway)} if has_ticket else {}) for _ in range(8)]
    headers = {} if has_ticket else {"Authorization": f"Bearer {gateway.token()}"}
    gateway.context.join_rates.charge("alice", "phone", JOIN_BURST - 2, gateway.context.timers.now)
    async with httpx.AsyncClient(base_url=streams, headers=headers, trust_env=False) as client:
        answers = await asyncio.gather(*(client.get("/v1/poll", params=query) for query in queries))

    over = [answer for answer in answers if answer.json()["frames"][0].get("close")]
    assert len(over) == 6
    assert {answer.headers.get("connection") for answer in over} == {"close"}


@pytest.mark.parametrize("has_ticket", [False, True])
async def test_polls_over_the_rate_count_for_their_address(has_ticket: bool) -> None:
    async with open_gateway(trusted_proxies=("192.0.2.1",), anonymous_rate=0.5) as gateway:
        transport = httpx.ASGITransport(StreamServer(gateway.context).app, client=("203.0.113.9", 4711))
        headers = {} if has_ticket else {"Authorization": f"Bearer {gateway.token()}"}
        texts = [await ticket(gateway) for _ in range(11)] if has_ticket else [""] * 11
        queries = [{"ticket": text} if text else {} for text in texts]
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test", headers=headers) as client:
            good = [(await client.get("/v1/poll", params=query)).status_code for query in queries[:10]]
            gateway.context.join_rates.charge("alice", "phone", 200, gateway.context.timers.now)
            over = [(await client.get("/v1/poll", params=queries[10])).status_code for _ in range(6)]

    assert good == [200] * 10
    assert over == [200] * 5 + [429]
