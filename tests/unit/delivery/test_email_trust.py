"""E-mail: who is trusted, what goes in the clear (nothing unless asked), which settings and addresses are good."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest

from gregor.clock import ManualClock
from gregor.dev.fakes.smtp import FakeSmtp, RelayRule
from gregor.dev.fakes.tls import CertificateAuthority
from gregor_delivery.channels.smtp.channel import EmailChannel
from gregor_delivery.channels.smtp.pool import Relay, parse_relay
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent
from tests.support.mail import MAIL, NOW_US, SENDER, World, opened


@pytest.fixture
async def world() -> AsyncIterator[World]:
    relay = FakeSmtp()
    await relay.start()
    made = await opened(relay, ManualClock(NOW_US), connections=2)
    yield made
    await made.channel.close()
    await relay.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


# TLS and login.


@pytest.mark.parametrize("is_implicit", [False, True])
async def test_mail_goes_out_secured_after_a_login(authority: CertificateAuthority, is_implicit: bool) -> None:
    relay = FakeSmtp(tls=authority.server_context(), is_implicit=is_implicit, user="gregor", password="pass-word")
    await relay.start()
    context = ssl.create_default_context(cafile=authority.ca_file)
    world = await opened(relay, ManualClock(NOW_US), context)

    verdicts = [await world.send(), await world.send()]
    told = await world.channel.check()
    await world.channel.close()
    await relay.close()

    assert [verdict.name for verdict in verdicts] == ["sent", "sent"]
    assert told is None
    assert relay.commands["AUTH"] == 1
    assert relay.commands["STARTTLS"] == (0 if is_implicit else 1)


async def test_a_certificate_of_strangers_is_not_trusted(authority: CertificateAuthority) -> None:
    relay = FakeSmtp(tls=authority.server_context())
    await relay.start()
    world = await opened(relay, ManualClock(NOW_US))

    verdict = await world.send()
    await world.channel.close()
    await relay.close()

    assert verdict == Misconfigured(None, "the certificate of the relay is not trusted")
    assert relay.commands["MAIL"] == 0


async def test_no_mail_goes_in_the_clear_unless_that_was_asked_for() -> None:
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


async def test_a_refused_login_stops_the_provider(authority: CertificateAuthority) -> None:
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


async def test_a_login_that_the_relay_does_not_offer_is_a_misconfiguration(world: World) -> None:
    channel = EmailChannel(f"smtp://u:p@127.0.0.1:{world.relay.port}?tls=none", SENDER, world.clock)
    await channel.open()

    verdict = await channel.send(MAIL, 5.0)
    await channel.close()

    assert verdict == Misconfigured(None, "the relay offers no way to log in")


# Settings and addresses.


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
def test_the_relay_is_read_from_its_url(url: str, relay: Relay) -> None:
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
async def test_a_url_that_is_none_is_told_with_its_setting_and_without_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="GREGOR_SMTP_URL: ") as caught:
        await EmailChannel(url.replace("smtp://h", "smtp://u:hunter2@h"), SENDER, ManualClock(NOW_US)).open()

    assert "hunter2" not in str(caught.value)


async def test_a_sender_that_is_none_is_told_with_its_setting() -> None:
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
async def test_an_address_that_is_none_is_refused_before_a_word_is_said(world: World, to: str) -> None:
    verdict = await world.send(to)

    assert isinstance(verdict, Refused)
    assert "eve" not in verdict.detail
    assert world.relay.connections == 0


async def test_an_international_address_goes_out_as_its_relay_takes_it(world: World) -> None:
    assert isinstance(await world.send("bücher@bücher.example"), Sent)
    assert isinstance(await world.send("books@bücher.example"), Sent)

    assert [mail.recipients[0] for mail in world.relay.mails] == [
        "bücher@xn--bcher-kva.example",
        "books@xn--bcher-kva.example",
    ]
