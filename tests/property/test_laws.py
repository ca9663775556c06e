"""The laws of semantics.md, tested with generated messages. The name of each test begins with its law."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.items import digest as digests
from gregor.core.items.announcement import AnnouncementKind
from gregor.core.items.sync import Delta, Full, StoredItem, Unchanged, View, cursor_for, is_initial_cursor
from gregor.core.messages.model import Commit, Creation, IgnoredReason, RemovalReason
from gregor.reference import commit as state
from gregor.reference import intervals as spans
from gregor.reference.model import StoredInterval, UserState
from tests.property.conversations import IDS, VIEWS, Sent, conversations, spans_and_items
from tests.property.facts import Facts, OrderedFacts
from tests.property.world import UID, World, after, is_valid_without, only
from tests.support.builders import (
    BACKEND,
    BY_BACKEND,
    DAY_US,
    HOUR_US,
    LIMITS,
    NOW,
    NOW_US,
    SECOND_US,
    SEED,
    ids_of,
    message,
)
from tests.support.replica import Replica, view_of

DEVICE_VIEWS = [view for view in VIEWS if view.device]


def device_of(entry: StoredItem) -> Any:
    return json.loads(entry.json)["for_device"]


# ---- L1: one order


@given(conversations(is_explicit=False, expires=True))
async def test_L1_each_effect_takes_the_next_seq(sent: list[Sent]) -> None:
    world = World()
    for each in sent:
        before = (await world.look(BACKEND)).seq
        world.announced()
        receipt = await world.send(each)

        effects = [] if receipt.is_unchanged else [before + 1]
        assert [announcement.seq for announcement in world.announced()] == effects
        assert receipt.seq == before + len(effects)
        world.now_us += SECOND_US


@given(conversations(), st.lists(st.integers(-3_000_000, 3_000_000), min_size=10, max_size=10))
async def test_L1_clocks_decide_nothing(sent: list[Sent], skews: list[int]) -> None:
    even, skewed = World(), World()
    for each, skew_us in zip(sent, skews, strict=False):
        skewed.now_us = NOW_US + skew_us

        assert await even.send(each) == await skewed.send(each)


# ---- L2: idempotent


@given(conversations(is_explicit=False, expires=True), st.data())
async def test_L2_repeat_changes_nothing(sent: list[Sent], data: st.DataObject) -> None:
    world = World()
    for number, each in enumerate(sent):
        await world.send(each)
        world.now_us += data.draw(st.sampled_from((0, 1, 5 * SECOND_US)))
        before = await world.look(BACKEND)
        world.announced()

        receipt = await world.send(data.draw(st.sampled_from(sent[: number + 1])))

        assert receipt.is_unchanged and not receipt.created and not receipt.dismissed
        assert world.announced() == []
        assert await world.look(BACKEND) == before


@given(conversations(is_explicit=False))
async def test_L2_other_content_under_an_id_is_a_conflict(sent: list[Sent]) -> None:
    world = await after(sent)
    known = [item_id for item_id in IDS if await world.store.users.item(UID, item_id, BACKEND, world.now_us)]
    before = await world.look(BACKEND)
    other = {item_id: {"category": "other", "body": "other"} for item_id in known}

    if known:
        receipt = await world.send(Sent(BY_BACKEND, message(other)))

        assert receipt.ignored == tuple((item_id, IgnoredReason.CONFLICT) for item_id in known)
        assert await world.look(BACKEND) == before


# ---- L3: order-free; L8: devices


@given(conversations(), st.data())
async def test_L3_order_free(sent: list[Sent], data: st.DataObject) -> None:
    """Any permutation, repetition and interleaving leads to the state of the facts, in every view, with one digest."""
    shuffled = data.draw(st.permutations(sent + data.draw(st.lists(st.sampled_from(sent), max_size=5))))
    first, second = await after(sent), await after(shuffled)
    facts = Facts(sent)

    for view in VIEWS:
        one, other = await first.look(view), await second.look(view)
        assert set(ids_of(one)) == set(ids_of(other)) == facts.live_in(view), view
        assert one.digest == other.digest


@given(conversations())
async def test_L8_dismissal_acts_for_its_sender(sent: list[Sent]) -> None:
    """All creations first and all creations last are the extremes of L3: every device sees the same."""
    creations = [each for each in (only("create", each) for each in sent) if is_valid_without(each)]
    dismissals = [each for each in (only("dismiss", each) for each in sent) if is_valid_without(each)]
    before, later = await after(creations + dismissals), await after(dismissals + creations)
    facts = Facts(creations + dismissals)

    for view in DEVICE_VIEWS:
        assert await before.live_in(view) == await later.live_in(view) == facts.live_in(view)


@given(spans_and_items())
def test_L3_stored_intervals_keep_their_effect(said: tuple[list[StoredInterval], Creation]) -> None:
    every, item = said
    kept: tuple[StoredInterval, ...] = ()
    for new in every:
        kept = spans.remember(kept, new)

    raw = {each.device for each in every if spans.catches_arrival(each.span, item)}
    left = {each.device for each in kept if spans.catches_arrival(each.span, item)}
    # Whatever the backend takes is gone for all, so nothing else needs to be known of it.
    assert left == raw or (BY_BACKEND.device in left & raw and left <= raw)
    for old in every:
        if spans.catches_arrival(old.span, item):
            caught = [each for each in kept if spans.catches_arrival(each.span, item)]
            assert any(each.device in (old.device, BY_BACKEND.device) and each.at_us >= old.at_us for each in caught)


@given(conversations(is_explicit=False, min_size=4), st.data())
async def test_L3_open_interval_follows_commit_order(sent: list[Sent], data: st.DataObject) -> None:
    """The clocks of the writers differ: a slow one sets a time before the interval."""
    world, facts = World(), OrderedFacts()
    for each in sent:
        world.now_us = NOW_US + data.draw(st.integers(-3, 3)) * SECOND_US
        facts.add(each, world.now_us)
        await world.send(each)

        for view in VIEWS:
            assert await world.live_in(view) == facts.live_in(view), view


@given(conversations(is_explicit=False), st.sampled_from(("phone", "laptop")))
async def test_L8_forgotten_device_loses_items_and_cursors(sent: list[Sent], device: str) -> None:
    world = await after(sent)
    old = await world.look(View(device))

    await world.store.devices.forget_device(UID, device, world.now_us, SEED)

    every = (await world.look(BACKEND)).items
    assert device not in map(device_of, every)
    assert await world.live_in(View(device)) == {entry.id for entry in every if device_of(entry) in (None, "*")}
    assert isinstance(await world.sync(View(device), cursor_for(old.epoch, View(device), old.seq)), Full)


# ---- L4: bounded memory, honest horizon


@given(conversations(min_size=4, max_size=14), st.data())
async def test_L4_forgotten_item_never_comes_back(sent: list[Sent], data: st.DataObject) -> None:
    world = World(replace(LIMITS, history=2, history_bodies=1))
    dead: set[str] = set()
    for step in range(3 * len(sent)):
        each = sent[step] if step < len(sent) else data.draw(st.sampled_from(sent))
        await world.send(each)
        live, body = await world.live_in(BACKEND), each.document["body"]
        assert not live & dead
        dead |= body["create"].keys() - live
        dead |= set(body["dismiss"]["ids"]) - live if each.sender == BY_BACKEND else set()

        world.now_us += data.draw(st.sampled_from((0, 1, 8 * DAY_US, 31 * DAY_US)))
        await world.store.users.collect(UID, world.now_us)


@given(conversations(), st.integers(0, 29))
async def test_L4_horizon_moves_only_by_forgetting(sent: list[Sent], days: int) -> None:
    world = await after(sent)
    intervals = [span for each in sent for span in each.document["body"]["dismiss"]["intervals"]]
    is_swept = any(span.get("category_prefix") == "" and "begin" not in span for span in intervals)
    world.now_us += days * DAY_US
    await world.store.users.collect(UID, world.now_us)

    receipt = await world.send(Sent(BY_BACKEND, message({"z": {"category": "untouched", "times": {"created": 1}}})))

    assert receipt.created == (() if is_swept else ("z",))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from(("create", "create and dismiss", "dismiss", "wait a second", "wait an hour")),
        ),
        max_size=20,
    ),
    st.fixed_dictionaries(dict.fromkeys("abcd", st.sampled_from((-3600, -1, 0, 1, 60, 3590)))),
    st.sampled_from((SECOND_US, 2 * HOUR_US, LIMITS.retention_us)),
)
@example([("d", "create and dismiss"), ("a", "wait a second"), ("d", "create")], dict.fromkeys("abcd", 1), SECOND_US)
async def test_L4_horizon_is_never_ahead_of_the_clock(
    steps: list[tuple[str, str]], ahead: dict[str, int], retention_us: int
) -> None:
    """A creation with the present time is never stale. An item returns only if it was forgotten too early."""
    world = World(replace(LIMITS, history=1, retention_us=retention_us))
    items = {name: {"category": "ads", "times": {"created": NOW + seconds}} for name, seconds in ahead.items()}
    left_us: dict[str, int] = {}
    forgotten_us: dict[str, int] = {}
    for number, (name, step) in enumerate(steps):
        if step.startswith("create"):
            receipt = await world.send(Sent(BY_BACKEND, message({name: items[name]})))
            if name in receipt.created and name in left_us:
                created_us = NOW_US + ahead[name] * SECOND_US
                # The commit of the creation forgets the item if its retention ended during a wait.
                gone_us = forgotten_us.get(name, world.now_us)
                assert left_us.pop(name) < created_us and gone_us < created_us + LIMITS.future_us
        if step.endswith("dismiss"):
            await world.send(Sent(BY_BACKEND, message(ids=[name])))
            if name not in left_us or name in forgotten_us:  # otherwise it had left before
                left_us[name] = world.now_us
                forgotten_us.pop(name, None)
        world.now_us += 1
        await world.store.users.collect(UID, world.now_us)
        for gone in left_us.keys() - forgotten_us.keys():
            if await world.store.users.item(UID, gone, BACKEND, world.now_us) is None:
                forgotten_us[gone] = world.now_us
        now = world.now_us / SECOND_US
        other = message({f"other{number}": {"category": "other", "times": {"created": now}}})
        assert (await world.send(Sent(BY_BACKEND, other))).created == (f"other{number}",)
        world.now_us += {"wait a second": SECOND_US, "wait an hour": HOUR_US}.get(step, 0)


# ---- L5: atomic


@given(conversations(is_explicit=False, expires=True, max_size=16))
async def test_L5_message_is_applied_whole_or_not_at_all(sent: list[Sent]) -> None:
    limits = replace(LIMITS, live=3, tombstones=2, spans=2, spans_per_prefix=1)
    user = UserState()
    for each in sent:
        commit, before = each.at(NOW_US), copy.deepcopy(user)
        try:
            outcome = state.decide(user, commit, limits)
        except Problem as problem:
            assert problem.code in ("state_full", "too_many_dismissals")
            continue
        finally:
            assert user == before
        state.apply_outcome(user, commit, outcome, limits)

        assert {creation.id for creation in commit.creations} == {
            *outcome.receipt.created,
            *dict(outcome.receipt.ignored),
        }
        assert (len(user.live) <= 3, len(user.tombstones) <= 2, sum(map(len, user.spans.values())) <= 2) == (True,) * 3


# ---- L6: expiry is an event


@given(conversations(expires=True), st.lists(st.integers(1, 12), min_size=1, max_size=8))
async def test_L6_expiry_is_a_dismissal_with_a_seq(sent: list[Sent], waits: list[int]) -> None:
    world = await after(sent)
    for wait in waits:
        before = await world.look(BACKEND)
        world.announced()
        world.now_us += wait * SECOND_US
        now = await world.look(BACKEND)

        left = {entry.id for entry in before.items if entry.expires_us and entry.expires_us <= world.now_us}
        announced = world.announced()
        assert set(ids_of(now)) == set(ids_of(before)) - left
        assert now.seq == before.seq + len(announced)
        assert [{entry.id for entry in announcement.entries} for announcement in announced] == ([left] if left else [])
        assert all(announcement.reason is RemovalReason.EXPIRED for announcement in announced)


# ---- L9: resync is exact


@given(conversations(is_explicit=False, expires=True, min_size=4, max_size=14), st.data())
async def test_L9_sync_leads_any_copy_to_the_view(sent: list[Sent], data: st.DataObject) -> None:
    world = World(replace(LIMITS, history=1))
    copies: list[Replica] = []
    for each in sent:
        for view in VIEWS:
            copies.append(Replica(view))
            copies[-1].apply(await world.sync(view, None))
        await world.send(each)
        await world.disturb(data)

    for held in copies:
        answer = await world.sync(held.view, held.cursor)
        held.apply(answer)
        now = await world.look(held.view)
        assert held.items == view_of(now.items)
        assert held.cursor == cursor_for(now.epoch, held.view, now.seq)
        assert held.digest == now.digest == answer.digest


@given(conversations(is_explicit=False), st.sampled_from(VIEWS))
async def test_L9_result_is_chosen_in_the_order_of_the_law(sent: list[Sent], view: View) -> None:
    world = await after(sent)
    now = await world.look(view)
    mine = cursor_for(now.epoch, view, now.seq)
    other = next(each for each in VIEWS if each != view)
    wrong = digests.add(now.digest, b"\x01" * 32)

    for void in (
        cursor_for(now.epoch, other, now.seq),
        cursor_for(b"\xff\0\0", view, 0),
        msgspec.structs.replace(mine, seq=now.seq + 1),
    ):
        answer = await world.sync(view, void, now.digest)
        assert isinstance(answer, Full) and answer.external_gap
    assert isinstance(await world.sync(view, mine), Unchanged)
    assert isinstance(await world.sync(view, mine, now.digest), Unchanged)
    assert isinstance(await world.sync(view, mine, wrong), Full)
    assert isinstance(await world.sync(view, None), Full)
    assert isinstance(await world.sync(view, None, now.digest), Unchanged)
    assert isinstance(await world.sync(view, None, wrong), Full)


# ---- L10: the digest proves it


@given(conversations(is_explicit=False, expires=True))
async def test_L10_client_computes_the_digest(sent: list[Sent]) -> None:
    world = await after(sent)
    for view in VIEWS:
        held = Replica(view)
        answer = await world.sync(view, None)
        held.apply(answer)
        assert held.digest == answer.digest

    (head,) = await world.store.users.heads([UID])
    shared = [entry.leaf for entry in (await world.look(BACKEND)).items if device_of(entry) in (None, "*")]
    assert head is None or head.digest == digests.total(shared)


# ---- L12: no silent loss


@given(conversations(is_explicit=False, expires=True, min_size=4, max_size=14))
async def test_L12_live_frames_add_up_to_the_view(sent: list[Sent]) -> None:
    world = World()
    copies = [Replica(view) for view in DEVICE_VIEWS]
    for held in copies:
        held.apply(await world.sync(held.view, None))
    for each in sent:
        await world.send(each)
        for announcement in world.announced():
            for held in copies:
                await world.apply_announcement(held, announcement)
        world.now_us += SECOND_US
        await world.look(BACKEND)

    for announcement in world.announced():
        for held in copies:
            await world.apply_announcement(held, announcement)
    for held in copies:
        assert held.items == view_of((await world.look(held.view)).items)
        assert not isinstance(await world.sync(held.view, held.cursor), Delta)


@given(conversations(is_explicit=False, expires=True, min_size=4, max_size=14))
async def test_L12_lost_announcement_breaks_the_chain(sent: list[Sent]) -> None:
    world = await after(sent)
    announced = world.announced()
    for previous, following in pairwise(announced):
        assert (following.seq, following.before) == (previous.seq + 1, previous.after)
    if announced:
        (head,) = await world.store.users.heads([UID])
        assert head is not None and (head.seq, head.digest[:8]) == (announced[-1].seq, announced[-1].after)


# ---- L13: late devices; L14: flush


@given(conversations(is_explicit=False, max_size=14), st.integers(1, 4))
async def test_L13_external_messages_come_with_the_sync(sent: list[Sent], kept: int) -> None:
    world = World(replace(LIMITS, external_count=kept))
    cursors = [cursor_for((await world.look(BACKEND)).epoch, BACKEND, 0)]
    for each in sent:
        await world.send(each)
        now = await world.look(BACKEND)
        cursors.append(cursor_for(now.epoch, BACKEND, now.seq))
    every = [(said.seq, said.system, said.body) for said in world.announced() if said.kind is AnnouncementKind.EXTERNAL]

    for cursor in cursors:
        answer = await world.sync(BACKEND, cursor)
        since = [said for said in every if said[0] > cursor.seq]
        is_void = cursor.tag != cursors[-1].tag and not is_initial_cursor(cursor, BACKEND)
        assert [(said.seq, said.system, said.body) for said in answer.external] == ([] if is_void else since[-kept:])
        assert answer.external_gap == (is_void or len(since) > kept)


@given(conversations(is_explicit=False))
async def test_L14_flush_starts_only_a_new_epoch(sent: list[Sent]) -> None:
    world = await after(sent)
    before = [await world.look(view) for view in VIEWS]
    history = await world.store.users.history(UID, BACKEND, None, 100, world.now_us)

    receipt = await world.commit(Commit(world.now_us, SEED, is_reset=True))

    assert receipt.seq == before[0].seq + 1 and receipt.epoch != before[0].epoch
    for view, old in zip(VIEWS, before, strict=True):
        now = await world.look(view)
        assert (now.items, now.digest) == (old.items, old.digest)
        assert isinstance(await world.sync(view, cursor_for(old.epoch, view, old.seq)), Full)
    assert await world.store.users.history(UID, BACKEND, None, 100, world.now_us) == history
