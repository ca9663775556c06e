"""Unsubscribe tokens: creation, content, and rejection of all others."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.notify.unsubscribe_token import (
    ALL_CATEGORIES,
    MAX_TOKEN_CHARACTERS,
    derive_key,
    make_token,
    parse_token,
)

KEY, OTHER = derive_key("a secret"), derive_key("another")


@pytest.mark.parametrize("categories", [["user.joined"], [ALL_CATEGORIES], ["c" * 128], ["a", "b.c", "a"]])
def test_token_has_user_and_categories(categories: list[str]) -> None:
    uid = "u:" + "x" * 126
    token = make_token(KEY, uid, categories)

    assert parse_token([OTHER, KEY], token) == (uid, tuple(sorted(set(categories))))
    assert set(token) <= set(string.ascii_letters + string.digits + "-_")


@given(count=st.integers(1, 40), length=st.integers(1, 128))
def test_token_always_fits_into_a_link(count: int, length: int) -> None:
    categories = [f"c{n}".ljust(length, "x") for n in range(count)]
    token = make_token(KEY, "u" * 128, categories)

    assert len(token) <= MAX_TOKEN_CHARACTERS
    assert parse_token([KEY], token) in (("u" * 128, tuple(sorted(categories))), ("u" * 128, (ALL_CATEGORIES,)))


def test_too_many_categories_become_all() -> None:
    assert parse_token([KEY], make_token(KEY, "alice", ["c" * 128] * 9)) == ("alice", ("c" * 128,))
    assert parse_token([KEY], make_token(KEY, "alice", [f"{n}" * 128 for n in range(9)])) == (
        "alice",
        (ALL_CATEGORIES,),
    )


def test_token_of_another_key_is_rejected() -> None:
    assert parse_token([OTHER], make_token(KEY, "alice", ["user"])) is None
    assert parse_token([], make_token(KEY, "alice", ["user"])) is None


def test_secret_itself_does_not_sign_tokens() -> None:
    assert derive_key("a secret") != b"a secret"
    assert parse_token([b"a secret"], make_token(KEY, "alice", ["user"])) is None


@given(at=st.integers(0, 40), letter=st.sampled_from(string.ascii_letters))
def test_modified_token_is_rejected(at: int, letter: str) -> None:
    token = make_token(KEY, "alice", ["user.joined-here"])
    changed = token[:at] + letter + token[at + 1 :]

    assert changed == token or parse_token([KEY], changed) is None


@pytest.mark.parametrize(
    "token", ["", "x", "é", "!" * 20, "A" * 601, "A" * 30, " " + make_token(KEY, "alice", ["user"])]
)
def test_malformed_token_is_rejected(token: str) -> None:
    assert parse_token([KEY], token) is None


def test_token_with_invalid_names_is_rejected() -> None:
    assert parse_token([KEY], make_token(KEY, "al ice", ["user"])) is None
    assert parse_token([KEY], make_token(KEY, "alice", ["user..x"])) is None
