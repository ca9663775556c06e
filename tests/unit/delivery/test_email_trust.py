"""The e-mail channel: TLS, login, EHLO, and the validation of settings and addresses."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from gregor.clock import ManualClock
from gregor.dev.fakes.smtp import FakeSmtp, RelayRule
from gregor.dev.fakes.tls import CertificateAuthority
from gregor_delivery.channels.smtp.channel import EmailChannel
from gregor_delivery.channels.smtp.pool import Relay, parse_relay
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent
from tests.support.mail_channel import MAIL, NOW_US, SENDER, MailChannelHarness, open_mail_channel


@pytest.fixture
async def harness() -> AsyncIterator[MailChannelHarness]:
    relay = FakeSmtp()
    await relay.start()
    made = await open_mail_channel(relay, ManualClock(NOW_US), connections=2)
    yield made
    await made.channel.close()
    await relay.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


# --- TLS and login ---


@pytest.mark.parametrize("is_implicit", [False, True])
async def test_login_over_tls(authority: CertificateAuthority, is_implicit: bool) -> None:
    relay = FakeSmtp(tls=authority.server_context(), is_implicit=is_implicit, user="gregor", password="pass-word")
    await relay.start()
    context = ssl.create_default_context(cafile=authority.ca_file)
    harness = await open_mail_channel(relay, ManualClock(NOW_US), context)

    verdicts = [await harness.send(), await harness.send()]
    told = await harness.channel.check()
    await harness.channel.close()
    await relay.close()

    assert [verdict.name for verdict in verdicts] == ["sent", "sent"]
    assert told is None
    assert relay.commands["AUTH"] == 1
    assert relay.commands["STARTTLS"] == (0 if is_implicit else 1)


async def test_private_authority_is_trusted_by_environment(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    relay = FakeSmtp(tls=authority.server_context())
    await relay.start()
    harness = await open_mail_channel(relay, ManualClock(NOW_US))

    verdict = await harness.send()
    await harness.channel.close()
    await relay.close()

    assert verdict.name == "sent"


async def test_untrusted_certificate_is_misconfigured(authority: CertificateAuthority) -> None:
    relay = FakeSmtp(tls=authority.server_context())
    await relay.start()
    harness = await open_mail_channel(relay, ManualClock(NOW_US))

    verdict = await harness.send()
    await harness.channel.close()
    await relay.close()

    assert verdict == Misconfigured(None, "the relay's certificate is not trusted")
    assert relay.commands["MAIL"] == 0


async def test_missing_starttls_is_misconfigured() -> None:
    relay = FakeSmtp()
    await relay.start()
    channel = EmailChannel(f"smtp://127.0.0.1:{relay.port}", SENDER, ManualClock(NOW_US))
    await channel.open()

    verdict = await channel.send(MAIL, 5.0)
    await channel.close()
    await relay.close()

    assert isinstance(verdict, Misconfigured)
    assert "STARTTLS" in verdict.detail
    assert relay.commands["MAIL"] == 0


async def test_rejected_login_is_misconfigured(authority: CertificateAuthority) -> None:
    relay = FakeSmtp(tls=authority.server_context(), user="gregor", password="right")
    await relay.start()
    channel = EmailChannel(
        relay.url.replace("right", "wrong"),
        SENDER,
        ManualClock(NOW_US),
        context=ssl.create_default_context(cafile=authority.ca_file),
    )
    await channel.open()

    verdict = await channel.send(MAIL, 5.0)
    relay.rules = [RelayRule("AUTH", "454 4.7.0 temporary failure")]
    later = await channel.send(MAIL, 5.0)
    await channel.close()
    await relay.close()

    assert verdict == Misconfigured("535", "AUTH: 5.7.8 Authentication failed")
    assert later == Retry(None, "454", "AUTH: 4.7.0 temporary failure")


@pytest.mark.parametrize("step", ["AUTH", "MAIL", "END"])
async def test_reply_that_quotes_the_login_is_redacted(authority: CertificateAuthority, step: str) -> None:
    """Some relays repeat the command that they reject. The detail is logged, and is stored with the delivery."""
    password = "correct-horse"
    relay = FakeSmtp(tls=authority.server_context(), user="gregor", password=password)
    plain = base64.b64encode(f"\0gregor\0{password}".encode()).decode()
    alone = base64.b64encode(password.encode()).decode()
    relay.rules = [RelayRule(step, f"535 5.7.8 rejected: AUTH PLAIN {plain}, {alone} or {password}")]
    await relay.start()
    context = ssl.create_default_context(cafile=authority.ca_file)
    channel = EmailChannel(relay.url, SENDER, ManualClock(NOW_US), context=context)
    await channel.open()

    verdict = await channel.send(MAIL, 5.0)
    await channel.close()
    await relay.close()

    assert not isinstance(verdict, Sent)
    assert "rejected: AUTH PLAIN …" in verdict.detail and verdict.detail.endswith("or …")
    assert all(secret.rstrip("=") not in verdict.detail for secret in (password, plain, alone))


async def test_missing_auth_is_misconfigured(harness: MailChannelHarness) -> None:
    channel = EmailChannel(f"smtp://u:p@127.0.0.1:{harness.relay.port}?tls=none", SENDER, harness.clock)
    await channel.open()

    verdict = await channel.send(MAIL, 5.0)
    await channel.close()

    assert verdict == Misconfigured(
        None, "the relay offers no AUTH mechanism that is supported (PLAIN, LOGIN, CRAM-MD5)"
    )


async def test_wrong_password_is_tried_once(authority: CertificateAuthority) -> None:
    """Each further try would count as a failed login; the relay delays its reply, as Dovecot does."""
    relay = FakeSmtp(tls=authority.server_context(), user="gregor", password="right")
    relay.rules = [RelayRule("AUTH", delay_s=0.4)]
    await relay.start()
    channel = EmailChannel(
        relay.url.replace("right", "wrong"),
        SENDER,
        ManualClock(NOW_US),
        context=ssl.create_default_context(cafile=authority.ca_file),
    )
    await channel.open()

    verdict = await channel.send(MAIL, 5.0)
    await channel.close()
    await relay.close()

    assert verdict == Misconfigured("535", "AUTH: 5.7.8 Authentication failed")
    assert relay.commands["AUTH"] == 1


async def test_rejected_mechanism_falls_back_to_the_next(authority: CertificateAuthority) -> None:
    relay = FakeSmtp(tls=authority.server_context(), user="gregor", password="right")
    relay.rules = [RelayRule("AUTH", "504 5.5.4 Unrecognized authentication type", 1, "PLAIN")]
    await relay.start()
    harness = await open_mail_channel(relay, ManualClock(NOW_US), ssl.create_default_context(cafile=authority.ca_file))

    verdict = await harness.send()
    await harness.channel.close()
    await relay.close()

    assert isinstance(verdict, Sent)
    assert relay.commands["AUTH"] == 2


@pytest.mark.parametrize(
    ("hostname", "own", "ehlo"),
    [
        ("mail.example.org", "host.example.net", "mail.example.org"),
        (None, "host.example.net", "host.example.net"),
        (None, "localhost", "[127.0.0.1]"),
    ],
)
async def test_ehlo_names_the_host(monkeypatch: pytest.MonkeyPatch, hostname: str | None, own: str, ehlo: str) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: own)
    relay = FakeSmtp()
    await relay.start()
    channel = EmailChannel(relay.url, SENDER, ManualClock(NOW_US), hostname=hostname)
    await channel.open()

    await channel.send(MAIL, 5.0)
    await channel.close()
    await relay.close()

    assert relay.hostnames == [ehlo]


# --- settings and addresses ---


@pytest.mark.parametrize(
    ("url", "relay"),
    [
        ("smtp://mail.example", Relay("mail.example", 587, "starttls", None, None)),
        ("smtp://mail.example?tls=implicit", Relay("mail.example", 465, "implicit", None, None)),
        ("smtp://mail.example/?tls=none", Relay("mail.example", 25, "none", None, None)),
        ("smtp://u%40x:p%3Aw@mail.example:2525", Relay("mail.example", 2525, "starttls", "u@x", "p:w")),
        ("smtp://[::1]:25?tls=none", Relay("::1", 25, "none", None, None)),
    ],
)
def test_relay_url_is_parsed(url: str, relay: Relay) -> None:
    assert parse_relay(url) == relay


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example",
        "smtps://h",
        "http://h",
        "smtp://",
        "smtp://h?tls=maybe",
        "smtp://h?x=1",
        "smtp://u@h",
        "smtp://h:x",
    ],
)
async def test_invalid_relay_url_hides_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="GREGOR_SMTP_URL: ") as caught:
        await EmailChannel(url.replace("smtp://h", "smtp://u:hunter2@h"), SENDER, ManualClock(NOW_US)).open()

    assert "hunter2" not in str(caught.value)


async def test_invalid_sender_names_its_setting() -> None:
    with pytest.raises(ValueError, match=r"GREGOR_MAIL_FROM: .*write Name <name@example.com>"):
        await EmailChannel("smtp://h", "nobody", ManualClock(NOW_US)).open()


@pytest.mark.parametrize(
    "to",
    [
        "",
        "alice",
        "a@b@c",
        "alice@example.com\r\nBcc: eve@example.com",
        "<alice@example.com>\nRCPT TO:<eve@e.com>",
        "a b@c.d",
    ],
)
async def test_invalid_address_is_refused_offline(harness: MailChannelHarness, to: str) -> None:
    verdict = await harness.send(to)

    assert isinstance(verdict, Refused)
    assert "eve" not in verdict.detail
    assert harness.relay.connections == 0


async def test_international_address(harness: MailChannelHarness) -> None:
    assert isinstance(await harness.send("bücher@bücher.example"), Sent)
    assert isinstance(await harness.send("books@bücher.example"), Sent)

    assert [mail.recipients[0] for mail in harness.relay.mails] == [
        "bücher@xn--bcher-kva.example",
        "books@xn--bcher-kva.example",
    ]
