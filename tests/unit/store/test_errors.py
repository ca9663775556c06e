"""Replies of commands that were issued together."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import Any

import pytest

from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.store.contract.store import Unavailable
from gregor.store.redis.errors import result_or_raise, results_of, results_of_reached
from tests.support.kept_errors import garbage_collection_off, kept_errors


def issued(count: int) -> list[asyncio.Future[Any]]:
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


async def test_results_keep_the_order_of_commands() -> None:
    first, second = replies = issued(2)
    waiting = asyncio.create_task(results_of(each for each in replies))
    second.set_result(2)
    first.set_result(1)

    assert await waiting == [1, 2]


async def test_first_failure_is_raised_after_all_ended() -> None:
    first, second = replies = issued(2)
    waiting = asyncio.create_task(results_of(replies))
    first.set_exception(RedisUnavailable("away"))
    await asyncio.wait([waiting], timeout=0.01)
    assert not waiting.done()

    second.set_exception(RedisUnavailable("away too"))
    with pytest.raises(Unavailable, match=r"away$"):
        await waiting


async def test_cancelled_caller_cancels_the_rest() -> None:
    """A reply that fails later without a reader would be logged as an error."""
    first, second = replies = issued(2)
    waiting = asyncio.create_task(results_of(replies))
    await asyncio.wait([waiting], timeout=0.01)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert first.cancelled() and second.cancelled()


def test_error_of_a_reply_is_freed() -> None:
    """The traceback refers to all stack frames of the request, including those that hold its body."""
    reply: Exception | None = ReplyError("ERR unknown command")
    kept = weakref.ref(reply)
    with garbage_collection_off():
        with suppress(ReplyError):
            result_or_raise(reply)
        reply = None

        assert kept() is None


@pytest.mark.parametrize("is_together", [True, False])
async def test_failure_of_many_replies_is_freed(is_together: bool) -> None:
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            (reply,) = issued(1)
            reply.set_exception(RedisUnavailable("away"))
            with suppress(Unavailable):
                await results_of([reply]) if is_together else results_of_reached([reply.exception()])

        assert kept_errors() == before
