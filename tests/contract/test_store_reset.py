"""Resets to a new epoch, and deleted users (semantics.md L14; protocol.md, DELETE user), in every store."""

from __future__ import annotations

from gregor.core.items.announcement import AnnouncementKind
from gregor.core.items.sync import Full, Unchanged, View, cursor_for
from gregor.core.limits import CLOCK_LEEWAY_US
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Store
from gregor.store.deleted_users import DELETED_USERS_KEPT_US, user_id_hash
from tests.support.builders import (
    BACKEND,
    NOW_US,
    RESET,
    SECOND_US,
    SEED,
    creating,
    cursor_of,
    dismissing,
    document_of,
    external,
    ids_of,
    planned,
)
from tests.support.resets import reset_all_users
from tests.support.store_backends import AnnouncementRecorder, StoreUnderTest

NEXT = (int.from_bytes(SEED, "big") + 1).to_bytes(3, "big")


async def test_reset_starts_an_epoch_and_keeps_items(store: Store) -> None:
    await store.users.commit("alice", creating("a", "b"))
    await store.users.commit("alice", dismissing("b"))
    before = await store.users.state("alice", BACKEND, NOW_US)

    receipt = await store.users.commit("alice", planned(RESET))

    after = await store.users.state("alice", BACKEND, NOW_US)
    assert (receipt.epoch, receipt.seq, receipt.is_unchanged) == (NEXT, 3, False)
    assert (after.items, after.digest) == (before.items, before.digest)
    assert isinstance(await store.users.sync("alice", BACKEND, cursor_of(before), None, NOW_US), Full)
    assert isinstance(await store.users.sync("alice", BACKEND, cursor_of(after), None, NOW_US), Unchanged)
    assert (await store.users.commit("alice", creating("b"))).is_unchanged


