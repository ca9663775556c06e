"""What a store needs of a server: commands, and scripts by their name. ``link`` does it over the wire."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from .connection import Argument


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name under which servers cache it."""

    source: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


ScriptCall: TypeAlias = tuple[Script, bytes]
"""A script, and the whole command that runs it, as it goes over the wire."""


class RedisCommands(Protocol):
    """What a store needs of a server. Replies are raw: ``bytes``, ``int``, ``None`` or a list of these."""

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """Issue a command and return at once. Commands are carried out in the order of their calls.

        The future ends with the reply, or with ``ReplyError`` (the server refused), ``RedisUnavailable`` (nothing was
        done) or ``RedisConnectionLost`` (it is not known whether it was done). Cancelling it does not take back a
        command that was sent.
        """
        ...

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """Run a script; as ``call``, but a server that lacks the script is given it and asked again.

        Commands called between the first attempt and the second may be carried out before the script.
        """
        ...

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """``evalsha`` of a call that is packed already."""
        ...

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts, all sent at once, in order; their replies. One that failed has its exception in the place.

        A server that lacks a script is given it, and the calls of it are repeated in order, after the others.
        """
        ...

    async def load(self, scripts: Sequence[Script]) -> None:
        """Give the server scripts: now, and before anything else when it is connected to anew.

        So of the calls of ``run_many`` to a server that came back without them none is behind its turn.
        """
        ...

    async def close(self) -> None:
        """Close for good. What is outstanding fails."""
        ...
