"""Translation of Redis replies for the store: a value, or ``Unavailable`` if the server cannot execute it now."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final

from gregor.core.errors import Problem
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.store.contract.store import Unavailable, UnreadableValue

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


_UNREADABLE: Final = re.compile(r"UNKNOWNFORMAT (\w+) (\d+)")
"""The error of a script for a value of an unknown format: kind of the value, first byte."""


class StoreFull(Unavailable):
    """The server reached ``maxmemory`` and refuses what may grow. Reads and dismissals still work."""

    def problem(self) -> Problem:
        """See ``Unavailable.problem``."""
        detail = "The store is full: new items are refused until it has room; dismissals still work. Try again."
        return Problem("unavailable", detail, retry_after_s=1.0)


async def result_of(reply: Awaitable[Any]) -> Any:
    """Return the reply. Raises ``Unavailable`` if the server is unreachable, full, loading or a replica, or if
    a value is of a later format; other errors are bugs.
    """
    try:
        return await reply
    except (RedisUnavailable, ReplyError) as error:
        return result_or_raise(error)


def result_or_raise(reply: Any) -> Any:
    """Return one reply of many commands. Raises as ``result_of`` if it is an error."""
    if isinstance(reply, RedisUnavailable):
        raise Unavailable(str(reply)) from reply
    if isinstance(reply, ReplyError):
        text = str(reply)
        # A script reports the OOM of a command inside a longer text.
        if text.startswith("OOM") or " OOM " in text:
            raise StoreFull(text) from reply
        if unreadable := _UNREADABLE.search(text):
            raise UnreadableValue(unreadable[1], int(unreadable[2])) from reply
        if text.startswith(_NOT_NOW):
            raise Unavailable(text) from reply
        try:
            raise reply
        finally:
            # Otherwise the error, its traceback and this frame form a reference cycle.
            del reply
    return reply


def results_of_reached(replies: Sequence[Any]) -> dict[int, Any]:
    """Return the replies by their place, without those of servers that cannot answer now.

    Raises as ``result_of`` if no server answered, or for an error that is a bug.
    """
    found: dict[int, Any] = {}
    failure: Unavailable | None = None
    for place, reply in enumerate(replies):
        try:
            found[place] = result_or_raise(reply)
        except Unavailable as error:
            failure = error
    if failure is not None and not found:
        try:
            raise failure
        finally:
            del failure, replies  # as in ``result_or_raise``
    return found


async def results_of(replies: Iterable[asyncio.Future[Any]]) -> list[Any]:
    """Return the replies of commands that were issued together. Raises the first failure after all have ended.

    The commands are sent already, so awaiting them one after the other costs no time and no task for each.
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
            reply.cancel()  # only effective if the caller was cancelled
    if failure is not None:
        try:
            raise failure
        finally:
            del failure, issued, reply  # as in ``result_or_raise``
    return ended
