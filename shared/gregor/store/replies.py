"""What a server's answer means to a store: a value, or ``Unavailable`` where the server could not do it now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from .contract import Unavailable
from .link import LinkDown, ReplyError

_NOT_NOW: Final = (
    "OOM",
    "LOADING",
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "BUSY ",
    "MISCONF",
    "NOREPLICAS",
    "TRYAGAIN",
)


async def answer(reply: Awaitable[Any]) -> Any:
    """The reply. Raises ``Unavailable`` where the server is away, full, loading, or no primary; the rest are bugs."""
    try:
        return await reply
    except LinkDown as trouble:
        raise Unavailable(str(trouble)) from trouble
    except ReplyError as refusal:
        text = str(refusal)
        if text.startswith(_NOT_NOW) or " OOM " in text:
            raise Unavailable(text) from refusal
        raise


async def answers(replies: Iterable[Awaitable[Any]]) -> list[Any]:
    """The replies of commands that were issued together. Raises the first failure, once all have ended."""
    ended = await asyncio.gather(*map(answer, replies), return_exceptions=True)
    for reply in ended:
        if isinstance(reply, BaseException):
            raise reply
    return ended
