"""Devices in Redis: known within a bound, present as long as a heartbeat says so, revoked for as long as it matters."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.limits import DAY_US, SECOND_US, Limits
from gregor.core.messages import Commit, Creation, Receipt
from gregor.core.sync import View
from gregor.feed import Feed
from gregor.store.contract import Presence, Registration, Session, Unavailable
from gregor.store.redis import RedisStore
from gregor.store.redis_devices import RedisDevices
from tests.support.wait import wait_until
from tests.unit.store.conftest import Ground

NOW_US = 1_800_000_000 * SECOND_US
LEASE_US = 60 * SECOND_US
SEED = b"\1\2\3"
APNS = {"provider": "apns", "token": "a1b2c3", "topic": "org.example", "sandbox": False}
WEB = {"provider": "webpush", "token": {"endpoint": "https://push.example/1", "keys": {"p256dh": "k", "auth": "a"}}}


def store_on(ground: Ground, limits: Limits | None = None) -> RedisStore:
    """A whole store, in the namespace of the test."""
    return RedisStore(ground.connection, limits or Limits(), ground.keys.namespace, allow_oom=ground.allow_oom)


def devices_on(ground: Ground, limits: Limits | None = None) -> RedisDevices:
    """The devices of a whole store."""
    return store_on(ground, limits).devices


@pytest.fixture
def devices(ground: Ground) -> RedisDevices:
    """Devices over each kind of server."""
    return devices_on(ground)


def session(name: str, connection: str = "c1", opened_us: int = NOW_US, *, foreground: bool = False) -> Session:
    """A session of gateway ``g1``."""
    return Session(name, connection, "g1", opened_us, foreground, ("user",), None)


async def presence_of(devices: RedisDevices, device: str, now_us: int) -> Presence | None:
    """The presence of one of alice's devices."""
    found = await devices.device("alice", device, now_us)
    return found[1] if found else None


class Ear:
    """Remembers the controls that it hears."""

    def __init__(self) -> None:
        self.controls: list[Any] = []

    def receive(self, payload: bytes) -> None:
        if payload[:1] == b"K":
            self.controls.append(json.loads(payload[1:]))

    def gap(self) -> None:
        raise AssertionError("nothing was lost")


@asynccontextmanager
async def listening(ground: Ground, uid: str) -> AsyncIterator[list[Any]]:
    """The controls of a user, as they come."""
    assert ground.url is not None
    feed, ear = Feed(ground.url, ground.connection), Ear()
    await feed.open()
    try:
        await feed.subscribe(ground.keys.of_user(uid).channel, ear)
        yield ear.controls
    finally:
        await feed.close()


# ---- registrations


async def test_a_registration_comes_back_as_it_was_put(devices: RedisDevices) -> None:
    await devices.put_device("alice", "phone", Registration("ios", APNS, "it"), NOW_US)
    await devices.put_device("alice", "web", Registration("web", WEB, None), NOW_US)

    assert await devices.devices("alice", NOW_US) == {
        "phone": (Registration("ios", APNS, "it"), Presence()),
        "web": (Registration("web", WEB, None), Presence()),
    }
    assert await devices.device("alice", "phone", NOW_US) == (Registration("ios", APNS, "it"), Presence())
    assert await devices.device("alice", "none", NOW_US) is None
    assert await devices.devices("bob", NOW_US) == {}


async def test_a_device_that_connects_is_known_and_keeps_what_was_registered(devices: RedisDevices) -> None:
    assert await devices.know_device("alice", "desk", NOW_US) is None
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    assert await devices.know_device("alice", "phone", NOW_US) is None

    known = await devices.devices("alice", NOW_US)
    assert {name: kept for name, (kept, _) in known.items()} == {
        "desk": Registration(),
        "phone": Registration("ios", APNS),
    }


async def test_replacing_a_registration_keeps_when_the_device_was_seen(devices: RedisDevices) -> None:
    await devices.know_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    await devices.close_session("alice", "phone", session("s"), NOW_US + 5)

    await devices.put_device("alice", "phone", Registration("ios", None, 'a "quoted"\nlocale'), NOW_US + 100)

    found = await devices.device("alice", "phone", NOW_US + 200)
    assert found == (Registration("ios", None, 'a "quoted"\nlocale'), Presence(last_seen_us=NOW_US + 5))


