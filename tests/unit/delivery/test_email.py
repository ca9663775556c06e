"""E-mail against a fake relay: what arrives, what each failure means, and that no connection loses its place."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gregor.clock import ManualClock
from services.delivery.channels.contract import Mail
from services.delivery.channels.email import EmailChannel
from services.delivery.channels.smtp_pool import IDLE_S, MAILS_OF_A_CONNECTION, Relay, parse_relay
from services.delivery.fakes.smtp import FakeSmtp, Rule, Trouble
from services.delivery.fakes.tls import Authority
from services.delivery.verdict import Gone, Misconfigured, Refused, Retry, Sent, Unknown, Verdict
from tests.support.wait import wait_until

NOW_US = 1_457_056_447_000_000
SENDER = "Gregor <no-reply@gregor.example>"
MAIL = Mail(
    to="alice@example.com",
    locale="it-IT",
    subject="Bob si è iscritto",
    text="Ciao.\n.Questa riga comincia con un punto.\n",
    html="<p>Ciao.</p>",
    message_id="<abc123@gregor.example>",
    unsubscribe_url="https://gregor.example/v1/unsubscribe/token",
)


@dataclass
class World:
    """One channel, the relay that it sends to, and the clock."""

    channel: EmailChannel
    relay: FakeSmtp
    clock: ManualClock

    async def send(self, to: str = "alice@example.com", deadline_s: float = 5.0) -> Verdict:
        return await self.channel.send(replace(MAIL, to=to), deadline_s)

    async def ruled(self, step: str, said: str | Trouble, match: str = "", deadline_s: float = 5.0) -> Verdict:
        """The verdict on one mail where the relay says this once, and on a line that is new."""
        self.relay.rules = [Rule(step, said, 1, match)]
        return await self.send(deadline_s=deadline_s)


async def opened(relay: FakeSmtp, clock: ManualClock, context: ssl.SSLContext | None = None, **more: int) -> World:
    channel = EmailChannel(relay.url, SENDER, clock, context=context, **more)
    await channel.open()
    return World(channel, relay, clock)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    relay = FakeSmtp()
    await relay.start()
    made = await opened(relay, ManualClock(NOW_US), connections=2)
    yield made
    await made.channel.close()
    await relay.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def test_a_mail_arrives_as_it_was_written(world: World) -> None:
    verdict = await world.send()

    assert verdict == Sent("250", "FAKE1")
    (mail,) = world.relay.mails
    assert (mail.sender, mail.recipients) == ("no-reply@gregor.example", ("alice@example.com",))
    assert b"\r\n.Questa riga" in mail.content
    assert b"Message-ID: <abc123@gregor.example>\r\n" in mail.content


async def test_one_connection_serves_one_mail_after_another(world: World) -> None:
    for _ in range(5):
        await world.send()

    assert (world.relay.connections, world.relay.commands["EHLO"], len(world.relay.mails)) == (1, 1, 5)


async def test_no_more_connections_are_open_than_were_allowed(world: World) -> None:
    verdicts = await asyncio.gather(*(world.send(f"u{n}@example.com") for n in range(30)))

    assert all(isinstance(verdict, Sent) for verdict in verdicts)
    assert world.relay.most_at_once == 2
    assert sorted(mail.recipients[0] for mail in world.relay.mails) == sorted(f"u{n}@example.com" for n in range(30))


async def test_a_connection_is_left_after_many_mails(world: World) -> None:
    for _ in range(MAILS_OF_A_CONNECTION + 1):
        await world.send()

    assert world.relay.connections == 2


async def test_a_connection_that_was_idle_for_long_is_not_used_again(world: World) -> None:
    await world.send()
    world.clock.advance(IDLE_S)

    await world.send()

    assert world.relay.connections == 2


async def test_idle_connections_are_given_up_with_a_goodbye(world: World) -> None:
    await world.send()
    await world.channel.tidy()
    assert len(world.relay._open) == 1

    world.clock.advance(IDLE_S)
    await world.channel.tidy()

    await wait_until(lambda: not world.relay._open, "the relay has no connection left")


async def test_a_relay_that_hung_up_on_an_idle_connection_costs_no_attempt(world: World) -> None:
    await world.send()
    world.relay.drop_all()

    assert isinstance(await world.send(), Sent)
    assert len(world.relay.mails) == 2


async def test_a_relay_that_says_goodbye_at_the_first_word_on_an_idle_connection_is_dialled_again(world: World) -> None:
    await world.send()

    verdict = await world.ruled("MAIL", "421 4.4.2 idle for too long")

    assert isinstance(verdict, Sent)
    assert (world.relay.connections, len(world.relay.mails)) == (2, 2)


# Replies, by step.


@pytest.mark.parametrize(
    ("step", "said", "verdict"),
    [
        ("CONNECT", "421 4.7.0 too many connections", Retry(None, "421", "greeting: 4.7.0 too many connections")),
        ("CONNECT", "554 no SMTP service here", Misconfigured("554", "greeting: no SMTP service here")),
        ("MAIL", "421 4.3.2 shutting down", Retry(None, "421", "MAIL: 4.3.2 shutting down")),
        ("MAIL", "451 4.3.0 try later", Retry(None, "451", "MAIL: 4.3.0 try later")),
        ("MAIL", "530 5.7.0 log in first", Misconfigured("530", "MAIL: 5.7.0 log in first")),
        ("MAIL", "550 5.7.1 sender not allowed", Misconfigured("550", "MAIL: 5.7.1 sender not allowed")),
        ("MAIL", "552 5.3.4 too large", Refused("552", "MAIL: 5.3.4 too large")),
        ("RCPT", "450 4.2.0 greylisted", Retry(None, "450", "RCPT: 4.2.0 greylisted")),
        ("RCPT", "451 4.3.0 local error", Retry(None, "451", "RCPT: 4.3.0 local error")),
        ("RCPT", "421 4.3.2 shutting down", Retry(None, "421", "RCPT: 4.3.2 shutting down")),
        ("RCPT", "550 5.1.1 <alice@example.com>: no such user", Gone("550", "RCPT: 5.1.1 … no such user")),
        ("RCPT", "556 5.1.10 null MX", Gone("556", "RCPT: 5.1.10 null MX")),
        ("RCPT", "550 no", Refused("550", "RCPT: no")),
        ("RCPT", "554 5.7.1 relay access denied", Refused("554", "RCPT: 5.7.1 relay access denied")),
        ("RCPT", "552 5.2.2 mailbox full", Refused("552", "RCPT: 5.2.2 mailbox full")),
        ("DATA", "451 4.3.0 not now", Retry(None, "451", "DATA: 4.3.0 not now")),
        ("DATA", "554 5.5.1 no valid recipients", Refused("554", "DATA: 5.5.1 no valid recipients")),
        ("END", "451 4.3.0 disk full", Retry(None, "451", "the mail: 4.3.0 disk full")),
        ("END", "421 4.3.2 shutting down", Retry(None, "421", "the mail: 4.3.2 shutting down")),
        ("END", "554 5.7.1 spam", Refused("554", "the mail: 5.7.1 spam")),
        ("END", "550 5.1.1 no such user", Gone("550", "the mail: 5.1.1 no such user")),
    ],
)
async def test_a_reply_means_what_its_code_and_its_place_say_and_the_next_mail_goes_out(
    world: World, step: str, said: str, verdict: Verdict
) -> None:
    assert await world.ruled(step, said) == verdict

    assert await world.send("bob@example.com") == Sent("250", f"FAKE{world.relay.count}")
    assert world.relay.mails[-1].recipients == ("bob@example.com",)


async def test_of_many_mails_only_the_refused_address_is_refused(world: World) -> None:
    world.relay.rules = [
        Rule("RCPT", "550 5.1.1 no such user", None, "dead"),
        Rule("RCPT", "450 4.2.0 later", 1, "grey"),
    ]

    verdicts = await asyncio.gather(*(world.send(f"{n}@example.com") for n in ("a", "dead", "b", "grey", "c")))

    assert [verdict.name for verdict in verdicts] == ["sent", "gone", "sent", "retry", "sent"]
    assert sorted(mail.recipients for mail in world.relay.mails) == [(f"{n}@example.com",) for n in "abc"]


# Silence and cuts: what was not handed over may go again, what was is unknown.


@pytest.mark.parametrize("trouble", [Trouble.DROP, Trouble.HANG])
@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
async def test_a_dialogue_that_breaks_before_the_mail_is_tried_again_later(
    world: World, step: str, trouble: Trouble
) -> None:
    begun = time.monotonic()

    verdict = await world.ruled(step, trouble, deadline_s=0.4)

    assert isinstance(verdict, Retry)
    assert time.monotonic() - begun < 3
    assert isinstance(await world.send(), Sent)
    assert len(world.relay.mails) == 1


@pytest.mark.parametrize("trouble", [Trouble.DROP, Trouble.HANG])
async def test_a_dialogue_that_breaks_after_the_mail_leaves_its_outcome_unknown(world: World, trouble: Trouble) -> None:
    verdict = await world.ruled("END", trouble, deadline_s=0.4)

    assert isinstance(verdict, Unknown)
    assert world.relay.count == 1
    assert isinstance(await world.send("bob@example.com"), Sent)


async def test_a_send_that_is_cancelled_takes_its_connection_with_it_and_no_other(world: World) -> None:
    await world.send()
    world.relay.rules = [Rule("RCPT", Trouble.HANG, 1, "slow")]
    slow = asyncio.create_task(world.send("slow@example.com"))
    await wait_until(lambda: world.relay.commands["RCPT"] == 2, "the relay has the address")

    slow.cancel()
    await asyncio.wait([slow])

    verdicts = [await world.send(f"after{n}@example.com") for n in range(3)]
    assert [verdict.name for verdict in verdicts] == ["sent"] * 3
    assert [mail.recipients[0] for mail in world.relay.mails[1:]] == [f"after{n}@example.com" for n in range(3)]


async def test_all_connections_busy_is_tried_later(world: World) -> None:
    world.relay.rules = [Rule("RCPT", Trouble.HANG, 2)]

    *slow, third = await asyncio.gather(*(world.send(deadline_s=0.6 if n < 2 else 0.2) for n in range(3)))

    assert third == Retry(None, None, "all connections to the relay are busy")
    assert [verdict.name for verdict in slow] == ["retry", "retry"]


async def test_a_relay_that_is_not_there_is_tried_later_and_the_doctor_says_so() -> None:
    channel = EmailChannel("smtp://127.0.0.1:1?tls=none", SENDER, ManualClock(NOW_US))
    await channel.open()

    verdict = await channel.send(MAIL, 2.0)
    told = await channel.check()
    await channel.close()

    assert isinstance(verdict, Retry)
    assert verdict.status is None
    assert told is not None and told.endswith("check GREGOR_SMTP_URL.")


# TLS and login.


@pytest.mark.parametrize("is_implicit", [False, True])
async def test_mail_goes_out_secured_after_a_login(authority: Authority, is_implicit: bool) -> None:
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


async def test_a_certificate_of_strangers_is_not_trusted(authority: Authority) -> None:
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


async def test_a_refused_login_stops_the_provider(authority: Authority) -> None:
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
    relay.rules = [Rule("AUTH", "454 4.7.0 temporary failure")]
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


async def test_closing_lets_a_mail_on_its_way_end(world: World, tmp_path: Path) -> None:
    world.relay.rules = [Rule("END", Trouble.HANG, 1)]
    sending = asyncio.create_task(world.send(deadline_s=0.5))
    await wait_until(lambda: world.relay.commands["END"], "the mail is on its way")

    await world.channel.close()

    assert sending.done()
    assert isinstance(sending.result(), Unknown)
    await world.channel.open()
