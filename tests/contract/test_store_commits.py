"""Commits and their receipts (semantics.md L1-L3, L6, L8), in every store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from msgspec.structs import replace

from gregor.core.errors import Problem
from gregor.core.ids import MAX_NAME_LENGTH
from gregor.core.items.sync import View
from gregor.core.messages.model import IgnoredReason, Receipt, Sender
from gregor.store.contract.store import Store
from tests.support.builders import (
    BACKEND,
    NOW,
    NOW_US,
    RESET,
    SECOND_US,
    SEED,
    creating,
    dismissing,
    external,
    ids_of,
    interval,
    item,
    message,
    planned,
    sweeping,
)
from tests.support.kept_errors import garbage_collection_off, kept_errors
from tests.support.resets import reset_all_users

PHONE, LAPTOP = Sender("phone"), Sender("laptop")


async def live(store: Store, device: str = "", now_us: int = NOW_US) -> set[str]:
    return set(ids_of(await store.users.state("alice", View(device), now_us)))


async def test_first_creation_is_live_with_seq_one(store: Store) -> None:
    receipt = await store.users.commit("alice", creating("a", "b"))

    assert receipt == Receipt(SEED, 1, created=("a", "b"))
    assert await live(store) == {"a", "b"}


async def test_dismissal_returns_ids_in_order(store: Store) -> None:
    await store.users.commit("alice", creating("a", "b", "c"))

    receipt = await store.users.commit("alice", dismissing("c", "unknown", "a"))

    assert receipt == Receipt(SEED, 2, dismissed=("c", "a"))
    assert await live(store) == {"b"}


async def test_repeated_creation_is_a_duplicate(store: Store) -> None:
    await store.users.commit("alice", creating("a"))

    receipt = await store.users.commit("alice", creating("a", now_us=NOW_US + 5))

    assert receipt == Receipt(SEED, 1, is_unchanged=True, ignored=(("a", IgnoredReason.DUPLICATE),))


async def test_other_content_under_a_known_id_is_a_conflict(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    other = creating("a", body={"other": True})

    while_live = await store.users.commit("alice", other)
    await store.users.commit("alice", dismissing("a"))
    when_gone = await store.users.commit("alice", other)

    assert while_live.ignored == when_gone.ignored == (("a", IgnoredReason.CONFLICT),)


async def test_creating_a_dismissed_item_is_ignored(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("a"))

    receipt = await store.users.commit("alice", creating("a"))

    assert receipt == Receipt(SEED, 2, is_unchanged=True, ignored=(("a", IgnoredReason.DISMISSED),))


async def test_dismissal_before_creation_wins(store: Store) -> None:
    before = await store.users.commit("alice", dismissing("a"))

    receipt = await store.users.commit("alice", creating("a"))

    assert before.is_unchanged and before.seq == 0
    assert receipt == Receipt(SEED, 1, ignored=(("a", IgnoredReason.DISMISSED),))
    assert await live(store) == set()


@pytest.mark.parametrize("expires", [NOW, 0], ids=["just now", "at the beginning of time"])
async def test_expired_item_is_never_live(store: Store, expires: int) -> None:
    receipt = await store.users.commit("alice", creating("a", created=NOW - 10, expires=expires))

    assert receipt == Receipt(SEED, 1, ignored=(("a", IgnoredReason.EXPIRED),))
    assert await live(store) == set()


async def test_dismissing_gone_or_unknown_has_no_effect(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("a"))

    receipt = await store.users.commit("alice", dismissing("a", "b"))

    assert receipt == Receipt(SEED, 2, is_unchanged=True)


async def test_interval_dismisses_with_ends_except_skipped(store: Store) -> None:
    for offset, item_id in enumerate("abcde"):
        await store.users.commit("alice", creating(item_id, created=NOW + offset))

    receipt = await store.users.commit("alice", sweeping(interval("news", begin=NOW + 1, end=NOW + 3, skip=["c"])))

    assert receipt.dismissed == ("b", "d")
    assert await live(store) == {"a", "c", "e"}


async def test_interval_spares_ids_of_any_length(store: Store) -> None:
    """An id of the maximum length was stored in a form that no script could read: the state of its user was lost."""
    names = [letter * length for length in (1, 2, 127, MAX_NAME_LENGTH) for letter in "abc"]
    spared = [each for each in names if each[0] != "b"]
    await store.users.commit("alice", creating(*names[:9], created=NOW))

    await store.users.commit("alice", sweeping(interval(prefix="", end=NOW, skip=spared)))
    receipt = await store.users.commit("alice", creating(*names[9:], "late", created=NOW))

    assert receipt.created == tuple(each for each in names[9:] if each in spared)
    assert await live(store) == set(spared)


async def test_prefix_matches_whole_segments(store: Store) -> None:
    for item_id, category in (("a", "user"), ("b", "user.joined"), ("c", "users")):
        await store.users.commit("alice", creating(item_id, category=category, created=NOW))

    exact = await store.users.commit("alice", sweeping(interval("user", end=NOW)))
    prefix = await store.users.commit("alice", sweeping(interval(prefix="user", end=NOW)))

    assert (exact.dismissed, prefix.dismissed) == (("a",), ("b",))
    assert await live(store) == {"c"}


async def test_interval_dismisses_later_arrivals(store: Store) -> None:
    await store.users.commit("alice", sweeping(interval(prefix="", end=NOW, skip=["kept"])))

    receipt = await store.users.commit("alice", creating("a", "kept", created=NOW))

    assert receipt == Receipt(SEED, 1, created=("kept",), ignored=(("a", IgnoredReason.DISMISSED),))


async def test_interval_spares_its_own_creations(store: Store) -> None:
    await store.users.commit("alice", creating("old", created=NOW - 5))

    replace = planned(message({"new": item(created=NOW)}, intervals=[interval("news")]))
    receipt = await store.users.commit("alice", replace)
    again = await store.users.commit("alice", replace)

    assert receipt == Receipt(SEED, 2, created=("new",), dismissed=("old",))
    assert again.is_unchanged
    assert await live(store) == {"new"}


async def test_open_interval_spares_items_stamped_later(store: Store) -> None:
    await store.users.commit("alice", creating("known", created=NOW + 60))

    receipt = await store.users.commit("alice", sweeping(interval("news")))
    later = await store.users.commit("alice", creating("stamped", now_us=NOW_US - SECOND_US))
    late = await store.users.commit("alice", creating("late", created=NOW - 1))

    assert receipt.dismissed == ("known",)
    assert later.created == ("stamped",)
    assert late.ignored == (("late", IgnoredReason.DISMISSED),)


async def test_repeated_replace_spares_items_in_between(store: Store) -> None:
    replace = message({"summary": item()}, intervals=[interval("news")])
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", planned(replace))
    await store.users.commit("alice", creating("b", now_us=NOW_US + 1))

    receipt = await store.users.commit("alice", planned(replace, now_us=NOW_US + 2))

    assert receipt.is_unchanged and receipt.dismissed == ()
    assert await live(store) == {"summary", "b"}


async def test_device_dismissal_by_item_scope(store: Store) -> None:
    for item_id, device in (("all", None), ("each", "*"), ("mine", "phone"), ("yours", "laptop")):
        await store.users.commit("alice", creating(item_id, for_device=device))

    receipt = await store.users.commit("alice", dismissing("yours", "each", "mine", "all", sender=PHONE))

    assert receipt.dismissed == ("mine", "all", "each")
    assert await live(store, "phone") == set()
    assert await live(store, "laptop") == {"each", "yours"}
    assert await live(store) == {"each", "yours"}


async def test_device_interval_hides_later_item_on_it_alone(store: Store) -> None:
    await store.users.commit("alice", sweeping(interval("news", end=NOW), sender=PHONE))

    await store.users.commit("alice", creating("each", for_device="*", created=NOW))

    assert await live(store, "phone") == set()
    assert await live(store, "tablet") == {"each"}


async def test_creating_an_item_hidden_from_sender_is_ignored(store: Store) -> None:
    each = creating("each", for_device="*")
    await store.users.commit("alice", each)
    await store.users.commit("alice", dismissing("each", sender=PHONE))

    by_phone = await store.users.commit("alice", creating("each", for_device="*", sender=PHONE))
    by_laptop = await store.users.commit("alice", creating("each", for_device="*", sender=LAPTOP))

    assert by_phone.ignored == (("each", IgnoredReason.DISMISSED),)
    assert by_laptop.ignored == (("each", IgnoredReason.DUPLICATE),)


async def test_dismissal_respects_the_sender_s_categories(store: Store) -> None:
    limited = Sender("", ("user",))
    await store.users.commit("alice", creating("known", category="news"))

    await store.users.commit("alice", dismissing("known", "n", "u", sender=limited))
    await store.users.commit("alice", creating("n", category="news"))
    await store.users.commit("alice", creating("u", category="user.joined"))

    assert await live(store) == {"known", "n"}


async def test_message_id_deduplicates_a_repeat(store: Store) -> None:
    for dated in (
        message(intervals=[interval("news")], message_id="m"),
        external({"n": 1}, message_id="m"),
        RESET | {"id": "f"},
    ):
        first = await store.users.commit("alice", planned(dated))
        await store.users.commit("alice", creating(f"a{first.seq}", now_us=NOW_US + 1))
        again = await store.users.commit("alice", planned(dated, now_us=NOW_US + 2))

        assert again.is_unchanged
        assert f"a{first.seq}" in await live(store)


async def test_reused_message_id_is_refused(store: Store) -> None:
    await store.users.commit("alice", planned(message(intervals=[interval("news")], message_id="m")))

    for other in (message(intervals=[interval("user")], message_id="m"), message({"a": item()}, message_id="m")):
        with pytest.raises(Problem) as refusal:
            await store.users.commit("alice", planned(other))
        assert refusal.value.code == "id_reused"
    assert await live(store) == set()


async def test_message_id_is_scoped_to_its_sender(store: Store) -> None:
    await store.users.commit("alice", planned(message(intervals=[interval("news")], message_id="m")))

    by_phone = await store.users.commit("alice", planned(message(intervals=[interval("u")], message_id="m"), PHONE))
    outside = await store.users.commit("alice", planned(external(1, message_id="m")))

    assert by_phone.is_unchanged
    assert outside.seq == 1


async def test_idempotent_message_needs_no_stored_id(store: Store) -> None:
    await store.users.commit("alice", planned(message({"a": item()}, message_id="m")))

    receipt = await store.users.commit("alice", planned(message({"b": item()}, message_id="m")))

    assert receipt.created == ("b",)


async def test_due_expiry_is_committed_first(store: Store) -> None:
    await store.users.commit("alice", creating("late", "a", expires="+10"))

    receipt = await store.users.commit("alice", creating("b", now_us=NOW_US + 10 * SECOND_US + 1))

    assert receipt == Receipt(SEED, 3, created=("b",))
    assert await live(store, now_us=NOW_US + 10 * SECOND_US + 1) == {"b"}


async def test_item_is_gone_at_its_expiry(store: Store) -> None:
    await store.users.commit("alice", creating("a", created=NOW, expires="+10"))

    assert await live(store, now_us=NOW_US + 10 * SECOND_US - 1) == {"a"}
    assert await live(store, now_us=NOW_US + 10 * SECOND_US) == set()


async def test_commit_many_isolates_a_refusal(store: Store) -> None:
    await store.users.commit("bob", planned(external(1, message_id="m")))

    results = await store.users.commit_many(
        [
            ("alice", creating("a")),
            ("bob", planned(external(2, message_id="m"))),
            ("alice", dismissing("a")),
            ("bob", creating("b")),
        ]
    )

    assert results[0] == Receipt(SEED, 1, created=("a",))
    assert isinstance(results[1], Problem) and results[1].code == "id_reused"
    assert results[2] == Receipt(SEED, 2, dismissed=("a",))
    assert results[3] == Receipt(SEED, 2, created=("b",))


async def test_refusal_of_one_of_many_commits_is_freed(store: Store) -> None:
    await store.users.commit("bob", planned(external(1, message_id="m")))
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            [result] = await store.users.commit_many([("bob", planned(external(2, message_id="m")))])
            assert isinstance(result, Problem)
        del result

        assert kept_errors() == before


async def test_commit_many_keeps_the_order_of_a_user(store: Store) -> None:
    """With a remembered interval a creation needs the general path; the next commit must still come second."""
    await store.users.commit("alice", sweeping(interval("other", end=NOW)))

    results = await store.users.commit_many(
        [
            ("alice", creating("a", created=NOW - 10)),
            ("alice", sweeping(interval("news"))),
            ("alice", creating("b", created=NOW + 10)),
        ]
    )

    assert results == [
        Receipt(SEED, 1, created=("a",)),
        Receipt(SEED, 2, dismissed=("a",)),
        Receipt(SEED, 3, created=("b",)),
    ]
    assert await live(store) == {"b"}


async def test_batch_with_a_search_keeps_its_order(store: Store) -> None:
    """Items of intervals may be searched first; the next commit of the user must still come second."""
    await store.users.commit("alice", creating("a", "b", "c"))

    results = await store.users.commit_many(
        [("alice", sweeping(interval("news"))), ("alice", creating("d")), ("bob", creating("e"))]
    )

    assert results == [
        Receipt(SEED, 2, dismissed=("a", "b", "c")),
        Receipt(SEED, 3, created=("d",)),
        Receipt(SEED, 1, created=("e",)),
    ]


async def test_batch_after_reset_resets_once_in_order(store: Store) -> None:
    before = await store.users.commit("alice", creating("a"))
    await reset_all_users(store, 30)

    results = await store.users.commit_many(
        [("alice", creating("b")), ("alice", creating("c")), ("alice", planned(RESET)), ("alice", creating("d"))]
    )

    receipts = [result for result in results if isinstance(result, Receipt)]
    assert [receipt.seq for receipt in receipts] == [3, 4, 5, 6]
    epochs = [receipt.epoch for receipt in (before, *receipts)]
    assert epochs[1] == epochs[2] and epochs[3] == epochs[4] and len(set(epochs)) == 3


async def test_hundred_concurrent_writers_lose_nothing(store: Store) -> None:
    receipts = await asyncio.gather(
        *(store.users.commit("alice", creating(f"i{n}", "shared", created=NOW)) for n in range(100))
    )

    assert sorted(receipt.seq for receipt in receipts) == list(range(1, 101))
    assert sum("shared" in receipt.created for receipt in receipts) == 1
    state = await store.users.state("alice", BACKEND, NOW_US)
    assert set(ids_of(state)) == {f"i{n}" for n in range(100)} | {"shared"}
    assert state.seq == 100


async def test_users_are_isolated(store: Store) -> None:
    await store.users.commit("alice", creating("a"))

    assert ids_of(await store.users.state("bob", BACKEND, NOW_US)) == []


async def test_commit_for_known_users_starts_no_user(store: Store) -> None:
    """A job reads a user and commits to it later: meanwhile it may be deleted."""
    commits = [replace(each, is_for_known=True) for each in (planned(external("hello")), creating("a"))]
    await store.devices.ensure_device("alice", "phone", NOW_US)
    await store.users.delete_user("alice", NOW_US)

    receipts = [await store.users.commit("alice", each) for each in commits]

    assert receipts == [Receipt(SEED, 0, is_unchanged=True)] * 2
    assert await store.users.heads(["alice"]) == [None]
    await store.devices.ensure_device("alice", "phone", NOW_US)
    assert [(await store.users.commit("alice", each)).seq for each in commits] == [1, 2]


LATE = Sender("phone", issued_us=NOW_US)
"""A device that was authorized before its user was deleted, and whose commit arrives afterwards."""
LATE_COMMITS = [
    creating("a", sender=LATE),
    creating("a", sender=LATE, expires=NOW + 60),
    creating("a", "b", sender=LATE),
    dismissing("a", sender=LATE),
    sweeping(interval("news"), sender=LATE),
    planned(external("hello"), LATE),
    planned(message({"a": item()}, message_id="m"), LATE),
]


async def refused_late(commit: Awaitable[Receipt]) -> None:
    with pytest.raises(Problem, match="The device token was revoked") as refused:
        await commit
    assert refused.value.code == "unauthorised"


async def test_device_of_a_deleted_user_starts_no_user(store: Store) -> None:
    await store.users.commit("alice", creating("before"))
    await store.users.delete_user("alice", NOW_US)

    for late in LATE_COMMITS:
        await refused_late(store.users.commit("alice", late))
        await refused_late(store.users.rehearse("alice", late))
        results = await store.users.commit_many([("alice", late), ("bob", late), ("alice", late)])
        assert [isinstance(each, Problem) and each.code == "unauthorised" for each in results] == [True, False, True]

    assert await store.users.heads(["alice"]) == [None]


@pytest.mark.parametrize("device", [None, "phone"])
async def test_revoked_token_cannot_create_a_user(store: Store, device: str | None) -> None:
    await store.devices.revoke("alice", device, NOW_US, NOW_US)

    await refused_late(store.users.commit("alice", creating("a", sender=LATE)))
    newer = Sender("phone", issued_us=NOW_US + 1)
    assert (await store.users.commit("alice", creating("a", sender=newer))).seq == 1


async def test_backend_creates_a_deleted_user_again(store: Store) -> None:
    """A commit of a backend needs no token, also if it names a device as its sender."""
    for sender in (Sender(), PHONE):
        await store.users.delete_user("alice", NOW_US)
        assert (await store.users.commit("alice", creating("a", sender=sender))).seq == 1


async def test_forgetting_a_device_starts_no_user(store: Store) -> None:
    await store.devices.ensure_device("alice", "phone", NOW_US)

    for uid in ("alice", "nobody"):
        await store.devices.forget_device(uid, "phone", NOW_US, SEED)

    assert await store.users.heads(["alice", "nobody"]) == [None, None]
    assert await store.devices.list_devices("alice", NOW_US) == {}
    assert (await store.users.commit("alice", creating("a"))).seq == 1


async def test_commit_for_known_users_keeps_the_position(store: Store) -> None:
    await store.users.commit("alice", creating("a"))

    receipt = await store.users.commit("alice", replace(creating("b"), is_for_known=True))

    assert receipt == Receipt(SEED, 1, is_unchanged=True)
    assert await live(store) == {"a"}
