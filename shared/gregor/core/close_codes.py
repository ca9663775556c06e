"""WebSocket close codes: the ones of RFC 6455 that Gregor uses, and its own (4000–4999).

The table of close codes in the documentation is generated from this enum (``tests/support/close_code_table.py``).
"""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """The reason for which a connection ended. Streams and long polls carry the same codes in their last frame.

    ``reason`` is sent with the code; it is empty for codes of RFC 6455. A client must not reconnect with the same
    credentials after a code that ``is_final``.
    """

    reason: str
    meaning: str
    is_final: bool

    def __new__(cls, code: int, reason: str, meaning: str, is_final: bool = False) -> CloseCode:
        """Create a member that equals the number of its code."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.reason, member.meaning, member.is_final = reason, meaning, is_final
        return member

    # RFC 6455, section 7.4.1
    NORMAL = 1000, "", "The client closed the connection."
    GOING_AWAY = 1001, "", "The process ends at once."
    PROTOCOL_ERROR = (
        1002,
        "",
        "A frame violates RFC 6455: no mask, reserved bits, an unknown opcode or a bad length.",
    )
    NO_STATUS = 1005, "", "Never sent: the close frame of the peer has no code."
    ABNORMAL = 1006, "", "Never sent: the connection ended without a close frame."
    INVALID_UTF8 = 1007, "", "A text message or a close reason is not valid UTF-8."
    MESSAGE_TOO_BIG = 1009, "", "A message is larger than 1 MiB, or than 16 KiB before hello."
    INTERNAL_ERROR = 1011, "", "Internal server error."

    # Gregor: the client may reconnect
    SHUTDOWN = 4001, "shutdown", "The server is shutting down; reconnect to another one."
    SLOW_CONSUMER = 4002, "slow", "The client did not read in time what was sent (slow consumer)."
    STATE_INVALIDATED = 4003, "state_invalidated", "The device was deleted, or its new token names another device."
    TOKEN_EXPIRED = 4004, "token_expired", "The token has expired, or its key was removed; get a new one first."
    HELLO_TIMEOUT = 4005, "hello_timeout", "No hello within 15 seconds."
    UNAVAILABLE = 4006, "unavailable", "The store cannot be reached, or the key of a new token is not loaded yet."
    PING_TIMEOUT = 4007, "ping_timeout", "Two pings were not answered."
    MAX_AGE = 4008, "max_age", "The connection reached its maximum age; reconnecting spreads the load."
    RATE_LIMITED = (
        4009,
        "rate_limited",
        "Too many connections, connection attempts or frames. A reason `retry_after_ms=…` says when to reconnect.",
    )

    # Gregor: final, the client must not reconnect with the same credentials
    UNAUTHORISED = 4501, "unauthorised", "The token is not valid and never will be.", True
    REVOKED = 4502, "revoked", "The token was revoked, the user deleted, or the observer's service key deleted.", True
    BAD_PROTOCOL = (
        4503,
        "bad_protocol",
        "A message is not JSON or came before hello, or a second hello was invalid.",
        True,
    )
    REPLACED = 4504, "replaced", "A newer connection of the same device and session replaced this one.", True
    TOO_MANY_CONNECTIONS = (
        4505,
        "too_many_connections",
        "The device has too many newer connections, or the user has the maximum of devices and all are online.",
        True,
    )

    @classmethod
    def find(cls, code: int) -> CloseCode | None:
        """Return the member with this number, or ``None`` if the code is not known."""
        return cls._value2member_map_.get(code)  # type: ignore[return-value]
