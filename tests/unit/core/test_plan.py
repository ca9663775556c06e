"""Plans: stamps, offsets, bounds in time, what a sender may do, where an interval ends, what is remembered."""

import hashlib
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.limits import DAY_US, HOUR_US, Limits
from gregor.core.messages.model import Commit, Creation, ExternalMessage, ResolvedInterval, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan

LIMITS = Limits()
NOW_US = 1_790_000_000_250_000
NOW = 1_790_000_000.25
SEED = b"abc"
BACKEND = Sender()
PHONE = Sender("phone")


def planned(document: dict[str, Any], sender: Sender = BACKEND) -> Commit:
    return plan(parse_message(document, LIMITS), sender, NOW_US, SEED, LIMITS)


def update(create: Any = None, ids: Any = None, intervals: Any = None, **more: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": create, "dismiss": {"ids": ids, "intervals": intervals}}, **more}


def made(sender: Sender = BACKEND, **item: Any) -> Creation:
    (creation,) = planned(update({"x": {"category": "c", **item}}), sender).creations
    return creation


def refusal(document: dict[str, Any], sender: Sender = BACKEND) -> tuple[str, list[str]]:
    with pytest.raises(Problem) as caught:
        planned(document, sender)
    return caught.value.code, [error.pointer for error in caught.value.errors]


def spans(create: Any, *intervals: Any) -> tuple[ResolvedInterval, ...]:
    return planned(update(create, None, list(intervals))).spans


def test_items_without_created_are_stamped_one_microsecond_apart_in_the_messages_order() -> None:
    items = {"z": {"category": "c"}, "m": {"category": "c", "times": {"created": 5}}, "a": {"category": "c"}}

    commit = planned(update(items))

    assert [(c.id, c.created_us, c.is_stamped) for c in commit.creations] == [
        ("z", NOW_US, True),
        ("m", 5_000_000, False),
        ("a", NOW_US + 1, True),
    ]
    assert (commit.now_us, commit.epoch_seed, commit.sender) == (NOW_US, SEED, BACKEND)


def test_offsets_count_from_created_and_go_out_absolute() -> None:
    times = {"created": 100, "expires": "+31536000", "remind_at": ["+2.5", 102.5, 101]}

    creation = made(times=times)

    assert creation.expires_us == 31_536_100_000_000
    assert creation.remind_at_us == (101_000_000, 102_500_000)
    assert json.loads(creation.json)["times"] == {"created": 100, "expires": 31536100, "remind_at": [101, 102.5]}


def test_an_item_goes_out_with_exactly_its_members_in_canonical_order() -> None:
    assert made(body={"b": 1.0, "a": "é"}, times={"created": 7}).json == (
        '{"body":{"a":"é","b":1},"category":"c","for_device":null,"times":{"created":7}}'.encode()
    )
    assert made(for_device="*", times={"created": 7}).json == (
        b'{"body":null,"category":"c","for_device":"*","times":{"created":7}}'
    )


bodies = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(bodies, st.integers(0, NOW_US), st.lists(st.integers(0, NOW_US), max_size=3))
def test_the_leaf_is_that_of_what_a_client_gets(body: Any, created_us: int, reminders_us: list[int]) -> None:
    times = {"created": created_us / 1e6, "remind_at": [at / 1e6 for at in reminders_us]}

    creation = made(body=body, times=times)

    received = json.loads(creation.json, parse_int=float)  # as a browser reads it: every number is a double
    assert rfc8785.dumps(received) == creation.json
    assert hashlib.sha256(rfc8785.dumps(["x", received])).digest() == creation.leaf


def test_created_up_to_an_hour_ahead_is_taken_and_more_is_not() -> None:
    def document(created: float) -> dict[str, Any]:
        return update({"x": {"category": "c", "times": {"created": created}}})

    assert planned(document(NOW + 3600)).creations[0].created_us == NOW_US + HOUR_US
    assert refusal(document(NOW + 3600.000001)) == ("created_in_future", ["/body/create/x/times/created"])


def test_an_end_up_to_an_hour_ahead_is_taken_and_more_is_not() -> None:
    assert planned(update(None, None, [{"category": "c", "end": NOW + 3600}])).spans[0].end_us == NOW_US + HOUR_US
    assert refusal(update(None, None, [{"category": "c"}, {"category": "c", "end": NOW + 3601}])) == (
        "end_in_future",
        ["/body/dismiss/intervals/1/end"],
    )


def test_offsets_that_lead_out_of_range_are_refused_together() -> None:
    times = {"expires": "+9999999999", "remind_at": ["+9999999998"]}

    assert refusal(update({"x": {"category": "c", "times": times}})) == (
        "time_out_of_range",
        ["/body/create/x/times/expires", "/body/create/x/times/remind_at/0"],
    )


@pytest.mark.parametrize("for_device", [None, "*", "phone"])
def test_a_device_may_create_for_all_for_each_and_for_itself(for_device: str | None) -> None:
    assert made(PHONE, for_device=for_device).for_device == for_device


def test_a_device_may_not_create_for_another_but_the_backend_may() -> None:
    document = update({"x": {"category": "c", "for_device": "laptop"}})

    assert refusal(document, PHONE) == ("forbidden", ["/body/create/x/for_device"])
    assert planned(document).creations[0].for_device == "laptop"


def test_a_limited_sender_creates_and_dismisses_only_inside_its_prefixes() -> None:
    sender = Sender(category_filter=("user",))
    inside = [{"category": "user"}, {"category_prefix": "user.joined."}, {"category_prefix": "user"}]

    commit = planned(update({"x": {"category": "user.joined"}}, ["anything"], inside), sender)

    assert (len(commit.creations), commit.ids, len(commit.spans)) == (1, ("anything",), 3)


@pytest.mark.parametrize(
    ("create", "intervals", "pointer"),
    [
        ({"x": {"category": "users"}}, None, "/body/create/x/category"),
        (None, [{"category": "sys"}], "/body/dismiss/intervals/0/category"),
        (None, [{"category": "user.a"}, {"category_prefix": ""}], "/body/dismiss/intervals/1/category_prefix"),
    ],
)
def test_a_limited_sender_is_refused_outside_its_prefixes(create: Any, intervals: Any, pointer: str) -> None:
    for sender in (Sender(category_filter=("user",)), Sender("phone", ("user",))):
        assert refusal(update(create, None, intervals), sender) == ("category_not_allowed", [pointer])


def test_an_interval_with_an_end_is_taken_as_sent_and_without_begin_is_since_ever() -> None:
    assert spans({"x": {"category": "c"}}, {"category": "c", "end": 9, "skip": ["k"]}) == (
        ResolvedInterval("c", False, 0, 9_000_000, False, frozenset({"k"})),
    )


def test_an_interval_without_end_ends_at_the_latest_explicit_created_of_what_it_matches() -> None:
    items = {
        "a": {"category": "c.d", "times": {"created": 7}},
        "b": {"category": "c", "times": {"created": 9}},
        "stamped": {"category": "c"},
        "skipped": {"category": "c", "times": {"created": 11}},
        "other": {"category": "cc", "times": {"created": 12}},
    }

    assert spans(items, {"category_prefix": "c", "skip": ["skipped"]}, {"category": "c.d", "begin": 2}) == (
        ResolvedInterval("c", True, 0, 9_000_000, False, frozenset({"skipped"})),
        ResolvedInterval("c.d", False, 2_000_000, 7_000_000, False, frozenset()),
    )


def test_an_interval_that_matches_only_stamped_items_is_open_and_names_them() -> None:
    items = {"a": {"category": "c"}, "b": {"category": "c"}, "other": {"category": "d"}}

    assert spans(items, {"category": "c", "skip": ["b"]}) == (
        ResolvedInterval("c", False, 0, NOW_US, True, frozenset({"b"}), matches_own=("a",)),
    )


def test_an_interval_that_matches_none_of_the_items_is_open() -> None:
    items = {"a": {"category": "c", "times": {"created": 7}}}

    assert spans(items, {"category": "d"}, {"category": "c", "skip": ["a"]}) == (
        ResolvedInterval("d", False, 0, NOW_US, True, frozenset()),
        ResolvedInterval("c", False, 0, NOW_US, True, frozenset({"a"})),
    )


def test_an_interval_that_begins_after_the_end_it_takes_from_its_items_acts_on_nothing() -> None:
    assert spans({"a": {"category": "c", "times": {"created": 7}}}, {"category": "c", "begin": 8}) == ()


@pytest.mark.parametrize(
    ("document", "is_remembered"),
    [
        (update({"x": {"category": "c"}}), False),
        (update(None, ["x"]), False),
        (update(None, None, [{"category": "c", "end": 5}]), False),
        (update({"x": {"category": "c"}}, None, [{"category": "c"}]), False),
        (update({"x": {"category": "c"}}, None, [{"category": "d"}]), True),
        (update(None, None, [{"category": "c"}]), True),
        ({"system": "gregor", "body": {"flush": True}}, True),
        ({"system": "kbfs", "body": 1}, True),
    ],
)
def test_an_id_is_remembered_only_where_the_effect_depends_on_the_moment(
    document: dict[str, Any], is_remembered: bool
) -> None:
    message_id = planned({**document, "id": "m"}).message_id

    assert message_id is not None
    assert message_id.is_remembered is is_remembered


def test_a_message_id_is_kept_by_sender_and_system_for_its_time() -> None:
    own = planned({"system": "gregor", "body": {"flush": True}, "id": "m"}).message_id
    external = planned({"system": "kbfs", "body": 1, "id": "m"}, PHONE).message_id

    assert own is not None
    assert external is not None
    assert (own.key, own.keep_us) == ("\0gregor\0m", NOW_US + 30 * DAY_US)
    assert (external.key, external.keep_us) == ("phone\0kbfs\0m", NOW_US + DAY_US)


def test_a_message_without_id_is_known_by_its_content_alone() -> None:
    assert planned(update(None, ["x"])).message_id is None


def test_an_external_message_and_a_flush_are_commits_of_their_own_kind() -> None:
    external = planned({"system": "kbfs", "body": {"a": 1}}, PHONE)
    flush = planned({"system": "gregor", "body": {"flush": True}})

    assert (external.external, external.is_reset, external.sender) == (
        ExternalMessage("kbfs", b'{"a":1}'),
        False,
        PHONE,
    )
    assert (flush.external, flush.is_reset, flush.creations) == (None, True, ())
