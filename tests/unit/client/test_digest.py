"""The digest of a set of items, against its definition in docs/semantics.md L10."""

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from gregor.client.mirror import ItemDigest, digest_of, leaf

ITEM = {"times": {"created": 1}, "for_device": None, "category": "a", "body": {"b": 1, "a": "é"}}
CANONICAL = '["x",{"body":{"a":"é","b":1},"category":"a","for_device":null,"times":{"created":1}}]'


def test_digest_of_one_item_is_its_canonical_hash() -> None:
    assert digest_of({"x": ITEM}) == hashlib.sha256(CANONICAL.encode()).hexdigest()


def test_digest_of_no_items_is_zero() -> None:
    assert digest_of({}) == "0" * 64


def test_lanes_are_added_separately_and_wrap() -> None:
    items = {f"i{n}": ITEM for n in range(50)}
    lanes = [0] * 8
    for id_ in items:
        hashed = hashlib.sha256(CANONICAL.replace('"x"', f'"{id_}"').encode()).digest()
        lanes = [(lane + int.from_bytes(hashed[4 * n : 4 * n + 4])) % 2**32 for n, lane in enumerate(lanes)]

    assert digest_of(items) == "".join(f"{lane:08x}" for lane in lanes)


def test_large_integer_equals_the_double_that_was_sent() -> None:
    as_sent, as_read = {"x": {**ITEM, "body": 1e20}}, {"x": {**ITEM, "body": json.loads("100000000000000000000")}}

    assert digest_of(as_read) == digest_of(as_sent)


@given(st.permutations([f"i{n}" for n in range(6)]), st.sets(st.sampled_from([f"i{n}" for n in range(6)])))
def test_digest_does_not_depend_on_the_order(order: list[str], gone: set[str]) -> None:
    digest = ItemDigest()
    for id_ in order:
        digest.add(leaf(id_, ITEM))
    for id_ in gone:
        digest.remove(leaf(id_, ITEM))

    assert digest.hex == digest_of({id_: ITEM for id_ in order if id_ not in gone})
