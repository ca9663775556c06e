"""Presence, acknowledgements and revocations in Redis: leases, bounds and TTLs."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.items.sync import View
from gregor.core.limits import DAY_US, Limits
from gregor.redis.connection import Command
from gregor.redis.errors import RedisUnavailable
from gregor.store.contract.devices import PresenceStatus, PushRegistrar, Registration
from gregor.store.contract.store import Unavailable
from gregor.store.redis.devices.device_state import RedisDevices
from tests.support.builders import raise_seq
from tests.support.kept_errors import garbage_collection_off, kept_errors
from tests.support.wait import wait_until
from tests.unit.store.redis_setup import (
    APNS,
    LEASE_US,
    NOW_US,
    SEED,
    RedisSetup,
    make_devices,
    make_store,
    presence_of,
    recorded_controls,
    session,
)

# ---- sessions and presence


async def test_failure_of_reachable_presence_is_freed(real_setup: RedisSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server becomes unreachable after the lengths were read."""
    devices, call_many = make_store(real_setup).devices, real_setup.connection.call_many
    lengths: list[Any] = []

    async def fail_later(commands: Sequence[Command]) -> list[Any]:
        if commands[0][0] != "HLEN":
            return [RedisUnavailable("away") for _ in commands]
        lengths[:] = await call_many(commands)
        return lengths

    monkeypatch.setattr(real_setup.connection, "call_many", fail_later)
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            with suppress(Unavailable):
                await devices.reachable_presence(["alice"], NOW_US)

        assert (lengths, kept_errors()) == ([0, 0], before)


OLD_ORDER = b'"connection":"old","session":"s","gateway":"g1","foreground":true,"cats":null,"systems":null}'
NO_GATEWAY = b'"connection":"old","session":"s"}'
NO_CONNECTION = b'"session":"s","foreground":true}'


def stored_lease(members: bytes, until_us: int = NOW_US + LEASE_US) -> bytes:
    """Return the JSON of a lease with these members after its times."""
    return b'{"lease_until_us":%d,"seen_us":%d,"opened_us":%d,%b' % (until_us, NOW_US, NOW_US, members)


@pytest.mark.parametrize("members", [OLD_ORDER, NO_GATEWAY, NO_CONNECTION, b"", b'"connection":"\xff"}'])
@pytest.mark.parametrize("own", [True, False])
async def test_old_lease_never_locks_its_user_out(
    setup: RedisSetup, devices: RedisDevices, members: bytes, own: bool
) -> None:
    presence = setup.keys.of_user("alice").presence
    field = b"phone\0s" if own else b"desk\0t"
    await setup.connection.call("HSET", presence, field, stored_lease(members))
    mine = session("s", "c2")

    displaced = await devices.open_session("alice", "phone", mine, NOW_US + 1, LEASE_US)
    await devices.renew_sessions([("alice", "phone", mine)], NOW_US + 2, LEASE_US)

    assert [old.connection for old, _ in displaced] == (["old"] if own and members == OLD_ORDER else [])
    assert await devices.session("alice", "phone", "s", NOW_US + 2) == mine
    assert (await devices.presence(["alice"], NOW_US + 2))[0].online
    await devices.foreground_until("alice", NOW_US + 2)
    await devices.close_session("alice", "phone", mine, NOW_US + 3)
    assert await setup.connection.call("HGET", presence, b"phone\0s") is None


@pytest.mark.parametrize("others", [0, 1])
async def test_last_foreground_time_is_kept_for_the_retention(setup: RedisSetup, others: int) -> None:
    """When the only session closes, Redis removes the empty hash with its TTL. A longer TTL is kept."""
    devices = make_devices(setup, Limits(retention_us=DAY_US))
    presence, last = setup.keys.of_user("alice").presence, session("s", foreground=True)
    await devices.open_session("alice", "phone", last, NOW_US, LEASE_US)
    for n in range(others):
        await devices.open_session("alice", "phone", session(f"o{n}", f"o{n}"), NOW_US, 2 * DAY_US)

    await devices.close_session("alice", "phone", last, NOW_US + 1)

    assert await devices.foreground_until("alice", NOW_US + 2) == NOW_US + 1
    kept_ms = (1 + others) * DAY_US // 1_000
    assert kept_ms - 60_000 < await setup.ttl_ms(presence) <= kept_ms


