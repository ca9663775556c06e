"""The stages of a canary round in which it can fail, each with the fix that its log event gives."""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import Final

NOT_GREGOR: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Exceptions of reading a response or a frame that does not come from Gregor, such as the page of a proxy."""
MAX_DETAIL: Final = 500
"""Maximum length of the detail of a failure, which may quote a server."""


class Stage(StrEnum):
    """The stage in which a round failed; its value is a label of a metric. `fix` says what an operator checks first."""

    fix: str

    def __new__(cls, name: str, fix: str) -> Stage:
        """Create a member that equals its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.fix = fix
        return member

    # Publishing, at ingest.
    PUBLISH_CONNECT = "publish_connect", "Check that ingest runs, and DNS, firewall and proxy of the URL of ingest."
    PUBLISH_TLS = (
        "publish_tls",
        "Renew the certificate of ingest. Name a private certificate authority with SSL_CERT_FILE.",
    )
    PUBLISH_AUTH = "publish_auth", "Give a valid service key with the scope ingest: gregor keys create --scope ingest."
    PUBLISH_REFUSED = "publish_refused", "Look for the request id in the log of ingest; run gregor doctor."
    PUBLISH_TIMEOUT = "publish_timeout", "Look at /readyz of ingest and at its Redis: gregor doctor."

    # Receiving, at the gateway.
    CREDENTIALS = "credentials", "Check the files of the service key and of the device token, or of the secret."
    CONNECT = "connect", "Check that a gateway runs, and DNS, firewall and proxy of the URL of the gateway."
    TLS = "tls", "Renew the certificate of the gateway. Name a private certificate authority with SSL_CERT_FILE."
    AUTH = "auth", "Compare GREGOR_TOKEN_SECRET, GREGOR_TOKEN_AUD and GREGOR_TOKEN_ISS of canary and gateway."
    NO_SYNC = (
        "no_sync",
        "Look at /readyz of the gateway. If only server-sent events fail, turn off response buffering in the proxy.",
    )
    CLOSED = "closed", "Look for the close code in docs/reference/errors.md, and in the log of the gateway."
    NOT_RECEIVED = "not_received", "Look at `probe` in /readyz of each gateway, and at gregor_gaps_total."
    WRONG_BODY = "wrong_body", "Compare gregor state with the item in the log; look for a proxy that changes contents."
    LATE = "late", "Look at the CPU of the gateways and of Redis, and at gregor_deliver_seconds."

    # Work of the scheduler, and the end of the round.
    TIMER_MISSING = "timer_missing", "Check that a scheduler runs; look at gregor_due_lag_seconds and its /readyz."
    TIMER_LATE = "timer_late", "Look at gregor_due_lag_seconds; add a scheduler if its CPU is busy."
    CLEANUP = "cleanup", "The items of the canary expire by themselves. Look for the request id in the log of ingest."


class RoundFailed(Exception):
    """A round failed in `stage`. `detail` says what the canary saw."""

    def __init__(self, stage: Stage, detail: str) -> None:
        self.stage = stage
        self.detail = detail[:MAX_DETAIL]
        super().__init__(f"{stage}: {self.detail}")


def connection_failure(error: BaseException, tls: Stage, other: Stage) -> RoundFailed:
    """Return the failure of a connection: of stage `tls` if the certificate or the handshake is refused, else `other`.

    HTTP clients wrap the error of the socket: it is found among the causes.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return RoundFailed(tls, f"TLS: {getattr(cause, 'verify_message', '') or cause}")
        cause = cause.__cause__ or cause.__context__
    return RoundFailed(other, str(error) or type(error).__name__)
