"""Digests: the values that a client in any language computes; addition and subtraction."""

import hashlib
import json
import struct

from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.items.digest import (
    add,
    add_lanes,
    digest_items,
    lanes,
    leaf,
    parse_digest,
    subtract,
    subtract_lanes,
    sum_lanes,
    total,
)
from gregor.core.items.sync import ZERO_DIGEST

digests = st.binary(min_size=32, max_size=32)

ITEM = {
    "body": {"keybase": "kbob", "social_media_name": "bob@twitter"},
    "category": "user.joined",
    "for_device": None,
    "times": {"created": 1457056447},
}
ITEM_JSON = json.dumps(ITEM, separators=(",", ":"), sort_keys=True).encode()


def test_leaf_hashes_the_canonical_pair() -> None:
    pair = json.dumps(["5d44d2ad9aabab30", ITEM], separators=(",", ":"), sort_keys=True).encode()

    assert leaf("5d44d2ad9aabab30", ITEM_JSON) == hashlib.sha256(pair).digest()


def test_digest_of_one_item_never_changes() -> None:
    assert (
        digest_items([("5d44d2ad9aabab30", ITEM_JSON)]).hex()
        == "f7e59d58e37acd7c5de4edae236b7c685a469727c1acf5806d733d5ef2770c06"
    )


@given(digests, digests)
@example(b"\xff" * 32, b"\xff" * 32)
@example(b"\0" * 32, b"\0\0\0\1" * 8)
def test_lanes_wrap_at_2_to_the_32(left: bytes, right: bytes) -> None:
    pairs = list(zip(struct.unpack(">8I", left), struct.unpack(">8I", right), strict=True))

    assert add(left, right) == struct.pack(">8I", *((a + b) % 2**32 for a, b in pairs))
    assert subtract(left, right) == struct.pack(">8I", *((a - b) % 2**32 for a, b in pairs))


@given(st.lists(digests, max_size=8))
def test_digest_ignores_order_and_removed_items(leaves: list[bytes]) -> None:
    whole = total(leaves)

    for share in sorted(leaves):
        whole = subtract(whole, share)

    assert whole == ZERO_DIGEST
    assert total(sorted(leaves)) == total(leaves)


@given(digests, st.lists(digests, min_size=1, max_size=8))
@example(b"\xff" * 32, [b"\xff" * 32])
@example(b"\0" * 32, [b"\0\0\0\1" * 8])
def test_integers_add_as_digests_do(digest: bytes, leaves: list[bytes]) -> None:
    first = leaves[0]

    assert sum_lanes(map(lanes, leaves)) == lanes(total(leaves))
    assert add_lanes(lanes(digest), lanes(first)) == lanes(add(digest, first))
    assert subtract_lanes(lanes(digest), lanes(first)) == lanes(subtract(digest, first))


def test_the_empty_view_is_64_zeros() -> None:
    assert digest_items([]).hex() == "0" * 64


def test_parse_digest_requires_64_hex_digits() -> None:
    assert parse_digest("0" * 63 + "f") == bytes(31) + b"\x0f"
    assert [parse_digest(text) for text in ("", "0" * 63, "0" * 65, "F" * 64, "g" * 64, "0" * 64 + "\n")] == [None] * 6
