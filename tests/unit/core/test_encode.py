"""Encoded responses, byte for byte as in the protocol."""

import json
from typing import Any

from gregor.core.items.sync import (
    ZERO_DIGEST,
    Cursor,
    Delta,
    Full,
    HistoryEntry,
    Removal,
    StoredExternal,
    StoredItem,
    Unchanged,
    View,
    cursor_for,
    parse_cursor,
)
from gregor.core.messages.encode import (
    encode_history,
    encode_item,
    encode_receipt,
    encode_state,
    encode_state_at,
    encode_sync,
    without_body,
)
from gregor.core.messages.model import IgnoredReason, Receipt, RemovalReason
from gregor.core.notify.timeline import TimelineEvent

EPOCH = b"\xab\xcd\xef"
BACKEND = View()
PHONE = View("phone", ("user",))
DIGEST = bytes(range(32))
ITEM = b'{"body":{"a":1,"category":"c","for_device":null},"category":"c","for_device":null,"times":{"created":7}}'
ITEM_TRIMMED = b'{"body":null,"category":"c","for_device":null,"times":{"created":7},"trimmed":true}'

CREATED = TimelineEvent(7_000_000, "created")


def stored(item_id: str, created_us: int, body: int = 0) -> StoredItem:
    return StoredItem(item_id, "c", created_us, 1, b'{"body":%d}' % body)


def entry(gone: Removal | None, json: bytes = ITEM, is_trimmed: bool = False) -> HistoryEntry:
    return HistoryEntry("aa", "c", 7_000_000, 12, json, gone, is_trimmed)


def read(text: bytes) -> Any:
    assert b" " not in text
    return json.loads(text)


def test_receipt_lists_created_dismissed_ignored() -> None:
    receipt = Receipt(
        EPOCH, 12, False, ("a", "b"), ("c",), (("d", IgnoredReason.DUPLICATE), ("e", IgnoredReason.STALE))
    )

    assert encode_receipt(receipt, BACKEND, False) == (
        b'{"cursor":"abcdef-12","seq":12,"created":["a","b"],"dismissed":["c"],"ignored":{"d":"duplicate","e":"stale"}}'
    )


def test_receipt_without_effect_is_unchanged() -> None:
    assert encode_receipt(Receipt(EPOCH, 3, True), BACKEND, False) == (
        b'{"cursor":"abcdef-3","seq":3,"created":[],"dismissed":[],"ignored":{},"unchanged":true}'
    )


def test_external_receipt_has_only_the_position() -> None:
    assert encode_receipt(Receipt(EPOCH, 3), BACKEND, True) == b'{"cursor":"abcdef-3","seq":3}'
    assert encode_receipt(Receipt(EPOCH, 3, True), BACKEND, True) == b'{"cursor":"abcdef-3","seq":3,"unchanged":true}'


def test_receipt_cursor_belongs_to_the_senders_view() -> None:
    assert read(encode_receipt(Receipt(EPOCH, 3), PHONE, True))["cursor"] == str(cursor_for(EPOCH, PHONE, 3))


def test_unchanged_is_at_most_100_bytes() -> None:
    text = encode_sync(Unchanged(EPOCH, 2**40 - 1, DIGEST), View("d" * 128, ("user", "sys")))

    assert len(text) <= 100
    assert read(text)["sync"] == "unchanged"
    assert parse_cursor(read(text)["cursor"]) == Cursor(EPOCH.hex() + View("d" * 128, ("user", "sys")).tag, 2**40 - 1)


def test_unchanged_may_bring_external_messages() -> None:
    external = (StoredExternal(10, "kbfs.favorites", b'{"a":1}'), StoredExternal(11, "s", b"null"))

    assert encode_sync(Unchanged(EPOCH, 12, DIGEST, external), BACKEND) == (
        b'{"system":"gregor","sync":"unchanged","seq":12,"cursor":"abcdef-12",'
        b'"external":[{"system":"kbfs.favorites","seq":10,"body":{"a":1}},{"system":"s","seq":11,"body":null}]}'
    )


