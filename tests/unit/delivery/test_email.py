"""The e-mail channel against a fake relay: delivery, the verdict of each failure, and connection reuse."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gregor.clock import ManualClock, SystemClock
from gregor.dev.fakes.smtp import FakeSmtp, RelayFault, RelayRule
from gregor_delivery.channels.smtp.channel import CHARACTERS_IN_LOOP, EmailChannel
from gregor_delivery.channels.smtp.pool import IDLE_S, MAX_MAILS
from gregor_delivery.channels.smtp.responses import GREYLIST_RETRY_S, is_about_content
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.throttle.breaker import FAILURE_THRESHOLD, STOPPED_S, Breaker
from tests.support.mail_channel import MAIL, NOW_US, SENDER, MailChannelHarness, open_mail_channel
from tests.support.wait import wait_until


@pytest.fixture
async def harness() -> AsyncIterator[MailChannelHarness]:
    relay = FakeSmtp()
    await relay.start()
    made = await open_mail_channel(relay, ManualClock(NOW_US), connections=2)
    yield made
    await made.channel.close()
    await relay.close()


async def test_mail_arrives_unchanged(harness: MailChannelHarness) -> None:
    verdict = await harness.send()

    assert verdict == Sent("250", "FAKE1")
    (mail,) = harness.relay.mails
    assert (mail.sender, mail.recipients) == ("no-reply@gregor.example", ("alice@example.com",))
    assert b"\r\n.Questa riga" in mail.content
    assert b"Message-ID: <abc123@gregor.example>\r\n" in mail.content


async def test_connection_is_reused(harness: MailChannelHarness) -> None:
    for _ in range(5):
        await harness.send()

    assert (harness.relay.connections, harness.relay.commands["EHLO"], len(harness.relay.mails)) == (1, 1, 5)


async def test_connection_limit(harness: MailChannelHarness) -> None:
    verdicts = await asyncio.gather(*(harness.send(f"u{n}@example.com") for n in range(30)))

    assert all(isinstance(verdict, Sent) for verdict in verdicts)
    assert harness.relay.most_at_once == 2
    assert sorted(mail.recipients[0] for mail in harness.relay.mails) == sorted(f"u{n}@example.com" for n in range(30))


async def test_connection_is_replaced_after_max_mails(harness: MailChannelHarness) -> None:
    for _ in range(MAX_MAILS + 1):
        await harness.send()

    assert harness.relay.connections == 2


async def test_idle_connection_expires(harness: MailChannelHarness) -> None:
    await harness.send()
    harness.clock.advance(IDLE_S)

    await harness.send()

    assert harness.relay.connections == 2


async def test_idle_connections_are_quit(harness: MailChannelHarness) -> None:
    channel = EmailChannel(harness.relay.url, SENDER, SystemClock(), idle_s=0.05)
    await channel.open()

    await asyncio.gather(*(channel.send(MAIL, 5.0) for _ in range(3)))

    await wait_until(lambda: harness.relay.commands["QUIT"] == 3, "the relay was told goodbye on each")
    await wait_until(lambda: not harness.relay.open_connections, "no connection is left")
    await channel.close()


async def test_stale_connection_costs_no_attempt(harness: MailChannelHarness) -> None:
    await harness.send()
    harness.relay.drop_all()

    assert isinstance(await harness.send(), Sent)
    assert len(harness.relay.mails) == 2


async def test_421_on_idle_connection_reconnects(harness: MailChannelHarness) -> None:
    await harness.send()

    verdict = await harness.send_with_reply("MAIL", "421 4.4.2 idle for too long")

    assert isinstance(verdict, Sent)
    assert (harness.relay.connections, len(harness.relay.mails)) == (2, 2)


# --- replies, by step ---


@pytest.mark.parametrize(
    ("step", "reply", "verdict"),
    [
        ("CONNECT", "421 4.7.0 too many connections", Retry(None, "421", "greeting: 4.7.0 too many connections")),
        ("CONNECT", "554 no SMTP service here", Misconfigured("554", "greeting: no SMTP service here")),
        ("MAIL", "421 4.3.2 shutting down", Retry(None, "421", "MAIL: 4.3.2 shutting down")),
        ("MAIL", "451 4.3.0 try later", Retry(None, "451", "MAIL: 4.3.0 try later")),
        ("MAIL", "530 5.7.0 log in first", Misconfigured("530", "MAIL: 5.7.0 log in first")),
        ("MAIL", "550 5.7.1 sender not allowed", Misconfigured("550", "MAIL: 5.7.1 sender not allowed")),
        ("MAIL", "552 5.3.4 too large", Refused("552", "MAIL: 5.3.4 too large")),
        ("RCPT", "450 4.2.0 greylisted", Retry(GREYLIST_RETRY_S, "450", "RCPT: 4.2.0 greylisted")),
        ("RCPT", "451 4.3.0 local error", Retry(GREYLIST_RETRY_S, "451", "RCPT: 4.3.0 local error")),
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
async def test_verdict_of_each_reply(harness: MailChannelHarness, step: str, reply: str, verdict: Verdict) -> None:
    assert await harness.send_with_reply(step, reply) == verdict

    assert await harness.send("bob@example.com") == Sent("250", f"FAKE{harness.relay.count}")
    assert harness.relay.mails[-1].recipients == ("bob@example.com",)


async def test_rejected_recipient_does_not_affect_others(harness: MailChannelHarness) -> None:
    harness.relay.rules = [
        RelayRule("RCPT", "550 5.1.1 no such user", None, "dead"),
        RelayRule("RCPT", "450 4.2.0 later", 1, "grey"),
    ]

    verdicts = await asyncio.gather(*(harness.send(f"{n}@example.com") for n in ("a", "dead", "b", "grey", "c")))

    assert [verdict.name for verdict in verdicts] == ["sent", "gone", "sent", "retry", "sent"]
    assert sorted(mail.recipients for mail in harness.relay.mails) == [(f"{n}@example.com",) for n in "abc"]


# --- rejections that are about us ---


@pytest.mark.parametrize(
    ("step", "reply", "expected"),
    [
        ("MAIL", "552 5.3.4 too large", True),
        ("MAIL", "552 5.2.3 too long for the mailbox", True),
        ("MAIL", "552 5.2.2 mailbox full", False),
        ("MAIL", "451 4.3.0 try later", False),
        ("RCPT", "552 5.2.2 mailbox full", False),
        ("RCPT", "450 4.7.1 greylisted", False),
        ("DATA", "552 5.3.4 too large", True),
        ("DATA", "552 5.2.2 mailbox full", False),
        ("DATA", "554 5.5.1 no valid recipients", False),
        ("END", "554 5.7.1 spam", True),
        ("END", "552 5.2.2 mailbox full", False),
        ("END", "552 5.2.3 too long for the mailbox", True),
        ("END", "552 too long", True),
        ("END", "550 5.1.6 mailbox has moved", False),
        ("END", "451 4.7.1 scanner busy", True),
    ],
)
async def test_rejection_of_the_content_is_recognized(
    harness: MailChannelHarness, step: str, reply: str, expected: bool
) -> None:
    verdict = await harness.send_with_reply(step, reply)

    assert isinstance(verdict, Refused | Retry)
    assert is_about_content(verdict.status, verdict.detail) is expected


class ThreadText(str):
    """A text that records in which threads it is encoded."""

    threads: ClassVar[list[threading.Thread]] = []

    def replace(self, *args: Any) -> str:
        self.threads.append(threading.current_thread())
        return super().replace(*args)


async def test_long_mail_is_encoded_in_a_thread(harness: MailChannelHarness) -> None:
    for text, is_in_loop in (("short", True), ("x\n" * CHARACTERS_IN_LOOP, False)):
        ThreadText.threads.clear()
        assert isinstance(await harness.channel.send(replace(MAIL, text=ThreadText(text)), 5.0), Sent)
        assert {each is threading.main_thread() for each in ThreadText.threads} == {is_in_loop}


DENIED = RelayRule("RCPT", "554 5.7.1 <localhost>: Client host rejected: Access denied", None)


async def test_several_denied_recipients_stop_the_channel(harness: MailChannelHarness) -> None:
    harness.relay.rules = [DENIED]

    verdicts = [await harness.send(f"u{n}@example.com") for n in range(5)]

    assert [verdict.name for verdict in verdicts] == ["refused"] * 2 + ["misconfigured"] * 3
    assert verdicts[-1] == Misconfigured("554", "RCPT: 5.7.1 <localhost>: Client host rejected: Access denied")


async def test_one_denied_recipient_never_stops_the_channel(harness: MailChannelHarness) -> None:
    harness.relay.rules = [DENIED]

    assert [(await harness.send()).name for _ in range(5)] == ["refused"] * 5


async def test_accepted_recipient_resets_relay_denials(harness: MailChannelHarness) -> None:
    harness.relay.rules = [RelayRule("RCPT", "550 5.7.1 Not wanted", None, "no")]

    names = [(await harness.send(f"{name}@example.com")).name for name in ("no1", "no2", "yes", "no3", "no4")]

    assert names == ["refused", "refused", "sent", "refused", "refused"]


async def test_denied_users_stop_the_channel_once_each(harness: MailChannelHarness) -> None:
    """A relay denies a few addresses for good. Then mails to others pass, although the denials go on."""
    harness.relay.rules = [RelayRule("RCPT", "550 5.7.1 Access denied", None, "no")]
    breaker, stops = Breaker(), []
    for now_s in (n * STOPPED_S for n in range(10)):
        for uid in ("no1", "no2", "no3", "yes"):
            if breaker.wait_s(now_s, uid) == 0.0:
                breaker.acquire(uid).record(await harness.send(f"{uid}@example.com"), now_s)
        stops.append(breaker.is_stopped)

    assert stops == [True] * 3 + [False] * 7


async def test_user_whose_recipient_ends_the_connection_does_not_open_the_breaker(harness: MailChannelHarness) -> None:
    harness.relay.rules = [RelayRule("RCPT", RelayFault.DROP, None, "mallory")]
    breaker = Breaker()
    for _ in range(2 * FAILURE_THRESHOLD):
        breaker.acquire("mallory").record(await harness.send("mallory@example.com"), 0.0)

    assert not breaker.is_open


async def test_unknown_mailboxes_are_not_relay_denials(harness: MailChannelHarness) -> None:
    harness.relay.rules = [RelayRule("RCPT", "550 5.1.1 no such user", None)]

    assert {(await harness.send(f"u{n}@example.com")).name for n in range(5)} == {"gone"}


# --- timeouts and dropped connections ---


async def test_most_of_the_deadline_is_for_the_reply_to_the_mail(harness: MailChannelHarness) -> None:
    harness.relay.rules = [RelayRule("RCPT", delay_s=0.3, match="slow"), RelayRule("END", delay_s=0.3)]

    assert isinstance(await harness.send(deadline_s=0.6), Sent)
    assert isinstance(await harness.send("slow@example.com", deadline_s=0.6), Retry)
    assert harness.relay.unanswered == []


@pytest.mark.parametrize("fault", [RelayFault.DROP, RelayFault.HANG])
@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
async def test_failure_before_the_mail_is_retried(harness: MailChannelHarness, step: str, fault: RelayFault) -> None:
    begun = time.monotonic()

    verdict = await harness.send_with_reply(step, fault, deadline_s=0.4)

    assert isinstance(verdict, Retry)
    assert verdict.is_unanswered is (step in ("MAIL", "RCPT", "DATA"))
    assert time.monotonic() - begun < 3
    assert isinstance(await harness.send(), Sent)
    assert len(harness.relay.mails) == 1


async def test_replies_before_the_first_mail_share_the_time_of_a_connection(harness: MailChannelHarness) -> None:
    harness.relay.rules = [RelayRule("CONNECT", delay_s=0.3), RelayRule("EHLO", delay_s=0.3)]

    # A third of the deadline is for the commands, half of it for the connection.
    verdict = await harness.send(deadline_s=3.0)

    assert isinstance(verdict, Retry) and harness.relay.commands["MAIL"] == 0


@pytest.mark.parametrize("fault", [RelayFault.DROP, RelayFault.HANG])
async def test_failure_after_the_mail_is_unknown(harness: MailChannelHarness, fault: RelayFault) -> None:
    verdict = await harness.send_with_reply("END", fault, deadline_s=0.4)

    assert isinstance(verdict, Unknown)
    assert harness.relay.count == 1
    assert isinstance(await harness.send("bob@example.com"), Sent)


@pytest.mark.parametrize(
    ("step", "unsolicited", "failed"),
    [
        ("EHLO", "250 2.0.0 Ok\r\n", "MAIL"),
        ("MAIL", "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n354 Go on\r\n", "RCPT"),
        ("RCPT", "354 Go on\r\n", "DATA"),
        ("RCPT", "3", "DATA"),
        ("DATA", "250 2.0.0 Ok: queued as UNSOLICITED\r\n", "DATA"),
    ],
)
async def test_unsolicited_reply_ends_a_mail_before_it_is_written(
    harness: MailChannelHarness, step: str, unsolicited: str, failed: str
) -> None:
    """aiosmtplib would take it as the reply to the next command."""
    harness.relay.rules = [RelayRule(step, times=1, unsolicited=unsolicited)]

    verdict = await harness.send()

    assert verdict == Retry(None, None, f"{failed}: the relay sent a reply without a command", is_unanswered=True)
    assert harness.relay.count == 0
    await wait_until(lambda: not harness.relay.open_connections, "the connection is closed")
    assert await harness.send("bob@example.com") == Sent("250", "FAKE1")


@pytest.mark.parametrize(
    ("step", "unsolicited"),
    [
        ("END", "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n354 Go on\r\n"),
        ("END", "421 4.4.2 closing\r\n"),
        ("RSET", "250 2.0.0 Ok\r\n"),
        ("RCPT", "250 2.0.0 Ok\r\n"),
    ],
)
async def test_unsolicited_reply_concerns_no_other_recipient(
    harness: MailChannelHarness, step: str, unsolicited: str
) -> None:
    rejection = RelayRule("RCPT", "550 5.1.1 no such user", None, "gone")
    harness.relay.rules = [rejection]
    if step == "RCPT":
        rejection.unsolicited = unsolicited
    else:
        harness.relay.rules.append(RelayRule(step, times=1, unsolicited=unsolicited))
    users = ("a", "b", "gone", "c", "d") if step == "END" else ("gone", "c", "gone", "d")

    verdicts = [await harness.send(f"{user}@example.com") for user in users]

    assert [verdict.name for verdict in verdicts] == ["gone" if user == "gone" else "sent" for user in users]
    sent = [(f"{user}@example.com",) for user in users if user != "gone"]
    assert [mail.recipients for mail in harness.relay.mails] == sent


async def test_cancelled_send_closes_only_its_connection(harness: MailChannelHarness) -> None:
    await harness.send()
    harness.relay.rules = [RelayRule("RCPT", RelayFault.HANG, 1, "slow")]
    slow = asyncio.create_task(harness.send("slow@example.com"))
    await wait_until(lambda: harness.relay.commands["RCPT"] == 2, "the relay has the address")

    slow.cancel()
    await asyncio.wait([slow])

    begun = time.monotonic()
    verdicts = [await harness.send(f"after{n}@example.com") for n in range(3)]
    assert time.monotonic() - begun < 3, "a mail waited on the connection that was left in the middle"
    assert [verdict.name for verdict in verdicts] == ["sent"] * 3
    assert [mail.recipients[0] for mail in harness.relay.mails[1:]] == [f"after{n}@example.com" for n in range(3)]


async def test_busy_pool_is_retried(harness: MailChannelHarness) -> None:
    harness.relay.rules = [RelayRule("RCPT", RelayFault.HANG, 2)]

    *slow, third = await asyncio.gather(*(harness.send(deadline_s=0.6 if n < 2 else 0.2) for n in range(3)))

    assert third == Retry(None, None, "all connections to the relay are busy")
    assert [verdict.name for verdict in slow] == ["retry", "retry"]


async def test_unreachable_relay_is_retried() -> None:
    channel = EmailChannel("smtp://127.0.0.1:1?tls=none", SENDER, ManualClock(NOW_US))
    await channel.open()

    verdict = await channel.send(MAIL, 2.0)
    report = await channel.check()
    await channel.close()

    assert verdict == Retry(None, None, "connect: Connection refused")
    assert report == "The relay cannot be used: connect: Connection refused; check GREGOR_SMTP_URL."


async def test_unknown_host_of_the_relay_is_named_as_the_cause() -> None:
    channel = EmailChannel("smtp://relay.invalid:25?tls=none", SENDER, ManualClock(NOW_US))

    report = await channel.check()
    await channel.close()

    # The rest is the text of the resolver, which depends on the machine.
    assert report is not None and report.startswith("The relay cannot be used: connect: ")
    assert "SMTPConnectError" not in report


async def test_close_waits_for_mail_in_flight(harness: MailChannelHarness, tmp_path: Path) -> None:
    harness.relay.rules = [RelayRule("END", RelayFault.HANG, 1)]
    sending = asyncio.create_task(harness.send(deadline_s=0.5))
    await wait_until(lambda: harness.relay.commands["END"], "the mail is on its way")

    await harness.channel.close()

    assert sending.done()
    assert isinstance(sending.result(), Unknown)
    await harness.channel.open()
