"""Asking the Sentinels for the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gregor.redis.connect import connect
from gregor.redis.connection import NullListener, RedisConnection
from gregor.redis.errors import RedisAccessRefused, RedisUnavailable, ReplyError
from gregor.redis.url import RedisUrl

from .events import ServerAddress

QUERY_TIMEOUT_S: Final = 2.0
"""Timeout of one Sentinel. Others are asked at the same time, so a hung one costs this only if a majority hangs."""
_GRACE_S: Final = 0.1
"""How long to wait for the other Sentinels after a majority has answered: one may have a newer configuration."""


@dataclass(frozen=True, slots=True)
class PrimaryReport:
    """The primary according to the Sentinels.

    Attributes:
        config_epoch: The number of the configuration; each failover increases it. The highest one is the newest.
        is_majority: Whether a majority of the Sentinels in the URL answered.
    """

    primary: ServerAddress
    config_epoch: int
    is_majority: bool


class SentinelAnswer(NamedTuple):
    """The primary and the configuration epoch that one Sentinel knows."""

    primary: ServerAddress
    config_epoch: int


async def ask_each(
    address: RedisUrl, timeout_s: float = QUERY_TIMEOUT_S
) -> dict[str, SentinelAnswer | RedisUnavailable]:
    """Return the answer of every Sentinel, or why there is none, by its address."""
    sentinels = address.sentinels()
    asking = (_ask(each, address.service or "", timeout_s) for each in sentinels)
    answers = await asyncio.gather(*asking, return_exceptions=True)
    found: dict[str, SentinelAnswer | RedisUnavailable] = {}
    for sentinel, answer in zip(sentinels, answers, strict=True):
        if not isinstance(answer, SentinelAnswer | RedisUnavailable):
            raise answer
        found[str(sentinel)] = answer
    return found


async def ask_sentinels(address: RedisUrl) -> PrimaryReport:
    """Ask all Sentinels at once, and return the answer with the newest configuration.

    A Sentinel that was cut off from the others names the old primary, so the first answer is not enough. Raises
    ``RedisUnavailable`` with the reason of each Sentinel if none knows the service.
    """
    service = address.service or ""
    asking = [asyncio.create_task(_ask(sentinel, service)) for sentinel in address.sentinels()]
    majority = len(asking) // 2 + 1
    try:
        pending, timeout_s = set(asking), None
        while pending:
            done, pending = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if sum(_is_answer(task) for task in asking) >= majority:
                timeout_s = _GRACE_S
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    answers = [task.result() for task in asking if _is_answer(task)]
    if not answers:
        raise _failure([task.exception() for task in asking if not task.cancelled()])
    primary, epoch = max(answers, key=lambda answer: answer[1])
    return PrimaryReport(primary, epoch, len(answers) >= majority)


def _failure(errors: Sequence[BaseException | None]) -> RedisUnavailable:
    """Return the error of a query without an answer. Only an operator can help if every Sentinel refuses the login."""
    is_refused = all(isinstance(error, RedisAccessRefused) for error in errors)
    kind = RedisAccessRefused if is_refused else RedisUnavailable
    return kind("no sentinel knows the primary: " + "; ".join(map(str, errors)))


def _is_answer(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _ask(sentinel: RedisUrl, service: str, timeout_s: float = QUERY_TIMEOUT_S) -> SentinelAnswer:
    replies: list[Any] = []

    async def query(connection: RedisConnection) -> None:
        # GET-MASTER-ADDR-BY-NAME names a promoted replica earlier than SENTINEL MASTER. The epoch is new in both.
        commands = (("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service), ("SENTINEL", "MASTER", service))
        replies.extend(await connection.request(commands))

    connection = await connect(sentinel, "gregor-sentinel", NullListener(), timeout_s, query)
    connection.abort("is no longer needed")
    match replies:
        case [[bytes(host), bytes(port)], description]:
            return SentinelAnswer((host.decode(), int(port)), _config_epoch(description))
        case [ReplyError() as refusal, _]:
            raise RedisUnavailable(f"{sentinel} refused the query: {refusal}")
        case _:
            raise RedisUnavailable(f"{sentinel} does not know the service {service}")


def _config_epoch(description: Any) -> int:
    """Return the epoch of a reply to SENTINEL MASTER; 0 if the user may not send that."""
    if not isinstance(description, list) or b"config-epoch" not in description:
        return 0
    return int(description[description.index(b"config-epoch") + 1])
