"""Sessions and presence, in every store (contract ``Devices``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.notify.escalation import Audience, AudienceDevice
from gregor.store.contract.devices import DeviceSession, PresenceStatus, PushRegistrar, Registration
from gregor.store.contract.store import Store
from gregor.store.gateways import NO_GATEWAY
from tests.support.builders import LIMITS, NOW_US, SECOND_US, raise_seq

MakeStore = Callable[[Limits], Awaitable[Store]]
MINUTE_US = 60 * SECOND_US
APNS = {"provider": "apns", "token": "t1"}


def session(
    name: str = "tab",
    connection: str = "c1",
    opened_us: int = NOW_US,
    foreground: bool = False,
    category_filter: Prefixes = None,
) -> DeviceSession:
    return DeviceSession(name, connection, "gateway-1", opened_us, foreground, category_filter, None)


def parked(name: str, issued_us: int = NOW_US) -> DeviceSession:
    """Return a session between two long polls."""
    return DeviceSession(name, f"c-{name}", NO_GATEWAY, NOW_US, True, None, None, issued_us)


@pytest.fixture
async def known(store: Store) -> Store:
    """Return a store in which alice's phone and laptop are registered."""
    for device in ("phone", "laptop"):
        await store.devices.ensure_device("alice", device, NOW_US)
    return store


async def alice(store: Store, now_us: int) -> PresenceStatus:
    (presence,) = await store.devices.presence(["alice"], now_us)
    return presence


async def test_session_ends_with_its_lease(known: Store) -> None:
    opened = session(category_filter=("user",))
    await known.devices.open_session("alice", "phone", opened, NOW_US, MINUTE_US)

    assert await known.devices.session("alice", "phone", "tab", NOW_US + MINUTE_US - 1) == opened
    assert await known.devices.session("alice", "phone", "tab", NOW_US + MINUTE_US) is None
    assert await known.devices.session("alice", "phone", "other", NOW_US) is None
    assert await known.devices.session("alice", "laptop", "tab", NOW_US) is None


async def test_gateways_that_renewed_their_leases_are_counted(store: Store) -> None:
    assert store.gateways.live_count == 0

    for name in ("g1", "g2", "g1"):
        await store.gateways.renew(name, NOW_US)
    assert store.gateways.live_count == 2
    await store.gateways.refresh(NOW_US)
    assert store.gateways.live_count == 2


async def test_presence_combines_all_sessions(known: Store) -> None:
    assert await alice(known, NOW_US) == PresenceStatus()

    await known.devices.open_session("alice", "phone", session(), NOW_US, MINUTE_US)
    assert await alice(known, NOW_US + 5) == PresenceStatus(True, False, NOW_US + 5)

    await known.devices.open_session("alice", "laptop", session("a", foreground=True), NOW_US, MINUTE_US)
    await known.devices.open_session("alice", "laptop", session("b", "c2"), NOW_US, MINUTE_US)
    assert await alice(known, NOW_US + 6) == PresenceStatus(True, True, NOW_US + 6)
    laptop = await known.devices.device("alice", "laptop", NOW_US + 6)
    phone = await known.devices.device("alice", "phone", NOW_US + 6)
    assert laptop is not None and laptop[1] == PresenceStatus(True, True, NOW_US + 6)
    assert phone is not None and phone[1] == PresenceStatus(True, False, NOW_US + 6)
    assert await known.devices.presence(["nobody", "alice"], NOW_US + 6) == [
        PresenceStatus(),
        PresenceStatus(True, True, NOW_US + 6),
    ]
    assert await known.devices.reachable_presence(["nobody", "alice"], NOW_US + 6) == {
        "nobody": PresenceStatus(),
        "alice": PresenceStatus(True, True, NOW_US + 6),
    }