def test_a_delta_has_creations_and_dismissals() -> None:
    delta = Delta(EPOCH, 12, DIGEST, (stored("b", 5), stored("a", 5, 1)), ("x", "y"), external_gap=True)

    assert encode_sync(delta, BACKEND) == (
        b'{"system":"gregor","sync":"delta","seq":12,"cursor":"abcdef-12","digest":"%s",'
        b'"body":{"create":{"a":{"body":1},"b":{"body":0}},"dismiss":{"ids":["x","y"]}},"external_gap":true}'
        % DIGEST.hex().encode()
    )


def test_delta_omits_its_empty_half() -> None:
    assert read(encode_sync(Delta(EPOCH, 2, DIGEST, (), ("x",)), BACKEND))["body"] == {"dismiss": {"ids": ["x"]}}
    assert read(encode_sync(Delta(EPOCH, 2, DIGEST, (stored("a", 1),), ()), BACKEND))["body"] == {
        "create": {"a": {"body": 0}}
    }


def test_empty_full_sync_has_digest_and_no_body() -> None:
    assert read(encode_sync(Full(EPOCH, 0, ZERO_DIGEST, ()), BACKEND)) == {
        "system": "gregor",
        "sync": "full",
        "seq": 0,
        "cursor": "abcdef-0",
        "digest": "0" * 64,
    }


def test_state_is_ordered_and_has_the_badge() -> None:
    full = Full(EPOCH, 12, DIGEST, (stored("b", 9), stored("a", 9), stored("c", 8)))

    text = encode_state(full, BACKEND, badge=2)

    assert list(read(text)) == ["cursor", "digest", "badge", "items"]
    assert read(text) | {"items": list(read(text)["items"])} == {
        "cursor": "abcdef-12",
        "digest": DIGEST.hex(),
        "badge": 2,
        "items": ["c", "a", "b"],
    }


def test_state_at_has_no_cursor_and_no_badge() -> None:
    assert encode_state_at(Full(EPOCH, 12, ZERO_DIGEST, (stored("a", 9),))) == (
        b'{"digest":"%s","items":{"a":{"body":0}}}' % (b"0" * 64)
    )


def test_item_response_has_its_timeline() -> None:
    assert read(encode_item(entry(None), [CREATED])) == {
        "id": "aa",
        "item": json.loads(ITEM),
        "seq": 12,
        "gone": None,
        "timeline": [{"at": 7, "event": "created"}],
    }


def test_dismissed_item_has_time_reason_and_device() -> None:
    answer = read(encode_item(entry(Removal(8_500_000, RemovalReason.INTERVAL, "phone", 13)), []))

    assert answer["gone"] == {"at": 8.5, "reason": "interval", "device": "phone", "seq": 13}


def test_expired_item_names_no_device() -> None:
    expired = read(encode_item(entry(Removal(8_000_000, RemovalReason.EXPIRED, None, 13)), []))
    dismissed = read(encode_item(entry(Removal(8_000_000, RemovalReason.DISMISSED, "", 13)), []))

    assert (expired["gone"]["reason"], expired["gone"]["device"]) == ("expired", None)
    assert dismissed["gone"]["device"] is None


def test_history_page_keeps_the_given_order() -> None:
    entries = [entry(Removal(8_000_000, RemovalReason.DISMISSED, None, 13)), entry(None)]

    answer = read(encode_history(entries))

    assert [each["gone"] is None for each in answer["entries"]] == [False, True]
    assert list(answer["entries"][0]) == ["id", "item", "seq", "gone"]
    assert encode_history([]) == b'{"entries":[]}'


def test_trimmed_item_has_no_body() -> None:
    assert without_body(ITEM) == ITEM_TRIMMED
    assert without_body(ITEM_TRIMMED) == ITEM_TRIMMED
    assert read(encode_item(entry(None, ITEM, is_trimmed=True), []))["item"] == json.loads(ITEM_TRIMMED)
