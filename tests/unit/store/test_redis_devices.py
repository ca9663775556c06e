"""Devices in Redis: bounded, with one owner for each push token, removed completely."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.items.sync import View
from gregor.core.limits import CLOCK_LEEWAY_US, Limits
from gregor.core.messages.model import Commit, Creation, Receipt
from gregor.store.contract.devices import PresenceStatus, PushRegistrar, Registration
from gregor.store.contract.store import Unavailable
from gregor.store.contract.webhooks import RecordedEvents
from gregor.store.gateways import LiveGateways
from gregor.store.redis.devices.device_state import RedisDevices
from gregor.store.redis.devices.push_tokens import RedisPushTokens
from tests.support.builders import raise_seq
from tests.support.wait import wait_until
from tests.unit.store.redis_setup import (
    APNS,
    LEASE_US,
    NOW_US,
    SEED,
    WEB,
    RedisSetup,
    make_devices,
    make_store,
    recorded_controls,
    session,
)

# ---- registrations


async def test_registration_round_trips(devices: RedisDevices) -> None:
    await devices.put_device("alice", "phone", Registration("ios", APNS, "it"), NOW_US)
    await devices.put_device("alice", "web", Registration("web", WEB, None), NOW_US)

    assert await devices.list_devices("alice", NOW_US) == {
        "phone": (Registration("ios", APNS, "it"), PresenceStatus()),
        "web": (Registration("web", WEB, None), PresenceStatus()),
    }
    assert await devices.device("alice", "phone", NOW_US) == (Registration("ios", APNS, "it"), PresenceStatus())
    assert await devices.device("alice", "none", NOW_US) is None
    assert await devices.list_devices("bob", NOW_US) == {}


async def test_connecting_keeps_the_registration(devices: RedisDevices) -> None:
    assert await devices.ensure_device("alice", "desk", NOW_US) is None
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    assert await devices.ensure_device("alice", "phone", NOW_US) is None

    known = await devices.list_devices("alice", NOW_US)
    assert {name: kept for name, (kept, _) in known.items()} == {
        "desk": Registration(),
        "phone": Registration("ios", APNS),
    }


async def test_replacing_a_registration_keeps_last_seen(devices: RedisDevices) -> None:
    await devices.ensure_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    await devices.close_session("alice", "phone", session("s"), NOW_US + 5)

    await devices.put_device("alice", "phone", Registration("ios", None, 'a "quoted"\nlocale'), NOW_US + 100)

    found = await devices.device("alice", "phone", NOW_US + 200)
    assert found == (Registration("ios", None, 'a "quoted"\nlocale'), PresenceStatus(last_seen_us=NOW_US + 5))


@pytest.mark.parametrize("push", [APNS, WEB], ids=["token", "endpoint"])
async def test_push_token_moves_to_the_last_device(devices: RedisDevices, push: dict[str, Any]) -> None:
    await devices.put_device("alice", "phone", Registration("ios", push, "it"), NOW_US)
    await devices.put_device("bob", "tablet", Registration("ios", push), NOW_US)

    assert (await devices.list_devices("alice", NOW_US))["phone"][0] == Registration("ios", None, "it")
    assert (await devices.list_devices("bob", NOW_US))["tablet"][0].push == push


async def test_registering_a_push_token_twice_is_idempotent(devices: RedisDevices) -> None:
    for _ in range(2):
        await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)

    assert (await devices.list_devices("alice", NOW_US))["phone"][0].push == APNS


@pytest.mark.parametrize("ending", ["replace", "remove", "forget", "forget the user"])
async def test_released_push_token_has_no_owner(setup: RedisSetup, ending: str) -> None:
    devices = make_devices(setup)
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    owner = setup.keys.push("apns:a1b2c3")
    assert await setup.connection.call("GET", owner) == b"alice\0phone"

    match ending:
        case "replace":
            await devices.put_device("alice", "phone", Registration("ios", {**APNS, "token": "new"}), NOW_US)
        case "remove":
            await devices.put_device("alice", "phone", Registration("ios"), NOW_US)
        case "forget":
            await devices.forget_device("alice", "phone", NOW_US, SEED)
        case _:
            await make_store(setup).users.delete_user("alice", NOW_US)

    assert await setup.connection.call("EXISTS", owner) == 0


async def test_releasing_a_moved_push_token_keeps_its_owner(setup: RedisSetup) -> None:
    devices = make_devices(setup)
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    # As after a crash between setting the new owner and removing the token from the former one.
    await setup.connection.call("SET", setup.keys.push("apns:a1b2c3"), b"bob\0tablet")

    await devices.forget_device("alice", "phone", NOW_US, SEED)

    assert await setup.connection.call("GET", setup.keys.push("apns:a1b2c3")) == b"bob\0tablet"


async def test_concurrent_registrations_leave_one_token_owner(setup: RedisSetup) -> None:
    devices = make_devices(setup)
    uids = [f"user{n}" for n in range(8)]

    await asyncio.gather(*(devices.put_device(uid, "phone", Registration("ios", APNS), NOW_US) for uid in uids))

    owner = (await setup.connection.call("GET", setup.keys.push("apns:a1b2c3"))).decode().split("\0")[0]
    holders = [uid for uid in uids if (await devices.list_devices(uid, NOW_US))["phone"][0].push]
    assert holders == [owner]


async def test_concurrent_tokens_of_a_device_leave_one_owner(setup: RedisSetup) -> None:
    devices = make_devices(setup)
    tokens = [f"token{n}" for n in range(8)]

    await asyncio.gather(
        *(
            devices.put_device("alice", "phone", Registration("ios", {**APNS, "token": token}), NOW_US + n)
            for n, token in enumerate(tokens)
        )
    )

    registered = (await devices.list_devices("alice", NOW_US))["phone"][0].push or {}
    owned = [token for token in tokens if await setup.connection.call("EXISTS", setup.keys.push(f"apns:{token}"))]
    assert owned == [registered["token"]]


async def test_token_registered_while_its_device_is_forgotten_is_consistent(setup: RedisSetup) -> None:
    devices, registration = make_devices(setup), Registration("ios", APNS)
    await devices.put_device("alice", "phone", registration, NOW_US)

    for turns in range(8):
        second = devices.put_device("alice", "phone", registration, NOW_US + 1 + turns)
        await asyncio.gather(devices.forget_device("alice", "phone", NOW_US, SEED), after_turns(setup, turns, second))

        found = await devices.device("alice", "phone", NOW_US)
        owner = await setup.connection.call("GET", setup.keys.push("apns:a1b2c3"))
        assert (owner is not None) == (found is not None and found[0].push is not None)


async def after_turns(setup: RedisSetup, turns: int, action: Awaitable[None]) -> None:
    """Run a coroutine after so many round trips."""
    for _ in range(turns):
        await setup.connection.call("PING")
    await action


@pytest.mark.parametrize("turns", range(8))
async def test_push_token_returning_during_a_move_stays(setup: RedisSetup, turns: int) -> None:
    devices, registration = make_devices(setup), Registration("ios", APNS)
    await devices.put_device("alice", "phone", registration, NOW_US)

    back = devices.put_device("alice", "phone", registration, NOW_US)
    await asyncio.gather(devices.put_device("bob", "tablet", registration, NOW_US), after_turns(setup, turns, back))

    owner = (await setup.connection.call("GET", setup.keys.push("apns:a1b2c3"))).decode().split("\0")
    holders = {
        uid: found[0].push
        for uid, name in (("alice", "phone"), ("bob", "tablet"))
        if (found := await devices.device(uid, name, NOW_US))
    }
    assert [uid for uid, push in holders.items() if push] == owner[:1]


@pytest.mark.parametrize("turns", range(6))
async def test_token_registered_during_a_move_stays(setup: RedisSetup, turns: int) -> None:
    devices, fresh = make_devices(setup), {**APNS, "token": "fresh"}
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)

    second = devices.put_device("alice", "phone", Registration("ios", fresh), NOW_US)
    await asyncio.gather(
        devices.put_device("bob", "tablet", Registration("ios", APNS), NOW_US), after_turns(setup, turns, second)
    )

    assert (await devices.list_devices("alice", NOW_US))["phone"][0].push == fresh
    assert (await devices.list_devices("bob", NOW_US))["tablet"][0].push == APNS
    assert await setup.connection.call("GET", setup.keys.push("apns:fresh")) == b"alice\0phone"


async def test_push_token_that_returns_after_a_revocation_is_removed(setup: RedisSetup) -> None:
    """The revocation comes while another device has the token, and so finds nothing to remove."""
    devices, tokens = make_devices(setup), RedisPushTokens(setup.connection, setup.keys, allow_oom=setup.allow_oom)
    owner = setup.keys.push("apns:a1b2c3")
    stolen = Registration("ios", APNS, push_since_us=NOW_US, registrar=PushRegistrar(None, NOW_US))
    await devices.put_device("alice", "phone", stolen, NOW_US)
    await setup.connection.call("SET", owner, b"bob\0tablet")
    await tokens.follow_owner("alice", "phone", stolen)
    await devices.revoke("alice", None, NOW_US, NOW_US)

    await setup.connection.call("SET", owner, b"alice\0phone")
    await tokens.release("alice", "phone", stolen)

    assert (await devices.list_devices("alice", NOW_US))["phone"][0].push is None
    assert await setup.connection.call("EXISTS", owner) == 0


async def test_connecting_during_registration_keeps_it(devices: RedisDevices) -> None:
    await asyncio.gather(
        devices.ensure_device("alice", "phone", NOW_US),
        devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US),
    )

    assert (await devices.list_devices("alice", NOW_US))["phone"][0] == Registration("ios", APNS)


# ---- the bound


async def test_65th_device_displaces_the_longest_offline(devices: RedisDevices) -> None:
    for n in range(64):
        await devices.ensure_device("alice", f"d{n}", NOW_US + n)
    # d0 was seen last, so d1 was offline longest.
    await devices.open_session("alice", "d0", session("s"), NOW_US + 1_000, LEASE_US)
    await devices.close_session("alice", "d0", session("s"), NOW_US + 2_000)

    assert await devices.ensure_device("alice", "new", NOW_US + 3_000) == "d1"

    known = await devices.list_devices("alice", NOW_US + 3_000)
    assert len(known) == 64 and "d0" in known and "new" in known and "d1" not in known


async def test_devices_with_push_are_displaced_last(setup: RedisSetup) -> None:
    devices = make_devices(setup, Limits(devices=3))
    await devices.put_device("alice", "old", Registration("ios", APNS), NOW_US)
    await devices.ensure_device("alice", "young", NOW_US + 1)
    await devices.ensure_device("alice", "younger", NOW_US + 2)

    for name, left in (("a", ["a", "old", "younger"]), ("b", ["a", "b", "old"]), ("c", ["a", "b", "c"])):
        await devices.put_device("alice", name, Registration("ios", {**APNS, "token": name}), NOW_US + 3)
        assert sorted(await devices.list_devices("alice", NOW_US)) == left

    assert await setup.connection.call("EXISTS", setup.keys.push("apns:a1b2c3")) == 0


async def test_all_devices_online_refuses_another(setup: RedisSetup) -> None:
    devices = make_devices(setup, Limits(devices=2))
    for name in ("phone", "desk"):
        await devices.ensure_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("s"), NOW_US, LEASE_US)

    tries: list[Awaitable[Any]] = [
        devices.ensure_device("alice", "new", NOW_US + 1),
        devices.put_device("alice", "new", Registration(), NOW_US + 1),
    ]
    for attempt in tries:
        with pytest.raises(Problem) as refusal:
            await attempt
        assert refusal.value.code == "too_many_devices"
    assert await devices.ensure_device("alice", "desk", NOW_US + 1) is None
    assert sorted(await devices.list_devices("alice", NOW_US)) == ["desk", "phone"]


async def test_expired_lease_counts_as_offline(setup: RedisSetup) -> None:
    devices = make_devices(setup, Limits(devices=1))
    await devices.ensure_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)

    assert await devices.ensure_device("alice", "new", NOW_US + LEASE_US) == "phone"


async def test_concurrent_devices_never_exceed_the_bound(setup: RedisSetup) -> None:
    devices = make_devices(setup, Limits(devices=4))

    await asyncio.gather(*(devices.ensure_device("alice", f"d{n}", NOW_US + n) for n in range(8)))

    assert len(await devices.list_devices("alice", NOW_US)) == 4


# ---- removing a device


async def test_removing_a_device_leaves_others_untouched(setup: RedisSetup) -> None:
    devices = make_devices(setup)
    await raise_seq(make_store(setup), 7)
    for name in ("phone", "phone2"):
        await devices.ensure_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("s"), NOW_US, LEASE_US)
        await devices.acknowledge("alice", View(name), 7, NOW_US)

    await devices.forget_device("alice", "phone", NOW_US, SEED)

    assert sorted(await devices.list_devices("alice", NOW_US)) == ["phone2"]
    assert await devices.session("alice", "phone", "s", NOW_US) is None
    assert await devices.session("alice", "phone2", "s", NOW_US) == session("s")
    assert await devices.acknowledged("alice") == {View("phone2"): 7}


async def test_removing_a_device_dismisses_its_items(setup: RedisSetup) -> None:
    store = make_store(setup)
    item = Creation("aa", "user", "phone", NOW_US, True, None, (), b"f" * 8, b"l" * 32, b"null", b'{"body":null}')
    await store.users.commit("alice", Commit(NOW_US, SEED, creations=(item,)))

    await store.devices.forget_device("alice", "phone", NOW_US + 1, SEED)

    assert (await store.users.state("alice", View(), NOW_US + 2)).items == ()


async def test_removing_an_unknown_device_does_nothing(devices: RedisDevices) -> None:
    for _ in range(2):
        await devices.forget_device("nobody", "none", NOW_US, SEED)

    assert await devices.list_devices("nobody", NOW_US) == {}


async def test_device_removal_resumes_after_a_crash(setup: RedisSetup) -> None:
    devices, limits = make_devices(setup), Limits()

    async def crash(uid: str, commit: Commit) -> Receipt:
        raise Unavailable("gone")

    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    broken = RedisDevices(
        *(setup.connection, setup.keys, limits, LiveGateways(), crash),
        recorded_events=RecordedEvents(),
        allow_oom=setup.allow_oom,
    )
    with pytest.raises(Unavailable):
        await broken.forget_device("alice", "phone", NOW_US, SEED)

    await devices.forget_device("alice", "phone", NOW_US, SEED)

    assert await devices.list_devices("alice", NOW_US) == {}
    assert await setup.connection.call("EXISTS", setup.keys.push("apns:a1b2c3")) == 0


async def test_removing_a_device_publishes_a_close(real_setup: RedisSetup) -> None:
    devices = make_devices(real_setup)
    async with recorded_controls(real_setup, "alice") as controls:
        await devices.forget_device("alice", "phone", NOW_US, SEED)
        await wait_until(lambda: controls, "the close is heard")

    assert controls == [{"close": {"device": "phone", "code": 4003}}]


async def test_deleting_a_user_revokes_tokens_and_keeps_a_hash(setup: RedisSetup) -> None:
    store = make_store(setup)
    await store.devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    await store.devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    await store.devices.acknowledge("alice", View("phone"), 3, NOW_US)

    for _ in range(2):
        await store.users.delete_user("alice", NOW_US + 1)

    found = await setup.connection.call("KEYS", f"{setup.keys.namespace}:*")
    assert {key.decode() for key in found} == {setup.keys.of_user("alice").revoked, setup.keys.deleted_users}
    assert await store.devices.revoked_before("alice", "phone") == NOW_US + 1 + CLOCK_LEEWAY_US


async def test_deleting_a_user_publishes_a_close(real_setup: RedisSetup) -> None:
    async with recorded_controls(real_setup, "alice") as controls:
        await make_store(real_setup).users.delete_user("alice", NOW_US)
        await wait_until(lambda: controls, "the close is heard")

    assert controls == [{"close": {"device": None, "code": 4502}}]
