"""Connections and tickets of a removed secret or key end within ten seconds; other connections stay open."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import httpx
import jwt
import pytest

from gregor.auth.device_tokens import mint
from gregor.config.settings import Settings
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor_gateway.context import GatewayContext
from gregor_gateway.fanout.removed_keys import EVERY_S, MAX_SPREAD_S, RemovedKeyChecker
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.sessions.authenticator import close_for
from tests.support.stream_device import StreamDevice
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice
from tests.unit.gateway.conftest import SECRET, Gateway, LocalDevice, open_gateway, settle, ticket

OTHER = "another secret of thirty-two characters"


@pytest.fixture(autouse=True)
def watched(gateway: Gateway) -> None:
    watch(gateway.context)


def watch(context: GatewayContext) -> None:
    RemovedKeyChecker(
        context.hub, context.authenticator, context.timers, context.background, lambda _, most: most
    ).watch()


async def use_secrets(gateway: Gateway, *values: str) -> None:
    await gateway.context.authenticator._tokens.use_secrets(Settings(token_secret="\n".join(values)))


def key_set(*kids: str) -> bytes:
    keys = [{"kty": "oct", "kid": kid, "alg": "HS256", "k": base64url(kid)} for kid in kids]
    return json.dumps({"keys": keys}).encode()


def base64url(kid: str) -> str:
    return base64.urlsafe_b64encode(f"{OTHER} {kid}".encode()).decode().rstrip("=")


def of_key_set(gateway: Gateway, kid: str) -> str:
    now_s = gateway.clock.now_us() // 1_000_000
    claims = {"sub": "alice", "device": "any", "iat": now_s, "exp": now_s + 3_600}
    return jwt.encode(claims, f"{OTHER} {kid}", "HS256", {"kid": kid})


async def mark_of(gateway: Gateway, secret: str) -> str:
    token = mint(secret, "alice", "any", 60, now_us=gateway.clock.now_us())
    return (await gateway.context.authenticator.verify(token)).key_mark


async def pass_time(gateway: Gateway, seconds: float) -> None:
    gateway.pass_time(seconds)
    await settle()


async def test_connections_of_a_removed_secret_are_closed(gateway: Gateway) -> None:
    """Those of the remaining secret, and those whose key is unknown, stay open."""
    await gateway.create("aa")
    await use_secrets(gateway, OTHER, SECRET)
    old = await gateway.connect(key_mark=await mark_of(gateway, SECRET))
    new = await gateway.connect("tablet", key_mark=await mark_of(gateway, OTHER))
    unknown = await gateway.connect("laptop")
    await use_secrets(gateway, OTHER)

    await pass_time(gateway, EVERY_S + 0.2)
    await pass_time(gateway, 0.2)

    assert [old.closed, new.closed, unknown.closed] == [4004, None, None]


async def test_connections_of_a_removed_key_of_a_key_set_are_closed(tmp_path: Path) -> None:
    """No token has to arrive for that: the check loads a key set that is ten minutes old."""
    file = tmp_path / "keys.json"
    file.write_bytes(key_set("a", "b"))
    async with open_gateway(token_jwks=str(file)) as gateway:
        watch(gateway.context)
        await gateway.create("aa")
        marks = [(await gateway.context.authenticator.verify(of_key_set(gateway, kid))).key_mark for kid in "ab"]
        phones = [await gateway.connect(f"phone{n}", key_mark=mark) for n, mark in enumerate(marks)]
        file.write_bytes(key_set("b"))
        await pass_time(gateway, 590)
        assert [phone.closed for phone in phones] == [None, None]

        async def is_closed() -> bool:
            await pass_time(gateway, EVERY_S)
            return phones[0].closed is not None

        await wait_until(is_closed, "the close")
        assert [phone.closed for phone in phones] == [4004, None]


async def test_added_secret_closes_no_connection(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone = await gateway.connect(key_mark=await mark_of(gateway, SECRET))

    await use_secrets(gateway, OTHER, SECRET)
    for _ in range(10):
        await pass_time(gateway, EVERY_S)

    assert phone.closed is None


async def test_renewed_token_keeps_the_connection(gateway: Gateway) -> None:
    """After the renewal, the removed secret concerns the connection no longer."""
    await gateway.create("aa")
    await use_secrets(gateway, OTHER, SECRET)
    phone = await gateway.connect(key_mark=await mark_of(gateway, SECRET))
    phone.send(token=mint(OTHER, "alice", "phone", 3_600, now_us=gateway.clock.now_us()))
    await phone.until("token")

    await use_secrets(gateway, OTHER)
    await pass_time(gateway, EVERY_S + MAX_SPREAD_S)
    await pass_time(gateway, EVERY_S + MAX_SPREAD_S)

    assert phone.closed is None


async def test_token_of_a_secret_removed_during_its_renewal_is_refused(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later check would find its connection."""
    await gateway.create("aa")
    await use_secrets(gateway, OTHER, SECRET)
    phone = await gateway.connect(key_mark=await mark_of(gateway, OTHER))

    async def remove(*_: object) -> None:
        await use_secrets(gateway, OTHER)

    with monkeypatch.context() as patched:
        patched.setattr(type(gateway.store.devices), "revoked_before", remove)
        phone.send(token=gateway.token())
        problem = await phone.until("problem")

    assert problem["problem"]["code"] == "unauthorised"
    assert phone.connection.key_mark == await mark_of(gateway, OTHER)


