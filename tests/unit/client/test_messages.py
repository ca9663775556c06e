"""Messages as a client writes them."""

import json
from typing import Any

import pytest

from gregor.client.messages import catches, creation, dismissal, needs_id, snoozed
from gregor.core.json_text import canonical_json, decode_json, decode_published
from gregor.core.limits import Limits

ITEM = {"times": {"created": 5}, "category": "user.joined"}


def test_creation_contains_only_given_fields() -> None:
    assert creation("a", "mail") == {"system": "gregor", "body": {"create": {"a": {"category": "mail"}}}}


def test_empty_or_false_body_is_sent() -> None:
    bodies: list[Any] = [{}, [], 0, False, ""]
    for body in bodies:
        assert creation("a", "mail", body)["body"]["create"]["a"]["body"] == body


def test_dismissal_has_ids_and_one_interval() -> None:
    message = dismissal(["a"], category_prefix="", end=7, skip=["c", "b"])

    assert message["body"]["dismiss"] == {
        "ids": ["a"],
        "intervals": [{"category_prefix": "", "end": 7, "skip": ["b", "c"]}],
    }


@pytest.mark.parametrize(
    ("interval", "is_caught"),
    [
        ({"category": "user.joined", "begin": 5, "end": 5}, True),
        ({"category": "user.joined", "begin": 5.1}, False),
        ({"category": "user.joined", "end": 4.9}, False),
        ({"category": "user"}, False),
        ({"category_prefix": "user"}, True),
        ({"category_prefix": "user."}, True),
        ({"category_prefix": "use"}, False),
        ({"category_prefix": ""}, True),
        ({"category": "user.joined", "skip": ["a"]}, False),
    ],
)
def test_interval_catches_matching_items(interval: dict[str, object], is_caught: bool) -> None:
    assert catches(interval, "a", ITEM) is is_caught


def test_interval_with_an_end_needs_no_id() -> None:
    assert not needs_id(dismissal(category="mail", end=7))
    assert needs_id(dismissal(category="mail"))


def test_snooze_copies_body_and_future_times() -> None:
    times = {"created": 5, "expires": 90, "remind_at": [10, 50]}
    item = {"times": times, "for_device": None, "category": "mail", "body": {"n": 1}}

    message = snoozed("a", item, 20)

    (name,) = message["body"]["create"]
    assert message == snoozed("a", item, 20)
    assert (message["id"], message["not_before"]) == (name, 20)
    assert message["body"]["create"][name] == {
        "times": {"expires": 90, "remind_at": [50]},
        "category": "mail",
        "body": {"n": 1},
    }
    assert snoozed("a", item, 21)["id"] != name != "a"


def test_snooze_after_expiry_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="expires"):
        snoozed("a", {"times": {"created": 5, "expires": 20}, "category": "mail"}, 20)


@pytest.mark.parametrize(
    ("for_device", "device", "comes_to"), [("*", "phone", "phone"), ("*", None, "*"), ("tablet", None, "tablet")]
)
def test_snoozed_copy_is_for_the_snoozing_device(for_device: str, device: str | None, comes_to: str) -> None:
    item = {"times": {"created": 5}, "for_device": for_device, "category": "mail", "body": None}

    message = snoozed("a", item, 20, device)

    assert message["body"]["create"][message["id"]]["for_device"] == comes_to


@pytest.mark.parametrize("number", [1e20, 9007199254740992.0, -1e17, 1e300])
def test_snoozed_copy_keeps_a_large_double(number: float) -> None:
    body = canonical_json({"n": decode_json(json.dumps(number).encode(), Limits())})
    item = decode_published(b'{"category":"a","for_device":null,"times":{"created":1},"body":%s}' % body)
    text = json.dumps(snoozed("a", item, 2_000_000_000)).encode()

    assert canonical_json(decode_json(text, Limits())["body"]["create"]).count(body) == 1