async def test_heartbeat_renews_and_sets_foreground(known: Store) -> None:
    await known.devices.open_session("alice", "phone", session(), NOW_US, MINUTE_US)

    entries = [("alice", "phone", session(foreground=True))]
    await known.devices.renew_sessions(entries, NOW_US + MINUTE_US - 1, MINUTE_US)

    assert await alice(known, NOW_US + 2 * MINUTE_US - 2) == PresenceStatus(True, True, NOW_US + 2 * MINUTE_US - 2)
    assert (await alice(known, NOW_US + 2 * MINUTE_US)).online is False


async def test_last_seen_is_close_time_or_last_heartbeat(known: Store) -> None:
    await known.devices.open_session("alice", "phone", session(), NOW_US, MINUTE_US)
    await known.devices.close_session("alice", "phone", session(), NOW_US + 10)
    assert await alice(known, NOW_US + 20) == PresenceStatus(False, False, NOW_US + 10)

    await known.devices.open_session("alice", "laptop", session(), NOW_US + 30, MINUTE_US)
    assert await alice(known, NOW_US + 10 * MINUTE_US) == PresenceStatus(False, False, NOW_US + 30)


async def test_renewal_replaces_an_older_connection(known: Store) -> None:
    """A failover lost the opening of the newer one."""
    first, second = session(connection="c1"), session(connection="c2", opened_us=NOW_US + 1)
    await known.devices.open_session("alice", "phone", first, NOW_US, MINUTE_US)

    await known.devices.renew_sessions([("alice", "phone", second)], NOW_US + 2, MINUTE_US)
    await known.devices.renew_sessions([("alice", "phone", first)], NOW_US + 3, MINUTE_US)

    assert await known.devices.session("alice", "phone", "tab", NOW_US + 3) == second


async def test_newer_connection_displaces_the_older(known: Store) -> None:
    first, second = session(connection="c1"), session(connection="c2", opened_us=NOW_US + 1)
    await known.devices.open_session("alice", "phone", first, NOW_US, MINUTE_US)

    displaced = await known.devices.open_session("alice", "phone", second, NOW_US + 1, MINUTE_US)

    assert displaced == [(first, 4504)]
    await known.devices.close_session("alice", "phone", first, NOW_US + 2)
    await known.devices.renew_sessions([("alice", "phone", first)], NOW_US + 3, 10 * MINUTE_US)
    assert await known.devices.session("alice", "phone", "tab", NOW_US + 3) == second
    assert await known.devices.session("alice", "phone", "tab", NOW_US + 2 * MINUTE_US) is None


async def test_reopening_displaces_nothing(known: Store) -> None:
    await known.devices.open_session("alice", "phone", session(), NOW_US, MINUTE_US)

    assert await known.devices.open_session("alice", "phone", session(), NOW_US + 1, MINUTE_US) == []


async def test_connection_bound_displaces_the_oldest(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, connections=2))
    tabs = [session(f"tab{n}", f"c{n}", NOW_US + n) for n in range(3)]
    for tab in (tabs[1], tabs[0]):
        await store.devices.open_session("alice", "phone", tab, NOW_US, MINUTE_US)
    await store.devices.open_session("alice", "laptop", session(), NOW_US - 5, MINUTE_US)

    displaced = await store.devices.open_session("alice", "phone", tabs[2], NOW_US, MINUTE_US)

    assert displaced == [(tabs[0], 4505)]
    assert await store.devices.session("alice", "phone", "tab0", NOW_US) is None
    assert await store.devices.session("alice", "phone", "tab1", NOW_US) == tabs[1]


async def test_expired_session_is_not_displaced(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, connections=1))
    await store.devices.open_session("alice", "phone", session(), NOW_US, MINUTE_US)
    later_us = NOW_US + MINUTE_US

    assert await store.devices.open_session("alice", "phone", session("new", "c2"), later_us, MINUTE_US) == []