@pytest.mark.parametrize("members", [NO_CONNECTION, b""])
async def test_unreadable_lease_has_ended(setup: RedisSetup, devices: RedisDevices, members: bytes) -> None:
    """It is removed, and says nothing about when its device was seen or in the foreground."""
    presence = setup.keys.of_user("alice").presence
    await setup.connection.call("HSET", presence, b"desk\0t", stored_lease(members), "front", NOW_US - 5)

    assert await devices.session("alice", "desk", "t", NOW_US) is None
    assert await devices.presence(["alice"], NOW_US) == [PresenceStatus()]
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)

    assert await setup.connection.call("HGET", presence, b"desk\0t") is None
    assert await devices.foreground_until("alice", NOW_US) == NOW_US - 5


async def test_old_lease_ends_with_its_time(setup: RedisSetup, devices: RedisDevices) -> None:
    presence = setup.keys.of_user("alice").presence
    await setup.connection.call("HSET", presence, b"desk\0t", stored_lease(OLD_ORDER))

    assert (await devices.presence(["alice"], NOW_US + LEASE_US - 1))[0].online
    assert not (await devices.presence(["alice"], NOW_US + LEASE_US))[0].online
    await devices.open_session("alice", "phone", session("s"), NOW_US + LEASE_US, LEASE_US)

    assert await setup.connection.call("HGET", presence, b"desk\0t") is None
    assert await devices.foreground_until("alice", NOW_US + LEASE_US) == NOW_US


async def test_session_ends_with_its_lease(devices: RedisDevices) -> None:
    assert await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US) == []

    assert await devices.session("alice", "phone", "s", NOW_US + LEASE_US - 1) == session("s")
    assert await devices.session("alice", "phone", "s", NOW_US + LEASE_US) is None
    assert await devices.session("alice", "phone", "other", NOW_US) is None


async def test_newer_connection_displaces_the_older(devices: RedisDevices) -> None:
    first, second = session("s", "c1"), replace(session("s", "c2", NOW_US + 1), gateway="g2")
    await devices.open_session("alice", "phone", first, NOW_US, LEASE_US)

    assert await devices.open_session("alice", "phone", second, NOW_US + 1, LEASE_US) == [(first, 4504)]
    assert await devices.open_session("alice", "phone", second, NOW_US + 2, LEASE_US) == []
    assert await devices.session("alice", "phone", "s", NOW_US + 2) == second


async def test_sessions_are_separate_by_name_and_device(devices: RedisDevices) -> None:
    for device, name in (("phone", "a"), ("phone", "b"), ("desk", "a")):
        assert await devices.open_session("alice", device, session(name, f"{device}-{name}"), NOW_US, LEASE_US) == []

    assert await devices.session("alice", "phone", "a", NOW_US) == session("a", "phone-a")