@pytest.mark.parametrize("push", [APNS, WEB], ids=["token", "endpoint"])
async def test_a_push_token_belongs_to_the_device_that_registered_it_last(
    devices: RedisDevices, push: dict[str, Any]
) -> None:
    await devices.put_device("alice", "phone", Registration("ios", push, "it"), NOW_US)
    await devices.put_device("bob", "tablet", Registration("ios", push), NOW_US)

    assert (await devices.devices("alice", NOW_US))["phone"][0] == Registration("ios", None, "it")
    assert (await devices.devices("bob", NOW_US))["tablet"][0].push == push


async def test_registering_a_push_token_again_changes_nothing(devices: RedisDevices) -> None:
    for _ in range(2):
        await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)

    assert (await devices.devices("alice", NOW_US))["phone"][0].push == APNS


@pytest.mark.parametrize("ending", ["replace", "remove", "forget", "forget the user"])
async def test_a_push_token_that_is_given_up_has_no_owner(ground: Ground, ending: str) -> None:
    devices = devices_on(ground)
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    owner = ground.keys.push("apns:a1b2c3")
    assert await ground.connection.call("GET", owner) == b"alice\0phone"

    match ending:
        case "replace":
            await devices.put_device("alice", "phone", Registration("ios", {**APNS, "token": "new"}), NOW_US)
        case "remove":
            await devices.put_device("alice", "phone", Registration("ios"), NOW_US)
        case "forget":
            await devices.forget_device("alice", "phone", NOW_US, SEED)
        case _:
            await devices.leave("alice", NOW_US)

    assert await ground.connection.call("EXISTS", owner) == 0


async def test_giving_up_a_push_token_that_another_took_leaves_it_there(ground: Ground) -> None:
    devices = devices_on(ground)
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    # As after a crash between taking the token and removing it from the former holder.
    await ground.connection.call("SET", ground.keys.push("apns:a1b2c3"), b"bob\0tablet")

    await devices.forget_device("alice", "phone", NOW_US, SEED)

    assert await ground.connection.call("GET", ground.keys.push("apns:a1b2c3")) == b"bob\0tablet"


async def test_of_many_who_register_a_push_token_at_once_only_its_owner_keeps_it(ground: Ground) -> None:
    devices = devices_on(ground)
    uids = [f"user{n}" for n in range(8)]

    await asyncio.gather(*(devices.put_device(uid, "phone", Registration("ios", APNS), NOW_US) for uid in uids))

    owner = (await ground.connection.call("GET", ground.keys.push("apns:a1b2c3"))).decode().split("\0")[0]
    holders = [uid for uid in uids if (await devices.devices(uid, NOW_US))["phone"][0].push]
    assert holders == [owner]


async def after_turns(ground: Ground, turns: int, action: Awaitable[None]) -> None:
    """Do it so many round trips from now."""
    for _ in range(turns):
        await ground.connection.call("PING")
    await action


@pytest.mark.parametrize("turns", range(8))
async def test_a_push_token_that_goes_and_comes_back_at_once_stays_with_its_owner(ground: Ground, turns: int) -> None:
    devices, registration = devices_on(ground), Registration("ios", APNS)
    await devices.put_device("alice", "phone", registration, NOW_US)

    back = devices.put_device("alice", "phone", registration, NOW_US)
    await asyncio.gather(devices.put_device("bob", "tablet", registration, NOW_US), after_turns(ground, turns, back))

    owner = (await ground.connection.call("GET", ground.keys.push("apns:a1b2c3"))).decode().split("\0")
    holders = {
        uid: found[0].push
        for uid, name in (("alice", "phone"), ("bob", "tablet"))
        if (found := await devices.device(uid, name, NOW_US))
    }
    assert [uid for uid, push in holders.items() if push] == owner[:1]


