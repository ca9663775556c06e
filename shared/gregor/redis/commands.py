"""The commands that a store needs of a Redis-protocol server. ``RedisClient`` implements them over a connection."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from .connection import Argument


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its SHA-1 digest, by which servers cache it."""

    source: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


ScriptCall: TypeAlias = tuple[Script, bytes]
"""A script, and the whole packed command that runs it."""


class RedisCommands(Protocol):
    """Asynchronous commands. Replies are raw: ``bytes``, ``int``, ``None`` or a list of these."""

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """Issue a command and return at once. Commands are executed in the order of their calls.

        The future ends with the reply, or with ``ReplyError`` (the server refused it), ``RedisUnavailable`` (it was not
        executed) or ``RedisConnectionLost`` (unknown). Cancelling the future does not cancel a command that was sent.
        """
        ...

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """Run a script, as ``call``. If the server has not loaded the script, load it and repeat the call.

        Commands called between the first attempt and the repetition may be executed before the script.
        """
        ...

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """Run a script call that is packed already; see ``evalsha``."""
        ...

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Send script calls in one write and return their replies in order.

        A failed call has its exception in its place.

        If the server has not loaded a script, it is loaded, and its calls are repeated in order after the others.
        """
        ...

    async def load(self, scripts: Sequence[Script]) -> None:
        """Load scripts now, and first of all on every new connection.

        Therefore the calls of ``run_many`` keep their order even if the server lost its scripts in a restart.
        """
        ...

    async def close(self) -> None:
        """Close for good. Commands without a reply fail."""
        ...