async def test_concurrent_opens_displace_each_other_once(
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


async def test_ninth_connection_displaces_the_oldest(devices: RedisDevices) -> None:
    for n in range(8):
        await devices.open_session("alice", "desk", session(f"s{n}"), NOW_US, LEASE_US)
        opened = session(f"s{n}", f"c{n}", NOW_US + (100 if n == 0 else n))
        assert await devices.open_session("alice", "phone", opened, NOW_US + 100, LEASE_US) == []

    displaced = await devices.open_session("alice", "phone", session("s8", "c8", NOW_US + 200), NOW_US + 200, LEASE_US)

    assert displaced == [(session("s1", "c1", NOW_US + 1), 4505)]
    assert await devices.session("alice", "phone", "s1", NOW_US + 200) is None


async def test_expired_leases_do_not_count(setup: RedisSetup) -> None:
    devices = make_devices(setup)
    for n in range(8):
        await devices.open_session("alice", "phone", session(f"s{n}"), NOW_US, LEASE_US)

    assert await devices.open_session("alice", "phone", session("new"), NOW_US + LEASE_US, LEASE_US) == []
    assert await setup.connection.call("HLEN", setup.keys.of_user("alice").presence) == 1


async def test_expired_leases_of_many_devices_are_removed_by_later_joins(
    setup: RedisSetup, devices: RedisDevices
) -> None:
    """A join examines only some leases of other devices. Each device is still last seen at the end of its lease."""
    names = [f"desk{n}" for n in range(20)]
    for name in names:
        await devices.ensure_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("s", foreground=True), NOW_US, LEASE_US)
    late = NOW_US + LEASE_US
    presence = setup.keys.of_user("alice").presence
    before = await setup.connection.call("HLEN", presence)

    left = []
    for n in range(20):
        await devices.open_session("alice", "phone", session("s", f"c{n}"), late + n, LEASE_US)
        left.append(await setup.connection.call("HLEN", presence))

    # a join adds its own session and the last foreground time
    assert (before, left[0], left[-1]) == (20, 20 - 2 + 2, 2)
    assert await devices.foreground_until("alice", late + 20) == NOW_US
    for name in names:
        assert await presence_of(devices, name, late + 20) == PresenceStatus(last_seen_us=NOW_US)


async def test_heartbeat_renews_the_lease(devices: RedisDevices) -> None:
    await devices.ensure_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    later = NOW_US + LEASE_US - 1

    await devices.renew_sessions([("alice", "phone", session("s", foreground=True))], later, LEASE_US)

    assert await presence_of(devices, "phone", later + LEASE_US - 1) == PresenceStatus(True, True, later + LEASE_US - 1)
    assert await presence_of(devices, "phone", later + LEASE_US) == PresenceStatus(False, False, later)


async def test_heartbeat_restores_a_lost_session(devices: RedisDevices) -> None:
    entries = [(f"user{n}", "phone", session("s")) for n in range(1_500)]

    await devices.renew_sessions(entries, NOW_US, LEASE_US)

    found = await devices.presence([uid for uid, _, _ in entries], NOW_US)
    assert found == [PresenceStatus(True, False, NOW_US)] * 1_500


async def test_heartbeat_of_a_displaced_connection_is_ignored(devices: RedisDevices) -> None:
    await devices.open_session("alice", "phone", session("s", "c1"), NOW_US, LEASE_US)
    await devices.open_session("alice", "phone", session("s", "c2"), NOW_US, LEASE_US)

    await devices.renew_sessions([("alice", "phone", session("s", "c1"))], NOW_US, LEASE_US)

    assert await devices.session("alice", "phone", "s", NOW_US) == session("s", "c2")


async def test_closing_a_displaced_connection_keeps_the_newer(devices: RedisDevices) -> None:
    await devices.open_session("alice", "phone", session("s", "c1"), NOW_US, LEASE_US)
    await devices.open_session("alice", "phone", session("s", "c2"), NOW_US, LEASE_US)

    await devices.close_session("alice", "phone", session("s", "c1"), NOW_US)
    assert await devices.session("alice", "phone", "s", NOW_US) == session("s", "c2")

    await devices.close_session("alice", "phone", session("s", "c2"), NOW_US)
    assert await devices.session("alice", "phone", "s", NOW_US) is None


async def test_last_seen_is_close_time_or_last_heartbeat(devices: RedisDevices) -> None:
    for name in ("phone", "desk"):
        await devices.ensure_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("s"), NOW_US, LEASE_US)
    await devices.close_session("alice", "phone", session("s"), NOW_US + 10)
    await devices.renew_sessions([("alice", "desk", session("s"))], NOW_US + 20, LEASE_US)
    # An expired lease leaves its last heartbeat behind.
    late = NOW_US + 100 + LEASE_US
    await devices.open_session("alice", "third", session("s"), late, LEASE_US)

    assert await presence_of(devices, "phone", late) == PresenceStatus(last_seen_us=NOW_US + 10)
    assert await presence_of(devices, "desk", late) == PresenceStatus(last_seen_us=NOW_US + 20)