async def test_epoch_wraps_around(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("bob", planned(RESET, seed=b"\xff\xff\xfe"))

    receipt = await store.users.commit("bob", planned(RESET))

    assert receipt.epoch == b"\0\0\1"


async def test_reset_of_all_applies_at_the_next_call(backend: StoreUnderTest) -> None:
    store = backend.store
    for uid in ("alice", "bob", "carol"):
        await store.users.commit(uid, creating("a"))
    everyone, alice, bob = await backend.record_resets(), await backend.record("alice"), await backend.record("bob")

    await reset_all_users(store, 7)

    (told,) = await everyone.first(1)
    assert (told[:1], told[3:]) == (b"F", (7).to_bytes(2, "big"))
    assert [head.seq for head in await store.users.heads(["alice", "bob"]) if head] == [1, 1]
    receipt = await store.users.commit("alice", creating("b"))
    synced = await store.users.sync("bob", BACKEND, cursor_for(SEED, BACKEND, 1), None, NOW_US)
    state = await store.users.state("carol", BACKEND, NOW_US)
    assert (receipt.epoch, receipt.seq) == (NEXT, 3)
    assert isinstance(synced, Full) and (synced.epoch, synced.seq, ids_of(synced)) == (NEXT, 2, ["a"])
    assert (state.epoch, state.seq) == (NEXT, 2)
    assert [each.kind for each in await alice.announcements(2)] == [AnnouncementKind.RESET, AnnouncementKind.UPDATE]
    assert [(each.kind, each.spread_s) for each in await bob.announcements(1)] == [(AnnouncementKind.RESET, 7)]


async def test_late_reset_uses_the_last_spread(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a"))
    for spread_s in (7, 3_600):
        await reset_all_users(store, spread_s)
    await store.users.state("alice", BACKEND, NOW_US)
    await reset_all_users(store, 0)
    await store.users.state("alice", BACKEND, NOW_US)

    flushes = [each for each in await recorder.announcements(3) if each.kind is AnnouncementKind.RESET]
    assert [each.spread_s for each in flushes] == [3_600, 0]


async def test_reset_of_all_applies_once(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await reset_all_users(store, 30)
    await reset_all_users(store, 30)

    first = await store.users.state("alice", BACKEND, NOW_US)
    again = await store.users.state("alice", BACKEND, NOW_US)

    assert first == again and (first.epoch, first.seq) == (NEXT, 2)


async def test_user_created_after_reset_is_not_reset(store: Store) -> None:
    await reset_all_users(store, 30)

    assert (await store.users.commit("alice", creating("a"))).epoch == SEED
    assert (await store.users.state("alice", BACKEND, NOW_US)).seq == 1


async def test_own_reset_counts_as_reset_of_all(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await reset_all_users(store, 30)

    receipt = await store.users.commit("alice", planned(RESET))

    assert (receipt.epoch, receipt.seq) == (NEXT, 2)
    assert (await store.users.state("alice", BACKEND, NOW_US)).seq == 2


async def test_reset_and_expiry_may_coincide(store: Store) -> None:
    later_us = NOW_US + SECOND_US
    for uid in ("alice", "bob", "carol", "dave"):
        await store.users.commit(uid, creating("a", expires="+1"))
    await reset_all_users(store, 30)

    state = await store.users.state("alice", BACKEND, later_us)
    entry = await store.users.item("bob", "a", BACKEND, later_us)
    receipt = await store.users.commit("carol", creating("b", now_us=later_us))
    flushed = await store.users.commit("dave", planned(RESET, now_us=later_us))

    assert (state.epoch, state.seq, state.items) == (NEXT, 3, ())
    assert entry is not None and entry.gone is not None and entry.gone.seq == 2
    assert (receipt.epoch, receipt.seq) == (NEXT, 4)
    assert (flushed.epoch, flushed.seq) == (NEXT, 3)


async def test_deleted_user_starts_empty(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("a", "unknown"))
    await store.users.commit("alice", planned(external(1, message_id="m")))
    await store.devices.put_device("alice", "phone", Registration(platform="ios"), NOW_US)
    await store.devices.acknowledge("alice", View("phone"), 1, NOW_US)

    await store.users.delete_user("alice", NOW_US)
    await store.users.delete_user("alice", NOW_US)

    assert await store.users.heads(["alice"]) == [None]
    assert await store.users.history("alice", BACKEND, None, 10, NOW_US) == []
    assert await store.devices.list_devices("alice", NOW_US) == {}
    assert await store.devices.acknowledged("alice") == {}
    assert await store.devices.acknowledgements("alice") == []
    receipt = await store.users.commit("alice", planned(external(2, message_id="m"), seed=b"abc"))
    assert (receipt.epoch, receipt.seq) == (b"abc", 1)
    assert (await store.users.commit("alice", creating("a", "unknown"))).created == ("a", "unknown")


async def test_reachable_heads_are_by_uid(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    uids = ["nobody", "alice"]

    assert await store.users.reachable_heads(uids) == dict(zip(uids, await store.users.heads(uids), strict=True))


async def test_deleted_user_hash_is_kept_for_a_while(store: Store) -> None:
    for uid, at_us in (("alice", NOW_US), ("bob", NOW_US + 1), ("carol", NOW_US + DELETED_USERS_KEPT_US)):
        await store.users.delete_user(uid, at_us)

    assert await store.users.deleted_since(NOW_US + 1) == {user_id_hash("bob"), user_id_hash("carol")}
    assert await store.users.deleted_since(NOW_US + 2) == {user_id_hash("carol")}
    assert "carol" not in user_id_hash("carol")


async def test_deletion_revokes_tokens_and_closes(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.delete_user("alice", NOW_US)

    (told,) = await recorder.first(1)
    assert told[:1] == b"K"
    assert document_of(told[1:]) == {"close": {"device": None, "code": 4502}}
    assert await store.devices.revoked_before("alice", "phone") == NOW_US + CLOCK_LEEWAY_US