@pytest.mark.parametrize("turns", range(6))
async def test_a_push_token_registered_while_the_old_one_is_taken_stays(ground: Ground, turns: int) -> None:
    devices, fresh = devices_on(ground), {**APNS, "token": "fresh"}
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)

    anew = devices.put_device("alice", "phone", Registration("ios", fresh), NOW_US)
    await asyncio.gather(
        devices.put_device("bob", "tablet", Registration("ios", APNS), NOW_US), after_turns(ground, turns, anew)
    )

    assert (await devices.devices("alice", NOW_US))["phone"][0].push == fresh
    assert (await devices.devices("bob", NOW_US))["tablet"][0].push == APNS
    assert await ground.connection.call("GET", ground.keys.push("apns:fresh")) == b"alice\0phone"


async def test_a_device_that_connects_while_it_is_registered_keeps_the_registration(devices: RedisDevices) -> None:
    await asyncio.gather(
        devices.know_device("alice", "phone", NOW_US),
        devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US),
    )

    assert (await devices.devices("alice", NOW_US))["phone"][0] == Registration("ios", APNS)


# ---- the bound


async def test_the_65th_device_displaces_the_one_longest_offline(devices: RedisDevices) -> None:
    for n in range(64):
        await devices.know_device("alice", f"d{n}", NOW_US + n)
    # d0 was there last, so d1 is the one longest offline.
    await devices.open_session("alice", "d0", session("s"), NOW_US + 1_000, LEASE_US)
    await devices.close_session("alice", "d0", session("s"), NOW_US + 2_000)

    assert await devices.know_device("alice", "new", NOW_US + 3_000) == "d1"

    known = await devices.devices("alice", NOW_US + 3_000)
    assert len(known) == 64 and "d0" in known and "new" in known and "d1" not in known


async def test_devices_with_push_go_last(ground: Ground) -> None:
    devices = devices_on(ground, Limits(devices=3))
    await devices.put_device("alice", "old", Registration("ios", APNS), NOW_US)
    await devices.know_device("alice", "young", NOW_US + 1)
    await devices.know_device("alice", "younger", NOW_US + 2)

    for name, left in (("a", ["a", "old", "younger"]), ("b", ["a", "b", "old"]), ("c", ["a", "b", "c"])):
        await devices.put_device("alice", name, Registration("ios", {**APNS, "token": name}), NOW_US + 3)
        assert sorted(await devices.devices("alice", NOW_US)) == left

    assert await ground.connection.call("EXISTS", ground.keys.push("apns:a1b2c3")) == 0


async def test_where_all_are_online_there_is_no_room_for_another(ground: Ground) -> None:
    devices = devices_on(ground, Limits(devices=2))
    for name in ("phone", "desk"):
        await devices.know_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("s"), NOW_US, LEASE_US)

    tries: list[Awaitable[Any]] = [
        devices.know_device("alice", "new", NOW_US + 1),
        devices.put_device("alice", "new", Registration(), NOW_US + 1),
    ]
    for attempt in tries:
        with pytest.raises(Problem) as refusal:
            await attempt
        assert refusal.value.code == "too_many_devices"
    assert await devices.know_device("alice", "desk", NOW_US + 1) is None
    assert sorted(await devices.devices("alice", NOW_US)) == ["desk", "phone"]


async def test_a_device_whose_lease_ran_out_counts_as_offline(ground: Ground) -> None:
    devices = devices_on(ground, Limits(devices=1))
    await devices.know_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)

    assert await devices.know_device("alice", "new", NOW_US + LEASE_US) == "phone"


async def test_devices_that_come_at_once_never_exceed_the_bound(ground: Ground) -> None:
    devices = devices_on(ground, Limits(devices=4))

    await asyncio.gather(*(devices.know_device("alice", f"d{n}", NOW_US + n) for n in range(8)))

    assert len(await devices.devices("alice", NOW_US)) == 4


# ---- forgetting a device


