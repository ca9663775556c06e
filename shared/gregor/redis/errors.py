"""Errors of the Redis client. The class says whether the command may have been executed."""

from __future__ import annotations


class ReplyError(Exception):
    """An error reply of the server. The text is the server's own; its first word is the error code."""

    @property
    def code(self) -> str:
        """The error code: ``NOSCRIPT``, ``WRONGTYPE``, ``ERR`` …"""
        return str(self).partition(" ")[0]

    @property
    def is_missing_script(self) -> bool:
        """Whether an EVALSHA named a script that the server has not loaded."""
        return self.code == "NOSCRIPT"


class RedisUnavailable(ConnectionError):
    """The command was not executed: its server is unreachable or too slow, or too many commands wait (backpressure).

    Only the subclass ``RedisConnectionLost`` leaves open whether it was executed.
    """


class RedisConnectionLost(RedisUnavailable):
    """The connection broke after the command was written: it is unknown whether it was executed."""


class RedisAccessRefused(RedisUnavailable):
    """The server refuses this client (password, permissions, database): a retry cannot succeed."""
