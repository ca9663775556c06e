"""What a commit does and answers (semantics.md L1-L3, L6, L8), on every store."""

from __future__ import annotations

import asyncio

import pytest

from gregor.core.errors import Problem
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

PHONE, LAPTOP = Sender("phone"), Sender("laptop")


async def live(store: Store, device: str = "", now_us: int = NOW_US) -> set[str]:
    return set(ids_of(await store.users.state("alice", View(device), now_us)))


async def test_a_creation_is_live_and_takes_the_first_seq(store: Store) -> None:
    receipt = await store.users.commit("alice", creating("a", "b"))

    assert receipt == Receipt(SEED, 1, created=("a", "b"))
    assert await live(store) == {"a", "b"}


async def test_a_dismissal_tells_the_ids_that_left_in_the_order_named(store: Store) -> None:
    await store.users.commit("alice", creating("a", "b", "c"))

    receipt = await store.users.commit("alice", dismissing("c", "unknown", "a"))

    assert receipt == Receipt(SEED, 2, dismissed=("c", "a"))
    assert await live(store) == {"b"}


async def test_a_repeated_creation_is_a_duplicate_and_changes_nothing(store: Store) -> None:
    await store.users.commit("alice", creating("a"))

    receipt = await store.users.commit("alice", creating("a", now_us=NOW_US + 5))

    assert receipt == Receipt(SEED, 1, is_unchanged=True, ignored=(("a", IgnoredReason.DUPLICATE),))