async def test_forgetting_a_device_leaves_nothing_of_it_and_all_of_the_others(ground: Ground) -> None:
    devices = devices_on(ground)
    for name in ("phone", "phone2"):
        await devices.know_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("s"), NOW_US, LEASE_US)
        await devices.acknowledge("alice", View(name), 7)

    await devices.forget_device("alice", "phone", NOW_US, SEED)

    assert sorted(await devices.devices("alice", NOW_US)) == ["phone2"]
    assert await devices.session("alice", "phone", "s", NOW_US) is None
    assert await devices.session("alice", "phone2", "s", NOW_US) == session("s")
    assert await devices.acknowledged("alice") == {("phone2", View("phone2").tag): 7}


async def test_forgetting_a_device_ends_its_items(ground: Ground) -> None:
    store = store_on(ground)
    item = Creation(
        "aa", "user", "phone", NOW_US, True, None, (), b"f" * 8, b"l" * 32, b'{"body":null,"category":"user"}'
    )
    await store.users.commit("alice", Commit(NOW_US, SEED, creations=(item,)))

    await store.devices.forget_device("alice", "phone", NOW_US + 1, SEED)

    assert (await store.users.state("alice", View(), NOW_US + 2)).items == ()


async def test_forgetting_a_device_that_nobody_knows_is_harmless(devices: RedisDevices) -> None:
    for _ in range(2):
        await devices.forget_device("nobody", "none", NOW_US, SEED)

    assert await devices.devices("nobody", NOW_US) == {}


async def test_forgetting_again_after_a_crash_in_between_finishes_it(ground: Ground) -> None:
    devices, limits = devices_on(ground), Limits()

    async def crash(uid: str, commit: Commit) -> Receipt:
        raise Unavailable("gone")

    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    broken = RedisDevices(ground.connection, ground.keys, limits, crash, allow_oom=ground.allow_oom)
    with pytest.raises(Unavailable):
        await broken.forget_device("alice", "phone", NOW_US, SEED)

    await devices.forget_device("alice", "phone", NOW_US, SEED)

    assert await devices.devices("alice", NOW_US) == {}
    assert await ground.connection.call("EXISTS", ground.keys.push("apns:a1b2c3")) == 0


async def test_gateways_are_told_to_close_a_forgotten_device(real_ground: Ground) -> None:
    devices = devices_on(real_ground)
    async with listening(real_ground, "alice") as controls:
        await devices.forget_device("alice", "phone", NOW_US, SEED)
        await wait_until(lambda: controls, "the close is heard")

    assert controls == [{"close": {"device": "phone", "code": 4003}}]


async def test_forgetting_a_user_leaves_only_that_its_tokens_are_void(ground: Ground) -> None:
    store = store_on(ground)
    await store.devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    await store.devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    await store.devices.acknowledge("alice", View("phone"), 3)

    for _ in range(2):
        await store.users.forget_user("alice", NOW_US + 1)

    found = await ground.connection.call("KEYS", f"{ground.keys.namespace}:*")
    assert [key.decode() for key in found] == [ground.keys.of_user("alice").revoked]
    assert await store.devices.revoked_before("alice", "phone") == NOW_US + 1


async def test_gateways_are_told_to_close_a_forgotten_user(real_ground: Ground) -> None:
    async with listening(real_ground, "alice") as controls:
        await store_on(real_ground).users.forget_user("alice", NOW_US)
        await wait_until(lambda: controls, "the close is heard")

    assert controls == [{"close": {"device": None, "code": 4502}}]


# ---- sessions and presence


async def test_a_session_is_there_until_its_lease_runs_out(devices: RedisDevices) -> None:
    assert await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US) == []

    assert await devices.session("alice", "phone", "s", NOW_US + LEASE_US - 1) == session("s")
    assert await devices.session("alice", "phone", "s", NOW_US + LEASE_US) is None
    assert await devices.session("alice", "phone", "other", NOW_US) is None


async def test_a_newer_connection_of_a_session_displaces_the_older(devices: RedisDevices) -> None:
    first, second = session("s", "c1"), replace(session("s", "c2", NOW_US + 1), gateway="g2")
    await devices.open_session("alice", "phone", first, NOW_US, LEASE_US)

    assert await devices.open_session("alice", "phone", second, NOW_US + 1, LEASE_US) == [(first, 4504)]
    assert await devices.open_session("alice", "phone", second, NOW_US + 2, LEASE_US) == []
    assert await devices.session("alice", "phone", "s", NOW_US + 2) == second


