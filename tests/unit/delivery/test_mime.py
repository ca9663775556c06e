"""The bytes of a mail, parsed by the standard library; no value can inject a header."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, message_from_string, policy
from email.generator import Generator
from email.message import EmailMessage, Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.smtp import mime
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


def test_headers_of_a_mail() -> None:
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
        "List-Id": "<notifications.gregor.example>",
        "List-Unsubscribe": f"<{MAIL.unsubscribe_url}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "Content-Type": message["Content-Type"],
    }
    assert message.get_content_type() == "multipart/alternative"


def test_long_unsubscribe_url_is_not_folded() -> None:
    assert f"\r\nList-Unsubscribe: <{MAIL.unsubscribe_url}>\r\n".encode() in compose(MAIL, SENDER, TO, NOW_US)


def test_html_is_the_last_alternative() -> None:
    parts = [(part.get_content_type(), part.get_content()) for part in read(MAIL).iter_parts()]

    assert [kind for kind, _ in parts] == ["text/plain", "text/html"]
    assert [content.replace("\r\n", "\n") for _, content in parts] == [MAIL.text, MAIL.html]


def test_mail_without_html_is_plain_text() -> None:
    message = read(replace(MAIL, html=None, unsubscribe_url=None))

    assert message.get_content_type() == "text/plain"
    assert "List-Unsubscribe" not in message


def test_retry_differs_only_in_its_date() -> None:
    first, second = compose(MAIL, SENDER, TO, NOW_US), compose(MAIL, SENDER, TO, NOW_US + 60_000_000)

    assert first.split(b"\r\n", 1)[1] == second.split(b"\r\n", 1)[1]
    assert first != second


@given(subject=st.text(max_size=120), text=st.text(max_size=300), html=st.text(max_size=300) | st.none())
def test_no_value_adds_a_header_or_a_long_line(subject: str, text: str, html: str | None) -> None:
    raw = compose(replace(MAIL, subject=subject, text=text, html=html), SENDER, TO, NOW_US)
    head, _, _ = raw.partition(b"\r\n\r\n")
    names = [line.partition(b":")[0] for line in head.split(b"\r\n") if not line.startswith(b" ")]

    assert len(names) == 16 if html is not None else 17
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0
    assert raw.replace(b"\r\n", b"").count(b"\r") == 0
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert raw.isascii()
    assert raw.endswith(b"\r\n")


@given(text=st.text(max_size=300), html=st.text(max_size=300) | st.none())
def test_shortcuts_write_the_same_bytes_as_the_library(text: str, html: str | None) -> None:
    mail = replace(MAIL, text=text, html=html)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mime, "_BodyGenerator", Generator)
        patch.setattr(mime, "_Part", Message)
        by_library = compose(mail, SENDER, TO, NOW_US)

    assert compose(mail, SENDER, TO, NOW_US) == by_library


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a" * 990, "7bit"),
        ("a" * 991, "quoted-printable"),
        ("ä", "quoted-printable"),
        ("a\0b", "quoted-printable"),
        ("--=_ looks like a boundary", "quoted-printable"),
    ],
)
def test_short_ascii_lines_need_no_transfer_encoding(text: str, encoding: str) -> None:
    message = read(replace(MAIL, text=text, html=None))

    assert message["Content-Transfer-Encoding"] == encoding
    assert message.get_payload(decode=True) == text.encode() + b"\r\n"


@pytest.mark.parametrize("line_end", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028"])
def test_line_break_in_subject_becomes_a_space(line_end: str) -> None:
    message = read(replace(MAIL, subject=f"Hello{line_end}Bcc: eve@example.com"))

    assert message["Subject"] == "Hello Bcc: eve@example.com"
    assert "Bcc" not in message


@given(subject=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=120))
def test_subject_survives_encoding(subject: str) -> None:
    assert read(replace(MAIL, subject=subject))["Subject"] == subject


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_text_survives_encoding(text: str) -> None:
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
def test_malformed_value_is_rejected(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is malformed"):
        compose(replace(MAIL, **broken), SENDER, TO, NOW_US)


@pytest.mark.parametrize(
    ("text", "smtp", "header"),
    [
        ("a@b.example", "a@b.example", "a@b.example"),
        ("Al Ice <a@B.example>", "a@b.example", '"Al Ice" <a@b.example>'),
        ("Älice <a@b.example>", "a@b.example", '"Älice" <a@b.example>'),
        (r'"Bug, \"Greg\"" <a@b.example>', "a@b.example", r'"Bug, \"Greg\"" <a@b.example>'),
        ("a@localhost", "a@localhost", "a@localhost"),
        ("a@bücher.example", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
    ],
)
def test_address_is_parsed_with_and_without_name(text: str, smtp: str, header: str) -> None:
    address = parse_address(text)

    assert (address.smtp, address.header) == (smtp, header)


def test_display_name_is_encoded_in_the_header() -> None:
    sender = parse_address("Älice Ünlü-Müller von der Vogelweide zu Hohenstaufen in Schwaben <a@b.example>")

    raw = compose(MAIL, sender, TO, NOW_US)

    assert raw.isascii() and all(len(line) <= 78 for line in raw.partition(b"To:")[0].split(b"\r\n"))
    parsed = message_from_bytes(raw, policy=policy.SMTP)["From"].addresses[0]
    assert parsed.display_name == "Älice Ünlü-Müller von der Vogelweide zu Hohenstaufen in Schwaben"
    assert parsed.addr_spec == "a@b.example"


def test_international_mailbox_with_a_long_name_survives() -> None:
    to = parse_address("Jörg von der Vogelweide zu Hohenstaufen in Schwaben und Franken <jörg@bücher.example>")
    raw = compose(MAIL, SENDER, to, NOW_US)

    assert "<jörg@xn--bcher-kva.example>\r\n".encode() in raw
    parsed = message_from_string(raw.decode(), policy=policy.SMTPUTF8)["To"].addresses[0]
    assert parsed.display_name == "Jörg von der Vogelweide zu Hohenstaufen in Schwaben und Franken"


def test_international_mailbox_is_written_as_utf8() -> None:
    to = parse_address("jörg@bücher.example")

    assert "\r\nTo: jörg@xn--bcher-kva.example\r\n".encode() in compose(MAIL, SENDER, to, NOW_US)


def test_list_id_comes_with_the_unsubscribe_headers() -> None:
    assert "List-Id" in read(MAIL)
    assert "List-Id" not in read(replace(MAIL, unsubscribe_url=None))
