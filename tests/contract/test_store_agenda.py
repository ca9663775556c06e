"""The agenda: leases on due users, due work, completion (semantics.md L6, L7), in every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor.core.errors import Problem
from gregor.core.messages.model import ItemTimer, ItemTimerKind, RemovalReason, Sender
from gregor.store.contract.agenda import MOST_TRACES, CompletedWork, WorkKind
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Store
from tests.contract.conftest import MakeStore
from tests.support.agendas import ALICE, FAR_US, LEASE_US, PARTITIONS, at, entries, remind, timed, work_of
from tests.support.builders import BACKEND, DAY_US, LIMITS, NOW, NOW_US, SECOND_US, SEED, creating, dismissing
from tests.support.store_backends import AnnouncementRecorder, StoreUnderTest, replace_server

# ---- items for a mail


async def test_mailable_items_come_newest_first_with_timers(store: Store) -> None:
    for n, item_id in enumerate(("a", "b", "c", "d")):
        await store.users.commit(
            "alice", timed(item_id, ItemTimer(ItemTimerKind.MAIL, at(10 + n)), ItemTimer(ItemTimerKind.PUSH, at(1)))
        )
    await store.users.commit("alice", timed("quiet", ItemTimer(ItemTimerKind.MAIL, at(5)), category="other"))
    await store.users.commit("alice", creating("e"))
    await store.users.commit("alice", dismissing("c", sender=Sender("phone")))
    await store.users.commit("alice", creating("own", for_device="*"))
    await store.users.commit("alice", dismissing("own", sender=Sender("phone")))

    found = await store.agenda.mailable("alice", "a", lambda category: category == "news", 4)

    assert [(item.id, timer_us) for item, timer_us in found] == [
        ("a", at(10)),
        ("own", None),
        ("e", None),
        ("d", at(13)),
    ]
    assert found[1][0].hidden_by == {"phone"}
    [(only, _)] = await store.agenda.mailable("alice", "b", lambda _: True, 1)
    assert only.id == "b"
    assert await store.agenda.mailable("alice", "a", lambda category: category == "none", 9) == []
    assert await store.agenda.mailable("bob", "a", lambda _: True, 9) == []


async def test_live_item_is_found_by_its_id(store: Store) -> None:
    await store.users.commit("alice", creating("gone", "a"))
    await store.users.commit("alice", creating("own", for_device="*"))
    await store.users.commit("alice", dismissing("own", "gone", sender=Sender("phone")))

    listed = {item.id: item for item, _ in await store.agenda.mailable("alice", "a", lambda _: True, 9)}

    assert listed.keys() == {"a", "own"}
    for item_id in ("a", "own", "gone", "unknown"):
        assert await store.agenda.live_item("alice", item_id) == listed.get(item_id)
    assert await store.agenda.live_item("bob", "a") is None


# ---- traces


async def test_due_work_has_the_trace_of_its_item(store: Store) -> None:
    await store.agenda.keep_trace("alice", ["a", "gone"], b"t" * 25)
    for item_id in ("a", "b", "gone"):
        await store.users.commit("alice", timed(item_id, ItemTimer(ItemTimerKind.PUSH, at(10))))
    await store.users.commit("alice", dismissing("gone"))

    work = await store.agenda.due_work("alice", at(10), 9)

    traces = {(each.kind, each.name): each.trace for each in work}
    assert traces == {(WorkKind.PUSH, "a"): b"t" * 25, (WorkKind.PUSH, "b"): b"", (WorkKind.LEFT, "gone"): b""}


async def test_too_many_traces_drop_the_older(store: Store) -> None:
    for item_id in ("old", "new"):
        await store.users.commit("alice", timed(item_id, ItemTimer(ItemTimerKind.PUSH, at(10))))
    await store.agenda.keep_trace("alice", ["old"], b"o" * 25)
    await store.agenda.keep_trace("alice", [f"i{n}" for n in range(MOST_TRACES - 1)], b"n" * 25)
    full = await store.agenda.due_work("alice", at(10), 9)
    await store.agenda.keep_trace("alice", ["new"], b"n" * 25)
    after = await store.agenda.due_work("alice", at(10), 9)

    assert {each.name: each.trace for each in full} == {"old": b"o" * 25, "new": b""}
    assert {each.name: each.trace for each in after} == {"old": b"", "new": b"n" * 25}


# ---- claim and complete


async def test_due_user_is_claimed_once(store: Store) -> None:
    await store.users.commit("alice", creating("a", expires="+60"))
    await store.users.commit("alice", creating("b", remind_at=["+10"]))

    assert (await store.agenda.next_due_times())[ALICE] == at(10)
    assert await store.agenda.claim(ALICE, at(9), at(40), 5) == []
    assert await store.agenda.claim(ALICE, at(10), at(40), 5) == ["alice"]
    assert await store.agenda.claim(ALICE, at(39), at(80), 5) == []
    assert await store.agenda.claim(ALICE, at(40), at(80), 5) == ["alice"]
    assert await store.agenda.claim((ALICE + 1) % PARTITIONS.count, at(99), at(120), 5) == []


async def test_claim_takes_the_longest_due_first(store: Store) -> None:
    same = [uid for uid in (f"u{n}" for n in range(9_000)) if PARTITIONS.of_user(uid) == ALICE][:3]
    for number, uid in enumerate(reversed(same)):
        await store.users.commit(uid, creating("a", remind_at=[NOW + number]))

    assert await store.agenda.claim(ALICE, at(9), at(40), 2) == [same[2], same[1]]
    assert await store.agenda.claim(ALICE, at(9), at(40), 2) == [same[0]]


async def test_completed_work_is_removed(store: Store) -> None:
    await store.users.commit(
        "alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10)), ItemTimer(ItemTimerKind.MAIL, at(20)))
    )
    await store.agenda.claim(ALICE, at(10), at(40), 5)

    await store.agenda.complete("alice", at(40), [CompletedWork(await work_of(store, WorkKind.PUSH))])

    assert await entries(store) == [(WorkKind.MAIL, "a", 20)]
    assert (await store.agenda.next_due_times())[ALICE] == at(20)
    await store.agenda.claim(ALICE, at(20), at(50), 5)
    await store.agenda.complete("alice", at(50), [CompletedWork(await work_of(store, WorkKind.MAIL))])
    assert (await store.agenda.next_due_times())[ALICE] is None


async def test_moved_entry_survives_completion(store: Store) -> None:
    await store.users.commit("alice", creating("a", remind_at=["+10", "+20"]))
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    work = await work_of(store, WorkKind.REMIND)
    await store.users.commit("alice", remind("a", 0, at(10)))

    await store.agenda.complete("alice", at(40), [CompletedWork(work)])

    assert await entries(store) == [(WorkKind.REMIND, "a", 20)]
    assert (await store.agenda.next_due_times())[ALICE] == at(20)


async def test_lost_lease_does_not_end_the_next_one(store: Store) -> None:
    await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10))))
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    work = await work_of(store, WorkKind.PUSH)
    await store.agenda.claim(ALICE, at(41), at(80), 5)

    await store.agenda.complete("alice", at(40), [CompletedWork(work)])

    assert await entries(store) == []
    assert (await store.agenda.next_due_times())[ALICE] == at(80)


@pytest.mark.parametrize("kind", [WorkKind.PUSH, WorkKind.DELAYED])
async def test_work_is_not_completed_on_another_server(store: Store, kind: WorkKind) -> None:
    """An asynchronous failover may keep the claim and lose the effects of the work."""
    await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10))))
    await store.agenda.delay("alice", "m", b"one", at(10))
    await store.agenda.claim_delayed("alice", "m", b"one")
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    server, work, before = store.agenda.server_of("alice"), await work_of(store, kind), await entries(store)

    await replace_server(store, "alice")
    await store.agenda.complete("alice", at(40), [CompletedWork(work)], server=server)

    assert await entries(store) == before and await store.agenda.count_delayed("alice") == 1
    assert await store.agenda.claim(ALICE, at(11), at(41), 5) == ["alice"]
    await store.agenda.complete("alice", at(41), [CompletedWork(work)], server=store.agenda.server_of("alice"))
    assert kind not in [each for each, _, _ in await entries(store)]


async def test_work_added_during_a_lease_is_due_on_time(store: Store) -> None:
    await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10))))
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    work = await work_of(store, WorkKind.PUSH)

    await store.users.commit("alice", timed("b", ItemTimer(ItemTimerKind.PUSH, at(15)), now_us=at(11)))

    assert (await store.agenda.next_due_times())[ALICE] == at(15)
    await store.agenda.complete("alice", at(40), [CompletedWork(work)])
    assert (await store.agenda.next_due_times())[ALICE] == at(15)
    assert await store.agenda.claim(ALICE, at(15), at(45), 5) == ["alice"]


async def test_completed_work_can_move_to_a_later_time(store: Store) -> None:
    await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10))))
    await store.agenda.claim(ALICE, at(10), at(40), 5)

    await store.agenda.complete("alice", at(40), [CompletedWork(await work_of(store, WorkKind.PUSH), again_us=at(300))])

    assert await entries(store) == [(WorkKind.PUSH, "a", 300)]
    assert (await store.agenda.next_due_times())[ALICE] == at(300)


async def due_us(store: Store) -> int | None:
    """Return when alice is due."""
    return (await store.agenda.next_due_times())[ALICE]


async def test_user_with_more_due_work_is_due_behind_the_others(store: Store) -> None:
    """By the times of its entries, a user with a backlog would precede all others again and again."""
    await store.users.commit("alice", creating("a", remind_at=["+10", "+11"]))
    await store.users.commit("alice", creating("b", remind_at=["+13"]))
    await store.users.commit("alice", creating("gone"))
    await store.users.commit("alice", dismissing("gone"))

    await store.agenda.claim(ALICE, at(30), at(60), 5)
    await store.agenda.complete("alice", at(60), [], (), 0, at(31))
    assert await due_us(store) == at(31)
    await store.agenda.claim(ALICE, at(31), at(61), 5)
    await store.users.commit("alice", remind("a", 0, at(32)))
    assert await due_us(store) == at(32)
    await store.users.commit_due("alice", at(40 * DAY_US / SECOND_US))
    assert await due_us(store) == at(40 * DAY_US / SECOND_US)
    assert await entries(store) == [(WorkKind.REMIND, "a", 11), (WorkKind.REMIND, "b", 13)]


@pytest.mark.parametrize("ids", [["a"], ["a", "b"]], ids=["fast path", "general"])
async def test_reminder_that_is_past_is_due_behind_the_others(store: Store, ids: list[str]) -> None:
    await store.users.commit("alice", creating(*ids, remind_at=[NOW - 1_000]))
    assert await due_us(store) == at(0)


async def test_postponed_work_is_due_at_the_retry_time(store: Store) -> None:
    await store.users.commit(
        "alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10)), ItemTimer(ItemTimerKind.MAIL, at(20)))
    )
    await store.users.commit("alice", creating("b", remind_at=["+60"]))
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    held = [await work_of(store, WorkKind.PUSH)]

    await store.agenda.complete("alice", at(40), [], held, at(40))
    assert (await store.agenda.next_due_times())[ALICE] == at(20)
    await store.agenda.claim(ALICE, at(20), at(50), 5)
    await store.agenda.complete("alice", at(50), [CompletedWork(await work_of(store, WorkKind.MAIL))], held, at(50))
    assert (await store.agenda.next_due_times())[ALICE] == at(50)
    assert await entries(store) == [(WorkKind.PUSH, "a", 10), (WorkKind.REMIND, "b", 60)]
    await store.agenda.claim(ALICE, at(50), at(80), 5)
    await store.users.commit("alice", dismissing("a", now_us=at(90)))
    await store.agenda.complete("alice", at(80), [], held, at(80))
    assert (await store.agenda.next_due_times())[ALICE] == at(60)


@pytest.mark.parametrize("is_new", [False, True])
async def test_window_stays_if_items_arrived_since(store: Store, is_new: bool) -> None:
    await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.WINDOW, at(10)), category="news"))
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    work = await work_of(store, WorkKind.WINDOW)
    seq = (await store.agenda.category_items("alice", ["news"])).seq
    if is_new:
        await store.users.commit(
            "alice", timed("b", ItemTimer(ItemTimerKind.WINDOW, at(21)), category="news", now_us=at(11))
        )

    await store.agenda.complete("alice", at(40), [CompletedWork(work, again_us=at(21), seq=seq)])

    assert await entries(store) == ([(WorkKind.WINDOW, "news\0", 21)] if is_new else [])


async def test_due_work_comes_oldest_first(store: Store) -> None:
    await store.users.commit("alice", creating("a", remind_at=["+20"]))
    await store.users.commit("alice", creating("b", remind_at=["+10"], expires="+15"))

    assert [work.name for work in await store.agenda.due_work("alice", at(19), 5)] == ["b", "b"]
    assert [work.name for work in await store.agenda.due_work("alice", at(20), 1)] == ["b"]
    assert [work.name for work in await store.agenda.due_work("alice", at(20), 5, 2)] == ["a"]
    assert await store.agenda.due_work("nobody", at(20), 5) == []


async def test_push_has_its_cause_and_reminder_its_index(store: Store) -> None:
    await store.users.commit("alice", creating("z"))
    await store.users.commit(
        "alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(5)), created=NOW, remind_at=[NOW, NOW + 9])
    )

    push = await work_of(store, WorkKind.PUSH)
    assert (push.seq, push.n) == (2, 0)
    assert push.item is not None and (push.item.id, push.item.seq) == ("a", 2)
    assert (await work_of(store, WorkKind.REMIND)).n == 0
    await store.users.commit("alice", remind("a", 0, at(1)))
    assert (await work_of(store, WorkKind.REMIND)).n == 1


async def test_commit_due_removes_expired_items(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a", "b", expires=NOW + 10))

    await store.users.commit_due("alice", at(9))
    await store.users.commit_due("alice", at(10))
    await store.users.commit_due("alice", at(11))

    (_, told) = await recorder.announcements(2)
    assert (told.seq, told.reason, [entry.id for entry in told.entries]) == (2, RemovalReason.EXPIRED, ["a", "b"])
    assert await entries(store) == []


async def test_user_is_due_when_history_expires(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, history_body_age_us=DAY_US))
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("a"))

    due_us = (await store.agenda.next_due_times())[ALICE]
    assert due_us is not None and due_us <= NOW_US + DAY_US
    await store.agenda.claim(ALICE, NOW_US + DAY_US, NOW_US + DAY_US + LEASE_US, 1)
    works = await store.agenda.due_work("alice", NOW_US + DAY_US, 5)
    assert {work.kind for work in works} == {WorkKind.FORGET}
    await store.users.commit_due("alice", NOW_US + DAY_US)
    entry = await store.users.item("alice", "a", BACKEND, NOW_US + DAY_US)
    assert entry is not None and entry.is_trimmed


# ---- delayed messages


async def test_delayed_message_keeps_its_first_content(store: Store) -> None:
    assert await store.agenda.delay("alice", "m", b"one", at(10)) == b"one"
    assert await store.agenda.delay("alice", "m", b"two", at(20)) == b"one"

    assert await entries(store) == [(WorkKind.DELAYED, "m", 10)]
    assert await store.agenda.delayed("alice", "m") == b"one"
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    assert await store.agenda.claim_delayed("alice", "m", b"one")
    await store.agenda.complete("alice", at(40), [CompletedWork(await work_of(store, WorkKind.DELAYED))])
    assert await store.agenda.delayed("alice", "m") is None
    assert await entries(store) == []


@pytest.mark.parametrize("device", [None, "phone"])
async def test_message_of_a_revoked_token_is_not_kept(store: Store, device: str | None) -> None:
    """A device was authorized before its token was revoked, and its message arrives afterwards."""
    await store.devices.revoke("alice", device, NOW_US, NOW_US)

    with pytest.raises(Problem, match="revoked") as refused:
        await store.agenda.delay("alice", "m", b"one", at(10), Sender("phone", issued_us=NOW_US))

    assert refused.value.code == "unauthorised"
    assert await store.agenda.count_delayed("alice") == 0
    for sender in (Sender("phone", issued_us=NOW_US + 1), Sender("phone")):
        assert await store.agenda.delay("alice", "m", b"one", at(10), sender) == b"one"


async def test_delayed_messages_are_bounded_in_bytes(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, delayed_bytes=10))
    await store.agenda.delay("alice", "m", b"123456", NOW_US)

    with pytest.raises(Problem) as refusal:
        await store.agenda.delay("alice", "n", b"12345", NOW_US)
    assert refusal.value.code == "state_full"
    assert await store.agenda.delay("alice", "m", b"123456", NOW_US) == b"123456"
    await store.agenda.delay("alice", "n", b"1234", NOW_US)
    assert sorted(await store.agenda.list_delayed("alice")) == [b"1234", b"123456"]


async def test_delayed_messages_are_measured_without_reading_them(store: Store) -> None:
    assert [await store.agenda.count_delayed("alice"), await store.agenda.delayed_bytes("alice")] == [0, 0]
    await store.agenda.delay("alice", "m", b"123456", at(10))
    await store.agenda.delay("alice", "n", b"12", at(10))

    assert [await store.agenda.count_delayed("alice"), await store.agenda.delayed_bytes("alice")] == [2, 8]
    assert [await store.agenda.delayed_bytes("alice", name) for name in ("m", "n", "o")] == [6, 2, 0]
    assert await store.agenda.delayed_sizes("alice") == {"m": 6, "n": 2}


async def test_named_delayed_messages_are_read(store: Store) -> None:
    for name in ("m", "n", "o"):
        await store.agenda.delay("alice", name, name.encode() * 3, at(10))

    assert await store.agenda.list_delayed("alice", ["o", "unknown", "m"]) == [b"ooo", b"mmm"]


async def test_delayed_message_is_cancelled_once(store: Store) -> None:
    await store.agenda.delay("alice", "m", b"one", at(10))

    assert await store.agenda.cancel_delayed("alice", "m")
    assert not await store.agenda.cancel_delayed("alice", "m")
    assert await store.agenda.delayed("alice", "m") is None
    assert await entries(store) == []


async def test_claimed_message_cannot_be_cancelled(store: Store) -> None:
    document = b'{"message":{}}'
    await store.agenda.delay("alice", "m", document, at(10))
    assert not await store.agenda.claim_delayed("alice", "m", b"{}")
    assert not await store.agenda.claim_delayed("alice", "other", document)

    assert await store.agenda.claim_delayed("alice", "m", document)

    assert not await store.agenda.cancel_delayed("alice", "m")
    claimed = await store.agenda.delayed("alice", "m")
    assert claimed == b'{"claimed":true,"message":{}}'
    assert await store.agenda.claim_delayed("alice", "m", claimed), "after a crash"
    assert await entries(store) == [(WorkKind.DELAYED, "m", 10)]


async def test_delayed_message_is_replaced_only_if_it_is_as_read(store: Store) -> None:
    await store.agenda.delay("alice", "m", b"one", at(10))

    assert not await store.agenda.replace_delayed("alice", "m", b"two", b"three")
    assert not await store.agenda.replace_delayed("alice", "other", b"one", b"two")
    assert await store.agenda.replace_delayed("alice", "m", b"one", b"two")

    assert await store.agenda.list_delayed("alice") == [b"two"]
    assert await entries(store) == [(WorkKind.DELAYED, "m", 10)]


async def test_delayed_message_is_cancelled_in_the_form_that_was_read(store: Store) -> None:
    document = b'{"message":{}}'
    await store.agenda.delay("alice", "m", document, at(10))
    assert not await store.agenda.cancel_delayed("alice", "m", b"{}")
    assert not await store.agenda.cancel_delayed("alice", "other", document)
    await store.agenda.claim_delayed("alice", "m", document)
    claimed = await store.agenda.delayed("alice", "m")
    assert claimed is not None

    assert not await store.agenda.cancel_delayed("alice", "m", document), "claimed meanwhile"
    assert await store.agenda.cancel_delayed("alice", "m", claimed)

    assert await store.agenda.list_delayed("alice") == []
    assert await entries(store) == []


async def test_message_sent_again_is_not_completed(store: Store) -> None:
    """The message that was due is cancelled, and another one is sent under its id for the same time."""
    await store.agenda.delay("alice", "m", b"one", at(10))
    await store.agenda.claim(ALICE, at(10), at(40), 5)
    work = await work_of(store, WorkKind.DELAYED)
    await store.agenda.cancel_delayed("alice", "m")
    await store.agenda.delay("alice", "m", b"two", at(10))

    await store.agenda.complete("alice", at(40), [CompletedWork(work)])

    assert await store.agenda.list_delayed("alice") == [b"two"]
    assert await entries(store) == [(WorkKind.DELAYED, "m", 10)]
    assert (await store.agenda.next_due_times())[ALICE] == at(10)


async def test_deleted_user_has_no_work(store: Store) -> None:
    await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(5)), remind_at=["+9"], expires="+50"))
    await store.agenda.delay("alice", "m", b"one", at(10))
    await store.devices.ensure_device("alice", "phone", NOW_US)

    await store.users.delete_user("alice", at(1))

    assert await store.agenda.due_work("alice", FAR_US, 9) == []
    assert await store.agenda.delayed("alice", "m") is None
    assert (await store.agenda.next_due_times())[ALICE] is None


# ---- inactive devices


async def test_inactive_device_without_push_is_removed(backend: StoreUnderTest) -> None:
    store, retention_us = backend.store, LIMITS.retention_us
    push = {"provider": "apns", "token": "t"}
    await store.devices.ensure_device("alice", "old", NOW_US)
    await store.devices.put_device("alice", "pushed", Registration(push=push), NOW_US)
    await store.devices.ensure_device("alice", "young", at(60))
    await store.users.commit("alice", creating("a", for_device="old", now_us=at(61)))

    assert (await store.agenda.next_due_times())[ALICE] == NOW_US + retention_us
    assert (await work_of(store, WorkKind.DEVICES)).at_us == NOW_US + retention_us
    look_us = await store.devices.forget_inactive("alice", NOW_US + retention_us)

    assert look_us == at(60) + retention_us
    assert set(await store.devices.list_devices("alice", NOW_US + retention_us)) == {"pushed", "young"}
    entry = await store.users.item("alice", "a", BACKEND, NOW_US + retention_us)
    assert entry is not None and entry.gone is not None and entry.gone.reason is RemovalReason.DISPLACED
    assert await store.devices.forget_inactive("alice", at(60) + retention_us) == at(60) + 2 * retention_us
    await store.devices.forget_device("alice", "pushed", at(60) + retention_us, SEED)
    assert await store.devices.forget_inactive("alice", at(60) + retention_us) is None


async def test_users_with_a_device_are_known(store: Store) -> None:
    partitions = range(store.agenda.partition_count)
    for uid in ("bob", "alice"):
        await store.devices.ensure_device(uid, "phone", NOW_US)
    for n in range(40):
        await store.devices.ensure_device(f"user-{n}", "phone", NOW_US)

    known = await store.agenda.known_users(partitions)

    assert sorted(uid for users in known.values() for uid in users) == sorted(
        ["alice", "bob", *(f"user-{n}" for n in range(40))]
    )
    assert list(known) == list(partitions) and all(users == sorted(users) for users in known.values())
    chosen = [partition for partition, users in known.items() if users][:2]
    assert await store.agenda.known_users(chosen) == {partition: known[partition] for partition in chosen}
