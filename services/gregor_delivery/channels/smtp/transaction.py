"""One SMTP transaction: MAIL, RCPT, DATA and the mail, over one connection; reports the step at which it failed.

The commands are sent one by one because the meaning of a failure depends on its step. Before the mail itself is
written nothing was delivered, so it may be sent again; afterwards a missing reply leaves the outcome unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiosmtplib

from gregor_delivery.channels.verdict import Refused, Retry, Sent, Unknown, Verdict

from .mime import MailAddress
from .pool import SmtpConnection
from .responses import SERVICE_CLOSING, SmtpStep, accepted, is_relay_denied, rejected

_CONNECTION_ERRORS: Final = (aiosmtplib.SMTPException, OSError)
_UNSOLICITED_REPLY: Final = "the relay sent a reply without a command"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A mail with its SMTP sender and recipient. `content`: dot-stuffed, with the final dot line."""

    sender: MailAddress
    to: MailAddress
    content: bytes


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """The verdict on a mail, and the state of the connection."""

    verdict: Verdict
    is_reusable: bool
    """Whether the connection is ready for another transaction."""
    was_stale: bool = False
    """Whether the relay had closed the idle connection, or sent an unsolicited reply over it: nothing was sent."""
    is_recipient_accepted: bool = False
    is_relay_denied: bool = False
    """Whether the rejection of the recipient may be about us; see `RelayDenials`."""


class _Failed(Exception):
    """The transaction ends at a command."""

    def __init__(self, verdict: Verdict, *, is_reusable: bool, is_relay_denied: bool = False) -> None:
        super().__init__(verdict.name)
        self.verdict = verdict
        self.is_reusable = is_reusable
        self.is_relay_denied = is_relay_denied


async def run_transaction(
    connection: SmtpConnection, envelope: Envelope, left_s: Callable[[], float], reply_timeout_s: float
) -> TransactionResult:
    """Send one mail. Nothing that the relay does raises an exception.

    `left_s`: seconds left for the commands. `reply_timeout_s`: for the reply to the mail (RFC 5321 §4.5.3.2.6: relays
    may scan a mail for minutes, and a client that gives up earlier sends it twice).
    """
    try:
        await _command(connection, SmtpStep.SENDER, left_s(), b"MAIL", *_mail_parameters(connection, envelope))
    except _Failed as failure:
        is_closed = isinstance(failure.verdict, Retry) and not connection.smtp.is_connected
        was_stale = is_closed and connection.mails > 0 and left_s() > 0
        return TransactionResult(failure.verdict, failure.is_reusable, was_stale)
    is_accepted = False
    try:
        await _command(connection, SmtpStep.RECIPIENT, left_s(), b"RCPT", b"TO:<" + envelope.to.smtp.encode() + b">")
        is_accepted = True
        await _command(connection, SmtpStep.DATA, left_s(), b"DATA", success=(354,))
    except _Failed as failure:
        return TransactionResult(
            failure.verdict,
            failure.is_reusable,
            is_recipient_accepted=is_accepted,
            is_relay_denied=failure.is_relay_denied,
        )
    verdict, is_reusable = await _write_mail(connection, envelope, reply_timeout_s)
    return TransactionResult(verdict, is_reusable, is_recipient_accepted=True)


def _mail_parameters(connection: SmtpConnection, envelope: Envelope) -> list[bytes]:
    parameters = [b"FROM:<" + envelope.sender.smtp.encode() + b">"]
    if connection.smtp.supports_extension("size"):
        parameters.append(b"SIZE=%d" % len(envelope.content))
    if envelope.to.is_utf8 or envelope.sender.is_utf8:
        if not connection.smtp.supports_extension("smtputf8"):
            raise _Failed(Refused(None, "the relay does not support SMTPUTF8 (non-ASCII addresses)"), is_reusable=True)
        parameters.append(b"SMTPUTF8")
    return parameters


async def _command(
    connection: SmtpConnection,
    step: SmtpStep,
    left_s: float,
    *words: bytes,
    success: tuple[int, ...] = (250, 251, 252),
) -> None:
    """Send one command; raises `_Failed`, after a RSET, unless the reply is a success."""
    if left_s <= 0:
        raise _Failed(_unanswered(f"{step.value}: the deadline has passed"), is_reusable=False)
    if connection.has_unsolicited_reply:
        connection.smtp.close()
        raise _Failed(_unanswered(f"{step.value}: {_UNSOLICITED_REPLY}"), is_reusable=False)
    try:
        code, text = await connection.smtp.execute_command(*words, timeout=left_s)
    except _CONNECTION_ERRORS as error:
        raise _Failed(_unanswered(f"{step.value}: {type(error).__name__}"), is_reusable=False) from None
    if code not in success:
        raise _Failed(
            rejected(step, code, text, connection.secrets),
            is_reusable=code != SERVICE_CLOSING and await _reset(connection, left_s),
            is_relay_denied=is_relay_denied(step, code, text),
        )


def _unanswered(detail: str) -> Retry:
    # The relay has accepted the session. It may fail for this recipient only, for example in a check of the address.
    return Retry(None, None, detail, is_unanswered=True)


async def _reset(connection: SmtpConnection, left_s: float) -> bool:
    try:
        return (await connection.smtp.execute_command(b"RSET", timeout=left_s)).code == 250
    except _CONNECTION_ERRORS:
        return False


async def _write_mail(connection: SmtpConnection, envelope: Envelope, timeout_s: float) -> tuple[Verdict, bool]:
    """Write the mail and read the reply. Returns the verdict, and whether the connection is reusable."""
    protocol = connection.smtp.protocol
    if protocol is None:
        return _unanswered("DATA: the connection was lost"), False
    if connection.has_unsolicited_reply:
        return _unanswered(f"DATA: {_UNSOLICITED_REPLY}"), False
    try:
        protocol.write(envelope.content)
    except _CONNECTION_ERRORS as error:
        return _unanswered(f"DATA: {type(error).__name__}"), False
    try:
        code, text = await protocol.read_response(timeout=timeout_s)
    except _CONNECTION_ERRORS as error:
        return Unknown(f"{SmtpStep.END.value} was written, and not answered: {type(error).__name__}"), False
    if not 200 <= code < 600:
        # The relay has lost its place in the dialogue; it may have queued the mail.
        return Unknown("the mail was written, and the answer is not an SMTP reply"), False
    verdict = accepted(code, text) if code == 250 else rejected(SmtpStep.END, code, text, connection.secrets)
    return verdict, isinstance(verdict, Sent) or code != SERVICE_CLOSING
