"""Hash slots and slot maps, from the answers of real servers."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.redis.cluster.slots import SLOTS, SlotMap, parse_info, parse_members, parse_shards, parse_slots, slot_of

A, B, ASKED = ("a", 1), ("b", 2), ("seed", 9)


def node(
    host: bytes | None, port: int, role: bytes = b"master", health: bytes = b"online", tls: int = 0
) -> list[object]:
    ports = [b"port", port, *([b"tls-port", tls] if tls else [])]
    return [b"id", b"x", *ports, b"ip", b"10.0.0.9", b"endpoint", host, b"role", role, b"health", health]


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"foo", 12_182),
        (b"{foo}bar", 12_182),
        (b"x{foo}{bar}", 12_182),
        (b"{}foo", slot_of(b"{}foo")),
        (b"", 0),
        (b"123456789", 0x31C3),
    ],
)
def test_slot_of_key_as_in_the_cluster_specification(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_failed_node_without_an_address_is_left_out() -> None:
    """Valkey 8.1 lists a replica that was reset, without its port, until its time is over or it is forgotten."""
    gone = [b"id", b"y", b"ip", b"", b"endpoint", b"", b"role", b"replica", b"health", b"fail"]
    reply = [[b"slots", [0, SLOTS - 1], b"nodes", [node(b"a", 1), gone]]]

    assert parse_members(reply, ASKED, tls=False) == [(A, True, SLOTS)]


def test_empty_hash_tag_hashes_the_whole_key() -> None:
    assert slot_of(b"{}a") != slot_of(b"{}b")


def test_map_of_shards() -> None:
    reply = [
        [b"slots", [0, 5, 8, 9], b"nodes", [node(b"a", 1), node(b"r", 7, b"replica")]],
        [b"slots", [6, 7], b"nodes", [node(b"b", 2)]],
        [b"slots", [], b"nodes", [node(b"empty", 3)]],
    ]

    found = parse_shards(reply, ASKED, tls=False)

    assert found.owners[:11] == [A] * 6 + [B] * 2 + [A] * 2 + [None]
    assert found.primaries == (A, B)
    assert (found.covered, found.is_complete) == (10, False)


def test_promoted_replica_is_preferred_to_failed_primary() -> None:
    nodes = [node(b"a", 1, health=b"fail"), node(b"b", 2)]

    assert parse_shards([[b"slots", [0, 9], b"nodes", nodes]], ASKED, tls=False).primaries == (B,)
    assert parse_shards([[b"slots", [0, 9], b"nodes", nodes[:1]]], ASKED, tls=False).primaries == (A,)


@pytest.mark.parametrize(
    ("shown", "tls", "expected"),
    [
        (node(b"?", 1), False, ("seed", 1)),
        (node(b"", 1), False, ("10.0.0.9", 1)),
        (node(None, 1), False, ("10.0.0.9", 1)),
        (node(b"a", 1, tls=7), True, ("a", 7)),
        (node(b"a", 1, tls=7), False, A),
        (node(b"a", 1), True, A),
    ],
)
def test_address_of_a_node(shown: list[object], tls: bool, expected: object) -> None:
    assert parse_shards([[b"slots", [0, 9], b"nodes", [shown]]], ASKED, tls=tls).primaries == (expected,)


def test_map_of_slots() -> None:
    reply = [[0, 5, [b"a", 1, b"id", []], [b"r", 7, b"id", []]], [6, 6, [b"", 2, b"id", []]]]

    assert parse_slots(reply, ASKED).owners[:8] == [A] * 6 + [("seed", 2), None]


@pytest.mark.parametrize(
    "reply", [None, b"x", 3, [3], [[b"slots"]], [], [[b"slots", [0, 99_999], b"nodes", [node(b"a", 1)]]]]
)
def test_other_answers_are_refused(reply: object) -> None:
    with pytest.raises(ValueError, match=r"CLUSTER|slots"):
        parse_shards(reply, ASKED, tls=False)
    with pytest.raises(ValueError, match=r"CLUSTER|slots"):
        parse_slots(reply, ASKED)


RESP = st.recursive(
    st.none() | st.integers(-1, SLOTS) | st.binary(max_size=4), lambda inner: st.lists(inner, max_size=4), max_leaves=8
)
NODES = st.lists(st.tuples(st.just(b"role"), st.just(b"master"), st.just(b"port"), RESP, st.just(b"endpoint"), RESP))
SHARDS = st.lists(st.tuples(st.just(b"slots"), RESP, st.just(b"nodes"), NODES | RESP), max_size=2)


@given(RESP | SHARDS | st.lists(st.tuples(RESP, RESP, st.tuples(RESP, RESP)), max_size=2), RESP)
def test_odd_answers_are_value_errors(reply: Any, info: Any) -> None:
    """Another exception would end the task that keeps the map up to date."""
    for parse in (
        lambda: parse_shards(reply, A, tls=False),
        lambda: parse_slots(reply, A),
        lambda: parse_members(reply, A, tls=True),
        lambda: parse_info(info),
    ):
        with suppress(ValueError):
            parse()


@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), st.sampled_from([A, B, ("c", 3)])), max_size=6))
def test_moved_slots_are_the_changed_ones(moves: list[tuple[int, tuple[str, int]]]) -> None:
    before, after = SlotMap([(0, 99, A), (100, SLOTS - 1, B)]), SlotMap([(0, 99, A), (100, SLOTS - 1, B)])
    for slot, address in moves:
        after.move(slot, address)

    expected = {slot for slot in range(SLOTS) if before.owners[slot] != after.owners[slot]}
    assert after.changed_from(before) == before.changed_from(after) == expected
    assert after.spread(lambda address: address) == after.owners
    assert set(after.owners) <= set(after.primaries)