async def test_sessions_of_other_names_and_devices_live_side_by_side(devices: RedisDevices) -> None:
    for device, name in (("phone", "a"), ("phone", "b"), ("desk", "a")):
        assert await devices.open_session("alice", device, session(name, f"{device}-{name}"), NOW_US, LEASE_US) == []

    assert await devices.session("alice", "phone", "a", NOW_US) == session("a", "phone-a")


async def test_of_connections_that_open_a_session_at_once_the_last_stays_and_each_other_is_displaced_once(
    devices: RedisDevices,
) -> None:
    mine = [session("s", f"c{n}", NOW_US + n) for n in range(12)]

    displaced = await asyncio.gather(
        *(devices.open_session("alice", "phone", one, NOW_US + 20, LEASE_US) for one in mine)
    )

    stays = await devices.session("alice", "phone", "s", NOW_US + 20)
    gone = [old.connection for found in displaced for old, _ in found]
    assert stays is not None
    assert sorted([*gone, stays.connection]) == sorted(one.connection for one in mine)


async def test_the_ninth_connection_of_a_device_displaces_the_oldest(devices: RedisDevices) -> None:
    for n in range(8):
        await devices.open_session("alice", "desk", session(f"s{n}"), NOW_US, LEASE_US)
        opened = session(f"s{n}", f"c{n}", NOW_US + (100 if n == 0 else n))
        assert await devices.open_session("alice", "phone", opened, NOW_US + 100, LEASE_US) == []

    displaced = await devices.open_session("alice", "phone", session("s8", "c8", NOW_US + 200), NOW_US + 200, LEASE_US)

    assert displaced == [(session("s1", "c1", NOW_US + 1), 4504)]
    assert await devices.session("alice", "phone", "s1", NOW_US + 200) is None


async def test_leases_that_ran_out_are_dropped_and_count_for_no_bound(ground: Ground) -> None:
    devices = devices_on(ground)
    for n in range(8):
        await devices.open_session("alice", "phone", session(f"s{n}"), NOW_US, LEASE_US)

    assert await devices.open_session("alice", "phone", session("new"), NOW_US + LEASE_US, LEASE_US) == []
    assert await ground.connection.call("HLEN", ground.keys.of_user("alice").presence) == 1


async def test_a_heartbeat_prolongs_and_tells_what_is_seen_now(devices: RedisDevices) -> None:
    await devices.know_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    later = NOW_US + LEASE_US - 1

    await devices.touch([("alice", "phone", session("s", foreground=True))], later, LEASE_US)

    assert await presence_of(devices, "phone", later + LEASE_US - 1) == Presence(True, True, later + LEASE_US - 1)
    assert await presence_of(devices, "phone", later + LEASE_US) == Presence(False, False, later)


async def test_a_heartbeat_brings_back_what_the_server_lost(devices: RedisDevices) -> None:
    entries = [(f"user{n}", "phone", session("s")) for n in range(1_500)]

    await devices.touch(entries, NOW_US, LEASE_US)

    found = await devices.presence([uid for uid, _, _ in entries], NOW_US)
    assert found == [Presence(True, False, NOW_US)] * 1_500


async def test_a_heartbeat_of_a_displaced_connection_does_not_bring_it_back(devices: RedisDevices) -> None:
    await devices.open_session("alice", "phone", session("s", "c1"), NOW_US, LEASE_US)
    await devices.open_session("alice", "phone", session("s", "c2"), NOW_US, LEASE_US)

    await devices.touch([("alice", "phone", session("s", "c1"))], NOW_US, LEASE_US)

    assert await devices.session("alice", "phone", "s", NOW_US) == session("s", "c2")


