"""Fingerprints: equal for equal content however it is written, different for different content."""

from hashlib import sha256
from typing import Any

import pytest

from gregor.core.limits import Limits
from gregor.core.messages.fingerprint import content_hash, fingerprint
from gregor.core.messages.model import Message, Update
from gregor.core.messages.parse import parse_message

ITEM = {"category": "c", "times": {"created": 5, "expires": "+9", "remind_at": [7, 6]}, "body": {"a": 1, "b": [2]}}


def parsed(body: Any, system: str = "gregor", **more: Any) -> Message:
    return parse_message({"system": system, "body": body, **more}, Limits())


def printed(item: Any) -> bytes:
    content = parsed({"create": {"x": item}}).content
    assert isinstance(content, Update)
    return fingerprint(content.create[0])


@pytest.mark.parametrize(
    "same",
    [
        {**ITEM, "for_device": None},
        {**ITEM, "body": {"b": [2.0], "a": 1}},
        {**ITEM, "times": {"created": 5.0, "expires": "+9.000", "remind_at": [6, 7, 6.0]}},
    ],
)
def test_equal_content_has_equal_fingerprints(same: Any) -> None:
    assert printed(same) == printed(ITEM)


def test_null_and_absent_have_equal_fingerprints() -> None:
    bare = {"category": "c"}

    assert printed({**bare, "times": {"remind_at": []}, "body": None, "for_device": None}) == printed(bare)
    assert printed({**bare, "times": None}) == printed({**bare, "times": {"created": None, "expires": None}})


@pytest.mark.parametrize(
    "other",
    [
        {**ITEM, "category": "d"},
        {**ITEM, "for_device": "phone"},
        {**ITEM, "for_device": "*"},
        {**ITEM, "body": {"a": 1, "b": [3]}},
        {**ITEM, "body": None},
        {**ITEM, "times": {"created": 5.000001, "expires": "+9", "remind_at": [7, 6]}},
        {**ITEM, "times": {"expires": "+9", "remind_at": [7, 6]}},
        {**ITEM, "times": {"created": 5, "expires": 14, "remind_at": [7, 6]}},
        {**ITEM, "times": {"created": 5, "expires": "+9", "remind_at": [7]}},
        {**ITEM, "times": {"created": 5, "expires": "+9", "remind_at": [7, "+1"]}},
    ],
)
def test_other_content_has_another_fingerprint(other: Any) -> None:
    assert printed(other) != printed(ITEM)


def test_stored_fingerprints_never_change() -> None:
    as_hashed = b'c  5000000 +9000000 6000000 7000000 {"a":1,"b":[2]}'

    assert printed(ITEM) == sha256(as_hashed).digest()[:8] == bytes.fromhex("d767cfc4a3220a1b")


BOTH: dict[str, Any] = {
    "create": {"x": ITEM, "y": {"category": "d"}},
    "dismiss": {"ids": ["p", "q"], "intervals": [{"category": "c", "skip": ["k", "l"]}, {"category_prefix": "c"}]},
}


def test_content_hash_ignores_order() -> None:
    intervals = [{"category_prefix": "c."}, {"skip": ["l", "k"], "category": "c"}]
    create = {"y": {"category": "d", "times": {}}, "x": ITEM}
    turned = {"dismiss": {"intervals": intervals, "ids": ["q", "p", "q"]}, "create": create}

    assert content_hash(parsed(turned, id="m", device="phone")) == content_hash(parsed(BOTH))


@pytest.mark.parametrize(
    "other",
    [
        parsed({**BOTH, "create": {"x": ITEM}}),
        parsed({**BOTH, "create": {"z": ITEM, "y": {"category": "d"}}}),
        parsed({"create": BOTH["create"]}),
        parsed({**BOTH, "dismiss": {**BOTH["dismiss"], "ids": ["p"]}}),
        parsed({**BOTH, "dismiss": {**BOTH["dismiss"], "intervals": [{"category": "c"}, {"category_prefix": "c"}]}}),
        parsed({"flush": True}),
        parsed(BOTH, "kbfs"),
    ],
)
def test_different_content_has_different_hashes(other: Message) -> None:
    assert content_hash(other) != content_hash(parsed(BOTH))


def test_stored_content_hash_of_an_unlimited_sender_never_changes() -> None:
    expected = "666ef7d438335f1f5583dd474e8aa1f3f14425315c649adfe557606e6d6d2a8b"

    assert content_hash(parsed(BOTH)).hex() == content_hash(parsed(BOTH), None).hex() == expected


@pytest.mark.parametrize(
    ("body", "system", "is_other"),
    [
        ({"dismiss": {"ids": ["p"]}}, "gregor", True),
        (BOTH, "gregor", True),
        ({"create": BOTH["create"]}, "gregor", False),
        ({"dismiss": {"intervals": [{"category": "c"}]}}, "gregor", False),
        ({"flush": True}, "gregor", False),
        (1, "kbfs", False),
    ],
)
def test_limits_belong_to_the_content_if_they_decide_what_is_dismissed(body: Any, system: str, is_other: bool) -> None:
    message = parsed(body, system)
    hashes = [content_hash(message, limits) for limits in (None, (), ("c",), ("c", "d"))]

    assert len(set(hashes)) == (4 if is_other else 1)


def test_external_hash_has_system_and_body() -> None:
    said = {content_hash(parsed(body, system)) for system in ("a", "b") for body in (None, 1, "x")}

    assert len(said) == 6
    assert content_hash(parsed({"b": 1, "a": 2}, "a")) == content_hash(parsed({"a": 2.0, "b": 1}, "a"))
