"""A command on its way through the cluster: its slot, its bytes, its caller, and the state of its retries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gregor.redis.commands import Script
from gregor.redis.errors import RedisConnectionLost, RedisUnavailable

from .slots import NodeAddress


class RetryState:
    """The retries of a command that was not executed at once. Most commands have none.

    Attributes:
        redirects: Redirects so far.
        ask: The node that an ASK reply named, for the next attempt only.
        needs_load: The script must be loaded before the next attempt.
        was_loaded: The script was loaded for this command, so a second NOSCRIPT is final.
        was_lost: A connection broke without the reply, so the command may have been executed.
        trying_since: Time of the first TRYAGAIN of a row of them.
    """

    __slots__ = ("ask", "needs_load", "redirects", "trying_since", "was_loaded", "was_lost")

    def __init__(self) -> None:
        self.redirects = 0
        self.ask: NodeAddress | None = None
        self.needs_load = False
        self.was_loaded = False
        self.was_lost = False
        self.trying_since: float | None = None


class Command:
    """A command of one slot. Subclasses know its caller.

    Attributes:
        number: Its place in the order of all calls of the client.
        slot: Its hash slot; -1 for a command of a connection, such as PING, which is never repeated.
        deadline: When it fails, unless it is in flight. Loop time.
        is_repeatable: A second execution has no further effect.
    """

    __slots__ = ("deadline", "is_repeatable", "number", "packed", "retry", "script", "slot")

    def __init__(
        self, slot: int, packed: bytes, deadline: float, script: Script | None = None, *, is_repeatable: bool = False
    ) -> None:
        self.number = 0
        self.slot = slot
        self.packed = packed
        self.deadline = deadline
        self.script = script
        self.is_repeatable = is_repeatable
        self.retry: RetryState | None = None

    def retry_state(self) -> RetryState:
        """Return the state of this command's retries, created on first use."""
        if self.retry is None:
            self.retry = RetryState()
        return self.retry

    def give_up(self, reason: str) -> None:
        """Fail the command: as not executed, or as unknown if a connection broke without its reply."""
        if self.retry is not None and self.retry.was_lost:
            self.finish(RedisConnectionLost(f"{reason}; it is unknown whether the command was executed"))
        else:
            self.finish(RedisUnavailable(reason))

    def is_done(self) -> bool:
        """Return whether the caller has an outcome, or has cancelled."""
        raise NotImplementedError

    def finish(self, outcome: Any) -> None:
        """Give the caller a reply or an exception."""
        raise NotImplementedError


class SingleCommand(Command):
    """A command with its own future."""

    __slots__ = ("future",)

    future: asyncio.Future[Any]

    def is_done(self) -> bool:
        """See ``Command.is_done``."""
        return self.future.done()

    def finish(self, outcome: Any) -> None:
        """See ``Command.finish``."""
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Batch:
    """The outcomes of commands that were issued together, in their order. ``complete`` ends with the list."""

    __slots__ = ("_missing", "complete", "outcomes")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._missing = count
        self.outcomes: list[Any] = [None] * count
        self.complete: asyncio.Future[list[Any]] = loop.create_future()

    def put(self, place: int, outcome: Any) -> None:
        """Record the outcome of one command."""
        self.outcomes[place] = outcome
        self._missing -= 1
        if not self._missing and not self.complete.done():
            self.complete.set_result(self.outcomes)


class BatchCommand(Command):
    """A command of a batch."""

    __slots__ = ("batch", "place")

    batch: Batch
    place: int

    def is_done(self) -> bool:
        """See ``Command.is_done``: a cancelled batch needs none of its outcomes."""
        return self.batch.complete.done()

    def finish(self, outcome: Any) -> None:
        """See ``Command.finish``."""
        self.batch.put(self.place, outcome)


class ConnectionCommand(Command):
    """A command that belongs to a connection: PING, ASKING, SCRIPT LOAD. It ends with the connection.

    Args:
        on_reply: Called with the reply or the error.
    """

    __slots__ = ("_on_reply", "_was_answered")

    def __init__(self, packed: bytes, on_reply: Callable[[Any], None] | None = None) -> None:
        super().__init__(-1, packed, 0.0)
        self._on_reply = on_reply
        self._was_answered = False

    def is_done(self) -> bool:
        """See ``Command.is_done``."""
        return self._was_answered

    def finish(self, outcome: Any) -> None:
        """See ``Command.finish``."""
        if not self._was_answered:
            self._was_answered = True
            if self._on_reply is not None:
                self._on_reply(outcome)
