"""Reads (semantics.md L9, L10, L13 and "History"), in every store."""

from __future__ import annotations

import pytest

from gregor.core.items.digest import digest_items
from gregor.core.items.sync import (
    NO_EPOCH,
    ZERO_DIGEST,
    Cursor,
    Delta,
    Full,
    Removal,
    Unchanged,
    UserPosition,
    View,
    cursor_for,
)
from gregor.core.messages.model import RemovalReason, Sender
from gregor.store.contract.store import Store
from tests.support.builders import (
    BACKEND,
    NOW,
    NOW_US,
    SECOND_US,
    SEED,
    creating,
    cursor_of,
    dismissing,
    document_of,
    external,
    ids_of,
    interval,
    planned,
    sweeping,
)

PHONE = View("phone")


async def test_reading_an_unknown_user_creates_nothing(store: Store) -> None:
    state = await store.users.state("nobody", BACKEND, NOW_US)

    assert state == Full(NO_EPOCH, 0, ZERO_DIGEST, ())
    assert isinstance(await store.users.sync("nobody", PHONE, None, None, NOW_US), Full)
    assert isinstance(await store.users.sync("nobody", PHONE, cursor_of(state, PHONE), None, NOW_US), Unchanged)
    assert await store.users.history("nobody", BACKEND, None, 10, NOW_US) == []
    assert await store.users.item("nobody", "a", BACKEND, NOW_US) is None
    assert await store.users.heads(["nobody"]) == [None]


async def test_view_filters_by_device_and_category(store: Store) -> None:
    for item_id, category, device in (
        ("all", "user.joined", None),
        ("each", "user", "*"),
        ("own", "user", "phone"),
        ("other", "user", "laptop"),
        ("news", "news", None),
    ):
        await store.users.commit("alice", creating(item_id, category=category, for_device=device))

    async def shown(view: View) -> set[str]:
        return set(ids_of(await store.users.state("alice", view, NOW_US)))

    assert await shown(BACKEND) == {"all", "each", "own", "other", "news"}
    assert await shown(PHONE) == {"all", "each", "own", "news"}
    assert await shown(View("phone", ("user",))) == {"all", "each", "own"}
    assert await shown(View("", ("user.joined", "news"))) == {"all", "news"}
    assert await shown(View("phone", ())) == set()


@pytest.mark.parametrize("view", [BACKEND, PHONE, View("tablet"), View("phone", ("user",))])
async def test_digest_covers_the_shown_items(store: Store, view: View) -> None:
    for item_id, category, device in (
        ("a", "user", None),
        ("b", "news", "*"),
        ("c", "user", "phone"),
        ("d", "user", "*"),
    ):
        await store.users.commit("alice", creating(item_id, category=category, for_device=device))
    await store.users.commit("alice", dismissing("d", sender=Sender("phone")))

    state = await store.users.state("alice", view, NOW_US)
    synced = await store.users.sync("alice", view, None, None, NOW_US)

    assert state.digest == synced.digest == digest_items((entry.id, entry.json) for entry in state.items)


async def test_delta_is_net_and_ordered(store: Store) -> None:
    await store.users.commit("alice", creating("kept", "b", "a", body="long enough to make a delta the shorter answer"))
    start = cursor_of(await store.users.state("alice", PHONE, NOW_US), PHONE)
    await store.users.commit("alice", creating("passing"))
    await store.users.commit("alice", dismissing("b"))
    await store.users.commit("alice", dismissing("passing", "a"))
    await store.users.commit("alice", creating("new", body=1))

    answer = await store.users.sync("alice", PHONE, start, None, NOW_US)

    assert isinstance(answer, Delta)
    assert [entry.id for entry in answer.create] == ["new"]
    assert answer.dismiss == ("b", "a")
    assert answer.seq == 5


