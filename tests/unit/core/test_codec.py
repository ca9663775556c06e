"""Packed items: the JSON of an unpacked item equals the JSON that its digest hashed, byte for byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gregor.core.items.codec import item_json_fast, pack_item, packed_category, unpack_item
from gregor.core.items.digest import leaf
from gregor.core.messages.encode import without_body
from gregor.core.messages.model import Creation, ItemTimer, ItemTimerKind
from tests.support.builders import NOW_US, creating
from tests.support.items import creations

PUSH, MAIL, WINDOW = (ItemTimer(kind, NOW_US) for kind in ItemTimerKind)


@given(creations(), st.binary(max_size=20))
def test_packed_item_survives_a_round_trip(made: Creation, before: bytes) -> None:
    packed = pack_item(made)

    item = unpack_item(before + packed, len(before))

    assert item.json() == made.json
    assert leaf(made.id, item.json()) == item.leaf == made.leaf
    assert (item.created_us, item.expires_us, item.remind_at_us) == (
        made.created_us,
        made.expires_us,
        made.remind_at_us,
    )
    assert (item.category, item.device, item.hidings) == (made.category, made.for_device or "", b"")
    assert packed_category(packed) == made.category
    assert item_json_fast(before + packed, len(before)) == (made.category.encode(), made.json)


@given(creations())
def test_packed_item_has_the_length_of_its_json(made: Creation) -> None:
    packed = pack_item(made)

    rest = int.from_bytes(packed[17:19], "big")

    assert len(unpack_item(packed).body) + rest == len(made.json)


@given(creations())
def test_trimmed_item_equals_its_history_entry(made: Creation) -> None:
    packed = pack_item(made)
    kept = b"l" + packed[1:30] + packed[62 : len(packed) - len(made.body)]

    item = unpack_item(kept)

    assert item.json() == without_body(made.json)
    assert (item.leaf, item.body, item.created_us) == (b"", b"", made.created_us)


def test_push_and_mail_timers_set_flags() -> None:
    (plain,) = creating("a", created=1).creations

    flags = [pack_item(replace(plain, timers=timers))[19] for timers in ((), (WINDOW,), (PUSH,), (MAIL, WINDOW, PUSH))]

    assert flags == [0, 0, 32, 96]


def test_expiry_zero_differs_from_no_expiry() -> None:
    (made,) = creating("a", expires=0).creations

    assert unpack_item(pack_item(made)).expires_us == 0
