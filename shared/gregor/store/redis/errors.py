"""What a server's answer means to a store: a value, or ``Unavailable`` where the server could not do it now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from gregor.core.errors import Problem
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.store.contract.store import Unavailable

_NOT_NOW: Final = (
    "LOADING",
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "BUSY ",
    "MISCONF",
    "NOREPLICAS",
    "TRYAGAIN",
)


class StoreFull(Unavailable):
    """The server's memory is used up: it refuses what may grow. Reads and what takes away still work."""

    def problem(self) -> Problem:
        """See ``Unavailable``."""
        words = "The store is full: nothing new is taken until it has room; dismissals are. Try again."
        return Problem("unavailable", words, retry_after_s=1.0)


async def result_of(reply: Awaitable[Any]) -> Any:
    """The reply. Raises ``Unavailable`` where the server is away, full, loading, or no primary; the rest are bugs."""
    try:
        return await reply
    except (RedisUnavailable, ReplyError) as error:
        return result_or_raise(error)


def result_or_raise(reply: Any) -> Any:
    """The reply of one of many commands: itself, or raised as ``answer`` does where it is a failure."""
    if isinstance(reply, RedisUnavailable):
        raise Unavailable(str(reply)) from reply
    if isinstance(reply, ReplyError):
        text = str(reply)
        if text.startswith("OOM") or " OOM " in text:
            raise StoreFull(text) from reply
        if text.startswith(_NOT_NOW):
            raise Unavailable(text) from reply
        raise reply
    return reply


async def results_of(replies: Iterable[asyncio.Future[Any]]) -> list[Any]:
    """The replies of commands that were issued together. Raises the first failure, once all have ended.

    They are on their way already: who waits for one after the other loses nothing, and makes no task for each.
    """
    issued = list(replies)
    ended, failure = [], None
    try:
        for reply in issued:
            try:
                ended.append(await result_of(reply))
            except Exception as error:
                failure = failure or error
    finally:
        for reply in issued:
            reply.cancel()  # only where the caller gave up: nobody is to hear of them then
    if failure is not None:
        raise failure
    return ended