async def test_unchanged_view_gets_the_new_seq(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    start = cursor_for(SEED, PHONE, 1)
    await store.users.commit("alice", creating("other", for_device="laptop"))

    answer = await store.users.sync("alice", PHONE, start, None, NOW_US)

    assert isinstance(answer, Unchanged) and answer.seq == 2


async def test_invalid_cursor_gets_a_full_copy(store: Store) -> None:
    await store.users.commit("alice", creating("a"))

    for void in (
        cursor_for(b"\0\0\7", PHONE, 1),
        cursor_for(SEED, View("laptop"), 1),
        cursor_for(SEED, PHONE, 2),
        Cursor("", 0),
        Cursor("nonsense", 1),
    ):
        answer = await store.users.sync("alice", PHONE, void, None, NOW_US)
        assert isinstance(answer, Full) and answer.external_gap, void


async def test_differing_digest_gets_a_full_copy(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    state = await store.users.state("alice", PHONE, NOW_US)
    cursor, wrong = cursor_of(state, PHONE), bytes(31) + b"\1"

    assert isinstance(await store.users.sync("alice", PHONE, cursor, wrong, NOW_US), Full)
    assert isinstance(await store.users.sync("alice", PHONE, None, wrong, NOW_US), Full)
    assert isinstance(await store.users.sync("alice", PHONE, cursor, state.digest, NOW_US), Unchanged)
    assert isinstance(await store.users.sync("alice", PHONE, None, state.digest, NOW_US), Unchanged)


async def test_full_copy_if_smaller_than_delta(store: Store) -> None:
    await store.users.commit("alice", creating(*(f"item-{n}" for n in range(20))))
    start = cursor_for(SEED, BACKEND, 1)
    await store.users.commit("alice", sweeping(interval("news"), now_us=NOW_US + 100))

    assert isinstance(await store.users.sync("alice", BACKEND, start, None, NOW_US + 100), Full)


async def test_sync_returns_external_messages_by_system(store: Store) -> None:
    await store.users.commit("alice", planned(external(1, "kbfs")))
    await store.users.commit("alice", planned(external(2, "kbfs.favorites")))
    await store.users.commit("alice", planned(external(3, "chat")))

    async def got(seq: int, systems: tuple[str, ...] | None) -> list[bytes]:
        cursor = cursor_for(SEED, PHONE, seq)
        answer = await store.users.sync("alice", PHONE, cursor, None, NOW_US, systems)
        assert not answer.external_gap
        return [said.body for said in answer.external]

    assert await got(0, None) == [b"1", b"2", b"3"]
    assert await got(1, ("kbfs",)) == [b"2"]
    assert await got(0, ()) == []
    assert await got(3, None) == []
    assert (await store.users.sync("alice", PHONE, None, None, NOW_US)).external == ()


async def test_cursor_before_first_message_misses_nothing(store: Store) -> None:
    unknown = await store.users.state("alice", PHONE, NOW_US)
    before = cursor_of(unknown, PHONE)
    await store.users.commit("alice", planned(external(1, "kbfs")))
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", planned(external(2, "chat")))

    for systems, said in ((None, [b"1", b"2"]), (("kbfs",), [b"1"])):
        answer = await store.users.sync("alice", PHONE, before, unknown.digest, NOW_US, systems)

        assert isinstance(answer, Full) and [item.id for item in answer.items] == ["a"]
        assert ([external.body for external in answer.external], answer.external_gap) == (said, False)


async def test_heads_come_in_the_requested_order(store: Store) -> None:
    await store.users.commit("alice", creating("a", for_device="*"))
    shared = (await store.users.state("alice", View("tablet"), NOW_US)).digest
    await store.users.commit("alice", creating("own", for_device="phone"))
    await store.users.commit("alice", dismissing("a", sender=Sender("laptop")))

    assert await store.users.heads(["nobody", "alice"]) == [None, UserPosition(SEED, 3, shared)]


async def test_item_has_its_removal_details(store: Store) -> None:
    at_us = NOW_US + SECOND_US
    await store.users.commit("alice", creating("a", "b", "c", "d", "e"))
    await store.users.commit("alice", dismissing("a", sender=Sender("phone"), now_us=at_us))
    await store.users.commit("alice", sweeping(interval("news", skip=["d", "e"]), now_us=at_us))
    await store.users.commit("alice", creating("x", category="x", created=NOW - 5, expires=NOW, now_us=at_us))
    await store.users.commit("alice", dismissing("d", now_us=at_us))

    async def gone(item_id: str) -> Removal | None:
        entry = await store.users.item("alice", item_id, BACKEND, at_us)
        assert entry is not None
        return entry.gone

    assert await gone("a") == Removal(at_us, RemovalReason.DISMISSED, "phone", 2)
    assert await gone("b") == Removal(at_us, RemovalReason.INTERVAL, None, 3)
    assert await gone("x") == Removal(at_us, RemovalReason.EXPIRED, None, 4)
    assert await gone("d") == Removal(at_us, RemovalReason.DISMISSED, None, 5)
    assert await gone("e") is None


async def test_history_shows_only_own_hidings(store: Store) -> None:
    await store.users.commit("alice", creating("each", for_device="*"))
    await store.users.commit("alice", creating("own", for_device="laptop"))
    await store.users.commit("alice", dismissing("each", sender=Sender("phone"), now_us=NOW_US + 5))

    mine = await store.users.item("alice", "each", PHONE, NOW_US + 5)
    theirs = await store.users.item("alice", "each", View("laptop"), NOW_US + 5)

    assert mine is not None and mine.gone == Removal(NOW_US + 5, RemovalReason.DISMISSED, "phone", 3)
    assert theirs is not None and theirs.gone is None
    assert await store.users.item("alice", "own", PHONE, NOW_US + 5) is None
    assert await store.users.item("alice", "each", View("phone", ("other",)), NOW_US + 5) is None


async def test_history_pages_newest_first(store: Store) -> None:
    await store.users.commit("alice", creating("a", "b"))
    await store.users.commit("alice", creating("c"))
    await store.users.commit("alice", dismissing("b"))
    await store.users.commit("alice", creating("hidden", for_device="laptop"))

    first = await store.users.history("alice", PHONE, None, 2, NOW_US)
    rest = await store.users.history("alice", PHONE, (first[-1].seq, first[-1].id), 2, NOW_US)

    assert [(entry.seq, entry.id) for entry in first] == [(2, "c"), (1, "b")]
    assert [(entry.seq, entry.id) for entry in rest] == [(1, "a")]
    assert [entry.gone is not None for entry in first] == [False, True]


async def test_state_at_a_time(store: Store) -> None:
    await store.users.commit("alice", creating("a", created=NOW - 100))
    await store.users.commit("alice", creating("b", created=NOW - 50, expires=NOW - 10 + 100))
    await store.users.commit("alice", creating("each", for_device="*", created=NOW - 100))
    await store.users.commit("alice", dismissing("a", now_us=NOW_US))
    await store.users.commit("alice", dismissing("each", sender=Sender("phone"), now_us=NOW_US + SECOND_US))
    later_us = NOW_US + 200 * SECOND_US

    async def shown(view: View, second: int) -> list[str]:
        full = await store.users.state_at("alice", view, second * SECOND_US, later_us)
        assert full.digest == digest_items((entry.id, entry.json) for entry in full.items)
        return sorted(ids_of(full))

    assert await shown(PHONE, NOW - 101) == []
    assert await shown(PHONE, NOW - 100) == ["a", "each"]
    assert await shown(PHONE, NOW - 1) == ["a", "b", "each"]
    assert await shown(PHONE, NOW) == ["b", "each"]
    assert await shown(PHONE, NOW + 1) == ["b"]
    assert await shown(BACKEND, NOW + 1) == ["b", "each"]
    assert await shown(BACKEND, NOW + 90) == ["each"]


async def test_reads_commit_due_expiries(store: Store) -> None:
    await store.users.commit("alice", creating("a", expires="+1"))
    now_us = NOW_US + SECOND_US

    entry = await store.users.item("alice", "a", BACKEND, now_us)

    assert entry is not None and entry.gone == Removal(now_us, RemovalReason.EXPIRED, None, 2)
    assert document_of(entry.json)["times"]["expires"] == NOW + 1
    (head,) = await store.users.heads(["alice"])
    assert head is not None and head.seq == 2