async def test_other_content_under_a_known_id_is_a_conflict_live_or_gone(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    other = creating("a", body={"other": True})

    while_live = await store.users.commit("alice", other)
    await store.users.commit("alice", dismissing("a"))
    when_gone = await store.users.commit("alice", other)

    assert while_live.ignored == when_gone.ignored == (("a", IgnoredReason.CONFLICT),)


async def test_a_creation_of_a_dismissed_item_is_answered_dismissed(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("a"))

    receipt = await store.users.commit("alice", creating("a"))

    assert receipt == Receipt(SEED, 2, is_unchanged=True, ignored=(("a", IgnoredReason.DISMISSED),))


async def test_an_id_dismissed_before_it_is_created_is_recorded_gone(store: Store) -> None:
    before = await store.users.commit("alice", dismissing("a"))

    receipt = await store.users.commit("alice", creating("a"))

    assert before.is_unchanged and before.seq == 0
    assert receipt == Receipt(SEED, 1, ignored=(("a", IgnoredReason.DISMISSED),))
    assert await live(store) == set()


@pytest.mark.parametrize("expires", [NOW, 0], ids=["just now", "at the beginning of time"])
async def test_an_item_already_expired_is_recorded_and_never_live(store: Store, expires: int) -> None:
    receipt = await store.users.commit("alice", creating("a", created=NOW - 10, expires=expires))

    assert receipt == Receipt(SEED, 1, ignored=(("a", IgnoredReason.EXPIRED),))
    assert await live(store) == set()


async def test_dismissing_what_is_gone_or_unknown_has_no_effect(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("a"))

    receipt = await store.users.commit("alice", dismissing("a", "b"))

    assert receipt == Receipt(SEED, 2, is_unchanged=True)


async def test_an_interval_takes_what_it_covers_ends_included_but_for_its_skip(store: Store) -> None:
    for offset, item_id in enumerate("abcde"):
        await store.users.commit("alice", creating(item_id, created=NOW + offset))

    receipt = await store.users.commit("alice", sweeping(interval("news", begin=NOW + 1, end=NOW + 3, skip=["c"])))

    assert receipt.dismissed == ("b", "d")
    assert await live(store) == {"a", "c", "e"}


async def test_a_category_is_exact_and_a_prefix_matches_whole_segments(store: Store) -> None:
    for item_id, category in (("a", "user"), ("b", "user.joined"), ("c", "users")):
        await store.users.commit("alice", creating(item_id, category=category, created=NOW))

    exact = await store.users.commit("alice", sweeping(interval("user", end=NOW)))
    prefix = await store.users.commit("alice", sweeping(interval(prefix="user", end=NOW)))

    assert (exact.dismissed, prefix.dismissed) == (("a",), ("b",))
    assert await live(store) == {"c"}


async def test_an_interval_catches_an_item_that_arrives_later(store: Store) -> None:
    await store.users.commit("alice", sweeping(interval(prefix="", end=NOW, skip=["kept"])))

    receipt = await store.users.commit("alice", creating("a", "kept", created=NOW))

    assert receipt == Receipt(SEED, 1, created=("kept",), ignored=(("a", IgnoredReason.DISMISSED),))


async def test_an_interval_never_acts_on_what_its_own_message_creates(store: Store) -> None:
    await store.users.commit("alice", creating("old", created=NOW - 5))

    replace = planned(message({"new": item(created=NOW)}, intervals=[interval("news")]))
    receipt = await store.users.commit("alice", replace)
    again = await store.users.commit("alice", replace)

    assert receipt == Receipt(SEED, 2, created=("new",), dismissed=("old",))
    assert again.is_unchanged
    assert await live(store) == {"new"}


async def test_an_open_interval_spares_what_the_server_stamps_later(store: Store) -> None:
    await store.users.commit("alice", creating("known", created=NOW + 60))

    receipt = await store.users.commit("alice", sweeping(interval("news")))
    later = await store.users.commit("alice", creating("stamped", now_us=NOW_US - SECOND_US))
    late = await store.users.commit("alice", creating("late", created=NOW - 1))

    assert receipt.dismissed == ("known",)
    assert later.created == ("stamped",)
    assert late.ignored == (("late", IgnoredReason.DISMISSED),)


async def test_the_repeat_of_a_replace_takes_nothing_that_came_in_between(store: Store) -> None:
    replace = message({"summary": item()}, intervals=[interval("news")])
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", planned(replace))
    await store.users.commit("alice", creating("b", now_us=NOW_US + 1))

    receipt = await store.users.commit("alice", planned(replace, now_us=NOW_US + 2))

    assert receipt.is_unchanged and receipt.dismissed == ()
    assert await live(store) == {"summary", "b"}


async def test_a_device_ends_what_all_share_and_its_own_hides_a_star_and_leaves_others_alone(store: Store) -> None:
    for item_id, device in (("all", None), ("each", "*"), ("mine", "phone"), ("yours", "laptop")):
        await store.users.commit("alice", creating(item_id, for_device=device))

    receipt = await store.users.commit("alice", dismissing("yours", "each", "mine", "all", sender=PHONE))

    assert receipt.dismissed == ("mine", "all", "each")
    assert await live(store, "phone") == set()
    assert await live(store, "laptop") == {"each", "yours"}
    assert await live(store) == {"each", "yours"}


async def test_a_device_s_interval_hides_a_star_that_arrives_later_on_that_device_alone(store: Store) -> None:
    await store.users.commit("alice", sweeping(interval("news", end=NOW), sender=PHONE))

    await store.users.commit("alice", creating("each", for_device="*", created=NOW))

    assert await live(store, "phone") == set()
    assert await live(store, "tablet") == {"each"}


async def test_a_creation_of_an_item_hidden_from_its_sender_is_answered_dismissed(store: Store) -> None:
    each = creating("each", for_device="*")
    await store.users.commit("alice", each)
    await store.users.commit("alice", dismissing("each", sender=PHONE))

    by_phone = await store.users.commit("alice", creating("each", for_device="*", sender=PHONE))
    by_laptop = await store.users.commit("alice", creating("each", for_device="*", sender=LAPTOP))

    assert by_phone.ignored == (("each", IgnoredReason.DISMISSED),)
    assert by_laptop.ignored == (("each", IgnoredReason.DUPLICATE),)


async def test_a_dismissal_by_id_keeps_to_its_sender_s_categories_whenever_the_item_comes(store: Store) -> None:
    limited = Sender("", ("user",))
    await store.users.commit("alice", creating("known", category="news"))

    await store.users.commit("alice", dismissing("known", "n", "u", sender=limited))
    await store.users.commit("alice", creating("n", category="news"))
    await store.users.commit("alice", creating("u", category="user.joined"))

    assert await live(store) == {"known", "n"}


async def test_a_message_id_makes_the_repeat_of_a_dated_message_unchanged(store: Store) -> None:
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


async def test_a_message_id_used_again_with_other_content_is_refused(store: Store) -> None:
    await store.users.commit("alice", planned(message(intervals=[interval("news")], message_id="m")))

    for other in (message(intervals=[interval("user")], message_id="m"), message({"a": item()}, message_id="m")):
        with pytest.raises(Problem) as refusal:
            await store.users.commit("alice", planned(other))
        assert refusal.value.code == "id_reused"
    assert await live(store) == set()


async def test_a_message_id_belongs_to_its_sender_and_system(store: Store) -> None:
    await store.users.commit("alice", planned(message(intervals=[interval("news")], message_id="m")))

    by_phone = await store.users.commit("alice", planned(message(intervals=[interval("u")], message_id="m"), PHONE))
    outside = await store.users.commit("alice", planned(external(1, message_id="m")))

    assert by_phone.is_unchanged
    assert outside.seq == 1


async def test_the_id_of_a_message_that_is_idempotent_by_content_is_not_remembered(store: Store) -> None:
    await store.users.commit("alice", planned(message({"a": item()}, message_id="m")))

    receipt = await store.users.commit("alice", planned(message({"b": item()}, message_id="m")))

    assert receipt.created == ("b",)


async def test_an_expiry_that_is_due_is_a_commit_of_its_own_before_the_next(store: Store) -> None:
    await store.users.commit("alice", creating("late", "a", expires="+10"))

    receipt = await store.users.commit("alice", creating("b", now_us=NOW_US + 10 * SECOND_US + 1))

    assert receipt == Receipt(SEED, 3, created=("b",))
    assert await live(store, now_us=NOW_US + 10 * SECOND_US + 1) == {"b"}


async def test_an_item_is_not_shown_at_the_very_moment_of_its_expiry(store: Store) -> None:
    await store.users.commit("alice", creating("a", created=NOW, expires="+10"))

    assert await live(store, now_us=NOW_US + 10 * SECOND_US - 1) == {"a"}
    assert await live(store, now_us=NOW_US + 10 * SECOND_US) == set()


async def test_commits_of_many_users_are_answered_in_order_and_a_refusal_spoils_no_other(store: Store) -> None:
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


async def test_commits_of_one_user_are_done_in_order_also_where_one_needs_more_than_the_other(store: Store) -> None:
    """With a remembered interval a creation is looked at closer than without; what comes after it may not be."""
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


async def test_a_batch_that_meets_a_flush_of_all_flushes_once_and_keeps_its_order(store: Store) -> None:
    before = await store.users.commit("alice", creating("a"))
    await store.users.reset_all_users(30)

    results = await store.users.commit_many(
        [("alice", creating("b")), ("alice", creating("c")), ("alice", planned(RESET)), ("alice", creating("d"))]
    )

    receipts = [result for result in results if isinstance(result, Receipt)]
    assert [receipt.seq for receipt in receipts] == [3, 4, 5, 6]
    epochs = [receipt.epoch for receipt in (before, *receipts)]
    assert epochs[1] == epochs[2] and epochs[3] == epochs[4] and len(set(epochs)) == 3


async def test_a_hundred_writers_of_one_user_lose_nothing_and_share_one_order(store: Store) -> None:
    receipts = await asyncio.gather(
        *(store.users.commit("alice", creating(f"i{n}", "shared", created=NOW)) for n in range(100))
    )

    assert sorted(receipt.seq for receipt in receipts) == list(range(1, 101))
    assert sum("shared" in receipt.created for receipt in receipts) == 1
    state = await store.users.state("alice", BACKEND, NOW_US)
    assert set(ids_of(state)) == {f"i{n}" for n in range(100)} | {"shared"}
    assert state.seq == 100


async def test_users_do_not_see_each_other(store: Store) -> None:
    await store.users.commit("alice", creating("a"))

    assert ids_of(await store.users.state("bob", BACKEND, NOW_US)) == []
