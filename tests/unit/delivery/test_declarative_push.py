"""One Web Push body for all browsers: classic for service workers, declarative for Safari."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor_delivery.channels.push_payload import WEBPUSH_MAX_BYTES, webpush_payload
from tests.support.sample_pushes import DATA, push, withdrawal
from tests.support.webkit_push import ShownNotification, parse_as_webkit

APP = "https://app.example.com/inbox/"


def test_one_body_serves_all_browsers() -> None:
    body = webpush_payload(push(data={**DATA, "link": "/mail/7"}), APP)

    assert parse_as_webkit(body) == ShownNotification(
        title="kbob just joined",
        body="You shared files with bob.",
        navigate="https://app.example.com/mail/7",
        tag="c0ffee",
        app_badge=3,
        is_mutable=True,
        data={"gregor": {**DATA, "link": "/mail/7"}},
    )
    classic = json.loads(body)
    assert (classic["title"], classic["body"]) == ("kbob just joined", "You shared files with bob.")
    assert classic["gregor"] == {**DATA, "link": "/mail/7"}
    # The draft of the Push API reads these outside of `notification`.
    assert (classic["app_badge"], classic["mutable"]) == (3, True)


def test_without_an_app_url_it_is_classic() -> None:
    body = webpush_payload(push())

    assert json.loads(body).keys() == {"title", "body", "gregor"}
    assert parse_as_webkit(body) is None


@pytest.mark.parametrize(
    ("link", "opened"),
    [
        (None, APP),
        ("", APP),
        ("mail/7", "https://app.example.com/inbox/mail/7"),
        ("https://other.example.org/x?y#z", "https://other.example.org/x?y#z"),
        ("//other.example.org/x", APP),
        ("/\t/other.example.org/x", APP),
        # A browser reads the backslashes of these as slashes, too: the host is that of the app.
        ("/\\other.example.org", "https://app.example.com/\\other.example.org"),
        ("https:\\\\other.example.org", "https://app.example.com/inbox/\\\\other.example.org"),
        ("http:\\\\other.example.org", APP),
        ("keybase://chat/bob", APP),
        ("javascript:alert(1)", APP),
        ("data:text/html,x", APP),
        ("https://", APP),
        ("https://[bad", APP),
        ("/a b", APP),
    ],
)
def test_click_opens_a_page_of_the_web(link: str | None, opened: str) -> None:
    shown = parse_as_webkit(webpush_payload(push(data={**DATA, "link": link}), APP))

    assert shown is not None
    assert shown.navigate == opened


def test_push_without_a_title_is_declarative() -> None:
    only_text = parse_as_webkit(webpush_payload(push(title=""), APP))
    empty = parse_as_webkit(webpush_payload(push(title="", text=""), APP))

    assert only_text is not None
    assert (only_text.title, only_text.body) == ("You shared files with bob.", "")
    assert empty is not None
    assert empty.title == "app.example.com"


def test_push_without_a_badge_leaves_it_alone() -> None:
    shown = parse_as_webkit(webpush_payload(push(badge=None), APP))

    assert shown is not None
    assert shown.app_badge is None


def test_silent_push_is_not_declarative() -> None:
    assert parse_as_webkit(webpush_payload(withdrawal(), APP)) is None


@given(
    title=st.text(max_size=3_000),
    text=st.text(max_size=6_000),
    link=st.none() | st.text(max_size=2_000),
    badge=st.none() | st.integers(0, 2**40),
    count=st.integers(0, 300),
)
def test_every_body_is_declarative_and_fits(
    title: str, text: str, link: str | None, badge: int | None, count: int
) -> None:
    data = {**DATA, "link": link, "withdraw": ["0123456789abcdef"] * count}

    body = webpush_payload(push(title=title, text=text, badge=badge, data=data), APP)

    assert len(body) <= WEBPUSH_MAX_BYTES
    assert parse_as_webkit(body) is not None
