"""A mail as bytes, read back by the standard library's parser; and that no value can say more than it is."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.smtp.mime import compose, parse_address

NOW_US = 1_457_056_447_000_000
SENDER = parse_address('"Gregor, the bug" <no-reply@gregor.example>')
TO = parse_address("alice@example.com")
MAIL = MailMessage(
    to="alice@example.com",
    locale="it_IT",
    subject="Bob joined",
    text="Hello,\nalice.\n",
    html="<p>Hello, alice.</p>\n",
    message_id="<abc123@gregor.example>",
    unsubscribe_url="https://gregor.example/v1/unsubscribe/" + "x" * 400,
    in_reply_to="<first@gregor.example>",
)


def read(mail: MailMessage) -> EmailMessage:
    message = message_from_bytes(compose(mail, SENDER, TO, NOW_US), policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def test_a_mail_says_what_it_is_and_how_to_be_rid_of_it() -> None:
    message = read(MAIL)

    assert dict(message.items()) == {
        "Date": "Fri, 04 Mar 2016 01:54:07 +0000",
        "From": '"Gregor, the bug" <no-reply@gregor.example>',
        "To": "alice@example.com",
        "Subject": "Bob joined",
        "Message-ID": "<abc123@gregor.example>",
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
        "Precedence": "bulk",
        "Content-Language": "it-IT",
        "MIME-Version": "1.0",
        "In-Reply-To": "<first@gregor.example>",
        "References": "<first@gregor.example>",
        "List-Unsubscribe": f"<{MAIL.unsubscribe_url}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "Content-Type": message["Content-Type"],
    }
    assert message.get_content_type() == "multipart/alternative"


def test_a_long_unsubscribe_url_stays_on_one_line_as_it_is() -> None:
    assert f"\r\nList-Unsubscribe: <{MAIL.unsubscribe_url}>\r\n".encode() in compose(MAIL, SENDER, TO, NOW_US)


def test_the_text_comes_first_and_the_html_last() -> None:
    parts = [(part.get_content_type(), part.get_content()) for part in read(MAIL).iter_parts()]

    assert [kind for kind, _ in parts] == ["text/plain", "text/html"]
    assert [content.replace("\r\n", "\n") + "\n" for _, content in parts] == [MAIL.text, MAIL.html]


def test_without_html_a_mail_is_plain() -> None:
    message = read(replace(MAIL, html=None, unsubscribe_url=None))

    assert message.get_content_type() == "text/plain"
    assert "List-Unsubscribe" not in message


def test_an_attempt_made_again_is_the_same_mail_but_for_its_date() -> None:
    first, second = compose(MAIL, SENDER, TO, NOW_US), compose(MAIL, SENDER, TO, NOW_US + 60_000_000)

    assert first.split(b"\r\n", 1)[1] == second.split(b"\r\n", 1)[1]
    assert first != second


@given(subject=st.text(max_size=120), text=st.text(max_size=300), html=st.text(max_size=300) | st.none())
def test_whatever_is_written_no_header_is_added_and_no_line_is_too_long(
    subject: str, text: str, html: str | None
) -> None:
    raw = compose(replace(MAIL, subject=subject, text=text, html=html), SENDER, TO, NOW_US)
    head, _, _ = raw.partition(b"\r\n\r\n")
    names = [line.partition(b":")[0] for line in head.split(b"\r\n") if not line.startswith(b" ")]

    assert len(names) == 15 if html is not None else 16
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0
    assert raw.replace(b"\r\n", b"").count(b"\r") == 0
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert raw.isascii()
    assert raw.endswith(b"\r\n")


@pytest.mark.parametrize("line_end", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028"])
def test_a_subject_of_two_lines_is_one_line(line_end: str) -> None:
    message = read(replace(MAIL, subject=f"Hello{line_end}Bcc: eve@example.com"))

    assert message["Subject"] == "Hello Bcc: eve@example.com"
    assert "Bcc" not in message


@given(subject=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=120))
def test_a_subject_is_read_as_it_was_written(subject: str) -> None:
    assert read(replace(MAIL, subject=subject))["Subject"] == subject


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_a_text_is_read_as_it_was_written(text: str) -> None:
    content = read(replace(MAIL, text=text, html=None)).get_payload(decode=True)

    assert isinstance(content, bytes)
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert content.decode().replace("\r\n", "\n") == (plain if plain.endswith("\n") else plain + "\n")


@pytest.mark.parametrize(
    "broken",
    [
        {"message_id": "<a@b>\r\nBcc: eve@example.com"},
        {"message_id": "a@b"},
        {"in_reply_to": "<a@b> <c@d>"},
        {"unsubscribe_url": "https://h/>\r\nBcc: eve@example.com"},
        {"unsubscribe_url": "javascript:alert(1)"},
        {"unsubscribe_url": "https://h/" + "x" * 1_000},
        {"locale": "it\r\nBcc: eve@example.com"},
    ],
)
def test_a_value_without_its_form_makes_no_mail(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="has no good form"):
        compose(replace(MAIL, **broken), SENDER, TO, NOW_US)


@pytest.mark.parametrize(
    ("text", "smtp", "header"),
    [
        ("a@b.example", "a@b.example", "a@b.example"),
        ("Al Ice <a@B.example>", "a@b.example", '"Al Ice" <a@b.example>'),
        ("Älice <a@b.example>", "a@b.example", "=?utf-8?b?w4RsaWNl?= <a@b.example>"),
        (r'"Bug, \"Greg\"" <a@b.example>', "a@b.example", r'"Bug, \"Greg\"" <a@b.example>'),
        ("a@localhost", "a@localhost", "a@localhost"),
        ("a@bücher.example", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
    ],
)
def test_an_address_is_read_with_and_without_a_name(text: str, smtp: str, header: str) -> None:
    address = parse_address(text)

    assert (address.smtp, address.header) == (smtp, header)
