"""E-mail against a fake relay: what arrives, what each failure means, and that no connection loses its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gregor.clock import ManualClock, SystemClock
from gregor.dev.fakes.smtp import FakeSmtp, RelayFault, RelayRule
from gregor_delivery.channels.smtp.channel import EmailChannel
from gregor_delivery.channels.smtp.pool import IDLE_S, MAILS_OF_A_CONNECTION
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from tests.support.mail import MAIL, NOW_US, SENDER, World, opened
from tests.support.wait import wait_until


@pytest.fixture
async def world() -> AsyncIterator[World]:
    relay = FakeSmtp()
    await relay.start()
    made = await opened(relay, ManualClock(NOW_US), connections=2)
    yield made
    await made.channel.close()
    await relay.close()


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
    channel = EmailChannel(world.relay.url, SENDER, SystemClock(), idle_s=0.05)
    await channel.open()

    await asyncio.gather(*(channel.send(MAIL, 5.0) for _ in range(3)))

    await wait_until(lambda: world.relay.commands["QUIT"] == 3, "the relay was told goodbye on each")
    await wait_until(lambda: not world.relay.open_connections, "no connection is left")
    await channel.close()


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
        ("RCPT", "550 5.1.1 <alice@example.com>: no such user", RecipientGone("550", "RCPT: 5.1.1 … no such user")),
        ("RCPT", "556 5.1.10 null MX", RecipientGone("556", "RCPT: 5.1.10 null MX")),
        ("RCPT", "550 no", Refused("550", "RCPT: no")),
        ("RCPT", "554 5.7.1 relay access denied", Refused("554", "RCPT: 5.7.1 relay access denied")),
        ("RCPT", "552 5.2.2 mailbox full", Refused("552", "RCPT: 5.2.2 mailbox full")),
        ("DATA", "451 4.3.0 not now", Retry(None, "451", "DATA: 4.3.0 not now")),
        ("DATA", "554 5.5.1 no valid recipients", Refused("554", "DATA: 5.5.1 no valid recipients")),
        ("END", "451 4.3.0 disk full", Retry(None, "451", "the mail: 4.3.0 disk full")),
        ("END", "421 4.3.2 shutting down", Retry(None, "421", "the mail: 4.3.2 shutting down")),
        ("END", "554 5.7.1 spam", Refused("554", "the mail: 5.7.1 spam")),
        ("END", "550 5.1.1 no such user", RecipientGone("550", "the mail: 5.1.1 no such user")),
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
        RelayRule("RCPT", "550 5.1.1 no such user", None, "dead"),
        RelayRule("RCPT", "450 4.2.0 later", 1, "grey"),
    ]

    verdicts = await asyncio.gather(*(world.send(f"{n}@example.com") for n in ("a", "dead", "b", "grey", "c")))

    assert [verdict.name for verdict in verdicts] == ["sent", "gone", "sent", "retry", "sent"]
    assert sorted(mail.recipients for mail in world.relay.mails) == [(f"{n}@example.com",) for n in "abc"]


# Silence and cuts: what was not handed over may go again, what was is unknown.


@pytest.mark.parametrize("trouble", [RelayFault.DROP, RelayFault.HANG])
@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
async def test_a_dialogue_that_breaks_before_the_mail_is_tried_again_later(
    world: World, step: str, trouble: RelayFault
) -> None:
    begun = time.monotonic()

    verdict = await world.ruled(step, trouble, deadline_s=0.4)

    assert isinstance(verdict, Retry)
    assert time.monotonic() - begun < 3
    assert isinstance(await world.send(), Sent)
    assert len(world.relay.mails) == 1


@pytest.mark.parametrize("trouble", [RelayFault.DROP, RelayFault.HANG])
async def test_a_dialogue_that_breaks_after_the_mail_leaves_its_outcome_unknown(
    world: World, trouble: RelayFault
) -> None:
    verdict = await world.ruled("END", trouble, deadline_s=0.4)

    assert isinstance(verdict, Unknown)
    assert world.relay.count == 1
    assert isinstance(await world.send("bob@example.com"), Sent)


async def test_a_send_that_is_cancelled_takes_its_connection_with_it_and_no_other(world: World) -> None:
    await world.send()
    world.relay.rules = [RelayRule("RCPT", RelayFault.HANG, 1, "slow")]
    slow = asyncio.create_task(world.send("slow@example.com"))
    await wait_until(lambda: world.relay.commands["RCPT"] == 2, "the relay has the address")

    slow.cancel()
    await asyncio.wait([slow])

    begun = time.monotonic()
    verdicts = [await world.send(f"after{n}@example.com") for n in range(3)]
    assert time.monotonic() - begun < 3, "a mail waited on the connection that was left in the middle"
    assert [verdict.name for verdict in verdicts] == ["sent"] * 3
    assert [mail.recipients[0] for mail in world.relay.mails[1:]] == [f"after{n}@example.com" for n in range(3)]


async def test_all_connections_busy_is_tried_later(world: World) -> None:
    world.relay.rules = [RelayRule("RCPT", RelayFault.HANG, 2)]

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


async def test_closing_lets_a_mail_on_its_way_end(world: World, tmp_path: Path) -> None:
    world.relay.rules = [RelayRule("END", RelayFault.HANG, 1)]
    sending = asyncio.create_task(world.send(deadline_s=0.5))
    await wait_until(lambda: world.relay.commands["END"], "the mail is on its way")

    await world.channel.close()

    assert sending.done()
    assert isinstance(sending.result(), Unknown)
    await world.channel.open()