async def test_closing_a_displaced_connection_leaves_the_newer_one(devices: RedisDevices) -> None:
    await devices.open_session("alice", "phone", session("s", "c1"), NOW_US, LEASE_US)
    await devices.open_session("alice", "phone", session("s", "c2"), NOW_US, LEASE_US)

    await devices.close_session("alice", "phone", session("s", "c1"), NOW_US)
    assert await devices.session("alice", "phone", "s", NOW_US) == session("s", "c2")

    await devices.close_session("alice", "phone", session("s", "c2"), NOW_US)
    assert await devices.session("alice", "phone", "s", NOW_US) is None


async def test_who_closed_was_last_seen_then_and_who_vanished_at_the_last_heartbeat(devices: RedisDevices) -> None:
    for name in ("phone", "desk"):
        await devices.know_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("s"), NOW_US, LEASE_US)
    await devices.close_session("alice", "phone", session("s"), NOW_US + 10)
    await devices.touch([("alice", "desk", session("s"))], NOW_US + 20, LEASE_US)
    # What is dropped leaves its time behind.
    late = NOW_US + 100 + LEASE_US
    await devices.open_session("alice", "third", session("s"), late, LEASE_US)

    assert await presence_of(devices, "phone", late) == Presence(last_seen_us=NOW_US + 10)
    assert await presence_of(devices, "desk", late) == Presence(last_seen_us=NOW_US + 20)


async def test_closing_what_had_lapsed_tells_nothing_newer_than_its_last_heartbeat(devices: RedisDevices) -> None:
    await devices.know_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)

    await devices.close_session("alice", "phone", session("s"), NOW_US + LEASE_US)

    assert await presence_of(devices, "phone", NOW_US + LEASE_US) == Presence(last_seen_us=NOW_US)


async def test_presence_of_a_user_is_that_of_all_devices_together(devices: RedisDevices) -> None:
    await devices.know_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("a"), NOW_US, LEASE_US)
    await devices.open_session("alice", "desk", session("b", foreground=True), NOW_US, LEASE_US)
    await devices.know_device("bob", "phone", NOW_US)
    await devices.open_session("bob", "phone", session("s"), NOW_US, LEASE_US)
    await devices.close_session("bob", "phone", session("s"), NOW_US + 1)

    assert await devices.presence(["alice", "bob", "nobody"], NOW_US + 5) == [
        Presence(True, True, NOW_US + 5),
        Presence(False, False, NOW_US + 1),
        Presence(),
    ]


async def test_presence_goes_by_itself_after_the_retention(ground: Ground) -> None:
    devices, key = devices_on(ground), ground.keys.of_user("alice").presence
    retention_ms = 30 * DAY_US // 1_000

    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    assert retention_ms - 10_000 < await ground.ttl_ms(key) <= retention_ms
    await ground.connection.call("PERSIST", key)
    await devices.touch([("alice", "phone", session("s"))], NOW_US, LEASE_US)
    assert retention_ms - 10_000 < await ground.ttl_ms(key) <= retention_ms


# ---- acknowledgements, revocations, controls


async def test_an_acknowledgement_never_goes_down(devices: RedisDevices) -> None:
    phone, narrow, desk = View("phone"), View("phone", ("user",)), View("desk")
    for view, seq in ((phone, 5), (phone, 3), (narrow, 2), (desk, 9), (desk, 12)):
        await devices.acknowledge("alice", view, seq)

    assert await devices.acknowledged("alice") == {
        ("phone", phone.tag): 5,
        ("phone", narrow.tag): 2,
        ("desk", desk.tag): 12,
    }


async def test_views_without_end_push_out_the_lowest_acknowledgement(devices: RedisDevices) -> None:
    views = [View("phone", (f"user{n}",)) for n in range(1_025)]
    await asyncio.gather(*(devices.acknowledge("alice", view, 2_000 - n) for n, view in enumerate(views[:-1])))
    await devices.acknowledge("alice", views[-1], 1)

    kept = await devices.acknowledged("alice")
    assert len(kept) == 1_024
    assert ("phone", views[-2].tag) not in kept and ("phone", views[-1].tag) in kept


