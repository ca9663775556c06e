"""Announcements of commits, published in the same step (semantics.md L5, L8, L12), by every store."""

from __future__ import annotations

from msgspec.structs import replace

from gregor.core.items.announcement import AnnouncementEntry, AnnouncementKind, DeviceScope, decode_announcement
from gregor.core.items.codec import pack_item
from gregor.core.items.sync import View
from gregor.core.messages.model import RemovalReason, Sender
from gregor.core.trace_context import TraceContext
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
    document_of,
    external,
    interval,
    item,
    message,
    planned,
    sweeping,
)
from tests.support.store_backends import AnnouncementRecorder

PHONE, LAPTOP = Sender("phone"), Sender("laptop")


async def test_creation_announces_the_bytes_of_reads(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a", body={"n": 1.5, "ü": "€"}))

    (announced,) = await recorder.announcements(1)
    (stored,) = (await store.users.state("alice", BACKEND, NOW_US)).items
    assert (announced.kind, announced.epoch, announced.seq, announced.sender) == (AnnouncementKind.UPDATE, SEED, 1, "")
    (entry,) = announced.entries
    assert (entry.id, entry.category, entry.json, entry.scope) == ("a", "news", stored.json, DeviceScope.EVERY)


async def test_announcement_order_is_created_removed_hidden(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("x", "y", category="swept", created=NOW))
    await store.users.commit("alice", creating("each", for_device="*"))
    await store.users.commit("alice", creating("a"))

    change = message({"new": item()}, ["each", "a"], [interval("swept", end=NOW)])
    await store.users.commit("alice", planned(change, PHONE))

    announced = (await recorder.announcements(4))[3]
    assert [(entry.id, entry.packed is None) for entry in announced.entries] == [
        ("new", False),
        ("a", True),
        ("x", True),
        ("y", True),
        ("each", True),
    ]
    assert announced.sender == "phone"


async def test_announcement_entries_have_a_scope(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", dismissing("each", sender=PHONE))
    await store.users.commit("alice", dismissing("each", sender=LAPTOP))
    create = message(
        {"all": item(), "each": item(for_device="*"), "free": item(for_device="*"), "own": item(for_device="tv")}
    )
    await store.users.commit("alice", planned(create))
    await store.users.commit("alice", dismissing("free", sender=PHONE))
    await store.users.commit("alice", dismissing("each", "free", "own"))

    created, hidden, ended = await recorder.announcements(3)
    assert {entry.id: (entry.scope, entry.devices) for entry in created.entries} == {
        "all": (DeviceScope.EVERY, ()),
        "each": (DeviceScope.ALL_BUT, ("laptop", "phone")),
        "free": (DeviceScope.EVERY, ()),
        "own": (DeviceScope.ONLY, ("", "tv")),
    }
    assert hidden.entries == (AnnouncementEntry("free", "news", None, DeviceScope.ONLY, ("phone",)),)
    assert {entry.id: (entry.scope, entry.devices) for entry in ended.entries} == {
        "each": (DeviceScope.ALL_BUT, ("laptop", "phone")),
        "free": (DeviceScope.ALL_BUT, ("phone",)),
        "own": (DeviceScope.ONLY, ("", "tv")),
    }


async def test_observer_gets_device_items_but_no_hidings(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", planned(message({"each": item(for_device="*"), "own": item(for_device="tv")})))
    await store.users.commit("alice", dismissing("each", sender=PHONE))
    await store.users.commit("alice", dismissing("own"))

    created, hidden, ended = [announced.frame(BACKEND) for announced in await recorder.announcements(3)]
    assert set(document_of(created or b"")["body"]["create"]) == {"each", "own"}
    assert hidden is None
    assert document_of(ended or b"")["body"] == {"dismiss": {"ids": ["own"]}}


async def test_commit_without_effect_is_not_announced(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", dismissing("unknown"))
    await store.users.commit("alice", sweeping(interval("news", end=NOW)))
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", creating("b"))

    first, second = await recorder.announcements(2)
    assert (first.seq, second.seq) == (1, 2)
    assert len(recorder.payloads) == 2


async def test_dead_on_arrival_announces_an_empty_step(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", dismissing("a"))
    await store.users.commit("alice", creating("a"))

    (announced,) = await recorder.announcements(1)
    assert (announced.seq, announced.entries) == (1, ())
    assert announced.frame(View("phone")) is None


async def test_first_announcement_of_an_epoch_has_the_cursor(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", dismissing("unknown"))
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", creating("b"))

    first, second = await recorder.announcements(2)
    assert (first.is_new_epoch, second.is_new_epoch) == (True, False)
    frame = document_of(first.frame(View("phone")) or b"")
    assert frame["cursor"] == f"{SEED.hex()}{View('phone').tag}-1"


async def test_external_message_can_start_an_epoch(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", planned(external({}, "kbfs")))

    (announced,) = await recorder.announcements(1)
    frame = document_of(announced.frame(View("phone")) or b"")
    assert (frame["system"], frame["cursor"]) == ("kbfs", f"{SEED.hex()}{View('phone').tag}-1")


async def test_announcements_chain_by_shared_digest(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", creating("own", for_device="phone"))
    await store.users.commit("alice", dismissing("a"))

    first, own, ended = await recorder.announcements(3)
    assert first.before == bytes(8)
    assert first.after == own.before == own.after == ended.before
    assert ended.after == bytes(8)


async def test_expiry_is_announced_with_its_reason(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("c", expires=NOW + 1))
    await store.users.commit("alice", creating("b", "a", expires=NOW + 2))

    await store.users.state("alice", BACKEND, NOW_US + 2 * SECOND_US)

    announced = (await recorder.announcements(3))[2]
    assert announced.reason is RemovalReason.EXPIRED
    assert [entry.id for entry in announced.entries] == ["c", "a", "b"]
    assert document_of(announced.frame(View("phone")) or b"")["body"] == {
        "dismiss": {"ids": ["c", "a", "b"], "reason": "expired"}
    }


async def test_external_message_is_announced_unchanged(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", planned(external({"tlf": "/private/alice"}, "kbfs.favorites")))

    (announced,) = await recorder.announcements(1)
    assert (announced.kind, announced.system, announced.body) == (
        AnnouncementKind.EXTERNAL,
        "kbfs.favorites",
        b'{"tlf":"/private/alice"}',
    )


async def test_reset_is_announced_with_epoch_and_spread(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a"))
    receipt = await store.users.commit("alice", planned(RESET))

    announced = (await recorder.announcements(2))[1]
    assert (announced.kind, announced.epoch, announced.seq, announced.spread_s) == (
        AnnouncementKind.RESET,
        receipt.epoch,
        2,
        30,
    )
    assert announced.before == announced.after != bytes(8)


async def test_removed_device_is_closed_before_its_items_are_announced(
    store: Store, recorder: AnnouncementRecorder
) -> None:
    """And once more afterwards, for a connection that opened in between."""
    await store.users.commit("alice", creating("own", for_device="phone"))

    await store.devices.forget_device("alice", "phone", NOW_US, SEED)

    _, close, payload, repeated = await recorder.first(4)
    announced = decode_announcement(payload)
    assert (announced.reason, announced.entries) == (
        RemovalReason.DISPLACED,
        (AnnouncementEntry("own", "news", None, DeviceScope.ONLY, ("", "phone")),),
    )
    assert close == repeated
    assert (close[:1], document_of(close[1:])) == (b"K", {"close": {"device": "phone", "code": 4003}})


async def test_announcements_are_equal_in_every_store(store: Store, recorder: AnnouncementRecorder) -> None:
    """Byte for byte: a gateway reads the announcements of any store of its version."""
    await store.users.commit("alice", creating("a", created=NOW, sender=PHONE))
    await store.users.commit("alice", dismissing("a", sender=LAPTOP))

    created, dismissed = await recorder.first(2)
    leaf = (await store.users.heads(["alice"]))[0]
    assert leaf is not None and leaf.digest == bytes(32)
    (made,) = creating("a", created=NOW).creations
    packed = pack_item(made)
    numbers = NOW_US.to_bytes(7, "big") + (1 << 53).to_bytes(7, "big") + b"\0\0\0\x4c\0\4\0"
    assert packed == b"L" + numbers + made.fingerprint + made.leaf + b"newsnull"
    assert created[:11] == b"C" + SEED + (1).to_bytes(5, "big") + b"u\x01"
    assert created[27:] == b"d\x05phone\x00\x01+\x00\x01a" + len(packed).to_bytes(3, "big") + packed
    assert dismissed[:11] == b"C" + SEED + (2).to_bytes(5, "big") + b"u\x00"
    assert dismissed[27:] == b"d\x06laptop\x00\x01-\x00\x01a\0\0\4news"
    assert created[19:27] == dismissed[11:19]


async def test_sampled_message_announces_its_trace(store: Store, recorder: AnnouncementRecorder) -> None:
    """Every kind of announcement that can carry a context has it; the announcement is the same otherwise."""
    trace = TraceContext(bytes(range(16)), bytes(range(8))).pack()
    commits = [
        creating("a", body={"n": 1}),
        creating("b", expires=NOW + 60),
        dismissing("a"),
        planned(message({"c": item(for_device="phone")}, ["b"], message_id="m1"), PHONE),
        planned(RESET),
    ]
    for commit in commits:
        await store.users.commit("alice", replace(commit, trace=trace))

    announced = await recorder.announcements(5)
    assert [each.trace for each in announced] == [trace] * 5
    assert [len(each.entries) for each in announced] == [1, 1, 1, 2, 0]


async def test_external_message_announces_no_trace(store: Store, recorder: AnnouncementRecorder) -> None:
    trace = TraceContext(bytes(range(16)), bytes(range(8))).pack()
    await store.users.commit("alice", replace(planned(external({"n": 1})), trace=trace))

    (announced,) = await recorder.announcements(1)
    assert (announced.trace, announced.body) == (b"", b'{"n":1}')
