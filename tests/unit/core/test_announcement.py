"""Announcements: binary encoding, decoding, and the frame of each view."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.ids import Prefixes, normalize_prefixes
from gregor.core.items.announcement import (
    Announcement,
    AnnouncementEntry,
    AnnouncementKind,
    DeviceScope,
    decode_announcement,
    decode_fast,
)
from gregor.core.items.codec import pack_item
from gregor.core.items.sync import View
from gregor.core.messages.model import RemovalReason
from tests.support.builders import creating
from tests.support.items import creations

NAMES = st.text("abc.:@-09", min_size=1, max_size=128).map(lambda text: "x" + text[1:])
DOTTED = st.sampled_from(["user", "user.joined", "users", "mail.new"])
DEVICES = st.lists(st.sampled_from(["phone", "laptop", "tv", ""]), unique=True, max_size=3).map(tuple)
VIEWS = st.builds(
    View, st.sampled_from(["phone", "laptop", ""]), st.sampled_from([None, ("user",), ("mail", "users"), ()])
)
BODIES = st.sampled_from([b"null", b'{"a":"\xc3\xa9"}', b"{}"])


PACKED = pack_item(creating("aa", category="user").creations[0])


@st.composite
def entries(draw: st.DrawFn) -> AnnouncementEntry:
    scope = draw(st.sampled_from(DeviceScope))
    devices = () if scope is DeviceScope.EVERY else draw(DEVICES)
    item_id, category = draw(NAMES), draw(DOTTED)
    return AnnouncementEntry(
        item_id, category, draw(st.none() | creations(st.just(category)).map(pack_item)), scope, devices
    )


@st.composite
def announcements(draw: st.DrawFn) -> Announcement:
    kind = draw(st.sampled_from(AnnouncementKind))
    members: dict[str, Any] = {}
    if kind is AnnouncementKind.UPDATE:
        members["entries"] = tuple(draw(st.lists(entries(), max_size=4)))
    elif kind is AnnouncementKind.REMIND:
        entry = draw(entries())
        members["entries"] = (AnnouncementEntry(entry.id, entry.category, None, entry.scope, entry.devices),)
        members["remind_at_us"] = draw(st.integers(0, 1 << 55))
    elif kind is AnnouncementKind.EXTERNAL:
        members |= {"system": draw(DOTTED), "body": draw(BODIES)}
    else:
        members["spread_s"] = draw(st.integers(0, 65_535))
    return Announcement(
        kind,
        draw(st.binary(min_size=3, max_size=3)),
        draw(st.integers(1, (1 << 40) - 1)),
        draw(st.binary(min_size=8, max_size=8)),
        draw(st.binary(min_size=8, max_size=8)),
        draw(st.just("") | NAMES),
        draw(st.sampled_from(RemovalReason)),
        draw(st.booleans()),
        **members,
    )


@given(announcements())
def test_announcement_survives_a_round_trip(announcement: Announcement) -> None:
    assert decode_announcement(announcement.encode()) == announcement


@given(announcements(), st.lists(VIEWS, min_size=1, max_size=6))
def test_frame_is_independent_of_earlier_views(announcement: Announcement, views: list[View]) -> None:
    shared = decode_announcement(announcement.encode())

    assert [shared.frame(view) for view in views] == [announcement.frame(view) for view in views]


@given(announcements(), VIEWS)
def test_frame_has_the_seq_and_the_views_items(announcement: Announcement, view: View) -> None:
    frame = announcement.frame(view)
    concerned = [entry for entry in announcement.entries if entry.concerns(view)]

    if announcement.kind in (AnnouncementKind.UPDATE, AnnouncementKind.REMIND) and not concerned:
        assert frame is None
        return
    assert frame is not None
    told = json.loads(frame)
    assert told["seq"] == announcement.seq
    if announcement.kind is AnnouncementKind.UPDATE:
        assert told["body"].get("create", {}) == {e.id: json.loads(e.json) for e in concerned if e.json is not None}
        assert told["body"].get("dismiss", {}).get("ids", []) == [e.id for e in concerned if e.json is None]


@given(announcements(), VIEWS)
def test_decode_fast_equals_the_general_decoder(announcement: Announcement, view: View) -> None:
    plain = decode_fast(announcement.encode())

    if plain is not None:
        assert (plain.epoch, plain.seq) == (announcement.epoch, announcement.seq)
        assert (plain.before, plain.after) == (announcement.before, announcement.after)
        (entry,) = announcement.entries
        assert plain.category == entry.category
        assert announcement.frame(view) in (plain.frame, None)
        assert (announcement.frame(view) is None) == (not entry.concerns(view))


@pytest.mark.parametrize(
    ("sender", "entry", "is_new_epoch", "is_plain"),
    [
        ("", AnnouncementEntry("aa", "user", PACKED), False, True),
        ("phone", AnnouncementEntry("aa", "user", PACKED), False, False),
        ("", AnnouncementEntry("aa", "user", None), False, False),
        ("", AnnouncementEntry("aa", "user", PACKED, DeviceScope.ONLY, ("phone",)), False, False),
        ("", AnnouncementEntry("aa", "user", PACKED), True, False),
    ],
)
def test_decode_fast_accepts_one_creation_for_all(
    sender: str, entry: AnnouncementEntry, is_new_epoch: bool, is_plain: bool
) -> None:
    announcement = Announcement(
        AnnouncementKind.UPDATE, b"abc", 7, bytes(8), bytes(8), sender, is_new_epoch=is_new_epoch, entries=(entry,)
    )

    assert (decode_fast(announcement.encode()) is not None) is is_plain


@pytest.mark.parametrize("payload", [b"", b"K{}", b"C", b"C" * 28, b"C" + b"\1" * 40])
def test_malformed_announcement_is_rejected(payload: bytes) -> None:
    with pytest.raises(ValueError, match="announcement"):
        decode_announcement(payload)
    assert decode_fast(payload) is None


def test_views_with_the_same_change_share_a_frame() -> None:
    """The frames of a user with hundreds of filters would otherwise be built and packed one by one."""
    entries = (AnnouncementEntry("a", "mail.new", PACKED), AnnouncementEntry("b", "news", None))
    announcement = Announcement(AnnouncementKind.UPDATE, b"abc", 2, bytes(8), bytes(8), entries=entries)

    views = [View(category_filter=("mail", f"other{number}")) for number in range(100)]

    assert len({id(announcement.frame(view)) for view in views}) <= 2
    assert announcement.frame(View(category_filter=("news",))) != announcement.frame(views[0])


def test_hundreds_of_views_take_little_time() -> None:
    """Deciding 2,000 items that leave for each of 512 filters would stop the gateway for seconds."""
    gone = tuple(AnnouncementEntry(f"i{number}", f"c{number % 100}.x{number}", None) for number in range(2_000))
    announcement = Announcement(AnnouncementKind.UPDATE, b"abc", 2, bytes(8), bytes(8), entries=gone)
    views = [View(category_filter=normalize_prefixes((f"c{number % 2}", f"d{number}"))) for number in range(512)]
    announcement.frame(views[0])

    begun = time.process_time()
    frames = {announcement.frame(view) for view in views}

    assert len(frames) == 2
    # 0.2 s, and 1.1 s if each item is decided for each view
    assert time.process_time() - begun < 0.7


CATEGORIES = st.lists(st.sampled_from("ab-"), min_size=1, max_size=3).map(lambda parts: ".".join(["c", *parts]))


@given(
    st.lists(st.builds(AnnouncementEntry, NAMES, CATEGORIES, st.none(), st.sampled_from(DeviceScope), DEVICES)),
    st.lists(CATEGORIES, max_size=5).map(normalize_prefixes),
    st.sampled_from(["phone", "tv", ""]),
)
def test_shared_frame_has_the_entries_that_concern_the_view(
    entries: list[AnnouncementEntry], prefixes: Prefixes, device: str
) -> None:
    view = View(device, prefixes)
    announcement = Announcement(AnnouncementKind.UPDATE, b"abc", 2, bytes(8), bytes(8), entries=tuple(entries))
    announcement.frame(View("other", ("z",)))

    expected = [entry.id for entry in entries if entry.concerns(view)]
    frame = announcement.frame(view)

    assert (json.loads(frame)["body"]["dismiss"]["ids"] if frame else []) == expected


def test_first_frame_of_an_epoch_has_the_views_cursor() -> None:
    first = Announcement(
        AnnouncementKind.UPDATE,
        b"abc",
        1,
        bytes(8),
        bytes(8),
        is_new_epoch=True,
        entries=(AnnouncementEntry("aa", "user", PACKED),),
    )
    frames = [json.loads(first.frame(View(device)) or b"") for device in ("phone", "laptop")]

    assert frames[0]["cursor"] != frames[1]["cursor"]
    assert all(frame["cursor"].startswith("616263") for frame in frames)


def test_server_dismissal_has_a_reason_in_the_frame() -> None:
    gone = (AnnouncementEntry("aa", "user", None),)
    told = Announcement(
        AnnouncementKind.UPDATE, b"abc", 1, bytes(8), bytes(8), reason=RemovalReason.EXPIRED, entries=gone
    )
    untold = Announcement(
        AnnouncementKind.UPDATE, b"abc", 1, bytes(8), bytes(8), reason=RemovalReason.INTERVAL, entries=gone
    )

    assert json.loads(told.frame(View("phone")) or b"")["body"]["dismiss"] == {"ids": ["aa"], "reason": "expired"}
    assert json.loads(untold.frame(View("phone")) or b"")["body"]["dismiss"] == {"ids": ["aa"]}
    assert json.loads(told.empty_frame(View("phone"))) == {"system": "gregor", "seq": 1, "body": {}}
