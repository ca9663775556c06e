"""Names, uids and sets of category prefixes."""

from __future__ import annotations

import time
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.ids import (
    are_names,
    covers,
    intersect,
    is_allowed,
    is_name,
    is_user_id,
    name_error,
    normalize_prefixes,
    user_id_error,
)
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import decode_delivery_id, encode_delivery_id
from gregor.core.notify.unsubscribe_token import make_token, parse_token
from gregor.store.redis.keys import Keys
from tests.support.names import USER_IDS

SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab", "a-b", "0"]), min_size=1, max_size=4)
PREFIXES = st.lists(SEGMENTS.map(".".join), max_size=30)
# "-" sorts before "." and the others after it.
DEEP = st.lists(st.sampled_from(["a", "a-", "a0", "aA", "a_", "aa"]), min_size=1, max_size=7).map(".".join)
KEYS = Keys("gregor")

# ---- names


@pytest.mark.parametrize("uid", ["alice", "auth0|123", "a+b@c.d", "google-oauth2|1", "a", "9:x", "a" * 128])
def test_uid_of_an_identity_provider_is_valid(uid: str) -> None:
    assert is_user_id(uid)


@pytest.mark.parametrize("name", ["auth0|123", "a+b@c.d"])
def test_other_names_allow_no_plus_and_no_bar(name: str) -> None:
    assert not is_name(name)


@given(
    st.lists(
        st.text("aZ9._:@-\n é", max_size=3)
        | st.integers(126, 130).map(lambda size: "a" * size)
        | st.integers(0, 1)
        | st.none(),
        max_size=4,
    )
)
def test_names_checked_together_are_those_checked_alone(texts: list[object]) -> None:
    assert are_names(texts) == all(map(is_name, texts))


@given(st.text(max_size=130) | st.none() | st.integers())
def test_every_name_is_a_valid_uid(text: object) -> None:
    assert is_user_id(text) or not is_name(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a/b", "The character '/' (at position 2) is not allowed here."),
        ("ünal", "The character 'ü' (at position 1) is not allowed here."),
        ("a b", "The character ' ' (at position 2) is not allowed here."),
        ("a\n", "The character '\\n' (at position 2) is not allowed here."),
        ("|a", "This begins with '|'."),
        ("", "This must not be empty."),
        ("a" * 129, "This has 129 characters."),
        (7, "This must be a string."),
    ],
)
def test_uid_error_names_the_character(text: object, reason: str) -> None:
    assert not is_user_id(text)
    assert user_id_error(text).startswith(reason + " Allowed are 1 to 128 of the characters")


def test_error_of_a_name_names_the_character() -> None:
    assert name_error("a|b").startswith("The character '|' (at position 2)")


# ---- uids in keys, paths and tokens


@given(USER_IDS, USER_IDS, st.sampled_from(["a", "a:b", "x@y"]), st.sampled_from(["a", "b", "a:b"]))
def test_different_uids_share_no_redis_key(left: str, right: str, item: str, other: str) -> None:
    if left != right:
        assert KEYS.of_user(left) != KEYS.of_user(right)
    if (left, item) != (right, other):
        assert KEYS.deliveries(left, item) != KEYS.deliveries(right, other)


@given(USER_IDS)
def test_uid_does_not_change_the_hash_tag(uid: str) -> None:
    key = KEYS.deliveries(uid, "a")

    assert key.startswith(KEYS.prefix(uid))
    assert key.count("{") == key.count("}") == 1


@given(USER_IDS)
def test_uid_survives_path_delivery_id_and_token(uid: str) -> None:
    intent = Intent(uid, "a", IntentKind.ITEM, "apns", "phone")

    assert unquote(quote(uid, safe="")) == unquote(quote(uid, safe="|+")) == uid
    assert decode_delivery_id(encode_delivery_id(intent)) == intent
    assert parse_token([b"key"], make_token(b"key", uid, ["news"])) == (uid, ("news",))


# ---- prefixes


@given(PREFIXES, SEGMENTS.map(".".join))
def test_normal_prefixes_are_the_fewest(prefixes: list[str], name: str) -> None:
    fewest = normalize_prefixes(prefixes)

    assert fewest is not None
    assert is_allowed(fewest, name) == any(covers(prefix, name) for prefix in prefixes)
    assert list(fewest) == sorted(set(fewest))
    assert not any(covers(one, other) for one in fewest for other in fewest if one != other)
    assert normalize_prefixes([*prefixes, ""]) is None


@given(st.lists(DEEP, min_size=9, max_size=60), st.data())
def test_deep_names_are_found_among_many_prefixes(prefixes: list[str], data: st.DataObject) -> None:
    fewest = normalize_prefixes(prefixes)
    assert fewest is not None
    for name in (
        data.draw(DEEP),
        data.draw(st.sampled_from(prefixes)) + data.draw(st.sampled_from("-_0.")) + "a.a.a.a",
    ):
        is_covered = any(covers(prefix, name) for prefix in prefixes)

        assert is_allowed(fewest, name) == is_covered
        assert is_allowed(tuple(sorted(prefixes)), name) == is_covered


@given(PREFIXES, PREFIXES, SEGMENTS.map(".".join))
def test_intersection_allows_what_both_allow(left: list[str], right: list[str], name: str) -> None:
    one, other = normalize_prefixes(left), normalize_prefixes(right)

    assert is_allowed(intersect(one, other), name) == (is_allowed(one, name) and is_allowed(other, name))
    assert intersect(one, None) == intersect(None, one) == intersect(one, one) == one


def test_long_prefixes_are_normalized_fast() -> None:
    """The two filters of one query took 10 ms, before its token was checked."""
    long = [f"{'a.' * 60}{number}" for number in range(100)]
    began_s = time.thread_time()
    for _ in range(200):
        normalize_prefixes(long)

    assert time.thread_time() - began_s < 0.4


def test_many_prefixes_take_no_quadratic_time() -> None:
    """A token may have thousands: each pair of these would be 200 million comparisons, half a minute at the least."""
    many = [f"a{n}.b" for n in range(20_000)]
    began_s = time.thread_time()
    every = normalize_prefixes(many)

    assert every == tuple(sorted(many))
    assert intersect(every, every) == every
    assert all(is_allowed(every, f"{name}.c") for name in many)
    assert time.thread_time() - began_s < 5


def test_deep_names_take_little_time() -> None:
    """The history of 2,000 items with categories of 62 segments took 100 ms of one step."""
    prefixes = normalize_prefixes(f"p{number:02}" for number in range(100))
    names = [f"p0{number}{'.c' * 61}" for number in range(100, 2_100)]
    began_s = time.thread_time()

    assert not any(is_allowed(prefixes, name) for name in names)
    assert time.thread_time() - began_s < 0.03
