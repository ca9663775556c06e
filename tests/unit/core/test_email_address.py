"""E-mail addresses: accepted and rejected ones, and their form in SMTP."""

import pytest

from gregor.core.notify.email_address import Mailbox, parse_mailbox


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("alice@example.com", Mailbox("alice", "example.com")),
        ("Alice.B+tag@EXAMPLE.com", Mailbox("Alice.B+tag", "example.com")),
        ("a@b", Mailbox("a", "b")),
        ("o'neil@corp.local", Mailbox("o'neil", "corp.local")),
        ("a@bücher.example", Mailbox("a", "xn--bcher-kva.example")),
        ("bücher@example.com", Mailbox("bücher", "example.com")),
        ("a@1.example", Mailbox("a", "1.example")),
    ],
)
def test_an_address_has_a_local_part_and_a_domain(text: str, mailbox: Mailbox) -> None:
    assert parse_mailbox(text) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "alice", "alice@", "@example.com", "a@b@c.example", "a b@c.example", "a@b c.example"),
        *(".a@b.example", "a.@b.example", "a..b@c.example", "a@.b", "a@b.", "a@b..c", "a@-b.example", "a@b-.example"),
        *("a@b_c.example", "a@[127.0.0.1]", "a@127.0.0.1", '"a b"@c.example', "a(c)@b.example", "a,b@c.example"),
        *(
            "a@b.example\n",
            "\na@b.example",
            "a\r\n@b.example",
            "a\0@b.example",
            "a\u202e@b.example",
            "a\u00a0@b.example",
        ),
        *("x" * 65 + "@b.example", "a@" + "b" * 64 + ".example", "a@" + "b." * 126 + "example", "<a@b.example>"),
        *("a@b\ud800.example", "\ud800@b.example"),
    ],
)
def test_address_must_fit_one_smtp_line(text: str) -> None:
    assert parse_mailbox(text) is None


def test_only_non_ascii_local_part_needs_smtputf8() -> None:
    found = [parse_mailbox(text) for text in ("a@bücher.example", "bücher@example.com")]

    assert [mailbox.is_ascii for mailbox in found if mailbox] == [True, False]