async def test_heartbeat_restores_a_lost_session(known: Store) -> None:
    """A store that lost its last seconds in a restart gets the sessions back from heartbeats."""
    await known.devices.renew_sessions([("alice", "phone", session())], NOW_US, MINUTE_US)

    assert await known.devices.session("alice", "phone", "tab", NOW_US) == session()
    assert (await alice(known, NOW_US)).online


async def test_change_of_a_session_that_is_over_stores_nothing(known: Store) -> None:
    """Only the gateway of a connection restores its session: no other one would close it again."""
    devices, front = known.devices, session(foreground=True)
    newer = session(connection="c2", opened_us=NOW_US + 1)

    async def change(now_us: int) -> DeviceSession | None:
        await devices.renew_sessions([("alice", "phone", front)], now_us, MINUTE_US, only_open=True)
        return await devices.session("alice", "phone", "tab", now_us)

    assert await change(NOW_US) is None
    await devices.open_session("alice", "phone", session(), NOW_US, MINUTE_US)
    assert await change(NOW_US + 1) == front
    assert await change(NOW_US + 1 + MINUTE_US) is None
    await devices.open_session("alice", "phone", newer, NOW_US + MINUTE_US, MINUTE_US)
    assert await change(NOW_US + MINUTE_US + 1) == newer
    await devices.close_session("alice", "phone", newer, NOW_US + MINUTE_US + 2)
    assert await change(NOW_US + MINUTE_US + 3) is None
    assert (await alice(known, NOW_US + MINUTE_US + 3)).online is False


