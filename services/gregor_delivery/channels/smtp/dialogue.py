"""One mail over one connection: MAIL, RCPT, DATA, the mail; and how far it came where it came no further.

Spoken command by command, since what a failure means depends on where it was: until the mail itself is written nothing
was handed over, so it may go out again; after that, no answer means that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiosmtplib

from gregor_delivery.channels.verdict import Refused, Retry, Sent, Unknown, Verdict

from .mime import MailAddress
from .pool import SmtpConnection
from .responses import SmtpStep, accepted, refused

UNAVAILABLE: Final = 421
"""The relay closes the connection (RFC 5321)."""
_BROKEN: Final = (aiosmtplib.SMTPException, OSError)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A mail with its envelope. `content`: dots doubled, ended by the line with the dot."""

    sender: MailAddress
    to: MailAddress
    content: bytes


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """What became of the mail, and of the line. `was_given_up`: the relay had closed the idle line."""

    verdict: Verdict
    is_well: bool
    was_given_up: bool = False


class _Stop(Exception):
    """The dialogue ends here."""

    def __init__(self, verdict: Verdict, *, is_well: bool) -> None:
        super().__init__(verdict.name)
        self.verdict = verdict
        self.is_well = is_well


async def hand_over(line: SmtpConnection, letter: Envelope, left_s: Callable[[], float]) -> TransactionResult:
    """Hand over one mail. `left_s`: seconds until its deadline. Raises nothing that the relay could cause."""
    try:
        await _say(line, SmtpStep.SENDER, left_s(), b"MAIL", *_sender(line, letter))
    except _Stop as stop:
        is_over = isinstance(stop.verdict, Retry) and not line.smtp.is_connected
        return TransactionResult(stop.verdict, stop.is_well, was_given_up=is_over and line.mails > 0 and left_s() > 0)
    try:
        await _say(line, SmtpStep.RECIPIENT, left_s(), b"RCPT", b"TO:<" + letter.to.smtp.encode() + b">")
        await _say(line, SmtpStep.DATA, left_s(), b"DATA", good=(354,))
    except _Stop as stop:
        return TransactionResult(stop.verdict, stop.is_well)
    return await _write(line, letter, left_s())


def _sender(line: SmtpConnection, letter: Envelope) -> list[bytes]:
    words = [b"FROM:<" + letter.sender.smtp.encode() + b">"]
    if line.smtp.supports_extension("size"):
        words.append(b"SIZE=%d" % len(letter.content))
    if letter.to.is_utf8 or letter.sender.is_utf8:
        if not line.smtp.supports_extension("smtputf8"):
            raise _Stop(Refused(None, "the relay takes no addresses beyond ASCII (SMTPUTF8)"), is_well=True)
        words.append(b"SMTPUTF8")
    return words


async def _say(
    line: SmtpConnection, step: SmtpStep, left_s: float, *words: bytes, good: tuple[int, ...] = (250, 251, 252)
) -> None:
    """One command; _Stop where its reply is not a good one, the envelope taken back first."""
    if left_s <= 0:
        raise _Stop(Retry(None, None, f"{step.value}: no time was left"), is_well=False)
    try:
        code, text = await line.smtp.execute_command(*words, timeout=left_s)
    except _BROKEN as error:
        raise _Stop(Retry(None, None, f"{step.value}: {type(error).__name__}"), is_well=False) from None
    if code not in good:
        raise _Stop(refused(step, code, text), is_well=code != UNAVAILABLE and await _reset(line, left_s))


async def _reset(line: SmtpConnection, left_s: float) -> bool:
    try:
        return (await line.smtp.execute_command(b"RSET", timeout=left_s)).code == 250
    except _BROKEN:
        return False


async def _write(line: SmtpConnection, letter: Envelope, left_s: float) -> TransactionResult:
    """The mail itself. From the first byte on, silence means that nobody knows."""
    protocol = line.smtp.protocol
    if protocol is None or left_s <= 0:
        return TransactionResult(Retry(None, None, "DATA: the connection was lost"), is_well=False)
    try:
        protocol.write(letter.content)
    except _BROKEN as error:
        return TransactionResult(Retry(None, None, f"DATA: {type(error).__name__}"), is_well=False)
    try:
        code, text = await protocol.read_response(timeout=left_s)
    except _BROKEN as error:
        return TransactionResult(
            Unknown(f"{SmtpStep.END.value} was written, and not answered: {type(error).__name__}"), is_well=False
        )
    verdict = accepted(code, text) if code == 250 else refused(SmtpStep.END, code, text)
    # What is no reply at all leaves the dialogue nowhere, and the mail perhaps taken.
    if not 200 <= code < 600:
        return TransactionResult(Unknown("the mail was written, and the answer is no reply of SMTP"), is_well=False)
    return TransactionResult(verdict, is_well=isinstance(verdict, Sent) or code != UNAVAILABLE)