async def test_secret_that_returns_keeps_the_connections(gateway: Gateway) -> None:
    await gateway.create("aa")
    mark = await mark_of(gateway, SECRET)
    phones = [await gateway.connect(f"phone{n}", key_mark=mark) for n in range(40)]
    await use_secrets(gateway, OTHER)
    await pass_time(gateway, EVERY_S + 0.1)
    assert all(phone.closed is None for phone in phones)

    await use_secrets(gateway, SECRET)
    await pass_time(gateway, MAX_SPREAD_S)

    assert all(phone.closed is None for phone in phones)


async def test_many_connections_are_closed_over_seconds(gateway: Gateway) -> None:
    context, closed = gateway.context, 0
    mark = await mark_of(gateway, SECRET)
    phones: list[LocalDevice] = [await gateway.connect("phone", f"user{n}", key_mark=mark) for n in range(200)]
    moments: list[float] = []
    step = iter(range(200))
    # Evenly instead of at random.
    RemovedKeyChecker(
        context.hub, context.authenticator, context.timers, context.background, lambda _, most: most * next(step) / 200
    ).watch()
    await use_secrets(gateway, OTHER)

    for _ in range(40):
        await pass_time(gateway, 0.1)
        now_closed = sum(phone.closed == CloseCode.TOKEN_EXPIRED for phone in phones)
        moments += [gateway.clock.monotonic()] * (now_closed - closed)
        closed = now_closed

    assert closed == 200
    assert max(moments.count(moment) for moment in moments) <= 25
    assert EVERY_S + MAX_SPREAD_S < 10


async def test_connection_that_joins_after_the_removal_is_closed(gateway: Gateway) -> None:
    """Its token was verified before, and no later check would find it."""
    mark = await mark_of(gateway, SECRET)
    await use_secrets(gateway, OTHER)
    await pass_time(gateway, EVERY_S + MAX_SPREAD_S)

    phone = gateway.dial(key_mark=mark)

    await wait_until(lambda: phone.closed is not None, "the close")
    assert (phone.closed, phone.frames) == (4004, [])
    assert await gateway.store.devices.list_devices("alice", gateway.clock.now_us()) == {}