@pytest.mark.parametrize("gateway", [NO_GATEWAY, "gateway-2"])
async def test_change_of_a_session_keeps_its_new_gateway(known: Store, gateway: str) -> None:
    """Its poll ended, or its gateway took another id, after the caller read the session."""
    devices, moved = known.devices, replace(session(), gateway=gateway)
    await devices.open_session("alice", "phone", moved, NOW_US, MINUTE_US)

    entries = [("alice", "phone", session(foreground=True))]
    await devices.renew_sessions(entries, NOW_US + 1, MINUTE_US // 6, only_open=True)

    end_us, front = NOW_US + MINUTE_US, replace(moved, foreground=True)
    assert await devices.session("alice", "phone", "tab", end_us - 1) == front
    await devices.renew_sessions(entries, NOW_US + 2, MINUTE_US, only_open=True)
    assert await devices.session("alice", "phone", "tab", end_us) == front


async def test_foreground_until_the_last_connection_left(known: Store) -> None:
    async def foreground_until(now_us: int) -> int | None:
        return await known.devices.foreground_until("alice", now_us)

    assert await foreground_until(NOW_US) is None
    await known.devices.open_session("alice", "phone", session(), NOW_US, MINUTE_US)
    assert await foreground_until(NOW_US + 1) is None
    await known.devices.renew_sessions([("alice", "phone", session(foreground=True))], NOW_US + 10, MINUTE_US)
    assert await foreground_until(NOW_US + 20) == NOW_US + 20
    await known.devices.renew_sessions([("alice", "phone", session())], NOW_US + 30, MINUTE_US)
    assert await foreground_until(NOW_US + 40) == NOW_US + 30
    await known.devices.open_session("alice", "laptop", session("a", "c2", foreground=True), NOW_US + 50, MINUTE_US)
    await known.devices.close_session("alice", "laptop", session("a", "c2"), NOW_US + 60)
    assert await foreground_until(NOW_US + 70) == NOW_US + 60


async def test_foreground_of_a_filtered_connection_is_only_for_its_categories(known: Store) -> None:
    shop, every = session("shop", foreground=True, category_filter=("shop",)), session("all", "c2", foreground=True)
    for opened in (shop, every, session("back", "c3", category_filter=("bank",))):
        await known.devices.open_session("alice", "phone", opened, NOW_US, MINUTE_US)

    found = await known.devices.device("alice", "phone", NOW_US + 1)
    assert found is not None and sorted(found[1].foreground_filters, key=str) == [("shop",), None]
    await known.devices.close_session("alice", "phone", every, NOW_US + 5)
    assert await known.devices.foreground_until("alice", NOW_US + 9) == NOW_US + 5
    await known.devices.renew_sessions(
        [("alice", "phone", session("shop", category_filter=("shop",)))], NOW_US + 10, MINUTE_US
    )
    await known.devices.open_session("alice", "phone", shop, NOW_US + 20, MINUTE_US)
    await known.devices.close_session("alice", "phone", shop, NOW_US + 30)
    assert await known.devices.foreground_until("alice", NOW_US + 40) == NOW_US + 5


async def test_lost_foreground_ends_at_last_heartbeat(known: Store) -> None:
    await known.devices.open_session("alice", "phone", session(foreground=True), NOW_US, MINUTE_US)

    assert await known.devices.foreground_until("alice", NOW_US + MINUTE_US) == NOW_US
    await known.devices.open_session("alice", "laptop", session("a", "c2"), NOW_US + 2 * MINUTE_US, MINUTE_US)
    assert await known.devices.foreground_until("alice", NOW_US + 2 * MINUTE_US) == NOW_US


async def test_displacing_a_foreground_session_keeps_its_time(
    known: Store,
) -> None:
    await known.devices.open_session("alice", "phone", session(foreground=True), NOW_US, MINUTE_US)

    await known.devices.open_session("alice", "phone", session(connection="c2"), NOW_US + 5, MINUTE_US)

    assert await known.devices.foreground_until("alice", NOW_US + 9) == NOW_US + 5


@pytest.mark.parametrize("closes", [True, False])
async def test_last_foreground_time_never_decreases(known: Store, closes: bool) -> None:
    """A lost session ended before others, although it is removed after them."""
    lost = session("a", "c1", foreground=True)
    await known.devices.open_session("alice", "laptop", lost, NOW_US, MINUTE_US)
    await known.devices.open_session("alice", "phone", session("b", "c2", foreground=True), NOW_US, 9 * MINUTE_US)
    left_us = NOW_US + 5 * MINUTE_US
    await known.devices.close_session("alice", "phone", session("b", "c2"), left_us)

    if closes:
        await known.devices.close_session("alice", "laptop", lost, left_us + 1)
    else:
        await known.devices.open_session("alice", "laptop", session("a", "c3"), left_us + 1, MINUTE_US)

    assert await known.devices.foreground_until("alice", left_us + 2) == left_us


async def test_sessions_of_many_devices(make_store: MakeStore) -> None:
    """One device among many joins, loses and replaces sessions; the other devices keep theirs."""
    store = await make_store(replace(LIMITS, connections=2))
    devices = store.devices
    # one name is the beginning of others
    names = ["d", *(f"d{n}" for n in range(12))]
    for name in names:
        await devices.ensure_device("alice", name, NOW_US)
        await devices.open_session("alice", name, session("short", f"{name}-short"), NOW_US, MINUTE_US)
        long = session("long", f"{name}-long", NOW_US + 1, foreground=True)
        assert await devices.open_session("alice", name, long, NOW_US + 1, 9 * MINUTE_US) == []

    third = session("third", "c3", NOW_US + 2)
    displaced = await devices.open_session("alice", "d", third, NOW_US + 2, 9 * MINUTE_US)
    again = await devices.open_session("alice", "d", session("long", "c4", NOW_US + 3), NOW_US + 3, 9 * MINUTE_US)

    assert [(old.connection, code) for old, code in (*displaced, *again)] == [("d-short", 4505), ("d-long", 4504)]
    # every other device loses one of its two sessions to time
    late_us = NOW_US + 2 * MINUTE_US
    assert await devices.open_session("alice", "d1", session("new", "c5", late_us), late_us, MINUTE_US) == []
    for name in names:
        found = await devices.device("alice", name, late_us)
        assert found is not None and found[1] == PresenceStatus(True, name != "d", late_us), name
        assert (await devices.session("alice", name, "short", late_us)) is None
    last_us = NOW_US + 20 * MINUTE_US
    assert await devices.open_session("alice", "d0", session("new", "c6", last_us), last_us, MINUTE_US) == []
    listed = await devices.list_devices("alice", last_us)
    seen = {name: presence.last_seen_us for name, (_, presence) in listed.items()}
    assert seen == dict.fromkeys(names, NOW_US + 1) | {"d": NOW_US + 3, "d0": last_us, "d1": late_us}


async def test_audience_has_devices_acknowledgements_and_presence(known: Store) -> None:
    devices = known.devices
    assert await devices.audience("nobody", NOW_US) == Audience({}, {})
    limited = Registration(push=APNS, registrar=PushRegistrar(("shop",), NOW_US))
    await devices.put_device("alice", "phone", limited, NOW_US)
    await devices.open_session("alice", "laptop", session(foreground=True), NOW_US, MINUTE_US)
    shop = session("shop", "c2", foreground=True, category_filter=("shop",))
    await devices.open_session("alice", "laptop", shop, NOW_US, MINUTE_US)
    await raise_seq(known, 7)
    await devices.acknowledge("alice", View("laptop", ("shop",)), 7, NOW_US)

    found = await devices.audience("alice", NOW_US + 5)

    [laptop, phone] = [found.devices[name] for name in ("laptop", "phone")]
    assert phone == AudienceDevice("apns", (), ("shop",))
    assert (laptop.provider, sorted(laptop.foreground_filters, key=str)) == (None, [("shop",), None])
    assert sorted(found.foreground_filters, key=str) == [("shop",), None]
    assert found.acks == {View("laptop", ("shop",)): 7}
    assert (found.online_us, found.foreground_us) == (NOW_US + 5, NOW_US + 5)
    later = await devices.audience("alice", NOW_US + MINUTE_US)
    assert (later.online_us, later.foreground_us, later.foreground_filters) == (NOW_US, NOW_US, ())


async def test_audience_names_the_bytes_of_long_filters(known: Store) -> None:
    prefixes = tuple(f"a{n:03}" + ".b" * 61 for n in range(100))
    await known.devices.open_session("alice", "phone", session(category_filter=prefixes), NOW_US, MINUTE_US)

    assert 12_000 < (await known.devices.audience("alice", NOW_US)).stored_bytes < 16_000


async def test_revocation_closes_sessions_between_two_polls(known: Store) -> None:
    """No gateway holds such a session, so none closes it: its foreground would suppress e-mails of the thief's user."""
    sessions = {"phone": parked("old"), "laptop": parked("other")}
    for device, opened in sessions.items():
        await known.devices.open_session("alice", device, opened, NOW_US, MINUTE_US)
    await known.devices.open_session("alice", "phone", parked("new", NOW_US + 2), NOW_US, MINUTE_US)
    held = session("held")
    await known.devices.open_session("alice", "phone", held, NOW_US, MINUTE_US)

    async def open_sessions() -> list[str]:
        named = (("phone", "old"), ("phone", "new"), ("phone", "held"), ("laptop", "other"))
        return [name for device, name in named if await known.devices.session("alice", device, name, NOW_US + 9)]

    await known.devices.revoke("alice", "phone", NOW_US + 1, NOW_US + 5)
    assert await open_sessions() == ["new", "held", "other"]
    await known.devices.revoke("alice", None, NOW_US + 2, NOW_US + 5)
    assert await open_sessions() == ["held"]

    await known.devices.close_session("alice", "phone", held, NOW_US + 6)
    assert await alice(known, NOW_US + 9) == PresenceStatus(last_seen_us=NOW_US + 6)
    assert await known.devices.foreground_until("alice", NOW_US + 9) == NOW_US + 5