async def test_a_revocation_is_of_one_device_or_all(devices: RedisDevices) -> None:
    assert await devices.revoked_before("alice", "phone") is None
    await devices.revoke("alice", "phone", NOW_US, NOW_US)
    assert await devices.revoked_before("alice", "phone") == NOW_US
    assert await devices.revoked_before("alice", "desk") is None

    await devices.revoke("alice", None, NOW_US - 5, NOW_US)
    assert await devices.revoked_before("alice", "phone") == NOW_US
    assert await devices.revoked_before("alice", "desk") == NOW_US - 5
    assert await devices.revoked_before("bob", "phone") is None


async def test_a_revocation_never_becomes_weaker(devices: RedisDevices) -> None:
    await devices.revoke("alice", None, NOW_US, NOW_US)
    await devices.revoke("alice", None, NOW_US - 100, NOW_US)

    assert await devices.revoked_before("alice", "phone") == NOW_US


async def test_a_revocation_is_kept_as_long_as_a_token_it_voids_could_live(ground: Ground) -> None:
    devices, key = devices_on(ground), ground.keys.of_user("alice").revoked
    life_ms = 30 * DAY_US // 1_000 + 60_000

    await devices.revoke("alice", "phone", NOW_US + DAY_US, NOW_US)
    assert life_ms + 86_390_000 < await ground.ttl_ms(key) <= life_ms + 86_400_000
    await devices.revoke("alice", "desk", NOW_US, NOW_US)
    assert life_ms + 86_390_000 < await ground.ttl_ms(key) <= life_ms + 86_400_000


async def test_revocations_that_matter_no_more_are_dropped(ground: Ground) -> None:
    devices = devices_on(ground)
    await devices.revoke("alice", "old", NOW_US, NOW_US)
    await devices.revoke("alice", "phone", NOW_US + 31 * DAY_US, NOW_US + 31 * DAY_US)

    assert await devices.revoked_before("alice", "old") is None
    assert await devices.revoked_before("alice", "phone") == NOW_US + 31 * DAY_US


async def test_gateways_are_told_of_revocations_and_controls(real_ground: Ground) -> None:
    devices = devices_on(real_ground)
    async with listening(real_ground, "alice") as controls:
        await devices.revoke("alice", "phone", NOW_US, NOW_US)
        await devices.revoke("alice", None, NOW_US, NOW_US)
        await devices.control("bob", {"close": {"device": "phone", "code": 4504}})
        await devices.control("alice", {"close": {"connection": "c1", "code": 4504}})
        await wait_until(lambda: len(controls) == 3, "three controls are heard")

    assert controls == [
        {"revoke": {"device": "phone", "issued_before_us": NOW_US}},
        {"revoke": {"device": None, "issued_before_us": NOW_US}},
        {"close": {"connection": "c1", "code": 4504}},
    ]


async def test_where_memory_is_full_known_devices_still_connect_and_leave(real_ground: Ground) -> None:
    devices, connection = devices_on(real_ground), real_ground.connection
    await devices.know_device("alice", "phone", NOW_US)
    await connection.call("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(Unavailable):
            await devices.know_device("alice", "new", NOW_US)
        assert await devices.know_device("alice", "phone", NOW_US) is None
        assert await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US) == []
        await devices.touch([("alice", "phone", session("s"))], NOW_US, LEASE_US)
        await devices.acknowledge("alice", View("phone"), 3)
        await devices.revoke("alice", None, NOW_US, NOW_US)
        await devices.close_session("alice", "phone", session("s"), NOW_US)
        await devices.forget_device("alice", "phone", NOW_US, SEED)
    finally:
        await connection.call("CONFIG", "SET", "maxmemory", "0")


async def test_only_kinds_meant_to_stay_have_no_time_to_live(ground: Ground) -> None:
    devices = devices_on(ground)
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    await devices.acknowledge("alice", View("phone"), 3)
    await devices.revoke("alice", None, NOW_US, NOW_US)

    of_user, found = ground.keys.of_user("alice"), await ground.connection.call("KEYS", f"{ground.keys.namespace}:*")
    staying = {key.decode() for key in found if await ground.ttl_ms(key.decode()) == -1}
    assert staying == {of_user.devices, of_user.acks, ground.keys.push("apns:a1b2c3")}
    assert {key.decode() for key in found} - staying == {of_user.presence, of_user.revoked}