async def test_closing_an_expired_session_keeps_last_seen(devices: RedisDevices) -> None:
    await devices.ensure_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)

    await devices.close_session("alice", "phone", session("s"), NOW_US + LEASE_US)

    assert await presence_of(devices, "phone", NOW_US + LEASE_US) == PresenceStatus(last_seen_us=NOW_US)


async def test_user_presence_combines_all_devices(devices: RedisDevices) -> None:
    await devices.ensure_device("alice", "phone", NOW_US)
    await devices.open_session("alice", "phone", session("a"), NOW_US, LEASE_US)
    await devices.open_session("alice", "desk", session("b", foreground=True), NOW_US, LEASE_US)
    await devices.ensure_device("bob", "phone", NOW_US)
    await devices.open_session("bob", "phone", session("s"), NOW_US, LEASE_US)
    await devices.close_session("bob", "phone", session("s"), NOW_US + 1)

    assert await devices.presence(["alice", "bob", "nobody"], NOW_US + 5) == [
        PresenceStatus(True, True, NOW_US + 5),
        PresenceStatus(False, False, NOW_US + 1),
        PresenceStatus(),
    ]


async def test_presence_expires_after_the_retention(setup: RedisSetup) -> None:
    devices, key = make_devices(setup), setup.keys.of_user("alice").presence
    retention_ms = 30 * DAY_US // 1_000

    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    assert retention_ms - 10_000 < await setup.ttl_ms(key) <= retention_ms
    await setup.connection.call("PERSIST", key)
    await devices.renew_sessions([("alice", "phone", session("s"))], NOW_US, LEASE_US)
    assert retention_ms - 10_000 < await setup.ttl_ms(key) <= retention_ms


# ---- acknowledgements, revocations, controls


async def test_acknowledgement_never_decreases(setup: RedisSetup, devices: RedisDevices) -> None:
    await raise_seq(make_store(setup), 12)
    phone, narrow, desk = View("phone"), View("phone", ("user",)), View("desk")
    for view, seq in ((phone, 5), (phone, 3), (narrow, 2), (desk, 9), (desk, 12)):
        await devices.acknowledge("alice", view, seq, NOW_US)

    assert await devices.acknowledged("alice") == {
        phone: 5,
        narrow: 2,
        desk: 12,
    }


async def test_acknowledgements_are_bounded_in_bytes(setup: RedisSetup) -> None:
    devices, keys = make_devices(setup), setup.keys.of_user("alice")
    await raise_seq(make_store(setup), 20)
    for n in range(20):
        prefixes = tuple(f"c{n:02}-{i:03}.{'x' * 120}" for i in range(100))
        await devices.acknowledge("alice", View("d" * 128, prefixes), n + 1, NOW_US)
    (stored,) = await setup.connection.call("HVALS", keys.acks)
    times = await setup.connection.call("LRANGE", keys.seen, 0, -1)

    assert len(stored) <= 16 * 1_020  # 16 views: a seq, a filter of at most 999 bytes, two separators
    assert max(map(len, times)) <= 1_200


async def test_revocation_of_one_device_or_all(devices: RedisDevices) -> None:
    assert await devices.revoked_before("alice", "phone") is None
    await devices.revoke("alice", "phone", NOW_US, NOW_US)
    assert await devices.revoked_before("alice", "phone") == NOW_US
    assert await devices.revoked_before("alice", "desk") is None

    await devices.revoke("alice", None, NOW_US - 5, NOW_US)
    assert await devices.revoked_before("alice", "phone") == NOW_US
    assert await devices.revoked_before("alice", "desk") == NOW_US - 5
    assert await devices.revoked_before("bob", "phone") is None


async def test_revocation_never_becomes_weaker(devices: RedisDevices) -> None:
    await devices.revoke("alice", None, NOW_US, NOW_US)
    await devices.revoke("alice", None, NOW_US - 100, NOW_US)

    assert await devices.revoked_before("alice", "phone") == NOW_US


