"""Unsubscribe links: a GET changes nothing, any POST unsubscribes, no login is needed."""

from __future__ import annotations

import pytest

from gregor.core.notify.contact import parse_preferences, preferences_document
from gregor.core.notify.unsubscribe_token import derive_key, make_token
from tests.support.api import SECRET, Api, code_of

KEY = derive_key(SECRET)


def path(*categories: str, key: bytes = KEY) -> str:
    return f"/v1/unsubscribe/{make_token(key, 'alice', categories)}"


async def preferences(api: Api) -> dict[str, dict[str, bool]]:
    return preferences_document(await api.store.contacts.preferences("alice"))


async def test_one_click_post_unsubscribes(api: Api) -> None:
    await api.store.contacts.put_preferences("alice", parse_preferences({"user": {"push": True}}))

    answer = await api.call("POST", path("user", "bill"), "", data={"List-Unsubscribe": "One-Click"})

    assert answer.status_code == 200
    assert await preferences(api) == {"user": {"push": True, "email": False}, "bill": {"email": False}}
    assert (await api.call("POST", path("user", "bill"), "")).status_code == 200, "again, as safely"


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({}, b""),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n',
        ),
        ({"Content-Type": "text/plain", "Content-Encoding": "gzip"}, b"\xff" * 1_024),
        ({"Content-Type": "no type at all"}, b"{"),
        ({"Origin": "https://webmail.example"}, b"List-Unsubscribe=One-Click"),
        ({"Origin": "null"}, b"List-Unsubscribe=One-Click"),
        ({"Authorization": "Bearer nonsense", "Cookie": "a=b"}, b""),
    ],
)
async def test_unsubscribe_accepts_any_body_and_origin(api: Api, headers: dict[str, str], content: bytes) -> None:
    answer = await api.call("POST", path("user"), "", headers=headers, content=content)

    assert answer.status_code == 200
    assert await preferences(api) == {"user": {"email": False}}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_get_of_the_link_changes_nothing(api: Api, method: str) -> None:
    answer = await api.call(method, path("user"), "", params={"utm_source": "scanner"})

    assert answer.status_code in (200, 204)
    assert await preferences(api) == {}


async def test_page_has_one_button_that_posts(api: Api) -> None:
    answer = await api.call("GET", path("user.joined", "bill"), "")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.count("<button") == answer.text.count('<form method="post">') == 1
    assert "action=" not in answer.text and "<script" not in answer.text and "href=" not in answer.text
    assert "bill, user.joined" in answer.text and "alice" not in answer.text
    assert "form-action 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


async def test_no_referer_contains_the_link(api: Api) -> None:
    """The error log of nginx contains the Referer, also that of the request for the favicon."""
    for link in (path("user"), path("user")[:-1]):
        for method in ("GET", "POST"):
            answer = await api.call(method, link, "")

            # With "no-referrer" a browser would send the form with the origin null.
            assert answer.headers.get_list("referrer-policy") == ["strict-origin"]


@pytest.mark.parametrize(
    ("asked", "lang", "direction", "button"),
    [
        ("", "en", "ltr", "Unsubscribe"),
        ("xx, it-IT;q=0.5, de;q=0.9", "de", "ltr", "Abbestellen"),
        ("ar-EG", "ar", "rtl", "إلغاء الاشتراك"),
        ("\x00;;;q=,", "en", "ltr", "Unsubscribe"),
    ],
)
async def test_page_is_translated(api: Api, asked: str, lang: str, direction: str, button: str) -> None:
    answer = await api.call("GET", path("user"), "", headers={"Accept-Language": asked})

    assert f'<html lang="{lang}" dir="{direction}">' in answer.text
    assert f"<button>{button}</button>" in answer.text


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "link",
    [
        path("user", key=derive_key("somebody else's")),
        path("user")[:-1],
        "/v1/unsubscribe/" + "A" * 700,
        "/v1/unsubscribe/%3Cscript%3E",
    ],
)
async def test_invalid_link_is_a_plain_404_page(api: Api, method: str, link: str) -> None:
    answer = await api.call(method, link, "")

    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "This link is not valid." in answer.text and "script" not in answer.text
    assert await preferences(api) == {}


async def test_unsubscribe_body_over_1_kib_is_refused(api: Api) -> None:
    answer = await api.call("POST", path("user"), "", content=b"x" * 1_025)

    assert code_of(answer) == (413, "message_too_large")
    assert await preferences(api) == {}


async def test_link_for_all_categories_ends_all_mail(api: Api) -> None:
    await api.store.contacts.put_preferences("alice", parse_preferences({"user": {"email": True, "push": True}}))

    answer = await api.call("POST", path("*"), "")

    assert answer.status_code == 200
    assert await preferences(api) == {"user": {"email": False, "push": True}, "*": {"email": False}}


async def test_links_of_an_older_secret_are_valid() -> None:
    async with Api(link_secret="new,old") as api:
        for secret in ("new", "old", SECRET):
            assert (await api.call("POST", path("user", key=derive_key(secret)), "")).status_code == 200


async def test_devices_audience_serves_unsubscribe_links() -> None:
    async with Api(ingest_audience="devices") as api:
        assert (await api.call("POST", path("user"), "")).status_code == 200


async def test_other_paths_check_the_origin(api: Api) -> None:
    answer = await api.call("GET", "/healthz", headers={"Origin": "https://webmail.example"})

    assert code_of(answer) == (403, "origin_not_allowed")