async def test_tickets_of_a_removed_secret_open_no_stream(gateway: Gateway, streams: str) -> None:
    """Neither one from ingest nor the next one of an open stream; otherwise a chain of them would go on."""
    mark = await mark_of(gateway, SECRET)
    texts = [await ticket(gateway, token_key=mark) for _ in range(2)]
    async with StreamDevice(streams, {"ticket": texts[0]}) as stream:
        await stream.until('"sync"')
        following = stream.frames[0]["welcome"]["ticket"]
        await use_secrets(gateway, OTHER)
        await pass_time(gateway, EVERY_S + 0.2)
        await pass_time(gateway, 0.2)
        assert (await stream.until('"close"'))["close"] == {"code": 4004, "reason": "token_expired"}

    for text in (texts[1], following):
        async with StreamDevice(streams, {"ticket": text}) as refused:
            assert refused.status == 401


@pytest.mark.parametrize("required", [{"token_aud": "gregor"}, {"token_iss": "login"}])
async def test_tickets_of_unchecked_claims_are_refused(gateway: Gateway, required: dict[str, str]) -> None:
    """An operator sets the setting and restarts all services."""
    token = mint(SECRET, "alice", "phone", 60, now_us=gateway.clock.now_us(), aud="gregor", iss="login")
    before = await gateway.context.authenticator.verify(token)
    async with open_gateway(**required) as restarted:
        authenticator = restarted.context.authenticator
        for use in (authenticator.unspent, authenticator.spend):
            with pytest.raises(Problem) as refusal:
                await use(await ticket(restarted, token_key=before.key_mark, token_claims=before.claims_mark))
            assert close_for(refusal.value) == CloseCode.UNAUTHORISED

        checked = await authenticator.verify(token)
        for claims_mark in (checked.claims_mark, ""):  # the second: of a release before, during an upgrade
            text = await ticket(restarted, token_key=checked.key_mark, token_claims=claims_mark)
            assert (await authenticator.spend(text)).caller.key_mark == checked.key_mark


async def test_ticket_without_a_key_is_valid(gateway: Gateway, streams: str) -> None:
    """An earlier release stored it."""
    text = await ticket(gateway)
    await use_secrets(gateway, OTHER)

    async with StreamDevice(streams, {"ticket": text}) as stream:
        await stream.until('"sync"')
        following = stream.frames[0]["welcome"]["ticket"]
    async with StreamDevice(streams, {"ticket": following}) as stream:
        await stream.until('"sync"')


async def test_poll_of_a_removed_secret_ends(gateway: Gateway, api: httpx.AsyncClient) -> None:
    await gateway.create("aa")
    cursor = (await api.get("/v1/poll")).json()["cursor"]
    waiting = asyncio.create_task(api.get("/v1/poll", params={"cursor": cursor, "wait": 50}))
    await wait_until(lambda: gateway.context.hub.channels, "the poll is there")
    await settle()

    await use_secrets(gateway, OTHER)
    await pass_time(gateway, EVERY_S + 0.2)
    await pass_time(gateway, 0.2)

    assert (await waiting).json()["frames"] == [{"close": {"code": 4004, "reason": "token_expired"}}]
    assert (await api.get("/v1/poll")).status_code == 401


async def test_websocket_of_a_removed_secret_is_closed(gateway: Gateway) -> None:
    url = f"ws://127.0.0.1:{gateway.port}"
    async with (
        WireDevice(url, gateway.token(), {}) as joined,
        WireDevice(url, gateway.token(device="slow")) as greeting,
    ):
        await joined.synced()
        await use_secrets(gateway, OTHER)
        await pass_time(gateway, EVERY_S + 0.2)
        await pass_time(gateway, 0.2)
        assert await joined.closed() == (4004, "token_expired")

        await greeting.send({"hello": {}})
        assert await greeting.closed() == (4004, "token_expired")


async def test_messages_of_a_removed_secret_are_not_committed_after_the_close(gateway: Gateway) -> None:
    await gateway.create("aa")
    phone = await gateway.connect(hello=Hello(), key_mark=await mark_of(gateway, SECRET))
    await use_secrets(gateway, OTHER)
    phone.send(ref=1, system="gregor", body={"dismiss": {"ids": ["aa"]}})
    phone.connection.end()
    await settle()

    (head,) = (await gateway.store.users.reachable_heads(["alice"])).values()
    assert head is not None
    assert head.seq == 1
