"""Devices, acknowledgements, revocations and control messages, in every store (contract ``Devices``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.items.sync import Delta, Full, View, cursor_for
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.store.contract.devices import DeviceSession, PresenceStatus, PushRegistrar, Registration
from gregor.store.contract.store import Store
from tests.support.builders import LIMITS, NOW_US, SECOND_US, SEED, creating, dismissing, document_of, ids_of, raise_seq
from tests.support.store_backends import AnnouncementRecorder

MakeStore = Callable[[Limits], Awaitable[Store]]
PUSH = {"provider": "apns", "token": "t1", "topic": "com.example", "sandbox": False}
WEB = {"provider": "webpush", "token": {"endpoint": "https://push.example/1", "keys": {"p256dh": "x", "auth": "y"}}}
MINUTE_US = 60 * SECOND_US


async def test_device_registration_round_trips(store: Store) -> None:
    registration = Registration("ios", PUSH, "it-IT", registrar=PushRegistrar(("shop",), NOW_US))
    await store.devices.put_device("alice", "phone", registration, NOW_US)
    await store.devices.put_device("alice", "browser", Registration("web", WEB), NOW_US)

    assert await store.devices.list_devices("alice", NOW_US) == {
        "browser": (Registration("web", WEB), PresenceStatus()),
        "phone": (registration, PresenceStatus()),
    }
    assert list(await store.devices.list_devices("alice", NOW_US)) == ["browser", "phone"]
    assert await store.devices.device("alice", "phone", NOW_US) == (registration, PresenceStatus())
    assert await store.devices.device("alice", "tablet", NOW_US) is None
    assert await store.devices.registration("alice", "phone") == registration
    assert await store.devices.registration("alice", "tablet") is None
    assert await store.devices.list_devices("bob", NOW_US) == {}


async def test_registering_again_replaces(store: Store) -> None:
    await store.devices.put_device("alice", "phone", Registration("ios", PUSH, "it"), NOW_US)

    await store.devices.put_device("alice", "phone", Registration("android"), NOW_US)

    assert await store.devices.device("alice", "phone", NOW_US) == (Registration("android"), PresenceStatus())


async def test_concurrent_changes_all_apply(store: Store) -> None:
    def change(**fields: Any) -> Awaitable[None]:
        return store.devices.change_device(
            "alice", "phone", lambda kept: replace(kept or Registration(), **fields), NOW_US
        )

    await asyncio.gather(change(platform="ios"), change(push=PUSH), change(locale="it"))

    assert await store.devices.device("alice", "phone", NOW_US) == (Registration("ios", PUSH, "it"), PresenceStatus())


async def test_refused_device_change_changes_nothing(store: Store) -> None:
    seen: list[Registration | None] = []

    def refuse(kept: Registration | None) -> Registration:
        seen.append(kept)
        raise Problem("invalid", "no")

    for known in (None, Registration("ios", PUSH)):
        if known is not None:
            await store.devices.put_device("alice", "phone", known, NOW_US)
        with pytest.raises(Problem):
            await store.devices.change_device("alice", "phone", refuse, NOW_US)
        assert await store.devices.device("alice", "phone", NOW_US) == (known and (known, PresenceStatus()))
        assert seen.pop() == known


async def test_changed_push_token_moves(store: Store) -> None:
    await store.devices.put_device("bob", "tablet", Registration("ios", PUSH), NOW_US)

    await store.devices.change_device("alice", "phone", lambda _: Registration("ios", PUSH), NOW_US)
    await store.devices.change_device("alice", "phone", lambda _: Registration("ios"), NOW_US)

    assert await store.devices.device("bob", "tablet", NOW_US) == (Registration("ios"), PresenceStatus())
    assert await store.devices.device("alice", "phone", NOW_US) == (Registration("ios"), PresenceStatus())


async def test_connecting_keeps_the_registration(store: Store) -> None:
    await store.devices.put_device("alice", "phone", Registration("ios", PUSH), NOW_US)

    assert await store.devices.ensure_device("alice", "phone", NOW_US) is None
    assert await store.devices.ensure_device("alice", "tablet", NOW_US) is None

    devices = await store.devices.list_devices("alice", NOW_US)
    assert devices["phone"][0] == Registration("ios", PUSH)
    assert devices["tablet"][0] == Registration()


@pytest.mark.parametrize("push", [PUSH, WEB])
async def test_push_token_has_one_owner(store: Store, push: dict[str, object]) -> None:
    await store.devices.put_device("alice", "phone", Registration("ios", push), NOW_US)
    await store.devices.put_device("bob", "phone", Registration("ios", push), NOW_US)

    assert (await store.devices.list_devices("alice", NOW_US))["phone"][0] == Registration("ios", None)
    assert (await store.devices.list_devices("bob", NOW_US))["phone"][0] == Registration("ios", push)

    await store.devices.put_device("bob", "tablet", Registration("ios", push), NOW_US)
    await store.devices.put_device("bob", "phone", Registration("ios"), NOW_US)
    assert (await store.devices.list_devices("bob", NOW_US))["tablet"][0] == Registration("ios", push)


@pytest.mark.parametrize(("provider", "is_moved"), [("apns", True), ("fcm", False)])
async def test_apns_token_ignores_case(store: Store, provider: str, is_moved: bool) -> None:
    small, capital = ({"provider": provider, "token": token} for token in ("0af1", "0AF1"))
    await store.devices.put_device("alice", "phone", Registration("ios", small), NOW_US)
    await store.devices.put_device("bob", "phone", Registration("ios", capital), NOW_US)

    kept = (await store.devices.list_devices("alice", NOW_US))["phone"][0]
    assert kept == Registration("ios", None if is_moved else small)
    assert (await store.devices.list_devices("bob", NOW_US))["phone"][0] == Registration("ios", capital)


async def test_device_bound_displaces_longest_offline(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, devices=3))
    await store.devices.put_device("alice", "pushed", Registration("ios", PUSH), NOW_US)
    for at, device in enumerate(("older", "newer"), 1):
        await store.devices.ensure_device("alice", device, NOW_US)
        await _come_and_go(store, device, NOW_US + at * MINUTE_US)
    await store.users.commit("alice", creating("own", for_device="older"))

    displaced = await store.devices.ensure_device("alice", "next", NOW_US + 5 * MINUTE_US)

    assert displaced == "older"
    assert list(await store.devices.list_devices("alice", NOW_US + 5 * MINUTE_US)) == ["newer", "next", "pushed"]
    assert ids_of(await store.users.state("alice", View("older"), NOW_US + 5 * MINUTE_US)) == []
    assert await store.devices.ensure_device("alice", "again", NOW_US + 6 * MINUTE_US) == "newer"


async def test_all_devices_online_refuses_another(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, devices=2))
    for device in ("phone", "laptop"):
        await store.devices.ensure_device("alice", device, NOW_US)
        await store.devices.open_session("alice", device, _session(device), NOW_US, MINUTE_US)

    for outcome in (
        store.devices.ensure_device("alice", "tablet", NOW_US),
        store.devices.put_device("alice", "tablet", Registration(), NOW_US),
    ):
        with pytest.raises(Problem) as refusal:
            await outcome
        assert refusal.value.code == "too_many_devices"
    assert await store.devices.ensure_device("alice", "phone", NOW_US) is None


async def test_removed_device_leaves_nothing(store: Store) -> None:
    await store.devices.put_device("alice", "phone", Registration("ios", PUSH), NOW_US)
    await store.users.commit("alice", creating("each", for_device="*", body="a body that makes deltas the shorter way"))
    await store.users.commit("alice", creating("own", for_device="phone"))
    await store.users.commit("alice", dismissing("each", sender=Sender("phone")))
    await store.devices.acknowledge("alice", View("phone"), 2, NOW_US)
    await store.devices.acknowledge("alice", View("laptop"), 1, NOW_US)

    await store.devices.forget_device("alice", "phone", NOW_US, SEED)

    assert await store.devices.list_devices("alice", NOW_US) == {}
    assert await store.devices.acknowledged("alice") == {View("laptop"): 1}
    assert ids_of(await store.users.state("alice", View("phone"), NOW_US)) == ["each"]
    for seq in (1, 2, 3):
        answer = await store.users.sync("alice", View("phone"), cursor_for(SEED, View("phone"), seq), None, NOW_US)
        assert isinstance(answer, Full) and answer.seq == 4
    await store.users.commit("alice", creating("later", now_us=NOW_US + 1))
    answer = await store.users.sync("alice", View("phone"), cursor_for(SEED, View("phone"), 4), None, NOW_US + 1)
    assert isinstance(answer, Delta)


async def test_device_removal_invalidates_its_cursors(store: Store) -> None:
    await store.users.commit("alice", creating("a", body="a body that makes deltas the shorter way to tell it"))
    await store.users.commit("alice", creating("b"))
    await store.devices.forget_device("alice", "phone", NOW_US, SEED)

    answer = await store.users.sync("alice", View("laptop"), cursor_for(SEED, View("laptop"), 1), None, NOW_US)

    assert isinstance(answer, Delta)


async def test_device_removal_is_repeatable(store: Store) -> None:
    await store.users.commit("alice", creating("each", for_device="*"))
    await store.users.commit("alice", dismissing("each", sender=Sender("phone")))
    for _ in range(2):
        await store.devices.forget_device("alice", "phone", NOW_US, SEED)

    phone = await store.users.state("alice", View("phone"), NOW_US)
    tablet = await store.users.state("alice", View("tablet"), NOW_US)
    await store.users.commit("alice", dismissing("each"))

    assert phone.digest == tablet.digest
    assert (await store.users.state("alice", View("phone"), NOW_US)).digest == bytes(32)


async def test_acknowledgement_above_the_seq_of_the_user_is_ignored(store: Store) -> None:
    """A device may acknowledge changes that a failover has lost. Their seqs will be those of other changes."""
    await store.devices.acknowledge("alice", View("phone"), 9, NOW_US)
    assert await store.devices.acknowledged("alice") == {}
    await raise_seq(store, 2)

    await store.devices.acknowledge("alice", View("phone"), 9, NOW_US)

    assert await store.devices.acknowledged("alice") == {}
    assert await store.devices.acknowledgements("alice") == []


async def test_acknowledgement_is_monotonic_for_each_view(store: Store) -> None:
    await raise_seq(store, 5)
    filtered = View("phone", ("user",))
    await store.devices.acknowledge("alice", View("phone"), 5, NOW_US)
    await store.devices.acknowledge("alice", View("phone"), 3, NOW_US)
    await store.devices.acknowledge("alice", filtered, 4, NOW_US)

    assert await store.devices.acknowledged("alice") == {
        View("phone"): 5,
        filtered: 4,
    }


async def test_limited_caller_forgets_a_device_only_within_its_categories(store: Store) -> None:
    await store.users.commit("alice", creating("in", category="shop.a", for_device="phone"))
    await store.users.commit("alice", creating("out", category="bank", for_device="phone"))
    await store.users.commit("alice", creating("in-all", category="shop", for_device="*"))
    await store.users.commit("alice", creating("out-all", category="bank", for_device="*"))
    await store.users.commit("alice", dismissing("in-all", "out-all", sender=Sender("phone")))
    await store.devices.put_device("alice", "phone", Registration("ios", PUSH), NOW_US)

    await store.devices.forget_device("alice", "phone", NOW_US, SEED, ("shop",))

    assert await store.devices.list_devices("alice", NOW_US) == {}
    assert set(ids_of(await store.users.state("alice", View("phone"), NOW_US))) == {"out", "in-all"}
    assert set(ids_of(await store.users.state("alice", View(), NOW_US))) == {"out", "in-all", "out-all"}

    await store.devices.forget_device("alice", "phone", NOW_US, SEED)

    assert set(ids_of(await store.users.state("alice", View("phone"), NOW_US))) == {"in-all", "out-all"}


async def test_displacement_is_charged_before_a_device_is_removed(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, devices=2))
    devices, charged = store.devices, list[str]()

    async def charge() -> None:
        charged.append("displacement")
        if len(charged) > 3:
            raise Problem("rate_limited", "Too many requests.")

    for name in ("a", "b", "a", "c"):
        await devices.ensure_device("alice", name, NOW_US, charge)
    assert len(charged) == 1
    for name in ("c", "d"):
        await devices.put_device("alice", name, Registration("ios"), NOW_US, charge)
    assert len(charged) == 2
    for name in ("d", "e"):
        await devices.change_device("alice", name, lambda _: Registration("web"), NOW_US, charge)
    assert len(charged) == 3
    before = await devices.list_devices("alice", NOW_US)

    for call in (
        devices.ensure_device("alice", "f", NOW_US, charge),
        devices.put_device("alice", "f", Registration("ios"), NOW_US, charge),
        devices.change_device("alice", "f", lambda _: Registration("ios"), NOW_US, charge),
    ):
        with pytest.raises(Problem, match="Too many requests"):
            await call
    assert await devices.list_devices("alice", NOW_US) == before
    assert len(charged) == 6


async def test_stored_sessions_are_counted(store: Store) -> None:
    for device, name in (("phone", "s1"), ("phone", "s2"), ("laptop", "s1")):
        await store.devices.open_session("alice", device, DeviceSession(name, name, "", NOW_US), NOW_US, MINUTE_US)

    assert await store.devices.count_sessions("alice") == 3
    assert await store.devices.count_sessions("bob") == 0


async def test_device_forgotten_twice_loses_what_came_between(store: Store) -> None:
    await store.users.commit("alice", creating("own", for_device="phone"))
    await store.users.commit("alice", creating("all", for_device="*"))
    for _ in range(2):
        await store.devices.forget_device("alice", "phone", NOW_US, SEED)
    await store.users.commit("alice", creating("new", for_device="phone"))
    await store.users.commit("alice", dismissing("all", sender=Sender("phone")))
    assert ids_of(await store.users.state("alice", View("phone"), NOW_US)) == ["new"]

    for _ in range(2):
        await store.devices.forget_device("alice", "phone", NOW_US, SEED)

    assert ids_of(await store.users.state("alice", View("phone"), NOW_US)) == ["all"]


def registered_by(registrar: PushRegistrar | None, token: str = "t1") -> Registration:
    return Registration("ios", {**PUSH, "token": token}, "it", registrar=registrar)


@pytest.mark.parametrize("device", ["phone", None])
async def test_revocation_removes_the_push_tokens_that_its_tokens_registered(store: Store, device: str | None) -> None:
    by_key, by_older, by_newer = (PushRegistrar(None, each) for each in (None, NOW_US, NOW_US + 1))
    await store.devices.put_device("alice", "phone", registered_by(by_older, "a"), NOW_US + 5)
    await store.devices.put_device("alice", "desk", registered_by(by_older, "b"), NOW_US + 5)
    await store.devices.put_device("alice", "new", registered_by(by_newer, "c"), NOW_US + 5)
    await store.devices.put_device("alice", "key", registered_by(by_key, "d"), NOW_US + 5)

    await store.devices.revoke("alice", device, NOW_US, NOW_US + 9)

    known = await store.devices.list_devices("alice", NOW_US + 9)
    removed = {name for name, (kept, _) in known.items() if kept.push is None}
    assert removed == ({"phone"} if device else {"phone", "desk"})
    assert known["phone"][0] == Registration("ios", None, "it")
    assert not await store.devices.owns_push_token("alice", "phone", registered_by(by_older, "a"))
    assert await store.devices.owns_push_token("alice", "new", registered_by(by_newer, "c"))


async def test_push_token_of_an_unknown_registrar_is_revoked_by_its_time(store: Store) -> None:
    """A release that did not store the registrar left such registrations."""
    await store.devices.put_device("alice", "phone", registered_by(None), NOW_US)

    await store.devices.revoke("alice", None, NOW_US - 1, NOW_US + 9)
    assert (await store.devices.list_devices("alice", NOW_US))["phone"][0].push is not None
    await store.devices.revoke("alice", None, NOW_US, NOW_US + 9)
    assert (await store.devices.list_devices("alice", NOW_US))["phone"][0].push is None


@pytest.mark.parametrize("device", ["phone", None])
async def test_revoked_token_registers_no_push_token(store: Store, device: str | None) -> None:
    """The revocation came after the request was authorized."""
    await store.devices.revoke("alice", device, NOW_US, NOW_US)

    with pytest.raises(Problem) as refused:
        await store.devices.put_device("alice", "phone", registered_by(PushRegistrar(None, NOW_US)), NOW_US)
    assert refused.value.code == "unauthorised"
    assert await store.devices.list_devices("alice", NOW_US) == {}
    for registrar in (PushRegistrar(None, NOW_US + 1), PushRegistrar()):
        await store.devices.put_device("alice", "phone", registered_by(registrar), NOW_US)


async def test_revocation_never_becomes_weaker(store: Store) -> None:
    assert await store.devices.revoked_before("alice", "phone") is None

    await store.devices.revoke("alice", "phone", NOW_US, NOW_US)
    await store.devices.revoke("alice", "phone", NOW_US - SECOND_US, NOW_US)
    assert await store.devices.revoked_before("alice", "phone") == NOW_US
    assert await store.devices.revoked_before("alice", "laptop") is None

    await store.devices.revoke("alice", None, NOW_US - SECOND_US, NOW_US)
    assert await store.devices.revoked_before("alice", "phone") == NOW_US
    assert await store.devices.revoked_before("alice", "laptop") == NOW_US - SECOND_US


async def test_revocations_and_controls_are_published(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.devices.revoke("alice", "phone", NOW_US, NOW_US)
    await store.devices.publish_control("alice", {"frame": {"session": "s"}})

    payloads = await recorder.first(2)
    assert [payload[:1] for payload in payloads] == [b"K", b"K"]
    assert [document_of(payload[1:]) for payload in payloads] == [
        {"revoke": {"device": "phone", "issued_before_us": NOW_US}},
        {"frame": {"session": "s"}},
    ]


def _session(device: str, opened_us: int = NOW_US) -> DeviceSession:
    return DeviceSession(f"s-{device}", f"c-{device}", "gateway-1", opened_us)


async def _come_and_go(store: Store, device: str, at_us: int) -> None:
    await store.devices.open_session("alice", device, _session(device, at_us), at_us, MINUTE_US)
    await store.devices.close_session("alice", device, _session(device, at_us), at_us)


async def test_dead_token_is_removed_only_if_unchanged(store: Store) -> None:
    """A registration that changed in the meantime stays, even if it has the same token."""
    push = {"provider": "apns", "token": "t1"}
    await store.devices.put_device("alice", "phone", Registration("ios", push, "it"), NOW_US)
    [(read, _)] = (await store.devices.list_devices("alice", NOW_US)).values()
    await store.devices.put_device("alice", "phone", Registration("ios", push, "it"), NOW_US + 1)

    assert not await store.devices.remove_push("alice", "phone", read)
    [(again, _)] = (await store.devices.list_devices("alice", NOW_US)).values()
    assert (read.push_since_us, again.push_since_us) == (NOW_US, NOW_US + 1)
    assert await store.devices.owns_push_token("alice", "phone", again)
    assert await store.devices.remove_push("alice", "phone", again)

    [(bare, _)] = (await store.devices.list_devices("alice", NOW_US)).values()
    assert bare == Registration("ios", None, "it")
    assert not await store.devices.owns_push_token("alice", "phone", again)


async def test_push_token_moves_to_the_last_device(store: Store) -> None:
    push = {"provider": "apns", "token": "t1"}
    await store.devices.put_device("alice", "phone", Registration("ios", push), NOW_US)
    await store.devices.put_device("bob", "phone", Registration("ios", push), NOW_US)

    assert not await store.devices.owns_push_token("alice", "phone", Registration("ios", push))
    assert await store.devices.owns_push_token("bob", "phone", Registration("ios", push))
