"""``parse_fast`` accepts the commonest messages, and returns the same message as ``parse_message``."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.json_text import decode_json
from gregor.core.limits import Limits
from gregor.core.messages.model import Message
from gregor.core.messages.parse import parse_message
from gregor.core.messages.parse_fast import parse_fast

LIMITS = Limits(body_bytes=60, nesting=7)


def whole_way(raw: bytes) -> tuple[str | None, Message]:
    document = decode_json(raw, LIMITS, has_stand_ins=True)
    uid = document.pop("uid", None)
    return uid, parse_message(document, LIMITS)


def plain(**members: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {"x": {"category": "a.b", **members}}}}


SCALARS = st.sampled_from(
    (None, True, 0, 1.5, -0.0, 1e300, 2**53 - 1, 2**53, 10**30, "a.b", "x", "ü:", '":', "\U0001f600", "y" * 70, "")
)
KEYS = st.sampled_from(("a", "t:", '"', "ü", "\U0001f600", "category", "body", "", "uid", "z"))
BODIES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Return one of the commonest messages with up to two changes, after which it may be another kind."""
    message = plain(body=draw(BODIES)) if draw(st.booleans()) else plain()
    if draw(st.booleans()):
        message = {"uid": "u1", **message}
    places = (message, message["body"], message["body"]["create"], message["body"]["create"]["x"])
    members = st.sampled_from(("system", "body", "create", "dismiss", "x", "y!", "category", "for_device", "uid", "id"))
    for _ in range(draw(st.integers(0, 2))):
        draw(st.sampled_from(places))[draw(members)] = draw(SCALARS | st.just({}))
    text = json.dumps(
        message, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from(((",", ":"), (", ", " : "))))
    )
    # A key written twice, or with an escape, or a number beyond all, is seen in the text alone.
    for old, new in draw(
        st.sampled_from(((), (('"x"', '"x":{"category":"c"},"x"'),), (('"category"', '"c\\u0061tegory"'),)))
    ):
        text = text.replace(old, new, 1)
    return draw(st.sampled_from(("", " ", "\ufeff"))).encode() + text.encode("utf-8", "surrogatepass")


@given(texts())
def test_parse_fast_equals_parse_message(raw: bytes) -> None:
    taken = parse_fast(raw, LIMITS)
    if taken is not None:
        assert taken == whole_way(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"uid":"u1","system":"gregor","body":{"create":{"x":{"category":"a.b","body":{"t":"v","n":1.5}}}}}',
        b'{"uid":"u1","system":"gregor","body":{"create":{"x":{"category":"a.b","body":{"t":"v","u":"w"}}}}}',
        b'{ "system" : "gregor", "body" : { "create" : { "x" : { "body" : null, "category" : "a" } } } }',
        b'{"body":{"create":{"x:y":{"category":"a","body":[1,[2]]}}},"system":"gregor"}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a"}}}}',
    ],
)
def test_plain_messages_take_the_fast_path(raw: bytes) -> None:
    assert parse_fast(raw, LIMITS) == whole_way(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"uid":"u1","uid":"u2","system":"gregor","body":{"create":{"x":{"category":"a"}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a"},"x":{"category":"b"}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a","body":{"t":1,"t":2}}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a","body":{"t":"u","t":"v"}}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a","body":9007199254740993}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a","body":"\\ud800"}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a","body":[[[[1]]]]}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a","body":"%b"}}}}' % (b"y" * 60),
        b'{"system":"gregor","body":{"create":{"x":{"category":"a"},"y":{"category":"b"}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a"}},"dismiss":{"ids":["y"]}}}',
        b'{"uid":"no uid","system":"gregor","body":{"create":{"x":{"category":"a"}}}}',
        b'{"system":"gregor","body":{"create":{"-":{"category":"a"}}}}',
        b'{"system":"gregor","body":{"create":{"x":{"category":"a."}}}}',
        b'{"system":"other","body":{"create":{"x":{"category":"a"}}}}',
        b"[" * 100_000,
        b"",
    ],
)
def test_parse_fast_leaves_other_messages(raw: bytes) -> None:
    assert parse_fast(raw, LIMITS) is None


@pytest.mark.parametrize("body", [b'{"t":"v"}', b"{}", b"[]", b'"v"'])
def test_brackets_around_a_body_count(body: bytes) -> None:
    raw = b'{"system":"gregor","body":{"create":{"x":{"category":"a","body":%b}}}}' % body
    fits = Limits(nesting=5 if body[:1] in b"{[" else 4)

    assert parse_fast(raw, fits) is not None
    assert (parse_fast(raw, Limits(nesting=4)) is None) is (body[:1] in b"{[")
