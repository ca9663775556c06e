"""Strict parsing of client frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.items.sync import Cursor
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits
from gregor_gateway.protocol.client_frames import (
    LONG_FRAME_BYTES,
    AckFrame,
    ClientFrame,
    ForegroundFrame,
    MessageFrame,
    PingFrame,
    PongFrame,
    ResyncFrame,
    TokenFrame,
    decode_frame,
    read_frame,
    read_loosely,
    read_message,
    read_ref,
)
from gregor_gateway.protocol.hello import VOID, Hello, Position, read_hello, read_query
from tests.support.cpu_time import fastest

DIGEST = "0f" * 32


@pytest.mark.parametrize(
    ("document", "frame"),
    [
        ({"ack": 12}, AckFrame(12)),
        ({"foreground": True}, ForegroundFrame(True)),
        ({"resync": True}, ResyncFrame(Position())),
        ({"resync": {"cursor": "k3f9-12", "digest": DIGEST}}, ResyncFrame(Position(Cursor("k3f9", 12), b"\x0f" * 32))),
        ({"token": "x.y.z"}, TokenFrame("x.y.z")),
        ({"ping": 1}, PingFrame(1)),
        ({"pong": 7}, PongFrame()),
        ({"ref": 1, "system": "a", "body": {}}, MessageFrame({"system": "a", "body": {}})),
        ({"body": {}}, MessageFrame({"body": {}})),
        ({"ref": "x", "ack": 3}, AckFrame(3)),
    ],
)
def test_every_client_frame_is_parsed(document: dict[str, Any], frame: ClientFrame) -> None:
    assert read_frame(document) == frame


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({}, "missing_field"),
        ({"ref": 1}, "missing_field"),
        ({"nonsense": 1}, "unknown_field"),
        ({"ack": 1, "foreground": True}, "unknown_field"),
        ({"ack": "x"}, "invalid"),
        ({"ack": -1}, "invalid"),
        ({"ack": True}, "invalid"),
        ({"ack": 1.5}, "invalid"),
        ({"foreground": 1}, "invalid"),
        ({"resync": False}, "invalid"),
        ({"resync": {"cursor": 1}}, "invalid"),
        ({"resync": {"digest": "xx"}}, "invalid"),
        ({"resync": {"since": 1}}, "unknown_field"),
        ({"token": 1}, "invalid"),
        ({"ping": None}, "invalid"),
        ({"pong": "1"}, "invalid"),
        ({"hello": []}, "invalid"),
    ],
)
def test_invalid_frame_is_a_problem_with_a_pointer(document: dict[str, Any], code: str) -> None:
    with pytest.raises(Problem) as refused:
        read_frame(document)

    assert refused.value.code == code
    assert refused.value.errors


@pytest.mark.parametrize("ref", [0, -1, 2**60, 1.5, "", "a name", "x" * 510, None, True, [1, {"a": None}], {"tab": 2}])
def test_ref_may_be_any_short_json(ref: Any) -> None:
    assert read_ref({"ref": ref}) == ref


@pytest.mark.parametrize("document", [[], "x", 1, None, {"ref": "x" * 511}, {"ref": [1] * 300}])
def test_non_object_and_long_ref_are_refused(document: Any) -> None:
    with pytest.raises(Problem):
        read_ref(document)


def test_hello_has_defaults() -> None:
    assert read_hello({}) == read_hello(dict.fromkeys(("cursor", "session", "foreground", "systems"))) == Hello()


def test_hello_is_parsed_with_all_members() -> None:
    members = {
        "cursor": "k3f9-10",
        "digest": DIGEST,
        "category_prefix": ["user.", "mail"],
        "systems": ["kbfs", "kbfs.favorites"],
        "foreground": True,
        "session": "tab-1",
        "token": "x.y.z",
        "render": "it",
    }

    assert read_hello(members) == Hello(
        Position(Cursor("k3f9", 10), b"\x0f" * 32), ("mail", "user"), ("kbfs",), True, "tab-1", "x.y.z", "it"
    )


@pytest.mark.parametrize("cursor", ["", "12", "k3f9-", "K3F9-1", "k3f9-01", "x" * 25 + "-1", "k3f9-1-1"])
def test_unreadable_cursor_counts_as_void(cursor: str) -> None:
    assert read_hello({"cursor": cursor}).position.cursor == VOID


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"curser": "k3f9-1"}, "unknown_field"),
        ({"cursor": 5}, "invalid"),
        ({"digest": DIGEST.upper()}, "invalid"),
        ({"category_prefix": "user"}, "invalid"),
        ({"category_prefix": ["a..b"]}, "invalid_id"),
        ({"category_prefix": [f"a{n}" for n in range(101)]}, "too_many"),
        ({"systems": [f"a{n}" for n in range(101)]}, "too_many"),
        ({"systems": [1]}, "invalid_id"),
        ({"foreground": "yes"}, "invalid"),
        ({"session": ""}, "invalid_id"),
        ({"session": 7}, "invalid_id"),
        ({"token": 7}, "invalid"),
        ({"render": 7}, "invalid"),
    ],
)
def test_unknown_member_of_hello_is_refused(members: dict[str, Any], code: str) -> None:
    with pytest.raises(Problem) as refused:
        read_hello(members)

    assert refused.value.code == code
    assert refused.value.errors[0].pointer.startswith("/hello/")


def test_empty_filter_and_empty_systems_differ() -> None:
    assert read_hello({"category_prefix": []}).prefixes is None
    assert read_hello({"systems": []}).systems == ()


def test_query_is_parsed_and_unknown_parts_ignored() -> None:
    pairs = [
        ("cursor", "k3f9-10"),
        ("category_prefix", "user"),
        ("category_prefix", "mail"),
        ("foreground", "true"),
        ("session", "tab-1"),
        ("utm_source", "x"),
    ]

    assert read_query(pairs, None) == Hello(Position(Cursor("k3f9", 10)), ("mail", "user"), None, True, "tab-1")
    assert read_query(pairs, "k3f9-12").position == Position(Cursor("k3f9", 12))
    assert read_query([*pairs, ("digest", DIGEST)], "k3f9-12").position == Position(Cursor("k3f9", 12))
    assert read_query([*pairs, ("digest", DIGEST)], None).position.digest == b"\x0f" * 32
    assert read_query([], None) == Hello()


@pytest.mark.parametrize("pair", [("foreground", "1"), ("session", "a b"), ("digest", "x"), ("systems", "a..b")])
def test_invalid_query_value_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(Problem):
        read_query([pair], None)


@pytest.mark.parametrize(
    ("raw", "is_json", "ref"),
    [
        (b'{"ref":4,"a":1,"a":2}', True, 4),
        (b'{"ref":{"n":1},"body":99999999999999999999}', True, {"n": 1}),
        (b'{"ref":99999999999999999999}', True, None),
        (b'{"ref":"\\ud800"}', True, None),
        (b"[1]", True, None),
        (b"[" * 100_000 + b"]" * 100_000, True, None),
        (b'{"ref":1,"a":NaN}', False, None),
        (b'{"ref":7,"body":%s}' % (b"1" * 5_000), True, 7),
        (b'{"ref":-%s}' % (b"1" * 5_000), True, None),
        (b"{", False, None),
        (b"", False, None),
        ('{"ref":1}'.encode("utf-16-le"), False, None),
        (b'{"ref":1,"a":"\xff"}', False, None),
    ],
)
def test_refused_json_keeps_its_ref(raw: bytes, is_json: bool, ref: Any) -> None:
    assert read_loosely(raw) == (is_json, ref)


# ---- long frames

NAMES = st.sampled_from(["ref", "system", "body", "id", "ack", "ping", "hello", "token", "other"])
VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9) | st.lists(st.floats(-1, 1), max_size=3)


def outcome(raw: bytes, document: Any) -> Any:
    """Return the ref and the frame of a document, as a session uses them; a message is its text."""
    try:
        ref, frame = read_ref(document), read_frame(document)
    except Problem as problem:
        return problem.code, problem.detail
    return ref, raw if isinstance(frame, MessageFrame) else frame


@given(members=st.dictionaries(NAMES, VALUES, max_size=4))
def test_long_frame_means_the_same_as_a_short_one(members: dict[str, Any]) -> None:
    """Law: spaces that make a frame long do not change its meaning."""
    short = json.dumps(members).encode()
    long = short.ljust(LONG_FRAME_BYTES + 1)

    assert outcome(b"", decode_frame(long, Limits())) == outcome(b"", decode_frame(short, Limits()))
    if "system" in members:
        assert read_message(long, Limits()) == read_message(short, Limits())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"system":"a","body":"\xff"}',
        b'{"system":"a","body":[1,]}',
        b'{"system":"a","body":1e}',
        b'{"system":"a","body":"\\ud800"}',
        b'{"system":"a","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'["system"]',
        b'{"ref":[1,1e999],"system":"a"}',
    ],
)
def test_invalid_long_frame_has_the_error_of_the_full_decoder(raw: bytes) -> None:
    long = raw.ljust(LONG_FRAME_BYTES + 1)

    assert failure(lambda: read_ref(decode_frame(long, Limits()))) == failure(lambda: read_ref(whole(long)))


def whole(raw: bytes) -> Any:
    return decode_json(raw, Limits())


def failure(work: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(Problem) as raised:
        work()
    return raised.value.code, raised.value.detail


def test_long_message_is_decoded_only_once() -> None:
    """Its text of 256 KiB took 0.08 s of CPU time when it arrived, and again when it was committed."""
    raw = b'{"system":"a","body":[' + b",".join([b"[" * 61 + b"1.5" + b"]" * 61] * 2_000) + b"]}"

    recognise_s = fastest(lambda: read_frame(decode_frame(raw, Limits())))

    assert recognise_s < fastest(lambda: read_message(raw, Limits())) / 8