async def test_revocation_outlives_the_tokens_it_revokes(setup: RedisSetup) -> None:
    devices, key = make_devices(setup), setup.keys.of_user("alice").revoked
    life_ms = 30 * DAY_US // 1_000 + 60_000

    await devices.revoke("alice", "phone", NOW_US + DAY_US, NOW_US)
    assert life_ms + 86_390_000 < await setup.ttl_ms(key) <= life_ms + 86_400_000
    await devices.revoke("alice", "desk", NOW_US, NOW_US)
    assert life_ms + 86_390_000 < await setup.ttl_ms(key) <= life_ms + 86_400_000


async def test_obsolete_revocations_are_removed(setup: RedisSetup) -> None:
    devices = make_devices(setup)
    await devices.revoke("alice", "old", NOW_US, NOW_US)
    await devices.revoke("alice", "phone", NOW_US + 31 * DAY_US, NOW_US + 31 * DAY_US)

    assert await devices.revoked_before("alice", "old") is None
    assert await devices.revoked_before("alice", "phone") == NOW_US + 31 * DAY_US


async def test_revocations_and_controls_are_published(real_setup: RedisSetup) -> None:
    devices = make_devices(real_setup)
    async with recorded_controls(real_setup, "alice") as controls:
        await devices.revoke("alice", "phone", NOW_US, NOW_US)
        await devices.revoke("alice", None, NOW_US, NOW_US)
        await devices.publish_control("bob", {"close": {"device": "phone", "code": 4504}})
        await devices.publish_control("alice", {"close": {"connection": "c1", "code": 4504}})
        await wait_until(lambda: len(controls) == 3, "three controls are heard")

    assert controls == [
        {"revoke": {"device": "phone", "issued_before_us": NOW_US}},
        {"revoke": {"device": None, "issued_before_us": NOW_US}},
        {"close": {"connection": "c1", "code": 4504}},
    ]


async def test_devices_connect_at_maxmemory(real_setup: RedisSetup) -> None:
    devices, connection = make_devices(real_setup), real_setup.connection
    await devices.ensure_device("alice", "phone", NOW_US)
    await raise_seq(make_store(real_setup), 3)
    await connection.call("CONFIG", "SET", "maxmemory", "1")
    try:
        assert await devices.ensure_device("alice", "new", NOW_US) is None
        assert await devices.ensure_device("alice", "phone", NOW_US) is None
        with pytest.raises(Unavailable):
            await devices.put_device("alice", "new", Registration("ios", APNS), NOW_US)
        assert await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US) == []
        await devices.renew_sessions([("alice", "phone", session("s"))], NOW_US, LEASE_US)
        assert await devices.device("alice", "phone", NOW_US) is not None
        await devices.acknowledge("alice", View("phone"), 3, NOW_US)
        await devices.revoke("alice", None, NOW_US, NOW_US)
        await devices.close_session("alice", "phone", session("s"), NOW_US)
        await devices.forget_device("alice", "phone", NOW_US, SEED)
    finally:
        await connection.call("CONFIG", "SET", "maxmemory", "0")


async def test_permanent_kinds_match_the_table(setup: RedisSetup) -> None:
    devices = make_devices(setup)
    await raise_seq(make_store(setup), 3)
    await devices.put_device("alice", "phone", Registration("ios", APNS, registrar=PushRegistrar()), NOW_US)
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)
    await devices.acknowledge("alice", View("phone"), 3, NOW_US)
    await devices.revoke("alice", None, NOW_US, NOW_US)

    of_user, found = setup.keys.of_user("alice"), await setup.connection.call("KEYS", f"{setup.keys.namespace}:*")
    found = [key for key in found if key.decode() not in (of_user.state, of_user.live)]
    staying = {key.decode() for key in found if await setup.ttl_ms(key.decode()) == -1}
    when_dead = {of_user.agenda, of_user.due}
    assert staying == {of_user.devices, of_user.acks, setup.keys.push("apns:a1b2c3")} | when_dead
    assert {key.decode() for key in found} - staying == {of_user.presence, of_user.revoked, of_user.seen}
